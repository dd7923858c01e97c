//! The replay of merges, and what can be reached through them.

use std::collections::HashSet;

use super::{
    CheckReport, Rule,
    state::{Replay, raw},
};
use crate::{line::Line, text::short};

/// How many steps are walked at most, in a whole trace, to see that nothing merges with what it waits for.
pub(super) const STEPS: usize = 10_000_000;

impl Replay {
    pub(super) fn merge(&mut self, line: &Line<'_>, report: &mut CheckReport) {
        self.touch(line.source, line.source_vertex, report);
        self.touch(line.target, line.target_vertex, report);
        let (source, target) = (line.source.unwrap_or(0), line.target.unwrap_or(0));
        let number = self.line;
        let mut wrong = |what: String| report.add(number, Rule::Merge, what);
        if source == target {
            return wrong(format!("edge {source} is merged into itself"));
        }
        if let Some(other) = self.edges.get(&source).and_then(|edge| edge.target)
            && !self.partial
        {
            wrong(format!("edge {source} forwards to edge {other} already"));
        }
        if let Some(other) = self.edges.get(&target).and_then(|edge| edge.target)
            && !self.partial
        {
            wrong(format!(
                "edge {target}, which forwards to edge {other}, is the target of a merge"
            ));
        }
        self.may_merge(source, target, report);
        self.are_equal(line, report);
        self.by_content(line, report);
        let mut wrong = |what: String| report.add(number, Rule::Merge, what);
        let mut end = target;
        let mut steps = 0;
        while let Some(next) = self.edges.get(&end).and_then(|edge| edge.target) {
            end = next;
            steps += 1;
            if end == source || steps > self.edges.len() {
                return wrong(format!(
                    "edges {source} and {target} would forward in a circle"
                ));
            }
        }
        self.inherit(source, target);
        if let Some(target) = self.edges.get_mut(&target) {
            target.sources += 1;
        }
        if let Some(source) = self.edges.get_mut(&source) {
            source.target = Some(target);
        }
        self.interest_of_edge(source, target);
        for request in self.requests.values_mut() {
            if request.edge == source {
                request.edge = target;
            }
        }
    }

    /// Vertices that calls which still run work for: their own, and all that these are made of.
    pub(super) fn held_by_calls(&self) -> HashSet<u64> {
        let mut held = HashSet::new();
        let mut ahead: Vec<u64> = self.tasks.values().filter_map(|task| task.vertex).collect();
        while let Some(id) = ahead.pop() {
            let Some(vertex) = self.vertices.get(&id).filter(|_| held.insert(id)) else {
                continue;
            };
            for edge in vertex.inputs.iter().chain(&vertex.sub_builds) {
                let mut at = Some(*edge);
                let mut steps = 0;
                while let Some(edge) = at.and_then(|at| self.edges.get(&at)) {
                    ahead.extend(edge.owner);
                    steps += 1;
                    at = edge.target.filter(|_| steps <= self.edges.len());
                }
            }
        }
        held
    }

    /// Whether two vertices let their edges merge: by their marks, and since neither waits for the other.
    fn may_merge(&mut self, source: u64, target: u64, report: &mut CheckReport) {
        let owner = |edge: u64| self.edges.get(&edge)?.owner;
        let (Some(above), Some(below)) = (owner(source), owner(target)) else {
            return;
        };
        if !self.partial && self.are_related(above, below) == Some(true) {
            let what = format!("edges {source} and {target} merge, but one waits for the other");
            report.add(self.line, Rule::Merge, what);
        }
        let vertices = (self.vertices.get(&above), self.vertices.get(&below));
        let (Some(from), Some(to)) = vertices else {
            return;
        };
        for vertex in [from, to].iter().filter(|vertex| vertex.never_merge) {
            let what = format!(
                "edges {source} and {target} merge, but vertex {} never does",
                short(&vertex.digest)
            );
            report.add(self.line, Rule::Merge, what);
        }
        if from.ignore_cache && !to.ignore_cache {
            let what = format!(
                "edge {source}, which ignores the cache, is merged into edge {target}, which does not"
            );
            report.add(self.line, Rule::Merge, what);
        }
    }

