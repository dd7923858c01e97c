//! A whole trace in memory: jobs, vertices, calls, merges, requests, as the events tell of them.

mod events;
mod reached;

use std::{collections::HashMap, ops::ControlFlow, path::Path, time::Duration};

use crate::{
    kind::Kind,
    line::{Line, Text},
    read::{ReadError, Reader},
};

/// A vertex's place in [`Trace::vertices`].
pub(crate) type VertexAt = usize;

/// A trace that was read.
#[derive(Debug, Default)]
pub struct Trace {
    /// Time of the first and the last event, in microseconds since 1970.
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) events: u64,
    pub(crate) lost: u64,
    pub(crate) malformed: u64,
    /// Whether its writer ended it.
    pub(crate) ended: bool,
    pub(crate) jobs: Vec<Job>,
    pub(crate) vertices: Vec<Vertex>,
    pub(crate) calls: Vec<Call>,
    pub(crate) merges: Vec<Merge>,
    pub(crate) requests: Vec<Request>,
    pub(crate) notes: Vec<Note>,
    live: Live,
    /// What is live is being told, at this position: it began before the trace.
    telling: Option<u64>,
}

/// What events refer to by number, while it is live.
#[derive(Debug, Default)]
struct Live {
    jobs: HashMap<String, usize>,
    vertices: HashMap<u64, VertexAt>,
    edges: HashMap<u64, VertexAt>,
    /// The newest vertex of a digest.
    digests: HashMap<String, VertexAt>,
    tasks: HashMap<u64, usize>,
    requests: HashMap<u64, usize>,
}

#[derive(Debug, Default)]
pub(crate) struct Job {
    pub(crate) id: String,
    pub(crate) opened: u64,
    /// Whether it was opened before the trace began.
    pub(crate) before: bool,
    pub(crate) discarded: Option<u64>,
    pub(crate) session: bool,
    pub(crate) roots: Vec<VertexAt>,
    /// Vertices that it loaded.
    pub(crate) vertices: Vec<VertexAt>,
    /// How many of them were not live before.
    pub(crate) created: u64,
    /// Which they are.
    pub(crate) new: Vec<VertexAt>,
    pub(crate) requests: Vec<usize>,
}

#[derive(Debug, Default)]
pub(crate) struct Vertex {
    pub(crate) digest: String,
    pub(crate) name: String,
    pub(crate) inputs: Vec<Input>,
    pub(crate) created: u64,
    /// The position at which it was created.
    pub(crate) position: u64,
    /// Roots of builds that its operation asked for.
    pub(crate) sub_builds: Vec<VertexAt>,
    pub(crate) freed: Option<u64>,
    pub(crate) ignore_cache: bool,
    pub(crate) never_merge: bool,
    pub(crate) jobs: Vec<usize>,
    /// When its edges reached states.
    pub(crate) states: Vec<(u64, u32, String)>,
    pub(crate) completed: Option<u64>,
    pub(crate) keys: Vec<KeyOf>,
    pub(crate) calls: Vec<usize>,
    /// Its operation's digest, of each cache map.
    pub(crate) ops: Vec<String>,
    /// The content keys of its inputs.
    pub(crate) contents: HashMap<u32, String>,
    pub(crate) queries: Vec<(Option<u64>, bool, u64)>,
    pub(crate) why: Option<String>,
    pub(crate) merged_into: Option<VertexAt>,
    pub(crate) lent: Vec<String>,
    pub(crate) fallbacks: Vec<String>,
    pub(crate) lost: u32,
    /// A result that it is on the way to was asked for and is not there, and nor is its own.
    pub(crate) unreached: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Input {
    pub(crate) digest: String,
    pub(crate) output: u32,
    pub(crate) vertex: Option<VertexAt>,
}

#[derive(Debug)]
pub(crate) struct KeyOf {
    pub(crate) output: u32,
    pub(crate) key: String,
    pub(crate) stored: bool,
}

/// A call of an operation, or the load of a record.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) vertex: VertexAt,
    pub(crate) call: &'static str,
    pub(crate) input: Option<u64>,
    pub(crate) actor: Option<String>,
    pub(crate) start: u64,
    pub(crate) end: Option<u64>,
    pub(crate) error: Option<String>,
    /// Why it was cancelled.
    pub(crate) cancelled: Option<String>,
    pub(crate) cancelled_at: Option<u64>,
    /// Whether its outcome counted.
    pub(crate) believed: bool,
    /// Microseconds that it had taken when the trace began.
    pub(crate) before: u64,
    /// When it waited while its operation executed.
    pub(crate) waits: Vec<Wait>,
    /// What its operation asked for, of the trace's requests.
    pub(crate) builds: Vec<usize>,
}

#[derive(Debug)]
pub(crate) struct Merge {
    pub(crate) time: u64,
    pub(crate) position: u64,
    pub(crate) source: VertexAt,
    pub(crate) source_output: u64,
    pub(crate) target: VertexAt,
    pub(crate) target_output: u64,
    /// None where they were merged before the trace began.
    pub(crate) reason: Option<String>,
    pub(crate) refused: bool,
}

