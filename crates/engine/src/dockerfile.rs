//! The Dockerfile frontend.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use weld_dockerfile::ErrorKind;
use weld_dockerfile::convert::{self, ConvertError, ImageConfig, Request};
use weld_op::Origin;

use crate::attest::AttestOptions;
use crate::bridge::{Bridge, SolveInput, SolveRequest};
use crate::cache;
use crate::error::BuildError;
use crate::frontend::{Frontend, FrontendRequest};
use crate::host::DockerfileHost;
use crate::limits;
use crate::metadata::{
    self, IMAGE_BASE_CONFIG, IMAGE_CONFIG, Metadata, PLATFORMS, Place, SOURCE_DATE_EPOCH,
};
use crate::reference::Building;
use crate::result::{FrontendResult, Refs};
use crate::sbom::Scanner;
use crate::subrequest;

/// The name by which clients ask for it.
pub const NAME: &str = "dockerfile.v0";

/// The version of the Dockerfile language that it has.
pub const VERSION: &str = "1.25.0";

/// The frontend that runs images, which a `# syntax=` line may ask for.
const IMAGES: &str = "gateway.v0";

/// What names of capabilities begin with.
const CAPS_PREFIX: &str = "moby.buildkit.frontend.";

/// The capabilities that clients may want of a frontend and find in this one.
const CAPS: [&str; 4] = ["inputs", "subrequests", "contexts", "gitquerystring"];

/// Builds Dockerfiles.
pub(crate) struct Dockerfile;

/// What a client wants of the frontend and it lacks, if the image that a Dockerfile may name can
/// have it instead.
///
/// # Errors
/// [`BuildError::FrontendCap`] for what the client wants of nobody else.
fn lacking(opts: &BTreeMap<String, String>) -> Result<Option<BuildError>, BuildError> {
    let wanted = opts.get("frontend.caps").map_or("", String::as_str);
    let mut lacking = None;
    for wanted in wanted.split(',').filter(|wanted| !wanted.is_empty()) {
        let (name, how) = wanted.split_once('+').unwrap_or((wanted, ""));
        let known = name.strip_prefix(CAPS_PREFIX);
        if known.is_some_and(|name| CAPS.contains(&name)) {
            continue;
        }
        let error = BuildError::FrontendCap(name.to_owned());
        if how != "forward" {
            return Err(error);
        }
        lacking.get_or_insert(error);
    }
    Ok(lacking)
}

#[async_trait]
impl Frontend for Dockerfile {
    async fn solve(
        &self,
        bridge: &Bridge,
        request: FrontendRequest,
    ) -> Result<FrontendResult, BuildError> {
        let lacking = lacking(&request.opts)?;
        if let Some(name) = request.opts.get("requestid") {
            return match subrequest::answer(bridge, &request, name).await {
                Err(error) => forward(bridge, request, error).await,
                Ok(answered) => lacking.map_or(Ok(answered), Err),
            };
        }
        let converted = match convert(bridge, &request, bridge.session().id()).await {
            Err(error) => return forward(bridge, request, error).await,
            Ok(converted) => converted,
        };
        if let Some(lacking) = lacking {
            return Err(lacking);
        }
        let multi_platform = converted.multi_platform;
        let attest = AttestOptions::from_attrs(&request.opts)?;
        // Of a result alone a list is made without the frontend.
        let mut scans = converted.results.iter();
        let scans = scans.any(|result| !result.scanned.is_empty());
        let scanner = match &attest.sbom {
            Some(options) if scans => Some(Scanner::find(bridge, options).await?),
            _ => None,
        };
        let mut attestations = BTreeMap::new();
        let how = Building {
            no_cache: false,
            imports: cache::of_options(&request.opts, &request.cache_imports)?,
            origin: origin(bridge, &request.opts),
            ..Building::default()
        };
        let mut metadata = Metadata::new();
        let mut refs = BTreeMap::new();
        let mut single = None;
        let mut places = Vec::with_capacity(converted.results.len());
        for result in converted.results {
            let reference = bridge.reference_as(result.definition, how.clone()).await?;
            if let Some(scanner) = &scanner {
                let list = scanner
                    .scan(
                        &result.id,
                        &reference.to_definition(),
                        &result.scanned,
                        attest.no_cache,
                    )
                    .await?;
                attestations.insert(result.id.clone(), vec![list]);
            }
            let mut say = |key: &str, value: Bytes| {
                let key = match multi_platform {
                    true => format!("{key}/{}", result.id),
                    false => key.to_owned(),
                };
                metadata.insert(key, value);
            };
            say(IMAGE_CONFIG, encode(&result.image)?);
            if let Some(base) = &result.base_image {
                say(IMAGE_BASE_CONFIG, encode(base)?);
            }
            if let Some(epoch) = result.epoch {
                say(SOURCE_DATE_EPOCH, Bytes::from(epoch.to_string()));
            }
            if multi_platform {
                refs.insert(result.id.clone(), Some(reference));
            } else {
                single = Some(reference);
            }
            places.push(Place {
                id: result.id,
                platform: result.platform,
            });
        }
        metadata.insert(PLATFORMS.to_owned(), metadata::list_platforms(&places)?);
        Ok(FrontendResult {
            refs: match multi_platform {
                true => Refs::Map(refs),
                false => Refs::Single(single),
            },
            metadata,
            attestations,
        })
    }
}

