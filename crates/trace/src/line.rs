//! One line of a trace, borrowed from its text.

use std::borrow::Cow;

use crate::{
    kind::Kind,
    scan::{Fields, Raw},
};

/// Why a line is not an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineError {
    /// It is not UTF-8.
    #[error("not UTF-8")]
    Encoding,
    /// It is not a JSON object.
    #[error("not a JSON object (column {column})")]
    Json {
        /// Where it ceases to be one.
        column: usize,
    },
    /// It has no event.
    #[error("no \"event\"")]
    NoEvent,
    /// A field is missing that every event of its kind has.
    #[error("{event}: no {field:?}")]
    Missing {
        /// The event.
        event: &'static str,
        /// The field.
        field: &'static str,
    },
    /// A field has a value of another kind.
    #[error("{field:?}: {value:?} is not {expected}")]
    Value {
        /// The field.
        field: &'static str,
        /// What it has.
        value: String,
        /// What it should have.
        expected: &'static str,
    },
}

/// One event. What its kind does not have is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line<'a> {
    /// Which event it is.
    pub kind: Kind,
    /// Number of the core's input that it came from.
    pub position: u64,
    /// Microseconds since 1970.
    pub time: u64,
    /// The inputs of a vertex, as JSON.
    pub inputs: Option<&'a str>,
    /// A job's id.
    pub job: Option<Text<'a>>,
    /// The name of a vertex.
    pub name: Option<Text<'a>>,
    /// What went wrong.
    pub error: Option<Text<'a>>,
    /// Why a step was not cached.
    pub why: Option<Text<'a>>,
    /// What was broken.
    pub invariant: Option<Text<'a>>,
    /// Digest of the vertex.
    pub vertex: Option<Text<'a>>,
    /// Digest of the vertex whose operation asked for a build.
    pub parent: Option<Text<'a>>,
    /// Number of that vertex.
    pub parent_id: Option<u64>,
    /// Digest of the vertex of the merged edge.
    pub source_vertex: Option<Text<'a>>,
    /// Digest of the vertex of the surviving edge.
    pub target_vertex: Option<Text<'a>>,
    /// Digest of the vertex whose operation is called.
    pub actor: Option<Text<'a>>,
    /// Digest of the vertex whose operation is tried next.
    pub next: Option<Text<'a>>,
    /// A cache key.
    pub key: Option<Text<'a>>,
    /// An operation's digest, or the key of a content.
    pub digest: Option<Text<'a>>,
    /// How a request was answered.
    pub outcome: Option<Text<'a>>,
    /// An edge's state.
    pub state: Option<Text<'a>>,
    /// Why edges were merged or not.
    pub reason: Option<Text<'a>>,
    /// Which call of an operation.
    pub call: Option<Text<'a>>,
    /// Why a call was cancelled.
    pub cause: Option<Text<'a>>,
    /// The version of the writer.
    pub weld: Option<Text<'a>>,
    /// Number of the vertex.
    pub id: Option<u64>,
    /// Number of the edge.
    pub edge: Option<u64>,
    /// Output index of the edge.
    pub output: Option<u64>,
    /// Vertices in a graph.
    pub vertices: Option<u64>,
    /// How many of them were new.
    pub created: Option<u64>,
    /// Number of the request.
    pub request: Option<u64>,
    /// Which input.
    pub input: Option<u64>,
    /// Records that were found.
    pub records: Option<u64>,
    /// Number of the merged edge, or of a cache source.
    pub source: Option<u64>,
    /// Microseconds that a call had taken when the trace began.
    pub micros: Option<u64>,
    /// Output index of the merged edge.
    pub source_output: Option<u64>,
    /// Number of the surviving edge.
    pub target: Option<u64>,
    /// Output index of the surviving edge.
    pub target_output: Option<u64>,
    /// Number of the call or load.
    pub task: Option<u64>,
    /// Number of the record.
    pub record: Option<u64>,
    /// How many events are missing.
    pub count: Option<u64>,
    /// Events in the trace.
    pub lines: Option<u64>,
    /// Events that were lost.
    pub lost: Option<u64>,
    /// Version of the format.
    pub version: Option<u64>,
    /// Whether the job has a session.
    pub session: bool,
    /// Whether the cache is not asked.
    pub ignore_cache: bool,
    /// Whether it is never merged.
    pub never_merge: bool,
    /// Whether a store knew the key.
    pub stored: bool,
    /// Whether a query leads on.
    pub hit: bool,
    /// Whether a call went well.
    pub ok: Option<bool>,
}

