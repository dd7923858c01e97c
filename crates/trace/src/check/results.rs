//! The replay of results: where they come from, who works on them, and whom they are given to.

use std::collections::HashSet;

use super::{
    CheckReport, Rule,
    state::{Replay, raw},
};
use crate::{line::Line, text::short};

impl Replay {
    /// What an edge has become; `None` where that is not known.
    pub(super) fn find(&self, edge: u64) -> Option<u64> {
        let mut at = edge;
        let mut steps = 0;
        while let Some(target) = self.edges.get(&at)?.target {
            at = target;
            steps += 1;
            if steps > self.edges.len() {
                return None;
            }
        }
        Some(at)
    }

    /// Whether what an edge has become is complete; `None` where that is not known.
    pub(super) fn is_complete(&self, edge: u64) -> Option<bool> {
        let found = self.find(edge).filter(|_| !self.lossy)?;
        self.edges.get(&found).map(|edge| edge.complete)
    }

    pub(super) fn answer(&mut self, line: &Line<'_>, report: &mut CheckReport) {
        let request = line.request.unwrap_or(0);
        let outcome = raw(line.outcome);
        if !matches!(outcome, "built" | "failed" | "cancelled") {
            let what = format!("{outcome:?} is not an outcome");
            return report.add(self.line, Rule::Line, what);
        }
        let Some(asked) = self.requests.remove(&request) else {
            if !self.partial {
                let what = format!("request {request} is answered, but was not open");
                report.add(self.line, Rule::Request, what);
            }
            return;
        };
        let edge = asked.edge;
        self.is_heard(request, &asked, report);
        self.has_failed(asked.of_job, outcome, report);
        let what = match (outcome, self.is_complete(edge)) {
            ("built", Some(false)) => "is not complete",
            ("failed" | "cancelled", Some(true)) => "is complete",
            _ => return,
        };
        let what = format!("request {request} is answered as {outcome}, but edge {edge} {what}");
        report.add(self.line, Rule::Request, what);
    }

    /// A call begins that works on the results of all inputs, or of one.
    pub(super) fn works_on(&self, line: &Line<'_>, report: &mut CheckReport) {
        let Some(vertex) = line.id.and_then(|id| self.vertices.get(&id)) else {
            return;
        };
        let meant = |number: u64| match raw(line.call) {
            "exec" => true,
            "preprocess" | "slow-key" => line.input == Some(number),
            _ => false,
        };
        for (number, input) in (0..).zip(&vertex.inputs) {
            if meant(number) && self.is_complete(*input) == Some(false) {
                let what = format!(
                    "{} of vertex {} begins, but its input {number} is not complete",
                    raw(line.call),
                    short(&vertex.digest)
                );
                report.add(self.line, Rule::Inputs, what);
            }
        }
    }

    /// An edge becomes complete: something ran or was loaded for it just now.
    pub(super) fn result(&self, id: u64, report: &mut CheckReport) {
        let Some(edge) = self.edges.get(&id).filter(|_| !self.lossy) else {
            return;
        };
        let Some(vertex) = edge.owner.and_then(|owner| self.vertices.get(&owner)) else {
            return;
        };
        let now = Some(self.position);
        if edge.loaded != now && vertex.ran != now {
            let what = format!("edge {id} is complete, but nothing ran and no record was loaded");
            report.add(self.line, Rule::Result, what);
        }
    }

    /// A graph was loaded: its root is made of as many vertices as that says.
    pub(super) fn is_whole(&self, line: &Line<'_>, report: &mut CheckReport) {
        let (Some(told), Some(root)) = (line.vertices, line.id) else {
            return;
        };
        if self.partial {
            return;
        }
        let mut seen = HashSet::from([root]);
        let mut ahead = vec![root];
        while let Some(vertex) = ahead.pop().and_then(|id| self.vertices.get(&id)) {
            let inputs = vertex.inputs.iter();
            let inputs = inputs.filter_map(|edge| self.edges.get(edge)?.owner);
            ahead.extend(inputs.filter(|input| seen.insert(*input)));
        }
        if seen.len() as u64 != told {
            let found = seen.len();
            let what =
                format!("a graph of {told} vertices is loaded, but its root is made of {found}");
            report.add(self.line, Rule::Graph, what);
        }
    }
}
