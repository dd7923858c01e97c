//! Provenance as the documents that SLSA's versions have for it, with BuildKit's own fields.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use weld_llb::reference::Reference;
use weld_llb::{Platform, mask_credentials, pb, purl};

use super::capture::{Capture, DigestSet, ImageMaterial};
use super::request::{ConfigSource, Parameters, Request};
use super::steps::{StepLayers, Steps};
use super::{Mode, Occasion, ProvenanceOptions, SlsaVersion};
use crate::dockerfile;
use crate::error::BuildError;

/// What kind of build it was: each version has a name of its own for BuildKit's.
const BUILD_TYPE_V1: &str =
    "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md";
const BUILD_TYPE_V02: &str = "https://mobyproject.org/buildkit@v1";
const METADATA_V02: &str = "https://mobyproject.org/buildkit@v1#metadata";
const HERMETIC_V02: &str = "https://mobyproject.org/buildkit@v1#hermetic";
/// The version of BuildKit's behaviour that builds have here.
const COMPATIBILITY: u32 = 30;

/// What is known of how a file system was made.
pub(super) struct Predicate<'a> {
    pub(super) capture: &'a Capture,
    pub(super) options: &'a ProvenanceOptions,
    pub(super) occasion: &'a Occasion,
    /// The platform of the builder.
    pub(super) platform: &'a Platform,
    pub(super) definition: pb::Definition,
    pub(super) layers: StepLayers,
    pub(super) finished: OffsetDateTime,
}

#[derive(Serialize)]
struct Material {
    uri: String,
    #[serde(skip_serializing_if = "DigestSet::is_empty")]
    digest: DigestSet,
}

/// Builds an object without the fields that have nothing in them.
#[derive(Default)]
struct Object(Map<String, Value>);

impl Object {
    fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        let is_empty = match &value {
            Value::Null | Value::Bool(false) => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            Value::Bool(true) | Value::Number(_) => false,
        };
        if !is_empty {
            self.0.insert(key.to_owned(), value);
        }
        self
    }

    /// As [`Object::with`], of whatever can be a document.
    fn with_document(self, key: &str, value: &impl Serialize) -> Result<Self, BuildError> {
        Ok(self.with(key, document(value)?))
    }

    /// Sets a field whatever is in it.
    fn with_always(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.insert(key.to_owned(), value.into());
        self
    }
}

impl From<Object> for Value {
    fn from(object: Object) -> Self {
        Self::Object(object.0)
    }
}

fn document(value: &impl Serialize) -> Result<Value, BuildError> {
    serde_json::to_value(value).map_err(encode_error)
}

fn encode_error(error: serde_json::Error) -> BuildError {
    BuildError::Metadata {
        key: "provenance",
        reason: error.to_string(),
    }
}

