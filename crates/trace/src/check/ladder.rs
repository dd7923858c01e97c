//! The replay of how an edge gets from nothing to its result: its states come one after the other, and each call has its time.

use super::{
    CheckReport, Rule,
    state::{Edge, Replay, raw},
};
use crate::{line::Line, text::short};

const INITIAL: u8 = 0;
const CACHE_FAST: u8 = 1;
const CACHE_SLOW: u8 = 2;
pub(super) const COMPLETE: u8 = 3;

fn number_of(state: &str) -> Option<u8> {
    Some(match state {
        "initial" => INITIAL,
        "cache-fast" => CACHE_FAST,
        "cache-slow" => CACHE_SLOW,
        "complete" => COMPLETE,
        _ => return None,
    })
}

impl Replay {
    pub(super) fn state(&mut self, line: &Line<'_>, report: &mut CheckReport) {
        let (number, lossy) = (self.line, self.lossy);
        let Some(state) = number_of(raw(line.state)) else {
            let what = format!("{:?} is not a state", raw(line.state));
            return report.add(number, Rule::Line, what);
        };
        let id = line.edge.unwrap_or(0);
        if state > INITIAL && !self.is_told(line) {
            self.touch_own(line, report);
            self.rises(id, raw(line.state), report);
            match state {
                COMPLETE => self.result(id, report),
                _ => self.in_order(id, state, report),
            }
        }
        let Some(edge) = self.active(line, report) else {
            return;
        };
        if state == COMPLETE {
            if std::mem::replace(&mut edge.complete, true) && !lossy {
                report.add(
                    number,
                    Rule::Result,
                    format!("edge {id} has a result already"),
                );
            }
        } else if state <= edge.state && !edge.may_fall && !lossy {
            let what = format!(
                "edge {id} is {} after state {}",
                raw(line.state),
                edge.state
            );
            report.add(number, Rule::StateOrder, what);
        }
        edge.state = state;
        edge.may_fall = false;
    }

    /// An edge that is freed came as far as its states tell.
    pub(super) fn came_so_far(&self, line: &Line<'_>, edge: &Edge, report: &mut CheckReport) {
        if self.lossy || self.version < 2 || edge.target.is_some() {
            return;
        }
        let id = line.edge.unwrap_or(0);
        let Some(state) = line.state else {
            let what = "edge-freed: no \"state\"".to_owned();
            return report.add(self.line, Rule::Line, what);
        };
        match number_of(state.raw()) {
            None => {
                let what = format!("{:?} is not a state", state.raw());
                report.add(self.line, Rule::Line, what);
            }
            Some(last) if last != edge.state => {
                let what = format!(
                    "edge {id} is freed as {}, but its last state was {}",
                    state.raw(),
                    edge.state
                );
                report.add(self.line, Rule::StateOrder, what);
            }
            Some(_) => {}
        }
    }

    /// An edge with inputs has all keys by definitions first: those of its inputs are known then.
    fn in_order(&self, id: u64, state: u8, report: &mut CheckReport) {
        let Some(edge) = self.edges.get(&id).filter(|_| !self.lossy) else {
            return;
        };
        let owner = edge.owner.and_then(|owner| self.vertices.get(&owner));
        let Some(vertex) = owner.filter(|vertex| !vertex.inputs.is_empty()) else {
            return;
        };
        if state == CACHE_SLOW && edge.state < CACHE_FAST {
            let what = format!("edge {id} is cache-slow, but was not cache-fast before");
            report.add(self.line, Rule::StateOrder, what);
        }
        if state != CACHE_FAST {
            return;
        }
        for (number, input) in (0..).zip(&vertex.inputs) {
            let found = self.find(*input).and_then(|found| self.edges.get(&found));
            if found.is_some_and(|input| input.state < CACHE_FAST) {
                let what = format!("edge {id} is cache-fast, but its input {number} is not");
                report.add(self.line, Rule::StateOrder, what);
            }
        }
    }

    /// A call begins for a vertex of which an edge has come so far that it is needed, and no further.
    pub(super) fn has_come_so_far(&self, line: &Line<'_>, report: &mut CheckReport) {
        let Some(vertex) = line.id.and_then(|id| self.vertices.get(&id)) else {
            return;
        };
        let needed = match raw(line.call) {
            "exec" => CACHE_SLOW,
            "preprocess" | "slow-key" => CACHE_FAST,
            _ => return,
        };
        let call = raw(line.call);
        let mut edges = vertex.edges.iter().filter_map(|edge| self.edges.get(edge));
        let has_come =
            |edge: &Edge| edge.target.is_none() && (needed..COMPLETE).contains(&edge.state);
        if !edges.any(has_come) {
            let word = if needed == CACHE_SLOW {
                "cache-slow"
            } else {
                "cache-fast"
            };
            let what = format!(
                "{call} of vertex {}, of which no edge is {word}",
                short(&vertex.digest)
            );
            report.add(self.line, Rule::StateOrder, what);
        }
        let tasks = vertex.tasks.iter().filter_map(|task| self.tasks.get(task));
        for task in tasks {
            let is_step = matches!(task.call.as_str(), "preprocess" | "slow-key");
            let is_run = task.call == "exec" && !task.cancelled;
            if (call == "exec" && is_step) || (call != "exec" && is_run) {
                let what = format!(
                    "{call} of vertex {} begins before the end of its {}",
                    short(&vertex.digest),
                    task.call
                );
                report.add(self.line, Rule::Inputs, what);
            }
        }
    }

    /// A record is loaded for an edge that has come so far.
    pub(super) fn may_load(&self, id: u64, report: &mut CheckReport) {
        let edge = self.edges.get(&id).filter(|_| !self.lossy);
        if edge.is_some_and(|edge| edge.state != CACHE_SLOW) {
            let what = format!("a record of edge {id} is loaded, which is not cache-slow");
            report.add(self.line, Rule::StateOrder, what);
        }
    }

    pub(super) fn lost(&mut self, line: &Line<'_>, report: &mut CheckReport) {
        let (number, partial) = (self.line, self.partial);
        let Some(edge) = self.active(line, report) else {
            return;
        };
        if !std::mem::take(&mut edge.complete) && !partial {
            let what = format!(
                "edge {} loses a result that it does not have",
                line.edge.unwrap_or(0)
            );
            report.add(number, Rule::Result, what);
        }
        edge.state = CACHE_SLOW;
        edge.may_fall = true;
        edge.lost = number;
        // What ran in vain before is not looked for again.
        let owner = edge.owner;
        if let Some(vertex) = owner.and_then(|owner| self.vertices.get_mut(&owner)) {
            vertex.was_asked = true;
        }
    }
}
