//! What is known of a vertex.

use std::fmt;

use serde::Serialize;

use crate::{
    filter::{FilterError, find},
    model::{Call, Span, Trace, Vertex, VertexAt, WaitFor},
    text::{one_line, short},
};

/// A call in a report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CallEntry {
    /// Which call.
    pub call: &'static str,
    /// The input that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<u64>,
    /// Seconds since the beginning of the trace.
    pub start: f64,
    /// Likewise; none where it did not end.
    pub end: Option<f64>,
    /// When it waited for a slot to execute in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub slot: Vec<(f64, f64)>,
    /// When it waited for what another call held, such as a cache mount.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lock: Vec<(f64, f64)>,
    /// When it waited for builds that its operation had asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub builds: Vec<(f64, f64)>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Why it was cancelled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancelled: Option<String>,
    /// The vertex whose operation was called in its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
}

pub(super) fn call_entry(trace: &Trace, call: &Call) -> CallEntry {
    CallEntry {
        call: call.call,
        input: call.input,
        start: trace.seconds(call.start),
        end: call.end.map(|end| trace.seconds(end)),
        slot: seconds(trace, call.waits_for(WaitFor::Slot, trace)),
        lock: seconds(trace, call.waits_for(WaitFor::Lock, trace)),
        builds: seconds(trace, call.build_waits(trace)),
        error: call.error.clone(),
        cancelled: call.cancelled.clone(),
        actor: call.actor.clone(),
    }
}

fn seconds(trace: &Trace, spans: Vec<Span>) -> Vec<(f64, f64)> {
    let spans = spans.into_iter();
    spans
        .map(|(start, end)| (trace.seconds(start), trace.seconds(end)))
        .collect()
}

/// An input of a vertex.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InputEntry {
    /// Its vertex.
    pub vertex: String,
    /// The name of that.
    pub name: String,
    /// Which output.
    pub output: u32,
    /// The key of its content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

/// One life of a vertex.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VertexEntry {
    /// Its digest.
    pub vertex: String,
    /// Its name.
    pub name: String,
    /// How it ended: ran, cached, merged, failed, cancelled, running, unreached, not-needed, untouched.
    pub outcome: &'static str,
    /// The jobs that loaded it.
    pub jobs: Vec<String>,
    /// Seconds since the beginning of the trace.
    pub created: f64,
    /// Likewise.
    pub freed: Option<f64>,
    /// Its inputs.
    pub inputs: Vec<InputEntry>,
    /// Digests of its operation, one of each cache map.
    pub operations: Vec<String>,
    /// When which output reached which state.
    pub states: Vec<(f64, u32, String)>,
    /// Cache keys: output, key, whether a store knew it.
    pub keys: Vec<(u32, String, bool)>,
    /// Its calls.
    pub calls: Vec<CallEntry>,
    /// The vertex that it was merged into.
    pub merged_into: Option<String>,
    /// Vertices that were merged into it.
    pub merged: Vec<String>,
    /// Why it was not cached.
    pub why: Option<String>,
    /// Jobs that lent it their sessions.
    pub sessions: Vec<String>,
    /// Vertices whose operations took over.
    pub fallbacks: Vec<String>,
    /// How often its result was lost.
    pub lost: u32,
    /// Whether the cache was not asked.
    pub ignore_cache: bool,
    /// Whether it is never merged.
    pub never_merge: bool,
}

/// All lives of a vertex.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VertexReport {
    /// The oldest first.
    pub lives: Vec<VertexEntry>,
}

/// All that is known of a vertex, by the beginning of its digest.
///
/// # Errors
/// [`FilterError`].
pub fn vertex(trace: &Trace, digest: &str) -> Result<VertexReport, FilterError> {
    let lives = find(trace, digest)?;
    Ok(VertexReport {
        lives: lives.into_iter().map(|at| entry(trace, at)).collect(),
    })
}

