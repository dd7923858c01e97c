//! What a step is made of, in a form that is small and that can be compared.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use weld_digest::{Digest, FieldHasher};
use weld_llb::Vertex;
use weld_store::StepName;

/// Most files of one step that are remembered.
pub(super) const FILES: usize = 768;
/// How many of a step's slots find what it may have been before it was changed.
pub(super) const SIMILAR: usize = 4;
/// Most fields of one step that are remembered.
const FIELDS: usize = 512;
/// Most characters of a value that are remembered; of a longer one the beginning and a digest.
const VALUE: usize = 256;
/// How it is written; what was remembered in another form is not compared with.
const FORM: u8 = 3;
/// Most levels of a value.
const DEPTH: usize = 8;

/// What a step is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Recipe {
    pub(super) name: String,
    /// What it is but for the content of its inputs: see [`outline`].
    pub(super) outline: StepName,
    /// The digest of its cache map.
    pub(super) op: Option<StepName>,
    /// What its definition says: names such as `env.PATH` and `args`, and values.
    pub(super) fields: Vec<(String, String)>,
    pub(super) inputs: Vec<Input>,
    pub(super) end: End,
    /// Results that were saved later have this number or greater ones.
    pub(super) since: u64,
}

/// What became of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum End {
    /// It had a result that was made of just this.
    #[default]
    Made,
    /// It had a result from a cache elsewhere: of what that was made, nothing but the step's definition is known.
    Found,
    Failed,
    Cancelled,
}

/// An input of a step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Input {
    pub(super) name: String,
    /// The key of what the step sees of its content.
    pub(super) content: Option<StepName>,
    /// The record of its result.
    pub(super) record: Option<u64>,
    /// What the key is of.
    pub(super) files: Vec<File>,
    /// Whether these are all.
    pub(super) all_files: bool,
}

/// A file, or a directory with all that is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct File {
    pub(super) path: String,
    pub(super) kind: Kind,
    /// A part of its key.
    pub(super) key: [u8; 8],
    /// Permissions with the set-id and sticky bits.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// What sort of thing a [`File`] is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    #[default]
    File,
    Symlink,
    Directory,
}

/// What is found out of an encoded recipe without decoding it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// See [`outline`].
    pub(super) outline: StepName,
    /// See [`exact`].
    pub(super) exact: StepName,
    /// Whether it had a result.
    pub(super) has_result: bool,
}

/// Bytes of a header: the form, two digests and a flag.
const HEADER: usize = 66;

impl Recipe {
    /// Whether it had a result.
    pub(super) fn has_result(&self) -> bool {
        matches!(self.end, End::Made | End::Found)
    }

    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        let fields = postcard::to_stdvec(self).ok()?;
        let contents = self.inputs.iter().map(|input| input.content);
        let exact = exact(&self.outline, contents);
        let flag = [u8::from(self.has_result())];
        Some([&[FORM], self.outline.as_slice(), &exact, &flag, &fields].concat())
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        header(bytes)?;
        postcard::from_bytes(bytes.get(HEADER..)?).ok()
    }
}

/// The texts of a step and of all that it is made of: what stays the same from build to build where a definition names a session, and
/// where a stage gets more steps.
pub(crate) fn lineage(name: &str, inputs: impl IntoIterator<Item = StepName>) -> StepName {
    let mut hasher = FieldHasher::new("weld.step.lineage.v2").text(&unnumbered(name));
    for input in inputs {
        hasher = hasher.bytes(&input);
    }
    crate::digest::to_solver(&hasher.finish()).0
}

/// What a step is but for the content of its inputs: the digest of its cache map, and its lineage.
pub(super) fn outline(op: StepName, lineage: &StepName) -> StepName {
    let hasher = FieldHasher::new("weld.step.outline.v1");
    crate::digest::to_solver(&hasher.bytes(&op).bytes(lineage).finish()).0
}

/// What a step is, with the content of its inputs as far as that is in its key.
pub(super) fn exact(
    outline: &StepName,
    contents: impl IntoIterator<Item = Option<StepName>>,
) -> StepName {
    let mut hasher = FieldHasher::new("weld.step.exact.v1").bytes(outline);
    for content in contents {
        hasher = hasher.bytes(content.as_ref().map_or(&[], StepName::as_slice));
    }
    crate::digest::to_solver(&hasher.finish()).0
}

/// The header of a recipe that was encoded.
pub(super) fn header(bytes: &[u8]) -> Option<Header> {
    let (outline, rest) = bytes.strip_prefix(&[FORM])?.split_first_chunk::<32>()?;
    let (exact, rest) = rest.split_first_chunk::<32>()?;
    Some(Header {
        outline: *outline,
        exact: *exact,
        has_result: *rest.first()? != 0,
    })
}

/// A value that is not too long to be remembered; different ones stay different.
pub(super) fn bounded(value: &str) -> String {
    if value.chars().nth(VALUE).is_none() {
        return value.to_owned();
    }
    let head: String = value.chars().take(VALUE).collect();
    let digest = Digest::sha256_of(value).hex();
    format!("{head}… ({})", digest.get(..12).unwrap_or_default())
}

