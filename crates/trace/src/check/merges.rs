//! The replay of merges, and what can be reached through them.

use std::collections::HashSet;

use super::{CheckReport, Rule, state::Replay};
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
        self.are_equal(line, source, target, report);
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
        for request in self.requests.values_mut() {
            if request.edge == source {
                request.edge = target;
            }
        }
    }

    /// Whether a vertex can be reached from roots through inputs, forwards and builds that operations asked for.
    pub(super) fn is_made_of(&self, roots: &[u64], digest: &str) -> bool {
        let mut seen = HashSet::new();
        let mut ahead = roots.to_vec();
        while let Some(id) = ahead.pop() {
            let Some(edge) = self.edges.get(&id).filter(|_| seen.insert(id)) else {
                continue;
            };
            if edge.vertex == digest {
                return true;
            }
            ahead.extend(edge.target);
            let owners = self.digests.get(&edge.vertex).into_iter().flatten();
            for vertex in owners.filter_map(|owner| self.vertices.get(owner)) {
                ahead.extend(vertex.inputs.iter().chain(&vertex.sub_builds));
            }
        }
        false
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
        if !self.partial && (self.waits_for(above, below) || self.waits_for(below, above)) {
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
    fn are_equal(&self, line: &Line<'_>, source: u64, target: u64, report: &mut CheckReport) {
        let vertex = |edge: u64| self.vertices.get(&self.edges.get(&edge)?.owner?);
        let mut wrong = |what: &str| {
            let what = format!("edges {source} and {target} merge, but are of {what}");
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

    /// Whether a vertex waits for another one, or is it, as far as there are steps left to find out.
    fn waits_for(&mut self, from: u64, other: u64) -> bool {
        let mut seen = HashSet::new();
        let mut ahead = vec![from];
        while let Some(id) = ahead.pop() {
            if id == other {
                return true;
            }
            let Some(vertex) = self.vertices.get(&id).filter(|_| seen.insert(id)) else {
                continue;
            };
            self.steps += vertex.inputs.len() + 1;
            if self.steps >= STEPS {
                return false;
            }
            let below = vertex.inputs.iter().chain(&vertex.sub_builds);
            let found = below.filter_map(|edge| self.edges.get(&self.find(*edge)?)?.owner);
            ahead.extend(found);
        }
        false
    }
}
