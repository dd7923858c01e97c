//! What a build waited for: the chain of vertices that ends with its result.

mod late;

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
};

use serde::Serialize;

use self::late::Late;
use crate::{
    filter::{Filter, FilterError, Scope},
    model::{Call, Span, Trace, VertexAt, WaitFor, covered, survivor},
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
    /// In how many builds of operations it is, or below how many late inputs: they come before the step that asked for them.
    pub depth: usize,
    /// Microseconds of calls and loads in between.
    pub busy: u64,
    /// Microseconds in between in which its operation waited for a slot to execute in.
    pub slot: u64,
    /// Microseconds in between in which its operation waited for what another one held, such as a cache mount.
    pub lock: u64,
    /// Microseconds in between in which its operation waited for builds that it had asked for.
    pub builds: u64,
    /// Microseconds in between in which it waited for inputs that it asked for only once others were there.
    pub inputs: u64,
    /// Microseconds in between in which nothing of it ran.
    pub waiting: u64,
}

/// The chain of vertices that a result waited for, the first one first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CriticalPath {
    /// The job.
    pub job: Option<String>,
    /// Microseconds from the request to the answer, or from the vertex's beginning to its result.
    pub micros: u64,
    /// The steps.
    pub steps: Vec<PathStep>,
}

/// What the request that took longest waited for, of those of the filter's job and times. A filter by digest or name asks for the
/// vertex of that kind that was there last, in place of a request.
///
/// What never got its result has the chain that leads to what failed, was cancelled, or still ran at the end.
///
/// # Errors
/// [`FilterError`].
pub fn critical_path(trace: &Trace, filter: &Filter) -> Result<CriticalPath, FilterError> {
    let scope = filter.scope(trace)?;
    let wanted = if scope.is_about_vertices() {
        latest_vertex(trace, &scope)
    } else {
        longest_request(trace, &scope)
    };
    let Some(wanted) = wanted else {
        return Ok(CriticalPath {
            job: scope.job.map(str::to_owned),
            micros: 0,
            steps: Vec::new(),
        });
    };
    let mut chain = Chain {
        trace,
        seen: vec![false; trace.vertices.len()],
        steps: Vec::new(),
    };
    chain.follow(&wanted, 0);
    chain.steps.reverse();
    Ok(CriticalPath {
        micros: wanted.answered.saturating_sub(wanted.asked),
        job: wanted.job,
        steps: chain.steps,
    })
}

/// How deep builds of operations, and late inputs, are followed.
const DEPTH: usize = 64;

/// What was waited for, the last first.
struct Chain<'t> {
    trace: &'t Trace,
    seen: Vec<bool>,
    steps: Vec<PathStep>,
}

impl Chain<'_> {
    fn follow(&mut self, wanted: &Wanted, depth: usize) {
        let trace = self.trace;
        let (asked, answered) = (wanted.asked, wanted.answered);
        let mut at = Some(wanted.vertex);
        let mut stuck = Stuck::new(trace, answered);
        while let Some(vertex) = at.map(|at| survivor(trace, at)) {
            // A graph has no cycles; a file that was tampered with may.
            if std::mem::replace(&mut self.seen[vertex], true) {
                break;
            }
            let missing = stuck.input(vertex);
            let before = missing
                .or_else(|| latest_input(trace, vertex, answered))
                .filter(|(_, time)| *time > asked);
            let (before, late) = match before {
                Some(last) => {
                    let (before, late) = late::split(trace, vertex, last, asked);
                    (Some(before), late)
                }
                None => (None, Vec::new()),
            };
            let ready = before.map_or(asked, |(_, time)| time);
            let times = (ready, answered);
            let mut step = step(trace, vertex, depth, times, &late);
            // Others may have come to it later.
            if missing.is_some() && matches!(step.outcome, "not-needed" | "untouched") {
                step.outcome = "unreached";
            }
            self.steps.push(step);
            if depth < DEPTH {
                let until = complete(trace, vertex).min(answered);
                let mut waits = builds(trace, vertex, ready, until);
                waits.extend(late.iter().map(|late| Wanted {
                    job: None,
                    vertex: late.vertex,
                    asked: late.from,
                    answered: late.until,
                }));
                waits.sort_by_key(|wait| std::cmp::Reverse(wait.answered));
                for wait in waits {
                    self.follow(&wait, depth + 1);
                }
            }
            at = before.map(|(at, _)| at);
        }
    }
}