#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) job: Option<String>,
    pub(crate) vertex: VertexAt,
    /// By which its answer is known.
    pub(crate) number: u64,
    pub(crate) asked: u64,
    pub(crate) answered: Option<u64>,
    pub(crate) outcome: Option<String>,
}

/// Something that is worth a line by itself.
#[derive(Debug)]
pub(crate) struct Note {
    pub(crate) time: u64,
    pub(crate) kind: Kind,
    pub(crate) vertex: Option<VertexAt>,
    pub(crate) text: String,
}

impl Vertex {
    /// Calls of one kind.
    pub(crate) fn calls_of<'t>(
        &'t self,
        trace: &'t Trace,
        call: &'static str,
    ) -> impl Iterator<Item = &'t Call> {
        self.calls
            .iter()
            .map(|at| &trace.calls[*at])
            .filter(move |known| known.call == call)
    }

    /// Whether its operation ran.
    pub(crate) fn ran(&self, trace: &Trace) -> bool {
        self.calls_of(trace, "exec").next().is_some()
    }

    /// When it had a result, if it had by a time.
    pub(crate) fn completed_by(&self, until: u64) -> Option<u64> {
        self.completed.filter(|time| *time <= until)
    }

    /// Whether its result was loaded.
    pub(crate) fn loaded(&self, trace: &Trace) -> bool {
        self.calls_of(trace, "load")
            .any(|call| call.believed && call.error.is_none())
    }

    /// How it ended, or how far it is, in a word.
    pub(crate) fn outcome(&self, trace: &Trace) -> &'static str {
        self.outcome_by(trace, u64::MAX)
    }

    /// The same at a time before the end, such as when a job that wanted it was gone.
    pub(crate) fn outcome_by(&self, trace: &Trace, until: u64) -> &'static str {
        let begun = || {
            let calls = self.calls.iter().map(|at| &trace.calls[*at]);
            calls.filter(|call| call.start <= until)
        };
        let ended = |call: &Call| call.end.is_some_and(|end| end <= until);
        let failed = |call: &Call| ended(call) && call.error.is_some() && call.call != "load";
        let cancelled = |call: &Call| {
            call.call == "exec" && call.cancelled_at.is_some_and(|time| time <= until)
        };
        // A trace that was ended has nothing that runs on.
        let goes_on = until < trace.end || !trace.ended;
        if self.merged_into.is_some() {
            "merged"
        } else if self.completed_by(until).is_some() {
            match begun().next() {
                None => "complete",
                Some(_) if self.loaded(trace) && !self.ran(trace) => "cached",
                Some(_) => "ran",
            }
        } else if begun().any(failed) {
            "failed"
        } else if begun().any(cancelled) {
            "cancelled"
        } else if goes_on && begun().any(|call| !ended(call)) {
            "running"
        } else if self.unreached {
            "unreached"
        } else if begun().next().is_none() {
            "untouched"
        } else {
            "not-needed"
        }
    }

    /// From the first start to the last end of its calls, those included that did not end.
    pub(crate) fn span(&self, trace: &Trace) -> Option<(u64, u64)> {
        let calls = || self.calls.iter().map(|at| &trace.calls[*at]);
        let start = calls().map(|call| call.start).min()?;
        // What did not end was still going on when the trace ended.
        let end = calls().map(|call| call.end.unwrap_or(trace.end)).max()?;
        Some((start, end.max(start)))
    }

    /// Time in which any call of it ran, however many did at once.
    pub(crate) fn worked(&self, trace: &Trace) -> u64 {
        covered(self.spans_of(trace, |call| call.work(trace)))
    }

    /// Time in which it waited for this.
    pub(crate) fn waited(&self, what: WaitFor, trace: &Trace) -> u64 {
        covered(self.spans_of(trace, |call| call.waits_for(what, trace)))
    }

    fn spans_of(&self, trace: &Trace, of: impl Fn(&Call) -> Vec<Span>) -> Vec<Span> {
        let calls = self.calls.iter().map(|at| &trace.calls[*at]);
        calls.flat_map(of).collect()
    }

    /// What all of its calls that go on wait for, if they do: for a lock if one of them waits for one.
    pub(crate) fn waits_for(&self, trace: &Trace) -> Option<WaitFor> {
        let calls = self.calls.iter().map(|at| &trace.calls[*at]);
        let open = calls.filter(|call| call.end.is_none());
        let waits = open.map(|call| call.waits.last().filter(|wait| wait.end.is_none()));
        let all: Vec<&Wait> = waits.collect::<Option<_>>()?;
        all.into_iter().map(|wait| wait.what).max()
    }

    /// How long its calls had taken when the trace began.
    pub(crate) fn before(&self, trace: &Trace) -> u64 {
        self.calls.iter().map(|at| trace.calls[*at].before).sum()
    }

    /// Time in which its operation executed or its record was loaded.
    pub(crate) fn busy(&self, trace: &Trace) -> u64 {
        let spans = |call: &Call| call.work(trace).iter().map(length).sum::<u64>();
        self.calls.iter().map(|at| spans(&trace.calls[*at])).sum()
    }
}