/// Text as it is written in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Text<'a>(&'a str);

impl<'a> Text<'a> {
    /// The text as it is written, which is what it says where it has no escapes: digests, words.
    pub const fn raw(self) -> &'a str {
        self.0
    }

    /// What it says.
    pub fn value(self) -> Cow<'a, str> {
        if !self.0.contains('\\') {
            return Cow::Borrowed(self.0);
        }
        let quoted = format!("\"{}\"", self.0);
        serde_json::from_str(&quoted).map_or(Cow::Borrowed(self.0), Cow::Owned)
    }
}

/// An input of a vertex: the numbers of the edge and of its vertex, and its output.
pub(crate) type InputEdge = (u64, u64, u32);

impl<'a> Line<'a> {
    /// Reads a line.
    ///
    /// # Errors
    /// [`LineError`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, LineError> {
        let text = std::str::from_utf8(bytes).map_err(|_| LineError::Encoding)?;
        let mut fields = Fields::new(text)?;
        let mut line = Self::default();
        let mut seen = Seen::default();
        while let Some((name, value)) = fields.next()? {
            match name {
                "event" => {
                    line.kind = Kind::of(text_of("event", value)?.0);
                    seen.event = true;
                }
                "position" => {
                    line.position = number_of("position", value)?;
                    seen.position = true;
                }
                "time" => {
                    line.time = number_of("time", value)?;
                    seen.time = true;
                }
                "inputs" => match value {
                    Raw::Other(array) => line.inputs = Some(array),
                    Raw::Text(text) => return Err(wrong("inputs", text, "an array")),
                },
                "job" => line.job = Some(text_of("job", value)?),
                "name" => line.name = Some(text_of("name", value)?),
                "error" => line.error = Some(text_of("error", value)?),
                "why" => line.why = Some(text_of("why", value)?),
                "invariant" => line.invariant = Some(text_of("invariant", value)?),
                "vertex" => line.vertex = Some(text_of("vertex", value)?),
                "parent" => line.parent = Some(text_of("parent", value)?),
                "source_vertex" => line.source_vertex = Some(text_of("source_vertex", value)?),
                "target_vertex" => line.target_vertex = Some(text_of("target_vertex", value)?),
                "actor" => line.actor = Some(text_of("actor", value)?),
                "next" => line.next = Some(text_of("next", value)?),
                "key" => line.key = Some(text_of("key", value)?),
                "digest" => line.digest = Some(text_of("digest", value)?),
                "outcome" => line.outcome = Some(text_of("outcome", value)?),
                "state" => line.state = Some(text_of("state", value)?),
                "reason" => line.reason = Some(text_of("reason", value)?),
                "call" => line.call = Some(text_of("call", value)?),
                "cause" => line.cause = Some(text_of("cause", value)?),
                "weld" => line.weld = Some(text_of("weld", value)?),
                "parent_id" => line.parent_id = Some(number_of("parent_id", value)?),
                "id" => line.id = Some(number_of("id", value)?),
                "edge" => line.edge = Some(number_of("edge", value)?),
                "output" => line.output = Some(number_of("output", value)?),
                "vertices" => line.vertices = Some(number_of("vertices", value)?),
                "created" => line.created = Some(number_of("created", value)?),
                "request" => line.request = Some(number_of("request", value)?),
                "input" => line.input = Some(number_of("input", value)?),
                "records" => line.records = Some(number_of("records", value)?),
                "source" => line.source = Some(number_of("source", value)?),
                "micros" => line.micros = Some(number_of("micros", value)?),
                "source_output" => line.source_output = Some(number_of("source_output", value)?),
                "target" => line.target = Some(number_of("target", value)?),
                "target_output" => line.target_output = Some(number_of("target_output", value)?),
                "task" => line.task = Some(number_of("task", value)?),
                "record" => line.record = Some(number_of("record", value)?),
                "count" => line.count = Some(number_of("count", value)?),
                "lines" => line.lines = Some(number_of("lines", value)?),
                "lost" => line.lost = Some(number_of("lost", value)?),
                "version" => line.version = Some(number_of("version", value)?),
                "session" => {
                    line.session = flag_of("session", value)?;
                    seen.session = true;
                }
                "ignore_cache" => line.ignore_cache = flag_of("ignore_cache", value)?,
                "never_merge" => line.never_merge = flag_of("never_merge", value)?,
                "stored" => {
                    line.stored = flag_of("stored", value)?;
                    seen.stored = true;
                }
                "ok" => line.ok = Some(flag_of("ok", value)?),
                "hit" => {
                    line.hit = flag_of("hit", value)?;
                    seen.hit = true;
                }
                _ => {}
            }
        }
        if !seen.event {
            return Err(LineError::NoEvent);
        }
        match line.missing(&seen) {
            Some(field) => Err(LineError::Missing {
                event: line.kind.name(),
                field,
            }),
            None => Ok(line),
        }
    }

    /// A field that every event of its kind has and this one does not.
    fn missing(&self, seen: &Seen) -> Option<&'static str> {
        lacking(&[(seen.position, "position"), (seen.time, "time")]).or_else(|| match self.kind {
            Kind::Resumed | Kind::Other => None,
            Kind::TraceStart | Kind::TraceEnd | Kind::Lost => self.missing_in_frame(),
            Kind::JobOpened | Kind::Session => {
                lacking(&[(self.job.is_some(), "job"), (seen.session, "session")])
            }
            Kind::JobDiscarded => lacking(&[(self.job.is_some(), "job")]),
            Kind::Vertex
            | Kind::VertexFreed
            | Kind::SessionLent
            | Kind::Fallback
            | Kind::Explained => self.missing_of_vertex(),
            Kind::EdgeFreed
            | Kind::Loaded
            | Kind::Request
            | Kind::State
            | Kind::Key
            | Kind::Query
            | Kind::ResultLost => self.missing_of_edge(seen),
            Kind::Answer => lacking(&[
                (self.request.is_some(), "request"),
                (self.outcome.is_some(), "outcome"),
            ]),
            Kind::Merge | Kind::MergeRefused => self.missing_of_merge(),
            Kind::CallStart
            | Kind::CallEnd
            | Kind::Cancel
            | Kind::Dropped
            | Kind::UnderWay
            | Kind::SlotWait
            | Kind::SlotTaken => self.missing_of_call(),
            Kind::LoadStart | Kind::LoadEnd | Kind::LoadFailed => self.missing_of_load(seen),
            Kind::SaveFailed => lacking(&[(self.error.is_some(), "error")]),
            Kind::SourceFailed => lacking(&[
                (self.source.is_some(), "source"),
                (self.error.is_some(), "error"),
            ]),
            Kind::Broken => lacking(&[(self.invariant.is_some(), "invariant")]),
        })
    }

    fn missing_in_frame(&self) -> Option<&'static str> {
        match self.kind {
            Kind::TraceStart => lacking(&[
                (self.version.is_some(), "version"),
                (self.weld.is_some(), "weld"),
            ]),
            Kind::TraceEnd => lacking(&[
                (self.lines.is_some(), "lines"),
                (self.lost.is_some(), "lost"),
            ]),
            _ => lacking(&[(self.count.is_some(), "count")]),
        }
    }

    fn missing_of_vertex(&self) -> Option<&'static str> {
        let id = (self.id.is_some(), "id");
        let more = match self.kind {
            Kind::Vertex => {
                let name = (self.name.is_some(), "name");
                lacking(&[id, name, (self.inputs.is_some(), "inputs")])
            }
            Kind::SessionLent => lacking(&[(self.job.is_some(), "job")]),
            Kind::Fallback => lacking(&[(self.next.is_some(), "next")]),
            Kind::Explained => lacking(&[(self.why.is_some(), "why")]),
            _ => lacking(&[id]),
        };
        lacking(&[(self.vertex.is_some(), "vertex")]).or(more)
    }

    fn missing_of_edge(&self, seen: &Seen) -> Option<&'static str> {
        const NONE: (bool, &str) = (true, "");
        let own = match self.kind {
            Kind::Request => [(self.request.is_some(), "request"), NONE],
            Kind::State => [(self.state.is_some(), "state"), NONE],
            Kind::Key => [(self.key.is_some(), "key"), (seen.stored, "stored")],
            Kind::Query => [(seen.hit, "hit"), (self.records.is_some(), "records")],
            _ => [NONE, NONE],
        };
        let edge = lacking(&[
            (self.edge.is_some(), "edge"),
            (self.vertex.is_some(), "vertex"),
            (self.output.is_some(), "output"),
        ]);
        edge.or_else(|| lacking(&own))
    }

    fn missing_of_merge(&self) -> Option<&'static str> {
        lacking(&[
            (self.source.is_some(), "source"),
            (self.source_vertex.is_some(), "source_vertex"),
            (self.source_output.is_some(), "source_output"),
            (self.target.is_some(), "target"),
            (self.target_vertex.is_some(), "target_vertex"),
            (self.target_output.is_some(), "target_output"),
            (self.kind == Kind::Merge || self.reason.is_some(), "reason"),
        ])
    }

    fn missing_of_call(&self) -> Option<&'static str> {
        let own = match self.kind {
            Kind::Cancel => (self.cause.is_some(), "cause"),
            Kind::UnderWay => (self.micros.is_some(), "micros"),
            Kind::Dropped | Kind::SlotWait | Kind::SlotTaken => (true, ""),
            _ => (self.call.is_some(), "call"),
        };
        lacking(&[
            (self.task.is_some(), "task"),
            (self.vertex.is_some(), "vertex"),
            (self.id.is_some(), "id"),
            own,
        ])
    }

    fn missing_of_load(&self, seen: &Seen) -> Option<&'static str> {
        let task = || lacking(&[(self.task.is_some(), "task")]);
        let own = || match self.kind {
            Kind::LoadStart => lacking(&[
                (self.record.is_some(), "record"),
                (self.source.is_some(), "source"),
            ]),
            Kind::LoadFailed => lacking(&[
                (self.record.is_some(), "record"),
                (self.error.is_some(), "error"),
            ]),
            _ => None,
        };
        task().or_else(|| self.missing_of_edge(seen)).or_else(own)
    }

    /// The inputs of a vertex.
    pub(crate) fn input_edges(&self) -> Option<Vec<InputEdge>> {
        self.inputs.map_or_else(
            || Some(Vec::new()),
            |inputs| serde_json::from_str(inputs).ok(),
        )
    }
}