    /// Whether two edges can have a key in common: of equal outputs of equal operations with as many inputs. Without inputs, each cache map
    /// of a vertex gives it a key, and what they have in common need not be the first.
    fn are_equal(&self, line: &Line<'_>, report: &mut CheckReport) {
        let (source, target) = (line.source.unwrap_or(0), line.target.unwrap_or(0));
        let vertex = |edge: u64| self.vertices.get(&self.edges.get(&edge)?.owner?);
        let kind = line.kind.name();
        let mut wrong = |what: &str| {
            let what = format!("{kind} of edges {source} and {target}, which are of {what}");
            report.add(self.line, Rule::Merge, what);
        };
        if let (Some(from), Some(to)) = (line.source_output, line.target_output)
            && from != to
        {
            wrong(&format!("outputs {from} and {to}"));
        }
        let (Some(from), Some(to)) = (vertex(source), vertex(target)) else {
            return;
        };
        if from.is_told && to.is_told && from.inputs.len() != to.inputs.len() {
            let (from, to) = (from.inputs.len(), to.inputs.len());
            return wrong(&format!("operations with {from} and with {to} inputs"));
        }
        let has_inputs = from.is_told && !from.inputs.is_empty();
        if let (Some(from), Some(to)) = (&from.operation, &to.operation)
            && !self.partial
            && has_inputs
            && from != to
        {
            wrong(&format!("the operations {} and {}", short(from), short(to)));
        }
    }

    /// By content only such edges are equal of which some input is another one.
    fn by_content(&self, line: &Line<'_>, report: &mut CheckReport) {
        let ends = [line.source, line.target].map(|edge| {
            let owner = self.edges.get(&edge?)?.owner?;
            self.vertices.get(&owner)
        });
        let [Some(from), Some(to)] = ends else { return };
        let mut inputs = from.inputs.iter().zip(&to.inputs);
        let are_same = inputs.all(|(one, other)| {
            let one = self.find(*one);
            one.is_some() && one == self.find(*other)
        });
        if raw(line.reason) == "slow-key" && are_same && !self.lossy {
            let what = "edges merge by the content of inputs that are the same".to_owned();
            report.add(self.line, Rule::Merge, what);
        }
    }

    /// Whether one of two vertices waits for the other, or is it; `None` where not all of what they are made of is known, or no steps
    /// are left to find out.
    fn are_related(&mut self, a: u64, b: u64) -> Option<bool> {
        match (self.waits_for(a, b), self.waits_for(b, a)) {
            (Some(true), _) | (_, Some(true)) => Some(true),
            (Some(false), Some(false)) => Some(false),
            _ => None,
        }
    }

    fn waits_for(&mut self, from: u64, other: u64) -> Option<bool> {
        let mut seen = HashSet::new();
        let mut ahead = vec![from];
        let mut is_known = true;
        while let Some(id) = ahead.pop() {
            if id == other {
                return Some(true);
            }
            if !seen.insert(id) {
                continue;
            }
            let Some(vertex) = self.vertices.get(&id) else {
                is_known = false;
                continue;
            };
            self.steps += vertex.inputs.len() + 1;
            if self.steps >= STEPS {
                return None;
            }
            for edge in vertex.inputs.iter().chain(&vertex.sub_builds) {
                let found = self.find(*edge).and_then(|found| self.edges.get(&found));
                match found.and_then(|found| found.owner) {
                    Some(owner) => ahead.push(owner),
                    None => is_known = false,
                }
            }
        }
        is_known.then_some(false)
    }

    /// Equal edges stay apart, for a reason that has to be there.
    pub(super) fn refused(&mut self, line: &Line<'_>, report: &mut CheckReport) {
        self.touch(line.source, line.source_vertex, report);
        self.touch(line.target, line.target_vertex, report);
        self.are_equal(line, report);
        let (source, target) = (line.source.unwrap_or(0), line.target.unwrap_or(0));
        let number = self.line;
        if source == target {
            let what = format!("edge {source} is kept apart from itself");
            return report.add(number, Rule::Merge, what);
        }
        if self.lossy {
            return;
        }
        let ends = [source, target].map(|edge| self.edges.get(&edge));
        for edge in ends.into_iter().flatten() {
            if let Some(other) = edge.target {
                let what = format!("an edge is kept apart that forwards to edge {other}");
                report.add(number, Rule::Forwarded, what);
            }
        }
        let owners = ends.map(|edge| edge?.owner);
        let [Some(above), Some(below)] = owners else {
            return;
        };
        let [Some(a), Some(b)] = [above, below].map(|id| self.vertices.get(&id)) else {
            return;
        };
        let reason = raw(line.reason);
        let never = a.never_merge || b.never_merge;
        let ignoring = a.ignore_cache != b.ignore_cache;
        let complete = [source, target].map(|edge| self.is_complete(edge));
        let what = match reason {
            "never-merge" if !never => "but both may merge",
            "never-merge" => return,
            _ if never => "but one of them never merges",
            "both-complete" if complete.contains(&Some(false)) => "but one is not complete",
            "both-complete" => return,
            _ if complete == [Some(true); 2] => "but both are complete",
            "ignore-cache" if !ignoring => "but neither, or both, ignore the cache",
            "ancestor" if self.are_related(above, below) == Some(false) => {
                "but neither waits for the other"
            }
            _ => return,
        };
        let what = format!("edges {source} and {target} stay apart as {reason}, {what}");
        report.add(number, Rule::Merge, what);
    }
}
