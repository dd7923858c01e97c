//! The replay of the way to a result: cache maps, keys, what stores were asked and what they found.

use super::{
    CheckReport, Rule,
    state::{Edge, Replay, Vertex, raw},
};
use crate::{kind::Kind, line::Line, text::short};

/// How far the way of an edge is known.
#[derive(Clone, Copy, Default)]
pub(super) struct Trail {
    /// It has a key.
    keyed: bool,
    /// Stores were asked for it.
    asked: bool,
    /// They had records.
    found: bool,
}

impl Trail {
    /// What has to be taken as it comes.
    const UNKNOWN: Self = Self {
        keyed: true,
        asked: true,
        found: true,
    };

    /// What it knows, and what an edge knows that merges into it.
    fn with(self, other: Self) -> Self {
        Self {
            keyed: self.keyed || other.keyed,
            asked: self.asked || other.asked,
            found: self.found || other.found,
        }
    }
}

impl Replay {
    /// The vertex of a line's edge, if all of it is told in the trace.
    fn told_vertex(&self, edge: &Edge) -> Option<&Vertex> {
        let vertex = self.vertices.get(&edge.owner?)?;
        (vertex.is_told && !self.lossy).then_some(vertex)
    }

    fn trail(&self, edge: &Edge) -> Trail {
        match self.told_vertex(edge) {
            Some(_) => edge.trail,
            None => Trail::UNKNOWN,
        }
    }

    /// Whether the cache map of a vertex is known that something is done with.
    pub(super) fn needs_map(&self, vertex: Option<u64>, what: &str, report: &mut CheckReport) {
        let vertex = vertex.and_then(|id| self.vertices.get(&id));
        let vertex = vertex.filter(|vertex| vertex.is_told && !self.lossy);
        if let Some(vertex) = vertex.filter(|vertex| !vertex.mapped) {
            let digest = short(&vertex.digest);
            let what = format!("{what} of vertex {digest}, whose cache map is not known");
            report.add(self.line, Rule::CacheMap, what);
        }
    }

    /// Notes a key, or what stores had.
    pub(super) fn news(&mut self, line: &Line<'_>, report: &mut CheckReport) {
        let Some(edge) = line.edge.and_then(|id| self.edges.get(&id)) else {
            return;
        };
        self.needs_map(edge.owner, line.kind.name(), report);
        let trail = self.trail(edge);
        if line.kind == Kind::Key && line.stored && !trail.asked {
            let what = "a store knows a key, but none was asked".to_owned();
            report.add(self.line, Rule::Lookup, what);
        }
        if let (Kind::Query, false, Some(records @ 1..)) = (line.kind, line.hit, line.records) {
            let what = format!("a store found {records} records, but told of no hit");
            report.add(self.line, Rule::Lookup, what);
        }
        let inputs = self.told_vertex(edge).map(|vertex| vertex.inputs.len());
        if let (Some(input), Some(inputs)) = (line.input, inputs)
            && input >= inputs as u64
        {
            let what = format!("stores are asked about input {input} of {inputs}");
            report.add(self.line, Rule::Inputs, what);
        }
        let Some(edge) = line.edge.and_then(|id| self.edges.get_mut(&id)) else {
            return;
        };
        if line.kind == Kind::Key {
            edge.trail.keyed = true;
            return;
        }
        edge.trail.asked = true;
        edge.trail.found |= line.records.unwrap_or(0) > 0;
        let owner = edge.owner;
        if let Some(vertex) = owner.and_then(|owner| self.vertices.get_mut(&owner)) {
            vertex.was_asked = true;
        }
    }

    /// An edge that another one is merged into has what that one had.
    pub(super) fn inherit(&mut self, source: u64, target: u64) {
        let trail = self.edges.get(&source).map(|edge| self.trail(edge));
        if let (Some(trail), Some(target)) = (trail, self.edges.get_mut(&target)) {
            target.trail = target.trail.with(trail);
        }
    }

    /// An edge gets further, for which it has to have a key.
    pub(super) fn rises(&self, id: u64, state: &str, report: &mut CheckReport) {
        let Some(edge) = self.edges.get(&id) else {
            return;
        };
        self.needs_map(edge.owner, "a state", report);
        if !self.trail(edge).keyed {
            let what = format!("edge {id} is {state}, but has no key");
            report.add(self.line, Rule::Lookup, what);
        }
    }

    /// A record is loaded, which has to have been found.
    pub(super) fn loads(&self, id: u64, report: &mut CheckReport) {
        let Some(edge) = self.edges.get(&id) else {
            return;
        };
        self.needs_map(edge.owner, "a load", report);
        if !self.trail(edge).found {
            let what = format!("a record of edge {id} is loaded, but no store had one");
            report.add(self.line, Rule::Lookup, what);
        }
    }

    /// An operation is called for its results, or for an input.
    pub(super) fn calls(&self, line: &Line<'_>, report: &mut CheckReport) {
        let call = raw(line.call);
        let vertex = line.id.and_then(|id| self.vertices.get(&id));
        let Some(vertex) = vertex.filter(|vertex| vertex.is_told && !self.lossy) else {
            return;
        };
        if call == "cache-map" {
            return;
        }
        self.needs_map(line.id, call, report);
        let inputs = vertex.inputs.len();
        if let Some(input) = line.input.filter(|input| *input >= inputs as u64) {
            let what = format!("{call} is for input {input} of {inputs}");
            report.add(self.line, Rule::Inputs, what);
        }
        if call != "exec" {
            return;
        }
        if let Some((failed, input)) = vertex.undone.first() {
            let digest = short(&vertex.digest);
            let what = format!("vertex {digest} runs, but {failed} for input {input} failed");
            report.add(self.line, Rule::Inputs, what);
        }
        if !self.forced && !vertex.was_asked {
            let digest = short(&vertex.digest);
            let what = format!("vertex {digest} runs, but no store was asked for it");
            report.add(self.line, Rule::Lookup, what);
        }
    }
}
