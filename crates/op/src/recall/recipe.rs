//! What a step is made of, in a form that is small and that can be compared.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use weld_digest::{Digest, FieldHasher};
use weld_llb::{Vertex, mask_credentials};
use weld_solver::CacheMap;
use weld_store::StepName;
use weld_store::content_key::KeyOptions;

use super::names;
use super::part::identity;
use super::said::{Fields, Said};
use crate::content::Selector;

/// Most files of one step that are remembered.
pub(super) const FILES: usize = 768;
/// Most characters of a name that are remembered; of a longer one the beginning and a digest.
const NAME: usize = 256;
/// The same of a value.
const VALUE: usize = 2048;
/// How it is written; what was remembered in another form is not compared with.
const FORM: u8 = 8;
/// Most levels of a value.
const DEPTH: usize = 8;

/// What a step is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Recipe {
    pub(super) name: String,
    pub(super) lineage: Lineage,
    /// What it does to its inputs: see [`does`].
    pub(super) does: Option<StepName>,
    /// What it is, with all that it is made of, where that is known.
    pub(super) whole: Option<StepName>,
    /// What its definition says: names such as `env.PATH` and `args`, and values.
    pub(super) fields: Fields,
    pub(super) inputs: Vec<Input>,
    pub(super) end: End,
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
    /// Of its instruction as the Dockerfile has it, without the values of arguments that the name has.
    pub(super) written: Option<StepName>,
    /// The key of what the step sees of its content.
    pub(super) content: Option<StepName>,
    /// Which parts of it these are.
    pub(super) seen: Option<StepName>,
    /// What it is, with all that it is made of, where that is known.
    pub(super) whole: Option<StepName>,
    /// The number of its snapshot; later ones have greater numbers.
    pub(super) result: Option<u64>,
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

/// Bytes before a recipe: the form, and whether there was a result.
const HEADER: usize = 2;

impl Recipe {
    /// Whether it had a result.
    pub(super) fn has_result(&self) -> bool {
        matches!(self.end, End::Made | End::Found)
    }

    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        let fields = postcard::to_stdvec(self).ok()?;
        Some([&[FORM, u8::from(self.has_result())], fields.as_slice()].concat())
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        had_result(bytes)?;
        postcard::from_bytes(bytes.get(HEADER..)?).ok()
    }

    /// Whether it is the same for a cache, as far as is known.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let others = other.identities();
        self.does == other.does
            && self.may_see_what(other)
            && self.identities().iter().any(|name| others.contains(name))
    }

    /// The command that it runs, with names of variables in place of their values.
    pub(super) fn command(&self) -> Option<&str> {
        command(&self.fields)
    }

    /// Whether nothing that is known of the content of its inputs differs: what ran whatever was cached may have come to something else.
    pub(super) fn may_see_what(&self, other: &Self) -> bool {
        let mut inputs = self.inputs.iter().zip(&other.inputs);
        inputs.all(|(one, other)| {
            one.content.is_none() || other.content.is_none() || one.content == other.content
        })
    }

    /// Takes over what is known of inputs that are what they were when it was the other.
    pub(super) fn learn(&mut self, other: Self) {
        if self.does.is_none() || self.does != other.does {
            return;
        }
        for (input, known) in self.inputs.iter_mut().zip(other.inputs) {
            let by_content = input.content.is_some() && input.content == known.content;
            let by_name =
                input.content.is_none() && input.whole.is_some() && input.whole == known.whole;
            if by_content || by_name {
                let own = std::mem::replace(input, known);
                (input.name, input.written, input.whole) = (own.name, own.written, own.whole);
            }
        }
    }

    /// Names by which a step is found that is the same for a cache: by the content of its inputs as far as it looks at that, and by
    /// what the others are, or which results.
    pub(super) fn identities(&self) -> Vec<StepName> {
        let Some(does) = self.does else {
            return Vec::new();
        };
        let result = |input: &Input| {
            let mut name = StepName::default();
            name[..8].copy_from_slice(&input.result?.to_be_bytes());
            Some(name)
        };
        let inputs = || self.inputs.iter();
        let contents = inputs().map(|input| input.content.or(input.whole));
        let results = inputs().map(|input| input.content.or_else(|| result(input)));
        let names = [
            self.whole,
            identity("content", &does, contents),
            identity("result", &does, results),
        ];
        names.into_iter().flatten().collect()
    }
}

/// The command among fields.
pub(super) fn command(fields: &Fields) -> Option<&str> {
    let mut fields = fields.iter();
    fields.find_map(|(field, value)| (field == "args").then_some(value.as_str()))
}

/// Whether the step of an encoded recipe had a result; `None` where it is in another form.
pub(super) fn had_result(bytes: &[u8]) -> Option<bool> {
    let [FORM, had, ..] = bytes else {
        return None;
    };
    Some(*had != 0)
}

/// What a step is called, with all that it is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lineage {
    /// Of the texts: what stays the same from build to build where a definition names a session, where a stage gets more steps, and
    /// where one gets another name.
    pub(super) said: StepName,
    /// Of the places and instructions: what stays the same where a step says something else, too.
    pub(super) shape: StepName,
}