/// Fields that are there, of which a line keeps no trace where they are not.
#[derive(Default)]
struct Seen {
    event: bool,
    position: bool,
    time: bool,
    session: bool,
    stored: bool,
    hit: bool,
}

/// The first field that is not there.
fn lacking(fields: &[(bool, &'static str)]) -> Option<&'static str> {
    let field = fields.iter().find(|(there, _)| !there);
    field.map(|(_, field)| *field)
}

fn wrong(field: &'static str, value: &str, expected: &'static str) -> LineError {
    LineError::Value {
        field,
        value: value.chars().take(80).collect(),
        expected,
    }
}

fn text_of<'a>(field: &'static str, value: Raw<'a>) -> Result<Text<'a>, LineError> {
    match value {
        Raw::Text(text) => Ok(Text(text)),
        Raw::Other(other) => Err(wrong(field, other, "text")),
    }
}

fn number_of(field: &'static str, value: Raw<'_>) -> Result<u64, LineError> {
    match value {
        Raw::Other(digits)
            if digits.len() < 20 && digits.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            Ok(digits
                .bytes()
                .fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
        }
        Raw::Other(other) => other.parse().map_err(|_| wrong(field, other, "a number")),
        Raw::Text(text) => Err(wrong(field, text, "a number")),
    }
}

fn flag_of(field: &'static str, value: Raw<'_>) -> Result<bool, LineError> {
    match value {
        Raw::Other("true") => Ok(true),
        Raw::Other("false") => Ok(false),
        Raw::Other(other) | Raw::Text(other) => Err(wrong(field, other, "true or false")),
    }
}