/// The end of a chain.
struct Wanted {
    job: Option<String>,
    vertex: VertexAt,
    asked: u64,
    answered: u64,
}

fn longest_request(trace: &Trace, scope: &Scope<'_>) -> Option<Wanted> {
    let requests = trace.requests.iter().map(|request| Wanted {
        job: request.job.clone(),
        vertex: request.vertex,
        asked: request.asked,
        answered: request.answered.unwrap_or(trace.end),
    });
    requests
        .filter(|wanted| {
            scope.request_of(wanted.job.as_deref()) && scope.span(wanted.asked, wanted.answered)
        })
        .max_by_key(|wanted| wanted.answered.saturating_sub(wanted.asked))
}

fn latest_vertex(trace: &Trace, scope: &Scope<'_>) -> Option<Wanted> {
    let meant = (0..trace.vertices.len()).filter(|at| scope.vertex(*at));
    let vertex = meant.max_by_key(|at| complete(trace, survivor(trace, *at)))?;
    let job = match scope.job {
        Some(job) => Some(job.to_owned()),
        None => {
            let first = trace.vertices[vertex].jobs.first();
            first.map(|job| trace.jobs[*job].id.clone())
        }
    };
    Some(Wanted {
        job,
        vertex,
        asked: trace.vertices[vertex].created,
        answered: complete(trace, survivor(trace, vertex)),
    })
}

/// The input that was there last, of those that were needed.
fn latest_input(trace: &Trace, vertex: VertexAt, until: u64) -> Option<(VertexAt, u64)> {
    let end = complete(trace, vertex).min(until);
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

/// Why what has no result has none: what of it, or of what it is made of, failed, was cancelled, or ran on.
struct Stuck<'t> {
    trace: &'t Trace,
    /// The time that it is about: what became of the work afterwards was for others.
    until: u64,
    /// By vertex, once it was looked into; nothing for what is there, or was not worked on.
    known: HashMap<VertexAt, Option<Cause>>,
}

/// A failure comes before what was cancelled because of it; of several, the last counts. The time is that of its end.
type Cause = (bool, u64);

impl<'t> Stuck<'t> {
    fn new(trace: &'t Trace, until: u64) -> Self {
        Self {
            trace,
            until,
            known: HashMap::new(),
        }
    }

    /// The input for want of which a vertex has no result, and when that came to its end.
    fn input(&mut self, at: VertexAt) -> Option<(VertexAt, u64)> {
        if self.is_complete(at) || self.own(at).is_some() {
            return None;
        }
        let mut causes = Vec::new();
        for input in self.inputs(at) {
            causes.extend(self.cause(input).map(|cause| (cause, input)));
        }
        let ((_, time), input) = causes.into_iter().max()?;
        Some((input, time))
    }

    fn is_complete(&self, at: VertexAt) -> bool {
        self.trace.vertices[at].completed_by(self.until).is_some()
    }

    fn inputs(&self, at: VertexAt) -> Vec<VertexAt> {
        let inputs = self.trace.vertices[at].inputs.iter();
        let vertices = inputs.filter_map(|input| input.vertex);
        vertices.map(|at| survivor(self.trace, at)).collect()
    }

    /// What kept a vertex itself from its result.
    fn own(&self, at: VertexAt) -> Option<Cause> {
        let vertex = &self.trace.vertices[at];
        let (_, end) = vertex.span(self.trace)?;
        let end = end.min(self.until);
        match vertex.outcome_by(self.trace, self.until) {
            "failed" => Some((true, end)),
            "cancelled" | "running" => Some((false, end)),
            _ => None,
        }
    }

    /// Looks into all that a vertex is made of, inputs first, without recursion: a chain may be long.
    fn cause(&mut self, root: VertexAt) -> Option<Cause> {
        let mut ahead = vec![(root, false)];
        while let Some((at, inputs_known)) = ahead.pop() {
            if inputs_known {
                let inputs = self.inputs(at).into_iter();
                let worst = inputs.filter_map(|input| *self.known.get(&input)?).max();
                self.known.insert(at, self.own(at).or(worst));
            } else if let Entry::Vacant(unknown) = self.known.entry(at) {
                unknown.insert(None);
                if !self.is_complete(at) {
                    ahead.push((at, true));
                    ahead.extend(self.inputs(at).into_iter().map(|input| (input, false)));
                }
            }
        }
        self.known.get(&root).copied().flatten()
    }
}

