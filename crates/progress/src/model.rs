use base64::Engine as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;
use weld_digest::Digest;

/// A moment in UTC.
pub type Timestamp = OffsetDateTime;

/// What happened since the last batch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// Steps that came up or changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vertexes: Vec<Vertex>,
    /// Transfers and other long work inside steps that came up or changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub statuses: Vec<TransferStatus>,
    /// What steps wrote.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logs: Vec<Log>,
    /// What users should look at although it does not fail the build.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Warning>,
}

impl Batch {
    /// Whether nothing happened.
    pub fn is_empty(&self) -> bool {
        self.vertexes.is_empty()
            && self.statuses.is_empty()
            && self.logs.is_empty()
            && self.warnings.is_empty()
    }
}

/// The state of one step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Vertex {
    /// The step's digest in the definition that the reader's job loaded.
    pub digest: Digest,
    /// The digests of the steps that it reads from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<Digest>,
    /// What a person calls it.
    #[serde(default)]
    pub name: String,
    /// When it started, if it has.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub started: Option<Timestamp>,
    /// When it ended, if it has.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub completed: Option<Timestamp>,
    /// Whether its result came from the cache.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cached: bool,
    /// Why it failed; empty if it did not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// The group under which it is shown, if any.
    #[serde(
        default,
        rename = "progressGroup",
        skip_serializing_if = "Option::is_none"
    )]
    pub progress_group: Option<ProgressGroup>,
}

impl Vertex {
    /// A step that has not started.
    pub fn new(digest: Digest, name: impl Into<String>) -> Self {
        Self {
            digest,
            inputs: Vec::new(),
            name: name.into(),
            started: None,
            completed: None,
            cached: false,
            error: String::new(),
            progress_group: None,
        }
    }
}

/// A group of steps that are shown as one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProgressGroup {
    /// What makes two groups the same.
    pub id: String,
    /// What a person calls it.
    #[serde(default)]
    pub name: String,
    /// Whether the group stays out of sight unless it fails.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub weak: bool,
}

/// A transfer, or other long work inside a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TransferStatus {
    /// What makes two statuses of a step the same, and what a person calls it.
    #[serde(rename = "id")]
    pub id: String,
    /// The step's digest.
    pub vertex: Digest,
    /// A longer name, if it has one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// How much there is to do, in bytes or items; 0 where that is not known.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub total: u64,
    /// How much is done, in the unit of `total`.
    #[serde(default)]
    pub current: u64,
    /// When this was so.
    #[serde(with = "time::serde::rfc3339")]
    pub timestamp: Timestamp,
    /// When it started, if it has.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub started: Option<Timestamp>,
    /// When it ended, if it has.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub completed: Option<Timestamp>,
}

/// Which stream of a step a log came from; in JSON its file descriptor's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A piece of what a step wrote.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Log {
    /// The step's digest.
    pub vertex: Digest,
    /// Where it was written to.
    #[serde(default = "stdout")]
    pub stream: Stream,
    /// The bytes: not always whole lines, not always UTF-8; base64 in JSON.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub data: Vec<u8>,
    /// When it was written.
    #[serde(with = "time::serde::rfc3339")]
    pub timestamp: Timestamp,
}

/// What a user should look at although it does not fail the build.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Warning {
    /// The digest of the step that it is about.
    pub vertex: Digest,
    /// How grave it is: 0 is graver than 1.
    #[serde(default)]
    pub level: u32,
    /// One line that says it all.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub short: Vec<u8>,
    /// More lines.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        serialize_with = "all_to_base64",
        deserialize_with = "all_from_base64"
    )]
    pub detail: Vec<Vec<u8>>,
    /// Where to read on.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub url: String,
    /// The file and the lines that it is about, such as `Dockerfile:3`; empty if there are none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub location: String,
    /// The same file with its content, for those who show lines of it.
    #[serde(
        default,
        rename = "sourceInfo",
        skip_serializing_if = "Option::is_none"
    )]
    pub source: Option<SourceInfo>,
    /// The ranges of it.
    #[serde(default, rename = "range", skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<Range>,
}

impl Warning {
    /// A warning of one line.
    pub fn new(vertex: Digest, short: impl Into<Vec<u8>>) -> Self {
        Self {
            vertex,
            level: 1,
            short: short.into(),
            detail: Vec::new(),
            url: String::new(),
            location: String::new(),
            source: None,
            ranges: Vec::new(),
        }
    }
}

/// A file that a build was described in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceInfo {
    /// Its name.
    #[serde(default)]
    pub filename: String,
    /// What is in it.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        serialize_with = "to_base64",
        deserialize_with = "from_base64"
    )]
    pub data: Vec<u8>,
    /// What it is written in, such as `Dockerfile`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub language: String,
}

/// From one place to another, the latter included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// The first place.
    #[serde(default)]
    pub start: Position,
    /// The last place.
    #[serde(default)]
    pub end: Position,
}

/// A place in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The line, counted from 1.
    #[serde(default)]
    pub line: i32,
    /// The character in it, counted from 0.
    #[serde(default)]
    pub character: i32,
}

const fn stdout() -> Stream {
    Stream::Stdout
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Serialize for Stream {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(match self {
            Self::Stdout => 1,
            Self::Stderr => 2,
        })
    }
}

impl<'de> Deserialize<'de> for Stream {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match u8::deserialize(deserializer)? {
            2 => Self::Stderr,
            _ => Self::Stdout,
        })
    }
}

fn encode(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn decode<E: serde::de::Error>(text: &str) -> Result<Vec<u8>, E> {
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .map_err(E::custom)
}

fn to_base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&encode(bytes))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    decode(&String::deserialize(deserializer)?)
}

fn all_to_base64<S: Serializer>(all: &[Vec<u8>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(all.iter().map(|bytes| encode(bytes)))
}

fn all_from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Vec<u8>>, D::Error> {
    Vec::<String>::deserialize(deserializer)?
        .iter()
        .map(|text| decode(text))
        .collect()
}