fn entry(trace: &Trace, at: VertexAt) -> VertexEntry {
    let vertex = &trace.vertices[at];
    let digest = |at: VertexAt| trace.vertices[at].digest.clone();
    let merged = trace
        .merges
        .iter()
        .filter(|merge| merge.target == at && !merge.refused);
    VertexEntry {
        vertex: vertex.digest.clone(),
        name: vertex.name.clone(),
        outcome: vertex.outcome(trace),
        jobs: vertex
            .jobs
            .iter()
            .map(|job| trace.jobs[*job].id.clone())
            .collect(),
        created: trace.seconds(vertex.created),
        freed: vertex.freed.map(|time| trace.seconds(time)),
        inputs: inputs(trace, vertex),
        operations: vertex.ops.clone(),
        states: vertex
            .states
            .iter()
            .map(|(time, output, state)| (trace.seconds(*time), *output, state.clone()))
            .collect(),
        keys: vertex
            .keys
            .iter()
            .map(|key| (key.output, key.key.clone(), key.stored))
            .collect(),
        calls: vertex
            .calls
            .iter()
            .map(|at| call_entry(trace, &trace.calls[*at]))
            .collect(),
        merged_into: vertex.merged_into.map(digest),
        merged: merged.map(|merge| digest(merge.source)).collect(),
        why: vertex.why.clone(),
        sessions: vertex.lent.clone(),
        fallbacks: vertex.fallbacks.clone(),
        lost: vertex.lost,
        ignore_cache: vertex.ignore_cache,
        never_merge: vertex.never_merge,
    }
}

fn inputs(trace: &Trace, vertex: &Vertex) -> Vec<InputEntry> {
    (0..)
        .zip(&vertex.inputs)
        .map(|(number, input)| InputEntry {
            vertex: input.digest.clone(),
            name: input
                .vertex
                .map(|at| trace.vertices[at].name.clone())
                .unwrap_or_default(),
            output: input.output,
            content: vertex.contents.get(&number).cloned(),
        })
        .collect()
}

impl fmt::Display for VertexReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, life) in self.lives.iter().enumerate() {
            if number > 0 {
                writeln!(f)?;
            }
            life.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for VertexEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}  {}", self.vertex, one_line(&self.name))?;
        let freed = self
            .freed
            .map_or_else(|| "still live".into(), |freed| format!("to {freed:.3}s"));
        writeln!(
            f,
            "  {}, live from {:.3}s {freed}",
            self.outcome, self.created
        )?;
        if let Some(why) = &self.why {
            writeln!(f, "  not cached: {why}")?;
        }
        if self.ignore_cache {
            writeln!(f, "  the cache is not asked for it")?;
        }
        if self.never_merge {
            writeln!(f, "  it is never merged")?;
        }
        writeln!(f, "  jobs: {}", self.jobs.join(", "))?;
        for (number, input) in self.inputs.iter().enumerate() {
            let content = input
                .content
                .as_ref()
                .map_or_else(String::new, |key| format!(", content {}", short(key)));
            writeln!(
                f,
                "  input {number}: {}:{}  {}{content}",
                short(&input.vertex),
                input.output,
                one_line(&input.name)
            )?;
        }
        for operation in &self.operations {
            writeln!(f, "  operation {}", short(operation))?;
        }
        for (output, key, stored) in &self.keys {
            let stored = if *stored { ", in a store" } else { "" };
            writeln!(f, "  key of output {output}: {}{stored}", short(key))?;
        }
        if let Some(target) = &self.merged_into {
            writeln!(f, "  merged into {}", short(target))?;
        }
        for source in &self.merged {
            writeln!(f, "  {} was merged into it", short(source))?;
        }
        for job in &self.sessions {
            writeln!(f, "  session lent by {job}")?;
        }
        for next in &self.fallbacks {
            writeln!(f, "  fell back to the operation of {}", short(next))?;
        }
        if self.lost > 0 {
            writeln!(f, "  its result was lost {} times", self.lost)?;
        }
        for (time, output, state) in &self.states {
            writeln!(f, "  {time:>10.6}s  output {output} {state}")?;
        }
        for call in &self.calls {
            let input = call
                .input
                .map_or_else(String::new, |input| format!(" of input {input}"));
            let end = call.end.map_or_else(
                || " did not end".into(),
                |end| format!(" for {:.6}s", end - call.start),
            );
            write!(f, "  {:>10.6}s  {}{input}{end}", call.start, call.call)?;
            for (waits, what) in [
                (&call.slot, "a slot"),
                (&call.lock, "a lock"),
                (&call.builds, "builds of its own"),
            ] {
                let waited: f64 = waits.iter().map(|(start, end)| end - start).sum();
                if waited > 0.0 {
                    write!(f, ", {waited:.6}s of it for {what}")?;
                }
            }
            if let Some(cause) = &call.cancelled {
                write!(f, ", cancelled ({cause})")?;
            }
            if let Some(error) = &call.error {
                write!(f, ": {}", one_line(error))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
