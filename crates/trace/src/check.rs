//! Replays a trace against the invariants of the solver.

mod calls;
mod causes;
mod fields;
mod graph;
mod jobs;
mod ladder;
mod lookup;
mod merges;
mod order;
mod results;
mod state;

use std::{fmt, ops::ControlFlow};

use serde::Serialize;

use crate::read::{ReadError, Reader};
use state::Replay;

/// How many violations are told; the others are counted.
const TOLD: usize = 100;

/// An invariant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// Each line is an event with its fields and words, none lacks between the first and the last, and these begin and end the trace.
    Line,
    /// Positions never fall.
    Position,
    /// What the solver did later has no earlier time.
    Time,
    /// A job is opened once, discarded once, and nothing is loaded or asked for outside of that; it asks for what it loaded, and nothing
    /// is worked on that no job is interested in.
    Job,
    /// A vertex or edge is referred to between its creation and its end only, and a vertex outlives its edges and calls.
    Ownership,
    /// A forward never points at what was freed; nothing forwards twice, to itself, or round in a circle; nothing that is never to be
    /// merged forwards or is forwarded to, nor what ignores the cache to what does not. What stays apart has a reason.
    Merge,
    /// A forwarding edge does nothing by itself any more.
    Forwarded,
    /// An edge's states only rise, one after the other, except after a lost result or a record that did not load; each call comes at its
    /// state.
    StateOrder,
    /// Each request is made by a job or an operation, answered exactly once, and as built just where its edge is complete.
    Request,
    /// Each call and load ends exactly once, as what it began as, and has a number of its own.
    Call,
    /// A graph has as many vertices as it was loaded with.
    Graph,
    /// Nothing is known of a vertex, or done with it, before its cache map is known.
    CacheMap,
    /// What gets further has a key, what is loaded was found, and what runs was looked for.
    Lookup,
    /// What fails or is cancelled does so because of something that is told, too.
    Cause,
    /// An operation works on inputs that are there, complete, and went through what comes before.
    Inputs,
    /// An operation runs at most once at a time.
    RunsOnce,
    /// An edge has one result at a time, and one that a run or a load gave.
    Result,
    /// A session is lent by an open job that has one, to calls of vertices that the job is interested in only.
    Session,
    /// When all jobs are discarded, nothing is left; when one is, nothing that only it reached.
    Empty,
    /// The solver itself found an invariant broken.
    Broken,
}

impl Rule {
    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Line => "line",
            Self::Position => "position",
            Self::Time => "time",
            Self::Job => "job",
            Self::Ownership => "ownership",
            Self::Merge => "merge",
            Self::Forwarded => "forwarded",
            Self::StateOrder => "state-order",
            Self::Request => "request",
            Self::Call => "call",
            Self::Graph => "graph",
            Self::CacheMap => "cache-map",
            Self::Lookup => "lookup",
            Self::Cause => "cause",
            Self::Inputs => "inputs",
            Self::RunsOnce => "runs-once",
            Self::Result => "result",
            Self::Session => "session",
            Self::Empty => "empty",
            Self::Broken => "broken",
        }
    }
}

/// Where a trace breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Number of the line.
    pub line: u64,
    /// The rule.
    pub rule: Rule,
    /// What is wrong.
    pub what: String,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// Lines that were checked.
    pub lines: u64,
    /// Violations in all.
    pub count: u64,
    /// The first of them.
    pub violations: Vec<Violation>,
    /// Why not everything could be checked.
    pub limits: Vec<String>,
}

impl CheckReport {
    /// Whether no rule is broken.
    pub const fn is_good(&self) -> bool {
        self.count == 0
    }
}

/// Replays a trace against the invariants.
///
/// # Errors
/// [`ReadError`].
pub fn check(reader: Reader) -> Result<CheckReport, ReadError> {
    let mut replay = Replay::default();
    let mut report = CheckReport::default();
    let whole = reader.pieces(|piece| {
        for (number, line) in piece.numbered() {
            report.lines = number;
            match line {
                Ok(line) => replay.line(number, line, &mut report),
                Err(error) => report.add(number, Rule::Line, error.to_string()),
            }
        }
        ControlFlow::Continue(())
    })?;
    if !whole {
        report.limit("the last line is cut off");
    }
    replay.finish(&mut report);
    Ok(report)
}

impl CheckReport {
    fn add(&mut self, line: u64, rule: Rule, what: String) {
        self.count += 1;
        if self.violations.len() < TOLD {
            self.violations.push(Violation { line, rule, what });
        }
    }

    fn limit(&mut self, what: &str) {
        if !self.limits.iter().any(|known| known == what) {
            self.limits.push(what.to_owned());
        }
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for limit in &self.limits {
            writeln!(f, "not everything can be checked: {limit}")?;
        }
        for violation in &self.violations {
            writeln!(
                f,
                "line {}: {}: {}",
                violation.line,
                violation.rule.name(),
                violation.what
            )?;
        }
        let told = self.violations.len() as u64;
        if self.count > told {
            writeln!(f, "and {} more", self.count - told)?;
        }
        match self.count {
            0 => writeln!(f, "{} lines, no rule is broken", self.lines),
            count => writeln!(f, "{} lines, rules are broken {count} times", self.lines),
        }
    }
}
