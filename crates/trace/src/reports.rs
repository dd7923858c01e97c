//! Jobs, vertices, merges, the timeline and the graph of a trace.

use std::fmt;

use serde::Serialize;

use crate::{
    filter::{Filter, FilterError, find},
    model::{Call, Trace, Vertex, VertexAt},
    text::{Micros, one_line, short},
};

/// A job.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JobReport {
    /// Its id.
    pub job: String,
    /// Seconds since the beginning of the trace.
    pub opened: f64,
    /// Likewise; none where it is still open.
    pub discarded: Option<f64>,
    /// Whether it had a session.
    pub session: bool,
    /// Vertices that it loaded.
    pub vertices: usize,
    /// Those of them that were not live yet.
    pub created: u64,
    /// Vertices whose operation ran.
    pub ran: usize,
    /// Vertices whose result was loaded.
    pub cached: usize,
    /// Vertices that were merged into others.
    pub merged: usize,
    /// Vertices that failed.
    pub failed: usize,
    /// Time from each request to its answer, in seconds, and the answer.
    pub requests: Vec<(f64, Option<String>)>,
}

/// The jobs of a trace.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JobsReport {
    /// In the order in which they were opened.
    pub jobs: Vec<JobReport>,
}

/// The jobs of a trace.
///
/// # Errors
/// [`FilterError`].
pub fn jobs(trace: &Trace, filter: &Filter) -> Result<JobsReport, FilterError> {
    filter.check(trace)?;
    let jobs = trace
        .jobs
        .iter()
        .filter(|job| {
            filter.job(&job.id)
                && filter.span(trace, job.opened, job.discarded.unwrap_or(trace.end))
        })
        .map(|job| {
            let outcomes: Vec<&str> = job
                .vertices
                .iter()
                .map(|at| trace.vertices[*at].outcome(trace))
                .collect();
            let count = |word: &str| outcomes.iter().filter(|outcome| **outcome == word).count();
            JobReport {
                job: job.id.clone(),
                opened: trace.seconds(job.opened),
                discarded: job.discarded.map(|time| trace.seconds(time)),
                session: job.session,
                vertices: job.vertices.len(),
                created: job.created,
                ran: count("ran"),
                cached: count("cached"),
                merged: count("merged"),
                failed: count("failed"),
                requests: job
                    .requests
                    .iter()
                    .map(|at| {
                        let request = &trace.requests[*at];
                        let end = request.answered.unwrap_or(trace.end);
                        let time = end.saturating_sub(request.asked) as f64 / 1e6;
                        (time, request.outcome.clone())
                    })
                    .collect(),
            }
        });
    Ok(JobsReport {
        jobs: jobs.collect(),
    })
}

impl fmt::Display for JobsReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for job in &self.jobs {
            let end = job
                .discarded
                .map_or_else(|| "still open".to_owned(), |end| format!("to {end:.3}s"));
            let session = if job.session {
                ""
            } else {
                ", without a session"
            };
            writeln!(f, "{}  {:.3}s {end}{session}", job.job, job.opened)?;
            writeln!(
                f,
                "  {} vertices, {} of them new: {} ran, {} cached, {} merged, {} failed",
                job.vertices, job.created, job.ran, job.cached, job.merged, job.failed
            )?;
            for (time, outcome) in &job.requests {
                let outcome = outcome.as_deref().unwrap_or("no answer");
                writeln!(f, "  request: {outcome} after {time:.3}s")?;
            }
        }
        Ok(())
    }
}

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