impl Predicate<'_> {
    /// The document.
    pub(super) fn encode(&self) -> Result<Vec<u8>, BuildError> {
        let document = match self.options.version {
            SlsaVersion::V1 => self.v1()?,
            SlsaVersion::V02 => self.v02()?,
        };
        serde_json::to_vec_pretty(&document).map_err(encode_error)
    }

    fn v1(&self) -> Result<Value, BuildError> {
        let (request, whole) = self.request();
        let (build_config, source) = self.build_config();
        let external = Object::default()
            .with_always("configSource", document(&request.config)?)
            .with_always("request", self.parameters(&request.parameters)?);
        let internal = Object::default()
            .with("buildConfig", build_config)
            .with_always("builderPlatform", self.builder_platform())
            .with("dockerfileVersion", self.dockerfile_version())
            .0;
        let definition = Object::default()
            .with("buildType", BUILD_TYPE_V1)
            .with_always("externalParameters", external)
            .with_always("internalParameters", self.with_environment(internal))
            .with_document("resolvedDependencies", &self.materials())?;
        let complete = json!({
            "request": whole,
            "resolvedDependencies": !self.capture.is_incomplete(),
        });
        let metadata = Object::default()
            .with("invocationId", self.occasion.invocation.as_str())
            .with("startedOn", time_text(self.occasion.started))
            .with("finishedOn", time_text(self.finished))
            .with_always("buildkit_metadata", self.metadata(source)?)
            .with("buildkit_hermetic", self.is_hermetic())
            .with_always("buildkit_completeness", complete)
            .with("buildkit_reproducible", self.options.reproducible);
        let run = json!({
            "builder": {"id": self.options.builder_id},
            "metadata": Value::from(metadata),
        });
        Ok(Object::default()
            .with("buildDefinition", definition)
            .with("runDetails", run)
            .into())
    }

    fn v02(&self) -> Result<Value, BuildError> {
        let (request, whole) = self.request();
        let (build_config, source) = self.build_config();
        let ConfigSource { uri, digest, path } = &request.config;
        let config = Object::default()
            .with("uri", uri.as_str())
            .with_document("digest", digest)?
            .with("entryPoint", path.as_str());
        let environment = Object::default()
            .with_always("platform", self.builder_platform())
            .with("dockerfileVersion", self.dockerfile_version())
            .0;
        let invocation = Object::default()
            .with_always("configSource", config)
            .with_always("parameters", self.parameters(&request.parameters)?)
            .with_always("environment", self.with_environment(environment));
        let complete = json!({
            "parameters": whole,
            "environment": true,
            "materials": !self.capture.is_incomplete(),
        });
        let metadata = Object::default()
            .with("buildInvocationID", self.occasion.invocation.as_str())
            .with("buildStartedOn", time_text(self.occasion.started))
            .with("buildFinishedOn", time_text(self.finished))
            .with_always("completeness", complete)
            .with_always("reproducible", self.options.reproducible)
            .with_always(METADATA_V02, self.metadata(source)?)
            .with(HERMETIC_V02, self.is_hermetic());
        Ok(Object::default()
            .with_always("builder", json!({"id": self.options.builder_id}))
            .with("buildType", BUILD_TYPE_V02)
            .with_document("materials", &self.materials())?
            .with("invocation", invocation)
            .with("buildConfig", build_config)
            .with("metadata", metadata)
            .into())
    }

    /// The request as far as it is told, and whether that is all of it.
    fn request(&self) -> (Request, bool) {
        let mut request = self.capture.request.clone();
        let mut whole = !request.parameters.frontend.is_empty();
        request
            .parameters
            .args
            .retain(|key, _| !key.starts_with("vcs:"));
        if self.options.mode == Mode::Min {
            whole &= !request.scrub();
        }
        (request, whole)
    }

    /// The parameters of the request, with what the build was granted.
    fn parameters(&self, parameters: &Parameters) -> Result<Value, BuildError> {
        let locals = self.capture.sources.locals.iter();
        let locals: Vec<_> = locals.map(|name| json!({"name": name})).collect();
        let mut object = Object(match document(parameters)? {
            Value::Object(fields) => fields,
            _ => Map::new(),
        });
        if self.options.mode == Mode::Max {
            object = object
                .with("secrets", granted(&self.capture.secrets))
                .with("ssh", granted(&self.capture.agents));
        }
        object = object.with("locals", locals);
        if let Some(root) = &self.capture.root {
            let mut root = root.clone();
            if self.options.mode == Mode::Min {
                root.scrub();
            }
            object = object.with_document("root", &root)?;
        }
        Ok(object.with("compatibilityVersion", COMPATIBILITY).into())
    }

    fn materials(&self) -> Vec<Material> {
        let sources = &self.capture.sources;
        let images = sources.images.iter().filter_map(image_material);
        let blobs = sources.blobs.iter().filter_map(|blob| {
            let kind = kind(blob.is_local);
            let reference: Reference = blob.reference.parse().ok()?;
            let what: &[(&str, &str)] = match &blob.bundle_of {
                None => &[("ref_type", "blob")],
                Some(url) => &[("ref_type", "bundle"), ("vcs_url", url)],
            };
            Some(Material {
                uri: purl::of_image(kind, &reference, None, what),
                digest: blob.digest.as_ref().map(DigestSet::of).unwrap_or_default(),
            })
        });
        let git = sources.git.iter().map(|(url, commit)| Material {
            uri: url.clone(),
            digest: DigestSet::of_commit(commit),
        });
        let http = sources.http.iter().map(|(url, digest)| Material {
            uri: url.clone(),
            digest: DigestSet::of(digest),
        });
        images.chain(blobs).chain(git).chain(http).collect()
    }

    /// The steps and, with what they come from, the sources that they are made of.
    fn build_config(&self) -> (Value, Value) {
        if self.options.mode == Mode::Min {
            return (Value::Null, Value::Null);
        }
        let steps = Steps::of(&self.definition);
        let config = Object::default()
            .with("llbDefinition", steps.documents.clone())
            .with("digestMapping", json!(steps.digest_mapping()));
        let Some(source) = &self.definition.source else {
            return (config.into(), Value::Null);
        };
        let infos: Vec<Value> = source.infos.iter().map(source_info).collect();
        let locations = source.locations.iter().filter_map(|(digest, locations)| {
            let number = steps.number(&digest.parse().ok()?)?;
            Some((format!("step{number}"), locations_document(locations)))
        });
        let locations: Map<String, Value> = locations.collect();
        let source = match infos.is_empty() {
            true => Value::Null,
            false => Object::default()
                .with("locations", locations)
                .with("infos", infos)
                .into(),
        };
        (config.into(), source)
    }

    fn metadata(&self, source: Value) -> Result<Value, BuildError> {
        let args = self.capture.request.parameters.args.iter();
        let vcs = args.filter_map(|(key, value)| {
            let name = key.strip_prefix("vcs:")?;
            (!value.is_empty()).then(|| (name.to_owned(), Value::from(value.as_str())))
        });
        let vcs: Map<String, Value> = vcs.collect();
        let mut object = Object::default().with("vcs", vcs).with("source", source);
        if self.options.mode == Mode::Max {
            let steps = Steps::of(&self.definition);
            object = object.with_document("layers", &self.layers.by_step(&steps))?;
        }
        Ok(object.into())
    }

    /// Whether nothing but what is listed can have made a difference.
    fn is_hermetic(&self) -> bool {
        !self.capture.is_incomplete() && !self.capture.network
    }

    fn builder_platform(&self) -> String {
        self.platform.clone().normalize().to_string()
    }

    fn dockerfile_version(&self) -> &'static str {
        match self.capture.request.parameters.frontend.as_str() {
            dockerfile::NAME => dockerfile::VERSION,
            _ => "",
        }
    }

    /// The same with what the operator wants to be said; that may not change what is said here.
    fn with_environment(&self, mut fields: Map<String, Value>) -> Value {
        for (key, value) in &*self.occasion.environment {
            fields.entry(key.clone()).or_insert_with(|| value.clone());
        }
        Value::Object(fields)
    }
}