fn complete(trace: &Trace, at: VertexAt) -> u64 {
    let vertex = &trace.vertices[at];
    let ended = || vertex.span(trace).map(|(_, end)| end);
    vertex.completed.or_else(ended).unwrap_or(trace.end)
}

fn step(
    trace: &Trace,
    at: VertexAt,
    depth: usize,
    (ready, until): Span,
    late: &[Late],
) -> PathStep {
    let vertex = &trace.vertices[at];
    let complete = complete(trace, at).min(until).max(ready);
    let calls = || vertex.calls.iter().map(|at| &trace.calls[*at]);
    let within = |spans: Vec<Span>| -> Vec<Span> {
        let spans = spans
            .into_iter()
            .map(|(start, end)| (start.max(ready), end.min(complete)));
        spans.filter(|(start, end)| start < end).collect()
    };
    // Of several calls at once, what works counts before what waits.
    let of = |of: &dyn Fn(&Call) -> Vec<Span>| within(calls().flat_map(of).collect());
    let mut spans = of(&|call| call.work(trace));
    let busy = covered(spans.clone());
    let mut more = |further: Vec<Span>| {
        let known = covered(spans.clone());
        spans.extend(further);
        covered(spans.clone()) - known
    };
    let slot = more(of(&|call| call.waits_for(WaitFor::Slot, trace)));
    let lock = more(of(&|call| call.waits_for(WaitFor::Lock, trace)));
    let builds = more(of(&|call| call.build_waits(trace)));
    let late = late.iter().map(|late| (late.from, late.until));
    let inputs = more(within(late.collect()));
    PathStep {
        vertex: vertex.digest.clone(),
        name: vertex.name.clone(),
        depth,
        outcome: vertex.outcome_by(trace, until),
        ready: trace.seconds(ready),
        complete: trace.seconds(complete),
        busy,
        slot,
        lock,
        builds,
        inputs,
        waiting: (complete - ready) - busy - slot - lock - builds - inputs,
    }
}

/// The builds that a vertex's operation waited for between two times, one behind the other, the last first.
fn builds(trace: &Trace, at: VertexAt, ready: u64, until: u64) -> Vec<Wanted> {
    let calls = trace.vertices[at].calls.iter().map(|at| &trace.calls[*at]);
    let asked = calls.flat_map(|call| {
        let (_, end) = call.span(trace);
        call.builds.iter().map(move |at| {
            let request = &trace.requests[*at];
            Wanted {
                job: request.job.clone(),
                vertex: request.vertex,
                asked: request.asked,
                answered: request.answered.unwrap_or(end).min(end),
            }
        })
    });
    let mut asked: Vec<Wanted> = asked.filter(|build| build.answered > ready).collect();
    asked.sort_by_key(|build| std::cmp::Reverse(build.answered));
    let mut from = until;
    asked.retain(|build| {
        let is_next = build.answered <= from;
        if is_next {
            from = build.asked.max(ready);
        }
        is_next
    });
    asked
}

impl fmt::Display for CriticalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.steps.is_empty() {
            return writeln!(f, "no request, or vertex, passes the filter");
        }
        let job = self.job.as_deref().unwrap_or("an operation");
        writeln!(f, "{} for {job}", Micros(self.micros))?;
        writeln!(
            f,
            "{:>10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}",
            "from", "busy", "for a slot", "for a lock", "for builds", "for inputs", "waiting"
        )?;
        for step in &self.steps {
            writeln!(
                f,
                "{:>9.3}s {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}  {:<10} {}  {}{}",
                step.ready,
                Micros(step.busy),
                Micros(step.slot),
                Micros(step.lock),
                Micros(step.builds),
                Micros(step.inputs),
                Micros(step.waiting),
                step.outcome,
                short(&step.vertex),
                "  ".repeat(step.depth),
                one_line(&step.name)
            )?;
        }
        Ok(())
    }
}