fn call_entry(trace: &Trace, call: &Call) -> CallEntry {
    CallEntry {
        call: call.call,
        input: call.input,
        start: trace.seconds(call.start),
        end: call.end.map(|end| trace.seconds(end)),
        error: call.error.clone(),
        cancelled: call.cancelled.clone(),
        actor: call.actor.clone(),
    }
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
    /// How it ended: ran, cached, merged, failed, cancelled, not-needed, untouched.
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

pub(crate) fn entry(trace: &Trace, at: VertexAt) -> VertexEntry {
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

/// A merge, or one that was refused.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MergeEntry {
    /// Seconds since the beginning of the trace.
    pub time: f64,
    /// Position in the core's inputs.
    pub position: u64,
    /// Whether they stayed apart.
    pub refused: bool,
    /// Why.
    pub reason: String,
    /// The vertex that forwards from now on, or that looked.
    pub source: String,
    /// Which output.
    pub source_output: u64,
    /// Its name.
    pub source_name: String,
    /// The jobs that loaded it.
    pub source_jobs: Vec<String>,
    /// The vertex that survives, or that was found.
    pub target: String,
    /// Which output.
    pub target_output: u64,
    /// Its name.
    pub target_name: String,
    /// The jobs that loaded it.
    pub target_jobs: Vec<String>,
}

/// The merges of a trace.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MergesReport {
    /// In order.
    pub merges: Vec<MergeEntry>,
}

/// The merges of a trace, and those that were refused.
///
/// # Errors
/// [`FilterError`].
pub fn merges(trace: &Trace, filter: &Filter) -> Result<MergesReport, FilterError> {
    filter.check(trace)?;
    let jobs = |at: VertexAt| {
        let jobs = trace.vertices[at].jobs.iter();
        jobs.map(|job| trace.jobs[*job].id.clone()).collect()
    };
    let merges = trace
        .merges
        .iter()
        .filter(|merge| {
            filter.moment(trace, merge.time)
                && (filter.vertex(trace, merge.source) || filter.vertex(trace, merge.target))
        })
        .map(|merge| {
            let (source, target) = (&trace.vertices[merge.source], &trace.vertices[merge.target]);
            MergeEntry {
                time: trace.seconds(merge.time),
                position: merge.position,
                refused: merge.refused,
                reason: merge.reason.clone(),
                source: source.digest.clone(),
                source_output: merge.source_output,
                source_name: source.name.clone(),
                source_jobs: jobs(merge.source),
                target: target.digest.clone(),
                target_output: merge.target_output,
                target_name: target.name.clone(),
                target_jobs: jobs(merge.target),
            }
        });
    Ok(MergesReport {
        merges: merges.collect(),
    })
}

impl fmt::Display for MergesReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for merge in &self.merges {
            let what = if merge.refused {
                "stays apart from"
            } else {
                "into"
            };
            writeln!(
                f,
                "{:>10.6}s  {}:{} ({}) {what} {}:{} ({})  {}  {}",
                merge.time,
                short(&merge.source),
                merge.source_output,
                merge.source_jobs.join(", "),
                short(&merge.target),
                merge.target_output,
                merge.target_jobs.join(", "),
                merge.reason,
                one_line(&merge.source_name),
            )?;
        }
        if self.merges.is_empty() {
            writeln!(f, "no merges")?;
        }
        Ok(())
    }
}

/// A vertex on the timeline.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TimelineEntry {
    /// Its digest.
    pub vertex: String,
    /// Its name.
    pub name: String,
    /// How it ended.
    pub outcome: &'static str,
    /// Seconds since the beginning of the trace: when its first call began.
    pub start: f64,
    /// When its last one ended.
    pub end: f64,
    /// Its calls.
    pub calls: Vec<CallEntry>,
}

/// When what was done.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TimelineReport {
    /// Seconds from the first to the last event.
    pub seconds: f64,
    /// In the order in which they began.
    pub vertices: Vec<TimelineEntry>,
}

/// When which vertex was worked on.
///
/// # Errors
/// [`FilterError`].
pub fn timeline(trace: &Trace, filter: &Filter) -> Result<TimelineReport, FilterError> {
    filter.check(trace)?;
    let mut vertices: Vec<TimelineEntry> = (0..trace.vertices.len())
        .filter(|at| filter.vertex(trace, *at))
        .filter_map(|at| {
            let vertex = &trace.vertices[at];
            let (start, end) = vertex.span(trace)?;
            filter.span(trace, start, end).then(|| TimelineEntry {
                vertex: vertex.digest.clone(),
                name: vertex.name.clone(),
                outcome: vertex.outcome(trace),
                start: trace.seconds(start),
                end: trace.seconds(end),
                calls: vertex
                    .calls
                    .iter()
                    .map(|at| call_entry(trace, &trace.calls[*at]))
                    .collect(),
            })
        })
        .collect();
    vertices.sort_by(|a, b| a.start.total_cmp(&b.start));
    Ok(TimelineReport {
        seconds: trace.seconds(trace.end),
        vertices,
    })
}