fn granted(granted: &BTreeMap<String, bool>) -> Vec<Value> {
    let granted = granted.iter();
    granted
        .map(|(id, optional)| {
            Object::default()
                .with_always("id", id.as_str())
                .with("optional", *optional)
                .into()
        })
        .collect()
}

const fn kind(is_local: bool) -> &'static str {
    match is_local {
        true => purl::OCI,
        false => purl::DOCKER,
    }
}

fn image_material(image: &ImageMaterial) -> Option<Material> {
    let reference: Reference = image.reference.parse().ok()?;
    let kind = kind(image.is_local);
    Some(Material {
        uri: purl::of_image(kind, &reference, image.platform.as_ref(), &[]),
        digest: image.digest.as_ref().map(DigestSet::of).unwrap_or_default(),
    })
}

fn source_info(info: &pb::SourceInfo) -> Value {
    let steps = info.definition.as_ref().map(Steps::of).unwrap_or_default();
    Object::default()
        .with("filename", info.filename.as_str())
        .with("language", info.language.as_str())
        .with("data", BASE64_STANDARD.encode(shown_source(&info.data)))
        .with("llbDefinition", steps.documents.clone())
        .with("digestMapping", json!(steps.digest_mapping()))
        .into()
}

/// A Dockerfile as it is shown: without the credentials of URLs in it. Its lines stay where they are.
fn shown_source(source: &[u8]) -> Cow<'_, [u8]> {
    match std::str::from_utf8(source).map(mask_credentials) {
        Ok(Cow::Owned(masked)) => Cow::Owned(masked.into_bytes()),
        Ok(Cow::Borrowed(_)) | Err(_) => Cow::Borrowed(source),
    }
}

fn locations_document(locations: &pb::Locations) -> Value {
    let locations = locations.locations.iter();
    let locations: Vec<Value> = locations
        .map(|location| {
            let position = |position: Option<pb::Position>| {
                let position = position.unwrap_or_default();
                Object::default()
                    .with("line", number(position.line))
                    .with("character", number(position.character))
            };
            let ranges = location.ranges.iter().map(|range| {
                Object::default()
                    .with_always("start", position(range.start))
                    .with_always("end", position(range.end))
                    .into()
            });
            Object::default()
                .with("sourceIndex", number(location.source_index))
                .with("ranges", ranges.collect::<Vec<Value>>())
                .into()
        })
        .collect();
    json!({"locations": locations})
}

/// A number as Go leaves it out.
fn number(number: i32) -> Value {
    match number {
        0 => Value::Null,
        number => json!(number),
    }
}

fn time_text(time: OffsetDateTime) -> String {
    // Only years beyond 9999 cannot be written.
    time.format(&Rfc3339).unwrap_or_default()
}
