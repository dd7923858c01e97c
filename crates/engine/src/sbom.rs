//! Lists of what is in a result (SBOM), made by an image that scans it.
//!
//! The scanner is a step like any other: the result is mounted where it looks, what the result was
//! made of beside it if that is to be scanned too, and what it writes is a bundle of statements.
//! The paths and variables are BuildKit's protocol for scanners.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;
use weld_export::{AttestationKind, SPDX};
use weld_llb::reference::Reference;
use weld_llb::{
    Builder, Constraints, EnvList, Graph, ImageSource, MountContentCache, MountSpec, Platform, Run,
    Source, State, pb,
};

use crate::bridge::Bridge;
use crate::error::BuildError;
use crate::provenance::{Asked, Producers, Scope};
use crate::result::{Attestation, SBOM_CORE};
use crate::source_meta::ImageConfigRequest;

/// The name of the list of the result itself.
const CORE: &str = "sbom";
/// Where the scanner finds what to scan, and leaves what it found.
const CORE_DIRECTORY: &str = "/run/src/core/sbom";
const EXTRAS_DIRECTORY: &str = "/run/src/extras";
const OUT_DIRECTORY: &str = "/run/out";

/// Which list is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SbomOptions {
    /// The image that scans.
    pub scanner: String,
    /// What it is told in `BUILDKIT_SCAN_…`.
    pub parameters: BTreeMap<String, String>,
}

/// An image that scans results.
pub(crate) struct Scanner {
    bridge: Bridge,
    image: String,
    platform: Platform,
    args: Vec<String>,
    env: Vec<String>,
    directory: String,
    parameters: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
struct ImageConfig {
    #[serde(default)]
    config: Settings,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Settings {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: String,
}

impl Scanner {
    /// Looks the image up that is to scan.
    pub(crate) async fn find(bridge: &Bridge, options: &SbomOptions) -> Result<Self, BuildError> {
        let bad = |reason: String| BuildError::Scanner {
            image: options.scanner.clone(),
            reason,
        };
        let reference: Reference = options
            .scanner
            .parse()
            .map_err(|error: weld_llb::reference::ParseReferenceError| bad(error.to_string()))?;
        // The scanner is no material of what it scans.
        let scope = Scope::new(Asked::default(), Producers::default());
        let bridge = Bridge {
            scope,
            ..bridge.clone()
        };
        let platform = bridge.platform().clone();
        let image = reference.with_default_tag();
        let resolved = bridge
            .resolve_image_config(ImageConfigRequest {
                reference: image.to_string(),
                platform: Some(platform.clone()),
                layout: None,
                log_name: String::new(),
            })
            .await?;
        let config: ImageConfig =
            serde_json::from_slice(&resolved.config).map_err(|error| bad(error.to_string()))?;
        let image: Reference = resolved
            .reference
            .parse()
            .map_err(|error: weld_llb::reference::ParseReferenceError| bad(error.to_string()))?;
        let settings = config.config;
        let mut args = settings.entrypoint.unwrap_or_default();
        args.extend(settings.cmd.unwrap_or_default());
        if args.is_empty() {
            return Err(bad("it does not have a command".to_owned()));
        }
        Ok(Self {
            bridge,
            image: image.with_digest(resolved.digest).to_string(),
            platform,
            args,
            env: settings.env.unwrap_or_default(),
            directory: match settings.working_dir {
                directory if directory.is_empty() => "/".to_owned(),
                directory => directory,
            },
            parameters: options.parameters.clone(),
        })
    }

    /// The list of what is in a result, which is made when it is needed. `extras` are what the result
    /// was made of, by name, as far as that is to be scanned too.
    pub(crate) async fn scan(
        &self,
        name: &str,
        result: &pb::Definition,
        extras: &BTreeMap<String, pb::Definition>,
        no_cache: bool,
    ) -> Result<Attestation, BuildError> {
        let mut builder = Builder::new();
        let scanner = builder.add_source(
            Source::Image(ImageSource {
                reference: self.image.clone(),
                ..ImageSource::default()
            }),
            Constraints::new().for_platform(Some(self.platform.clone())),
        );
        let mut mounts = vec![
            MountSpec::Tmpfs {
                target: "/tmp".to_owned(),
                size: 0,
            },
            bind(CORE_DIRECTORY, add(&mut builder, result)?, true),
            bind(OUT_DIRECTORY, None, false),
        ];
        for (extra, definition) in extras {
            let target = format!("{EXTRAS_DIRECTORY}/{CORE}-{extra}");
            mounts.push(bind(&target, add(&mut builder, definition)?, true));
        }
        let mut state = State::new(Some(scanner));
        state.platform = Some(self.platform.clone());
        state.dir.clone_from(&self.directory);
        state.env = self.environment(!extras.is_empty());
        let step = format!("[{name}] generating sbom using {}", self.image);
        let mut constraints = Constraints::new().named(step);
        constraints.metadata.ignore_cache = no_cache;
        let run = Run {
            args: self.args.clone(),
            mounts,
            constraints,
            ..Run::default()
        };
        let failed = |error: weld_llb::BuildError| BuildError::Scanner {
            image: self.image.clone(),
            reason: error.to_string(),
        };
        let left = state.run(&mut builder, run).map_err(failed)?;
        let out = left.mounts.into_iter();
        let mut out = out.filter(|(target, _)| target == OUT_DIRECTORY);
        let out = out.next_back().and_then(|(_, output)| output);
        let definition = builder.definition(out, &self.platform).map_err(failed)?;
        Ok(Attestation {
            kind: AttestationKind::Bundle,
            metadata: [
                ("reason".to_owned(), Bytes::from_static(b"sbom")),
                (SBOM_CORE.to_owned(), Bytes::from_static(CORE.as_bytes())),
            ]
            .into(),
            reference: Some(self.bridge.reference(definition, false).await?),
            path: String::new(),
            predicate_type: SPDX.to_owned(),
            subjects: Vec::new(),
        })
    }

    fn environment(&self, has_extras: bool) -> EnvList {
        let mut env = EnvList::default();
        for variable in &self.env {
            let (key, value) = variable.split_once('=').unwrap_or((variable, ""));
            env.set(key, value);
        }
        env.set("BUILDKIT_SCAN_DESTINATION", format!("{OUT_DIRECTORY}/"));
        env.set("BUILDKIT_SCAN_SOURCE", CORE_DIRECTORY);
        if has_extras {
            env.set(
                "BUILDKIT_SCAN_SOURCE_EXTRAS",
                format!("{EXTRAS_DIRECTORY}/"),
            );
        }
        for (key, value) in &self.parameters {
            env.set(format!("BUILDKIT_SCAN_{key}"), value.clone());
        }
        env
    }
}

fn add(
    builder: &mut Builder,
    definition: &pb::Definition,
) -> Result<Option<weld_llb::Output>, BuildError> {
    let graph = Graph::from_pb(definition.clone())?;
    Ok(builder.add_graph(&graph))
}

fn bind(target: &str, source: Option<weld_llb::Output>, readonly: bool) -> MountSpec {
    MountSpec::Bind {
        target: target.to_owned(),
        source,
        selector: String::new(),
        readonly,
        no_output: false,
        content_cache: MountContentCache::Default,
    }
}