impl Lineage {
    /// That of a step of this name whose inputs have these.
    pub(crate) fn new<'a>(name: &str, inputs: impl Iterator<Item = &'a Self>) -> Self {
        let mut said = FieldHasher::new("weld.step.lineage.v4").text(&names::said_to_any(name));
        let mut shape = FieldHasher::new("weld.step.shape.v1").text(&names::rank(name));
        for input in inputs {
            said = said.bytes(&input.said);
            shape = shape.bytes(&input.shape);
        }
        Self {
            said: crate::digest::to_solver(&said.finish()).0,
            shape: crate::digest::to_solver(&shape.finish()).0,
        }
    }
}

/// What a step does to its inputs, with what parts of them it sees: all that a cache knows of it but for the inputs.
pub(super) fn does(map: &CacheMap) -> StepName {
    let mut hasher = FieldHasher::new("weld.step.does.v1").bytes(&map.digest.0);
    for input in &map.inputs {
        let selector = input.selector.as_ref();
        hasher = hasher.bytes(selector.map_or(&[], |selector| selector.0.as_slice()));
    }
    crate::digest::to_solver(&hasher.finish()).0
}

/// What names the parts of an input's content that a step sees.
pub(super) fn seen(selectors: &[Selector]) -> StepName {
    let mut hasher = FieldHasher::new("weld.step.seen.v1");
    for Selector { path, options } in selectors {
        let KeyOptions {
            follow_links,
            wildcard,
            include,
            exclude,
            required,
        } = options;
        hasher = hasher
            .text(path)
            .texts(include)
            .texts(exclude)
            .texts(required);
        hasher = hasher
            .number(u64::from(*follow_links))
            .number(u64::from(*wildcard));
    }
    crate::digest::to_solver(&hasher.finish()).0
}

/// A name that is not too long to be remembered; different ones stay different.
pub(super) fn bounded(name: &str) -> String {
    cut(name, NAME)
}

/// Between the beginning of a text that was too long and the digest of it.
const CUT: &str = "… (";

fn cut(value: &str, characters: usize) -> String {
    let value = &*mask_credentials(value);
    let Some((end, _)) = value.char_indices().nth(characters) else {
        return value.to_owned();
    };
    let digest = Digest::sha256_of(value).hex();
    let (head, digest) = (&value[..end], digest.get(..DIGITS).unwrap_or_default());
    format!("{head}{CUT}{digest})")
}

/// Whether a value is there in whole, and what of it is there.
pub(super) fn head(kept: &str) -> (bool, &str) {
    let digest = |digest: &str| {
        let digest = digest.strip_suffix(')');
        digest.is_some_and(|digest| {
            digest.len() == DIGITS && digest.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
    };
    match kept.rsplit_once(CUT) {
        Some((head, tail)) if digest(tail) && head.chars().count() == VALUE => (false, head),
        _ => (true, kept),
    }
}

/// Before the digest of a value of which not all is shown. What a step does, which is remembered too, tells no less.
const HIDDEN: char = '\0';
/// Digits of that digest.
const DIGITS: usize = 12;

/// The same, where different credentials stay different, too.
pub(super) fn kept(value: &str) -> String {
    let text = cut(value, VALUE);
    if mask_credentials(value) == value {
        return text;
    }
    let digest = Digest::sha256_of(value).hex();
    format!("{text}{HIDDEN}{}", digest.get(..DIGITS).unwrap_or_default())
}

/// What is shown of a value that is kept.
pub(super) fn visible(kept: &str) -> &str {
    match kept.rsplit_once(HIDDEN) {
        Some((text, digest)) if digest.len() == DIGITS => text,
        _ => kept,
    }
}

/// What the definition of a vertex says whose key is made of something else, such as of what it fetches.
pub(super) fn fields(vertex: &Vertex) -> Fields {
    let mut said = Said::default();
    if let Some(platform) = vertex.platform() {
        said.field("platform", &platform.to_string());
    }
    let op = vertex.op_to_json();
    // In order, and never deeper than the definitions that we know are.
    let mut ahead = vec![(String::new(), &op, 0)];
    while let Some((name, value, depth)) = ahead.pop() {
        if said.is_full() {
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
            // Lists in attributes are JSON within a text.
            Value::String(text) if text.starts_with('[') => {
                match serde_json::from_str::<Vec<String>>(text) {
                    Ok(mut all) => {
                        // The order in which paths of a context are used says nothing of what is in it.
                        if name == "attrs.local.followpaths" {
                            all.sort();
                        }
                        said.list(&name, all);
                    }
                    Err(_) => said.field(&name, text),
                }
            }
            Value::Null => {}
            // A session is another one each time, and says nothing of what is made.
            _ if name.ends_with("session") => {}
            Value::String(text) => said.field(&name, text),
            other => said.field(&name, &other.to_string()),
        }
    }
    said.into_fields()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_stay_different_and_are_not_shown() {
        let (one, two) = (kept("curl http://u:one@x/"), kept("curl http://u:two@x/"));
        assert_ne!(one, two);
        assert_eq!(visible(&one), visible(&two));
        assert!(!one.contains("one") && !visible(&one).contains(HIDDEN));
        assert_eq!(kept("curl http://x/"), "curl http://x/");
    }

    #[test]
    fn long_values_stay_different() {
        let long = "x".repeat(1000);
        assert!(bounded(&long).chars().count() < 300);
        assert_ne!(bounded(&long), bounded(&format!("{long}y")));
    }
}
