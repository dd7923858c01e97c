//! What a frontend was asked for, as provenance tells it.

use std::collections::BTreeMap;

use serde::Serialize;
use weld_digest::Digest;
use weld_dockerfile::convert::GitRef;
use weld_llb::pb;
use weld_llb::{mask_credentials, without_credentials};
use weld_proto::Message;

use super::capture::{DigestSet, Sources};
use super::inputs::Producers;

/// What a frontend was asked for.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    name: String,
    opts: BTreeMap<String, String>,
    /// The vertices that its inputs are, by the inputs' names.
    inputs: BTreeMap<String, Digest>,
}

impl Asked {
    /// A frontend with its options and inputs; without name and options nothing.
    pub fn new(
        name: &str,
        opts: &BTreeMap<String, String>,
        inputs: &BTreeMap<String, pb::Definition>,
    ) -> Self {
        let inputs = inputs.iter();
        Self {
            name: name.to_owned(),
            opts: opts.clone(),
            inputs: inputs
                .filter_map(|(name, definition)| Some((name.clone(), head(definition)?)))
                .collect(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.name.is_empty() && self.inputs.is_empty() && self.opts.keys().all(|key| !is_told(key))
    }
}

/// The vertex that a definition is: the input of its last operation.
fn head(definition: &pb::Definition) -> Option<Digest> {
    let last = pb::Op::decode(definition.def.last()?.as_ref()).ok()?;
    last.inputs.first()?.digest.parse().ok()
}

/// Options that are about this machine, or about provenance itself, and not about the result.
fn is_told(key: &str) -> bool {
    !key.starts_with("attest:")
        && !matches!(
            key,
            "cgroup-parent" | "image-resolve-mode" | "platform" | "cache-imports"
        )
}

/// Where a frontend's instructions come from, and its other options.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Request {
    #[serde(rename = "configSource")]
    pub(super) config: ConfigSource,
    #[serde(rename = "request")]
    pub(super) parameters: Parameters,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct ConfigSource {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) uri: String,
    #[serde(skip_serializing_if = "DigestSet::is_empty")]
    pub(super) digest: DigestSet,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) path: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Parameters {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) frontend: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) args: BTreeMap<String, String>,
    /// What was asked of whom for each input of which that is known.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) inputs: BTreeMap<String, Request>,
}

impl Request {
    /// What was asked for, with the digest of where the instructions come from if that is among the
    /// sources. No URL has credentials in it.
    pub(super) fn of(asked: &Asked, sources: &Sources, producers: &Producers) -> Self {
        let mut args: BTreeMap<String, String> = asked
            .opts
            .iter()
            .filter(|(key, _)| is_told(key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        let set = |args: &BTreeMap<String, String>, key: &str| {
            args.get(key).is_some_and(|value| !value.is_empty())
        };
        let context = match args.get("contextkey").filter(|key| !key.is_empty()) {
            Some(key) => key.clone(),
            None if set(&args, "input:context") => "input:context".to_owned(),
            None => "context".to_owned(),
        };
        let mut config = ConfigSource::default();
        if set(&args, &context)
            && let Some(uri) = args.remove(&context)
        {
            (config.uri, config.digest) = match material(sources, &uri) {
                Some(found) => found,
                None => (uri, DigestSet::default()),
            };
            config.uri = without_credentials(&config.uri);
        }
        if set(&args, "filename")
            && let Some(path) = args.remove("filename")
        {
            config.path = path;
        } else if asked.name == crate::dockerfile::NAME {
            config.path = "Dockerfile".to_owned();
        }
        for value in args.values_mut() {
            *value = mask_credentials(value).into_owned();
        }
        Self {
            config,
            parameters: Parameters {
                frontend: asked.name.clone(),
                args,
                inputs: asked
                    .inputs
                    .iter()
                    .filter_map(|(name, head)| Some((name.clone(), producers.find(head)?)))
                    .collect(),
            },
        }
    }

    /// Leaves out arguments and labels, which may be anything; whether there were any.
    pub(super) fn scrub(&mut self) -> bool {
        let Parameters { args, inputs, .. } = &mut self.parameters;
        let before = args.len();
        args.retain(|key, _| !key.starts_with("build-arg:") && !key.starts_with("label:"));
        let mut scrubbed = args.len() != before;
        for input in inputs.values_mut() {
            scrubbed |= input.scrub();
        }
        scrubbed
    }
}

/// The source that a context's URL names: how provenance calls it, and its digest.
fn material(sources: &Sources, context: &str) -> Option<(String, DigestSet)> {
    if let Ok(Some(git)) = GitRef::parse(context) {
        let source = git.to_source();
        let remote = match source.reference.as_str() {
            "" => source.remote(),
            reference => format!("{}#{reference}", source.remote()),
        };
        let found = sources.git.get(&without_credentials(&remote))?;
        let uri = match (source.reference.as_str(), source.subdir.as_str()) {
            (_, "") => remote,
            ("", subdir) => format!("{remote}#:{subdir}"),
            (_, subdir) => format!("{remote}:{subdir}"),
        };
        return Some((uri, DigestSet::of_commit(found)));
    }
    let digest = sources.http.get(&without_credentials(context))?;
    Some((context.to_owned(), DigestSet::of(digest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(pairs: &[(&str, &str)]) -> Asked {
        let pairs = pairs.iter();
        Asked::new(
            "dockerfile.v0",
            &pairs
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            &BTreeMap::new(),
        )
    }

    #[test]
    fn a_request_is_told_without_credentials_and_what_is_of_this_machine() {
        let asked = asked(&[
            ("context", "https://u:p@host/a.git#main:sub"),
            ("filename", "Dockerfile"),
            ("build-arg:HTTP_PROXY", "http://u:p@proxy:3128"),
            ("context:foo", "https://u:p@host/foo.html"),
            ("attest:provenance", "mode=max"),
            ("platform", "linux/amd64"),
            ("label:a", "b"),
        ]);
        let mut sources = Sources::default();
        let commit = "0123456789012345678901234567890123456789";
        sources.git.insert(
            "https://xxxxx:xxxxx@host/a.git#main".to_owned(),
            commit.to_owned(),
        );
        let request = Request::of(&asked, &sources, &Producers::default());
        assert_eq!(
            request.config.uri,
            "https://xxxxx:xxxxx@host/a.git#main:sub"
        );
        assert_eq!(request.config.digest, DigestSet::of_commit(commit));
        assert_eq!(request.config.path, "Dockerfile");
        let args: Vec<_> = request.parameters.args.keys().map(String::as_str).collect();
        assert_eq!(args, ["build-arg:HTTP_PROXY", "context:foo", "label:a"]);
        assert!(!format!("{request:?}").contains("u:p@"), "{request:?}");
    }

    #[test]
    fn what_is_of_this_machine_alone_is_no_request() {
        let only = [("platform".to_owned(), "x".to_owned())].into();
        let only = Asked::new("", &only, &BTreeMap::new());
        assert!(only.is_empty());
        assert!(!asked(&[]).is_empty());
    }
}
