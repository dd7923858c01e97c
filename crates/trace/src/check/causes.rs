//! The replay of what came of one input of the solver: what failed or was cancelled did so because of something that is told as well.

use super::{
    CheckReport, Rule,
    state::{Replay, raw},
};
use crate::{
    kind::Kind,
    line::{Line, Text},
};

/// What happened at one position.
#[derive(Default)]
pub(super) struct Moment {
    position: u64,
    /// A call or a load ended.
    ended: bool,
    /// A call ended that may fail whoever waits for it: with an error, or without an output that is wanted.
    may_fail: bool,
    cancelled_request: bool,
    discarded: Vec<String>,
    lost: bool,
    merged: bool,
    failed_request: bool,
    fell_back: bool,
    /// What an operation loaded, and asks for next.
    nested: Option<u64>,
    /// Edges that lost the last job that was interested in them, and the line that says so.
    unreached: Vec<(u64, u64)>,
    claims: Vec<Claim>,
}

/// What is to be true by the end of a position, and the line that says so.
struct Claim {
    line: u64,
    what: What,
}

enum What {
    /// Calls are cancelled since a job was discarded.
    Discarded,
    /// The root of jobs was let go of.
    Root(u64),
    /// The call of this number failed, and whoever waited for it heard of it, or it is repeated.
    Failed(u64),
}

impl Replay {
    /// Notes what a line says of its position; comes before the line is replayed.
    pub(super) fn at_moment(&mut self, line: &Line<'_>, report: &mut CheckReport) {
        // What comes from elsewhere comes in between.
        if matches!(line.kind, Kind::Lost | Kind::Resumed | Kind::Broken) {
            // What belongs to it may be missing.
            self.moment = Moment::default();
        } else if line.position > 0 && line.position != self.moment.position {
            self.end_moment(report);
            self.moment.position = line.position;
        }
        let moment = &mut self.moment;
        match line.kind {
            Kind::CallEnd => {
                moment.ended = true;
                moment.may_fail |= line.error.is_some() || raw(line.call) == "exec";
            }
            Kind::LoadEnd | Kind::LoadFailed | Kind::Dropped => moment.ended = true,
            Kind::Answer => match raw(line.outcome) {
                "cancelled" => moment.cancelled_request = true,
                "failed" => moment.failed_request = true,
                _ => {}
            },
            Kind::JobDiscarded => {
                let id = line.job.map(Text::value).unwrap_or_default();
                moment.discarded.push(id.into_owned());
            }
            Kind::ResultLost => moment.lost = true,
            Kind::Merge => moment.merged = true,
            Kind::Fallback => moment.fell_back = true,
            _ => {}
        }
    }

    /// All that happened at a position is told: what was claimed there has to be true.
    pub(super) fn end_moment(&mut self, report: &mut CheckReport) {
        let moment = std::mem::take(&mut self.moment);
        if self.lossy {
            return;
        }
        for Claim { line, what } in moment.claims {
            let what = match what {
                What::Discarded if moment.discarded.is_empty() => {
                    "a call is cancelled since its job was discarded, but none was".to_owned()
                }
                What::Root(edge) => {
                    let mut jobs = self.jobs.iter();
                    match jobs.find(|(_, job)| job.roots.contains(&edge)) {
                        Some((id, _)) => {
                            format!("edge {edge} is freed, but {id}, which loaded it, is open")
                        }
                        None => continue,
                    }
                }
                What::Failed(task)
                    if !(moment.failed_request || moment.lost || moment.fell_back) =>
                {
                    format!("call {task} failed, but nobody hears of it, and nothing is repeated")
                }
                What::Discarded | What::Failed(_) => continue,
            };
            report.add(line, Rule::Cause, what);
        }
        self.is_left(&moment.unreached, report);
    }

    /// What only discarded jobs reached is gone by now, and what worked for it is cancelled.
    fn is_left(&self, unreached: &[(u64, u64)], report: &mut CheckReport) {
        let Some((line, _)) = unreached.first() else {
            return;
        };
        let running = || self.tasks.iter().filter(|(_, task)| !task.cancelled);
        for (number, task) in running() {
            if task.vertex.is_some_and(|vertex| !self.is_wanted(vertex)) {
                let call = &task.call;
                let what = format!("{call} {number} goes on, but no job is interested any more");
                report.add(*line, Rule::Job, what);
            }
        }
        // What is cancelled may take its time, and keeps what it works for.
        if self.partial || self.tasks.len() > running().count() {
            return;
        }
        let left = unreached.iter().filter(|(_, edge)| {
            let edge = self.edges.get(edge);
            edge.is_some_and(|edge| edge.interest.is_empty())
        });
        let left = left.count();
        if left > 0 {
            let what = format!("{left} edges are left that no job reaches any more");
            report.add(*line, Rule::Empty, what);
        }
    }

    /// A job was discarded that was the last to be interested in these edges.
    pub(super) fn left_behind(&mut self, edges: Vec<u64>) {
        let line = self.line;
        let edges = edges.into_iter().map(|edge| (line, edge));
        self.moment.unreached.extend(edges);
    }

    /// An operation loaded a graph, which it asks for at once.
    pub(super) fn loads_nested(&mut self, root: u64) {
        self.moment.nested = Some(root);
    }

    /// What the graph's root has become that an operation loaded just now.
    pub(super) fn nested_root(&self) -> Option<u64> {
        self.find(self.moment.nested?)
    }

    fn claim(&mut self, what: What) {
        let line = self.line;
        self.moment.claims.push(Claim { line, what });
    }

    /// A call is cancelled, for a cause that has to be there.
    pub(super) fn has_cause(&mut self, line: &Line<'_>, report: &mut CheckReport) {
        let moment = &self.moment;
        let cause = raw(line.cause);
        let is_there = match cause {
            "request-cancelled" => moment.cancelled_request,
            "merged" => moment.merged,
            "failed" => moment.lost || moment.may_fail,
            "job-discarded" => return self.claim(What::Discarded),
            _ => true,
        };
        if !is_there && !self.lossy {
            let what = format!("a call is cancelled as {cause}, but nothing of the sort happened");
            report.add(self.line, Rule::Cause, what);
        }
    }

    /// A request is answered without a result.
    pub(super) fn has_failed(&self, of_job: bool, outcome: &str, report: &mut CheckReport) {
        let moment = &self.moment;
        let what = match outcome {
            "failed" if !moment.may_fail => "but no call failed",
            // What a job asks for is cancelled by the job; what an operation does ends with its call.
            "cancelled" if of_job && moment.ended => "but a call ended, and nobody cancelled it",
            _ => return,
        };
        if !self.lossy {
            let what = format!("a request is answered as {outcome}, {what}");
            report.add(self.line, Rule::Cause, what);
        }
    }

    /// A call failed, and it counts.
    pub(super) fn call_failed(&mut self, task: u64) {
        self.claim(What::Failed(task));
    }

    /// An edge is freed that jobs hold as a root: they are discarded now.
    pub(super) fn root_freed(&mut self, edge: u64) {
        self.claim(What::Root(edge));
    }
}