/// Lets the image build that a Dockerfile asks for, where images can be frontends.
async fn forward(
    bridge: &Bridge,
    request: FrontendRequest,
    error: BuildError,
) -> Result<FrontendResult, BuildError> {
    let (line, image, command_line) = match error {
        BuildError::Dockerfile(error) if bridge.core.frontends.has(IMAGES) => {
            match wanted(&error) {
                Some((image, command_line)) => (error, image, command_line),
                None => return Err(BuildError::Dockerfile(error)),
            }
        }
        error => return Err(error),
    };
    let mut opts = request.opts;
    opts.insert("cmdline".to_owned(), command_line);
    opts.insert("source".to_owned(), image);
    let solve = SolveRequest {
        input: SolveInput::Frontend {
            name: IMAGES.to_owned(),
            opts,
            inputs: request.inputs,
        },
        cache_imports: request.cache_imports,
        ..SolveRequest::default()
    };
    let solved = bridge.solve(solve).await;
    solved.map_err(|error| error.asked_by(*line))
}

/// The image that a Dockerfile wants to be built by, and the whole line that asks for it.
fn wanted(error: &weld_dockerfile::Error) -> Option<(String, String)> {
    let ErrorKind::Convert(convert) = error.kind() else {
        return None;
    };
    match &**convert {
        ConvertError::Syntax {
            image,
            command_line,
        } => Some((image.clone(), command_line.clone())),
        _ => None,
    }
}

/// Converts the Dockerfile that a request is about, for a session of this id.
pub(crate) async fn convert(
    bridge: &Bridge,
    request: &FrontendRequest,
    session_id: &str,
) -> Result<convert::Build, BuildError> {
    let mut options = options(bridge, request)?;
    let limits = options.resources.as_ref();
    limits::check(&bridge.core.worker, limits).map_err(BuildError::Option)?;
    session_id.clone_into(&mut options.session);
    let host = DockerfileHost { bridge };
    Ok(convert::build(&host, &options).await?)
}

/// What a request asks for.
pub(crate) fn options(bridge: &Bridge, request: &FrontendRequest) -> Result<Request, BuildError> {
    let platform = bridge.core.worker.platform.clone();
    let session = bridge.session().id();
    let mut options =
        Request::from_options(&request.opts, session, platform).map_err(BuildError::Option)?;
    options.inputs.clone_from(&request.inputs);
    Ok(options)
}

/// What tells a build's steps from those of other projects.
fn origin(bridge: &Bridge, opts: &BTreeMap<String, String>) -> Origin {
    let directory = |name: &str| bridge.session().directory_identity(name);
    let main = ["context", "dockerfile"].map(|name| directory(name).unwrap_or_default());
    let chosen = ["context", "filename", "contextsubdir"]
        .map(|name| opts.get(name).map(String::as_str).unwrap_or_default());
    Origin {
        scope: [main.join("\n"), chosen.join("\n")].join("\n"),
        build_args: opts
            .keys()
            .filter_map(|key| key.strip_prefix("build-arg:"))
            .map(str::to_owned)
            .collect(),
    }
}

fn encode(config: &ImageConfig) -> Result<Bytes, BuildError> {
    let encoded = serde_json::to_vec(config).map_err(|error| BuildError::Metadata {
        key: IMAGE_CONFIG,
        reason: error.to_string(),
    })?;
    Ok(Bytes::from(encoded))
}
