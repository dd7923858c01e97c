//! `--metadata-file`: what was built, by the keys that docker's buildx writes.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};
use weld_engine::{BuildResponse, Provenance, SlsaVersion};

use super::fields;
use super::report::Failure;

const BUILD_TYPE: &str = "https://mobyproject.org/buildkit@v1";

/// How much of a result's provenance is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detail {
    /// None.
    Nothing,
    /// Without steps and times.
    Min,
    /// All.
    Max,
}

impl Detail {
    /// What buildx's variable of the environment says.
    pub(crate) fn of_environment() -> Self {
        let value = std::env::var("BUILDX_METADATA_PROVENANCE");
        Self::parse(&value.unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        match text {
            "max" => Self::Max,
            "disabled" => Self::Nothing,
            other if fields::truth(other) == Some(false) => Self::Nothing,
            _ => Self::Min,
        }
    }
}

/// The file: the exporters' response with descriptors as objects, and how the result was made.
pub(crate) fn encode(response: &BuildResponse, detail: Detail) -> Result<Vec<u8>, Failure> {
    let attrs = response.attrs.iter();
    let mut fields: Map<String, Value> = attrs
        .map(|(key, value)| {
            let parsed = match key.ends_with(".descriptor") {
                true => descriptor(value),
                false => None,
            };
            (key.clone(), parsed.unwrap_or_else(|| json!(value)))
        })
        .collect();
    if detail != Detail::Nothing {
        for provenance in &response.provenance {
            let key = "buildx.build.provenance";
            let key = match &provenance.platform {
                Some(platform) => format!("{key}/{platform}"),
                None => key.to_owned(),
            };
            fields.insert(key, predicate(provenance, detail)?);
        }
    }
    let mut text = serde_json::to_vec_pretty(&fields).unwrap_or_default();
    text.push(b'\n');
    Ok(text)
}

fn descriptor(value: &str) -> Option<Value> {
    serde_json::from_slice(&BASE64_STANDARD.decode(value).ok()?).ok()
}

/// The predicate in SLSA's version 0.2, the one that buildx writes whatever was recorded.
fn predicate(provenance: &Provenance, detail: Detail) -> Result<Value, Failure> {
    let document: Value = serde_json::from_slice(&provenance.document)
        .map_err(|error| Failure::Provenance(error.to_string()))?;
    let mut predicate = match provenance.version {
        SlsaVersion::V02 => document,
        SlsaVersion::V1 => in_v02(document),
    };
    if detail == Detail::Min
        && let Value::Object(fields) = &mut predicate
    {
        fields.remove("buildConfig");
        fields.remove("metadata");
    }
    Ok(predicate)
}

/// A part of a document, taken out of it.
struct Part(Map<String, Value>);

impl Part {
    fn of(value: Value) -> Self {
        match value {
            Value::Object(fields) => Self(fields),
            _ => Self(Map::new()),
        }
    }

    fn part(&mut self, key: &str) -> Self {
        Self::of(self.value(key))
    }

    fn value(&mut self, key: &str) -> Value {
        self.0.remove(key).unwrap_or_default()
    }

    /// Moves fields that are there, each by another name.
    fn renamed<const N: usize>(&mut self, names: [(&str, &str); N]) -> Map<String, Value> {
        let names = names.into_iter();
        names
            .filter_map(|(from, to)| Some((to.to_owned(), self.0.remove(from)?)))
            .collect()
    }
}

fn in_v02(document: Value) -> Value {
    let mut document = Part::of(document);
    let mut definition = document.part("buildDefinition");
    let mut run = document.part("runDetails");
    let mut external = definition.part("externalParameters");
    let mut internal = definition.part("internalParameters");
    let build_config = internal.value("buildConfig");
    let config = external.part("configSource").renamed([
        ("uri", "uri"),
        ("digest", "digest"),
        ("path", "entryPoint"),
    ]);
    let mut environment = internal.renamed([
        ("builderPlatform", "platform"),
        ("dockerfileVersion", "dockerfileVersion"),
    ]);
    // The others are the operator's own.
    environment.extend(internal.0);
    let mut predicate = Map::new();
    let mut set = |key: &str, value: Value| {
        if !value.is_null() {
            predicate.insert(key.to_owned(), value);
        }
    };
    set("builder", json!({"id": run.part("builder").value("id")}));
    set("buildType", json!(BUILD_TYPE));
    set("materials", definition.value("resolvedDependencies"));
    let invocation = json!({
        "configSource": config,
        "parameters": external.value("request"),
        "environment": environment,
    });
    set("invocation", invocation);
    set("buildConfig", build_config);
    let mut details = run.part("metadata");
    let mut complete = details.part("buildkit_completeness");
    let reproducible = details.value("buildkit_reproducible");
    let mut metadata = details.renamed([
        ("invocationId", "buildInvocationID"),
        ("startedOn", "buildStartedOn"),
        ("finishedOn", "buildFinishedOn"),
        (
            "buildkit_metadata",
            "https://mobyproject.org/buildkit@v1#metadata",
        ),
        (
            "buildkit_hermetic",
            "https://mobyproject.org/buildkit@v1#hermetic",
        ),
    ]);
    let is = |value: Value| json!(value.as_bool().unwrap_or(false));
    let completeness = json!({
        "parameters": is(complete.value("request")),
        "environment": true,
        "materials": is(complete.value("resolvedDependencies")),
    });
    metadata.insert("completeness".to_owned(), completeness);
    metadata.insert("reproducible".to_owned(), is(reproducible));
    set("metadata", Value::Object(metadata));
    Value::Object(predicate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_says_how_much() {
        for (text, detail) in [
            ("", Detail::Min),
            ("min", Detail::Min),
            ("max", Detail::Max),
            ("disabled", Detail::Nothing),
            ("0", Detail::Nothing),
            ("false", Detail::Nothing),
            ("true", Detail::Min),
            ("other", Detail::Min),
        ] {
            assert_eq!(Detail::parse(text), detail, "{text}");
        }
    }
}
