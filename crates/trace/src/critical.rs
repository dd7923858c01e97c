//! What a build waited for: the chain of vertices that ends with its result.

use std::fmt;

use serde::Serialize;

use crate::{
    filter::{Filter, FilterError},
    model::{Trace, VertexAt},
    text::{Micros, one_line, short},
};

/// One vertex that was waited for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PathStep {
    /// Its digest.
    pub vertex: String,
    /// Its name.
    pub name: String,
    /// How it ended.
    pub outcome: &'static str,
    /// Seconds since the beginning of the trace: when what it waited for was there.
    pub ready: f64,
    /// When its result was there.
    pub complete: f64,
    /// Microseconds of calls and loads in between.
    pub busy: u64,
    /// Microseconds in between in which nothing of it ran.
    pub waiting: u64,
}

/// The chain of vertices that a result waited for, the first one first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CriticalPath {
    /// The job.
    pub job: Option<String>,
    /// Microseconds from the request to the answer.
    pub micros: u64,
    /// The steps.
    pub steps: Vec<PathStep>,
}

/// What the request that took longest waited for, of those that pass the filter.
///
/// # Errors
/// [`FilterError`].
pub fn critical_path(trace: &Trace, filter: &Filter) -> Result<CriticalPath, FilterError> {
    filter.check(trace)?;
    let took = |answered: Option<u64>, asked| answered.unwrap_or(trace.end).saturating_sub(asked);
    let request = trace
        .requests
        .iter()
        .filter(|request| {
            let answered = request.answered.unwrap_or(trace.end);
            let job = match &filter.job {
                Some(job) => request.job.as_ref() == Some(job),
                None => true,
            };
            job && filter.span(trace, request.asked, answered)
        })
        .max_by_key(|request| took(request.answered, request.asked));
    let Some(request) = request else {
        return Ok(CriticalPath {
            job: filter.job.clone(),
            micros: 0,
            steps: Vec::new(),
        });
    };
    let mut steps = Vec::new();
    let mut at = Some(request.vertex);
    let mut seen = vec![false; trace.vertices.len()];
    while let Some(vertex) = at.map(|at| survivor(trace, at)) {
        // A graph has no cycles; a file that was tampered with may.
        if std::mem::replace(&mut seen[vertex], true) {
            break;
        }
        let before = latest_input(trace, vertex);
        let ready = before.map_or(request.asked, |(_, time)| time.max(request.asked));
        steps.push(step(trace, vertex, ready));
        at = before
            .filter(|(_, time)| *time > request.asked)
            .map(|(at, _)| at);
    }
    steps.reverse();
    Ok(CriticalPath {
        job: request.job.clone(),
        micros: took(request.answered, request.asked),
        steps,
    })
}

/// The vertex that a vertex has become.
fn survivor(trace: &Trace, at: VertexAt) -> VertexAt {
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

/// The input that was there last, of those that were needed.
fn latest_input(trace: &Trace, vertex: VertexAt) -> Option<(VertexAt, u64)> {
    let end = complete(trace, vertex);
    trace.vertices[vertex]
        .inputs
        .iter()
        .filter_map(|input| {
            let at = survivor(trace, input.vertex?);
            let time = trace.vertices[at].completed?;
            (time <= end).then_some((at, time))
        })
        .max_by_key(|(_, time)| *time)
}

fn complete(trace: &Trace, at: VertexAt) -> u64 {
    let vertex = &trace.vertices[at];
    let ended = || vertex.span(trace).map(|(_, end)| end);
    vertex.completed.or_else(ended).unwrap_or(trace.end)
}

fn step(trace: &Trace, at: VertexAt, ready: u64) -> PathStep {
    let vertex = &trace.vertices[at];
    let complete = complete(trace, at).max(ready);
    let mut spans: Vec<(u64, u64)> = vertex
        .calls
        .iter()
        .map(|at| &trace.calls[*at])
        .map(|call| {
            let end = call.end.unwrap_or(trace.end);
            (call.start.max(ready), end.min(complete))
        })
        .filter(|(start, end)| start < end)
        .collect();
    spans.sort_unstable();
    let (mut busy, mut reached) = (0, ready);
    for (start, end) in spans {
        busy += end.saturating_sub(start.max(reached));
        reached = reached.max(end);
    }
    PathStep {
        vertex: vertex.digest.clone(),
        name: vertex.name.clone(),
        outcome: vertex.outcome(trace),
        ready: trace.seconds(ready),
        complete: trace.seconds(complete),
        busy,
        waiting: (complete - ready).saturating_sub(busy),
    }
}

impl fmt::Display for CriticalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.steps.is_empty() {
            return writeln!(f, "no request");
        }
        let job = self.job.as_deref().unwrap_or("an operation");
        writeln!(f, "{} for the request of {job}", Micros(self.micros))?;
        writeln!(f, "{:>10} {:>10} {:>10}", "from", "busy", "waiting")?;
        for step in &self.steps {
            writeln!(
                f,
                "{:>9.3}s {:>10} {:>10}  {:<10} {}  {}",
                step.ready,
                Micros(step.busy),
                Micros(step.waiting),
                step.outcome,
                short(&step.vertex),
                one_line(&step.name)
            )?;
        }
        Ok(())
    }
}