impl fmt::Display for TimelineReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const WIDTH: f64 = 40.0;
        let scale = WIDTH / self.seconds.max(1e-6);
        for entry in &self.vertices {
            let from = ((entry.start * scale) as usize).min(WIDTH as usize - 1);
            let to = ((entry.end * scale).ceil() as usize).clamp(from + 1, WIDTH as usize);
            let bar = format!("{}{}", " ".repeat(from), "█".repeat(to - from));
            writeln!(
                f,
                "{:>10.3}s {:>9}  {:<10} │{bar:<40}│ {}  {}",
                entry.start,
                Micros(((entry.end - entry.start) * 1e6) as u64),
                entry.outcome,
                short(&entry.vertex),
                one_line(&entry.name)
            )?;
        }
        Ok(())
    }
}

/// A vertex of the graph.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GraphNode {
    /// Its digest.
    pub vertex: String,
    /// Its name.
    pub name: String,
    /// How it ended.
    pub outcome: &'static str,
    /// Positions among the nodes of its inputs.
    pub inputs: Vec<usize>,
    /// Position of the one that it was merged into.
    pub merged_into: Option<usize>,
    /// Microseconds in which it was worked on.
    pub micros: u64,
}

/// What was live in a trace, as a graph.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GraphReport {
    /// Inputs come before what they are inputs of.
    pub nodes: Vec<GraphNode>,
}

/// The graph of a trace. Its text is for Graphviz.
///
/// # Errors
/// [`FilterError`].
pub fn graph(trace: &Trace, filter: &Filter) -> Result<GraphReport, FilterError> {
    filter.check(trace)?;
    let meant: Vec<VertexAt> = (0..trace.vertices.len())
        .filter(|at| filter.vertex(trace, *at))
        .collect();
    let place = |at: VertexAt| meant.binary_search(&at).ok();
    let nodes = meant.iter().map(|at| {
        let vertex = &trace.vertices[*at];
        let inputs = vertex.inputs.iter().filter_map(|input| input.vertex);
        GraphNode {
            vertex: vertex.digest.clone(),
            name: vertex.name.clone(),
            outcome: vertex.outcome(trace),
            inputs: inputs.filter_map(place).collect(),
            merged_into: vertex.merged_into.and_then(place),
            micros: vertex.busy(trace),
        }
    });
    Ok(GraphReport {
        nodes: nodes.collect(),
    })
}

impl fmt::Display for GraphReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "digraph trace {{\n  rankdir=LR; node [shape=box, style=filled, fontname=sans];"
        )?;
        for (at, node) in self.nodes.iter().enumerate() {
            let colour = match node.outcome {
                "ran" => "#cfe8ff",
                "cached" => "#d5f2d5",
                "merged" => "#eeddff",
                "failed" => "#ffd0d0",
                "running" => "#fff0c0",
                _ => "#eeeeee",
            };
            let name = one_line(&node.name)
                .replace('\\', "\\\\")
                .replace('"', "\\\"");
            let time = Micros(node.micros);
            writeln!(
                f,
                "  n{at} [label=\"{name}\\n{} {time} {}\", fillcolor=\"{colour}\"];",
                node.outcome,
                short(&node.vertex)
            )?;
            for input in &node.inputs {
                writeln!(f, "  n{input} -> n{at};")?;
            }
            if let Some(target) = node.merged_into {
                writeln!(f, "  n{at} -> n{target} [style=dashed, label=merged];")?;
            }
        }
        writeln!(f, "}}")
    }
}