/// What a vertex's definition says.
pub(super) fn fields(vertex: &Vertex) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    if let Some(platform) = vertex.platform() {
        fields.push(("platform".to_owned(), platform.to_string()));
    }
    let op = vertex.op_to_json();
    // In order, and never deeper than the definitions that we know are.
    let mut ahead = vec![(String::new(), &op, 0)];
    while let Some((name, value, depth)) = ahead.pop() {
        if fields.len() == FIELDS {
            break;
        }
        match value {
            Value::Object(object) if depth < DEPTH => {
                ahead.extend(object.iter().rev().map(|(key, value)| {
                    let name = if name.is_empty() {
                        key.clone()
                    } else {
                        format!("{name}.{key}")
                    };
                    (name, value, depth + 1)
                }));
            }
            Value::Array(all) if name == "env" => {
                for variable in all.iter().filter_map(Value::as_str) {
                    let (key, value) = variable.split_once('=').unwrap_or((variable, ""));
                    fields.push((format!("env.{key}"), bounded(value)));
                }
            }
            Value::Array(all) if name == "args" => {
                let args: Vec<&str> = all.iter().filter_map(Value::as_str).collect();
                let command = match args.as_slice() {
                    ["/bin/sh", "-c", command] => (*command).to_owned(),
                    args => args.join(" "),
                };
                fields.push((name, bounded(&command)));
            }
            Value::Array(all) if depth < DEPTH && all.iter().any(|value| value.is_object()) => {
                ahead.extend(all.iter().enumerate().rev().map(|(at, value)| {
                    // Mounts are what they are at their places, however many there are.
                    let place = value.get("dest").and_then(Value::as_str);
                    let place = place.map_or_else(|| at.to_string(), str::to_owned);
                    (format!("{name}[{place}]"), value, depth + 1)
                }));
            }
            Value::Array(all) if all.iter().all(Value::is_string) => {
                let all: Vec<&str> = all.iter().filter_map(Value::as_str).collect();
                fields.push((name, bounded(&all.join(" "))));
            }
            // Lists in attributes are JSON within a text.
            Value::String(text) if text.starts_with('[') => {
                let listed = serde_json::from_str::<Vec<String>>(text).ok();
                let text = listed.map_or_else(|| text.clone(), |all| all.join(" "));
                fields.push((name, bounded(&text)));
            }
            Value::Null => {}
            // How the parts of a definition are numbered says nothing of what is made.
            Value::Number(_) if is_numbering(&name) => {}
            // A session is another one each time, and says nothing of what is made.
            _ if name.ends_with("session") => {}
            Value::String(text) => fields.push((name, bounded(&without_password(text)))),
            other => fields.push((name, bounded(&other.to_string()))),
        }
    }
    fields
}

fn is_numbering(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    name.contains(']') && matches!(last, "input" | "output" | "action")
}

/// An address without the user and password that it may have.
fn without_password(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest.get(..end).and_then(|authority| authority.rfind('@')) {
        // What names a digest has an `@`, too, but no colon in front of it.
        Some(at) if rest[..at].contains(':') => format!("{scheme}://…{}", &rest[at..]),
        _ => text.to_owned(),
    }
}

/// The place of a step and its verb, `[build 2] RUN` of `[build 2/4] RUN make`, and what it says without its number, `[build] RUN make`.
pub(super) fn place_and_text(name: &str) -> (String, String) {
    place_and_text_of(name, false)
}

/// The same without the number of a stage that has no name: a stage that is added above changes it.
pub(super) fn bare_place_and_text(name: &str) -> (String, String) {
    place_and_text_of(name, true)
}

/// What a step says and the name of its stage, without the numbers that other steps and stages change.
pub(super) fn unnumbered(name: &str) -> String {
    bare_place_and_text(name).1
}

fn place_and_text_of(name: &str, bare: bool) -> (String, String) {
    let (place, rest) = match name.split_once("] ") {
        Some((place, rest)) if place.starts_with('[') => (place, rest),
        _ => ("[", name),
    };
    let verb = rest.split_whitespace().next().unwrap_or_default();
    // The count of a stage's lines changes with each line that is added.
    let index = place.rsplit_once('/').map_or(place, |(index, _)| index);
    let unnamed = index.strip_prefix("[stage-").and_then(|rest| {
        let (number, index) = rest.split_once(' ')?;
        number
            .bytes()
            .all(|byte| byte.is_ascii_digit())
            .then_some(index)
    });
    let unnamed = unnamed.filter(|_| bare);
    let index = match (unnamed, bare) {
        (Some(index), _) => format!("[{}", index.trim_start()),
        (None, true) => format!("[{}", index.trim_start_matches('[').trim_start()),
        (None, false) => index.to_owned(),
    };
    let label = index.trim_end_matches(|char: char| char.is_ascii_digit());
    (
        format!("{index}] {verb}"),
        format!("{}] {rest}", label.trim_end()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lose_their_passwords() {
        for (address, kept) in [
            ("https://user:secret@host/path@x", "https://…@host/path@x"),
            ("git://host/path", "git://host/path"),
            (
                "docker-image://docker.io/library/a@sha256:00",
                "docker-image://docker.io/library/a@sha256:00",
            ),
            ("plain", "plain"),
        ] {
            assert_eq!(without_password(address), kept);
        }
    }

    #[test]
    fn places_are_read_from_names() {
        for (name, place, text) in [
            (
                "[build 2/4] RUN make -j",
                "[build 2] RUN",
                "[build] RUN make -j",
            ),
            ("[ 3/12] COPY . /app", "[ 3] COPY", "[] COPY . /app"),
            ("RUN make", "[] RUN", "[] RUN make"),
        ] {
            assert_eq!(place_and_text(name), (place.to_owned(), text.to_owned()));
        }
        for (one, other) in [
            ("[build 2/4] RUN make", "[build 3/5] RUN make"),
            ("[stage-1 1/2] RUN make", "[2/2] RUN make"),
        ] {
            assert_eq!(unnumbered(one), unnumbered(other));
            assert_eq!(lineage(one, []), lineage(other, []));
        }
        assert_ne!(
            unnumbered("[a 1/2] RUN make"),
            unnumbered("[b 1/2] RUN make")
        );
        let long = "x".repeat(1000);
        assert!(bounded(&long).chars().count() < 300);
        assert_ne!(bounded(&long), bounded(&format!("{long}y")));
    }
}