/// From one time to another.
pub(crate) type Span = (u64, u64);

fn length((start, end): &Span) -> u64 {
    end.saturating_sub(*start)
}

/// Time that any of the spans covers, however many do.
pub(crate) fn covered(mut spans: Vec<Span>) -> u64 {
    spans.sort_unstable();
    let (mut covered, mut until) = (0, 0);
    for (start, end) in spans {
        covered += end.saturating_sub(start.max(until));
        until = until.max(end);
    }
    covered
}

/// What is left of a span without others.
pub(crate) fn without(whole: Span, mut others: Vec<Span>) -> Vec<Span> {
    // Also where it took no time.
    if others.is_empty() {
        return vec![whole];
    }
    others.sort_unstable();
    let (mut left, mut from) = (Vec::new(), whole.0);
    for (start, end) in others {
        if start > from {
            left.push((from, start.min(whole.1)));
        }
        from = from.max(end);
    }
    left.push((from, whole.1));
    left.retain(|(start, end)| start < end);
    left
}

/// What a call waits for while its operation executes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum WaitFor {
    /// A slot to execute in.
    Slot,
    /// What another call holds.
    Lock,
}

impl WaitFor {
    /// What a line says of it; older ones say nothing, and mean a slot.
    pub(crate) fn of(line: &Line<'_>) -> Self {
        match line.reason.map(Text::raw) {
            Some("lock") => Self::Lock,
            _ => Self::Slot,
        }
    }
}

/// A time in which a call waited.
#[derive(Debug)]
pub(crate) struct Wait {
    pub(crate) what: WaitFor,
    pub(crate) start: u64,
    /// None where it did so to the call's own end.
    pub(crate) end: Option<u64>,
}

impl Wait {
    fn span(&self, end: u64) -> Span {
        (self.start, self.end.unwrap_or(end).min(end))
    }
}

impl Call {
    pub(crate) fn span(&self, trace: &Trace) -> Span {
        (self.start, self.end.unwrap_or(trace.end))
    }

    /// When it waited while its operation executed.
    pub(crate) fn waits(&self, trace: &Trace) -> Vec<Span> {
        let (_, end) = self.span(trace);
        self.waits.iter().map(|wait| wait.span(end)).collect()
    }

    /// When it waited for this.
    pub(crate) fn waits_for(&self, what: WaitFor, trace: &Trace) -> Vec<Span> {
        let (_, end) = self.span(trace);
        let waits = self.waits.iter().filter(|wait| wait.what == what);
        waits.map(|wait| wait.span(end)).collect()
    }

    /// When its operation waited for builds of its own.
    pub(crate) fn build_waits(&self, trace: &Trace) -> Vec<Span> {
        let (_, end) = self.span(trace);
        let builds = self.builds.iter().map(|at| &trace.requests[*at]);
        builds
            .map(|request| (request.asked, request.answered.unwrap_or(end).min(end)))
            .collect()
    }

    /// When it worked, and waited neither for a slot or a lock nor for builds of its own.
    pub(crate) fn work(&self, trace: &Trace) -> Vec<Span> {
        let mut waits = self.waits(trace);
        waits.extend(self.build_waits(trace));
        without(self.span(trace), waits)
    }
}

/// The vertex that a vertex has become.
pub(crate) fn survivor(trace: &Trace, at: VertexAt) -> VertexAt {
    let mut at = at;
    let mut steps = 0;
    while let Some(target) = trace.vertices[at].merged_into {
        steps += 1;
        if steps > trace.vertices.len() {
            break;
        }
        at = target;
    }
    at
}

impl Trace {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read(path: &Path) -> Result<Self, ReadError> {
        Self::read_from(Reader::open(path)?)
    }

    /// Reads all that a reader has.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read_from(reader: Reader) -> Result<Self, ReadError> {
        let mut trace = Self::default();
        let whole = reader.pieces(|piece| {
            for line in &piece.lines {
                match line {
                    Ok(line) => trace.line(line),
                    Err(_) => trace.malformed += 1,
                }
            }
            ControlFlow::Continue(())
        })?;
        trace.ended &= whole;
        trace.mark_unreached();
        Ok(trace)
    }

    /// The time that is so long after the trace began.
    pub(crate) fn time(&self, since: Duration) -> u64 {
        self.start.saturating_add(since.as_micros() as u64)
    }

    /// Seconds since the trace began.
    pub(crate) fn seconds(&self, time: u64) -> f64 {
        time.saturating_sub(self.start) as f64 / 1e6
    }
}
