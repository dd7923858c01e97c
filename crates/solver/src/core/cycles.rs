//! Ownership that goes round in a circle, which counting owners does not free.
//!
//! What an edge waits for never leads back to it. What it owns may: an edge that was merged keeps its own vertex with its inputs, as
//! fallback and for provenance, and one of these inputs may have been merged into what owns the edge. Once no job reaches such a circle
//! it is looked for by trial: what has no owner but among what is looked at is garbage. Only edges that no job is interested in are
//! looked at, and only from where an owner let go; that no job reaches them is what the trial finds, not what it assumes.

use hashbrown::{HashMap, HashSet};

use super::{
    Core,
    graph::{Phase, VertexId},
    io::EdgeId,
    table::FixedState,
};
use crate::TraceEvent;

/// Edges that a search may look at in vain, on average, for each input of the core.
const IN_VAIN: usize = 64;

/// When a search is worth its cost. What nobody is interested in is alive only while calls hold it: those that are cancelled, and those
/// of an operation that works for another vertex. With none of them all that a search looks at is garbage. Else it may be in vain, and
/// the next one waits until inputs have paid for that; what is garbage meanwhile stays as it was, and may be found and used again.
#[derive(Default)]
pub(super) struct Search {
    /// Calls that hold what nobody may be interested in.
    pub(super) held: usize,
    /// What is still to be paid of the last search.
    debt: usize,
}

impl Search {
    pub(super) fn afford_more(&mut self) {
        self.debt = self.debt.saturating_sub(IN_VAIN);
    }

    pub(super) fn is_due(&self) -> bool {
        self.held == 0 || self.debt == 0
    }
}

/// Edges that may own one another and have no other owner.
#[derive(Default)]
struct Candidates {
    edges: Vec<EdgeId>,
    places: HashMap<EdgeId, usize, FixedState>,
    vertices: Vec<VertexId>,
}

impl<O: Clone, V: Clone> Core<O, V> {
    /// Notes that an edge lost an owner and still has one.
    pub(super) fn suspect(&mut self, edge: EdgeId) {
        if self.edges[edge].interest.is_empty() {
            self.suspects.push(edge);
        }
    }

    /// Notes that nothing runs for a vertex any more, which may have kept a circle.
    pub(super) fn suspect_vertex(&mut self, vertex: VertexId) {
        if let Some(state) = self.vertices.get(vertex).filter(|state| state.tasks == 0) {
            let edges = state.edges.iter().copied();
            let unreached = edges.filter(|edge| self.edges[*edge].interest.is_empty());
            self.suspects.extend(unreached);
        }
    }

    /// Frees the circles that the suspects belong to or lead to.
    pub(super) fn collect_cycles(&mut self) {
        let candidates = self.candidates();
        let alive = self.alive_among(&candidates);
        let garbage: Vec<_> = candidates
            .edges
            .iter()
            .zip(alive)
            .filter_map(|(edge, alive)| (!alive).then_some(*edge))
            .collect();
        self.search.debt = candidates.edges.len() - garbage.len();
        if !garbage.is_empty() {
            self.free_garbage(&garbage, &candidates.vertices);
        }
    }

    fn candidates(&mut self) -> Candidates {
        let mut found = Candidates::default();
        let mut seen: HashSet<_, FixedState> = HashSet::default();
        let mut work = std::mem::take(&mut self.suspects);
        while let Some(edge) = work.pop() {
            let Some(state) = self.edges.get(edge) else {
                continue;
            };
            if !state.interest.is_empty() || found.places.contains_key(&edge) {
                continue;
            }
            found.places.insert(edge, found.edges.len());
            found.edges.push(edge);
            if seen.insert(state.vertex) {
                found.vertices.push(state.vertex);
            }
            self.each_owned(edge, |owned| work.push(owned));
        }
        found
    }

    /// For each candidate, whether it has an owner that is none of them, or that has one.
    fn alive_among(&self, candidates: &Candidates) -> Vec<bool> {
        let place = |edge: &EdgeId| candidates.places.get(edge).copied();
        let mut inner = vec![0; candidates.edges.len()];
        let mut work = Vec::new();
        for vertex in &candidates.vertices {
            let state = &self.vertices[*vertex];
            let whole = state.tasks == 0 && state.edges.iter().all(|edge| place(edge).is_some());
            self.each_input(*vertex, |input| match place(&input) {
                Some(place) if whole => inner[place] += 1,
                _ => work.push(input),
            });
        }
        for edge in &candidates.edges {
            if let Phase::Forwarded(target) = self.edges[*edge].phase
                && let Some(place) = place(&target)
            {
                inner[place] += 1;
            }
        }
        let outer = candidates.edges.iter().zip(&inner);
        work.extend(
            outer
                .filter(|(edge, inner)| self.edges[**edge].owners > **inner)
                .map(|(edge, _)| *edge),
        );
        let mut alive = vec![false; candidates.edges.len()];
        while let Some(edge) = work.pop() {
            if let Some(place) = place(&edge)
                && !std::mem::replace(&mut alive[place], true)
            {
                self.each_owned(edge, |owned| work.push(owned));
            }
        }
        alive
    }

    /// Calls `each` with what an edge owns: what it forwards to, and the inputs and builds of its vertex.
    fn each_owned(&self, edge: EdgeId, mut each: impl FnMut(EdgeId)) {
        let state = &self.edges[edge];
        if let Phase::Forwarded(target) = state.phase {
            each(target);
        }
        self.each_input(state.vertex, each);
    }

    fn each_input(&self, vertex: VertexId, each: impl FnMut(EdgeId)) {
        let state = &self.vertices[vertex];
        let declared = state.slots.iter().map(|slot| slot.declared);
        declared
            .chain(state.sub_builds().iter().copied())
            .for_each(each);
    }

    fn free_garbage(&mut self, garbage: &[EdgeId], vertices: &[VertexId]) {
        let gone: HashSet<EdgeId, FixedState> = garbage.iter().copied().collect();
        let is_gone = |edge: &EdgeId| gone.contains(edge);
        // As long as all of them are there, whatever lists them can be found.
        for edge in garbage {
            self.unindex(*edge);
            self.withdraw(*edge);
            let load = self.edges[*edge].load;
            self.edges[*edge].load = self.wind(load);
        }
        let gone_vertices: Vec<_> = vertices
            .iter()
            .copied()
            .filter(|vertex| {
                let state = &self.vertices[*vertex];
                state.tasks == 0 && state.edges.iter().all(is_gone)
            })
            .collect();
        for vertex in &gone_vertices {
            self.detach_vertex(*vertex);
        }
        for edge in garbage {
            self.trace(|core| TraceEvent::EdgeFreed {
                edge: core.trace_edge(*edge),
                state: core.last_state(*edge),
            });
            let Some(state) = self.edges.remove(*edge) else {
                continue;
            };
            if let Phase::Forwarded(target) = state.phase
                && !is_gone(&target)
            {
                self.detach_merged(target, state.position);
                self.release_edge(target);
            }
            self.effects.released.extend(state.result);
            let edges = &mut self.vertices[state.vertex].edges;
            edges.retain(|other| other != edge);
        }
        for vertex in vertices {
            if gone_vertices.contains(vertex) {
                self.remove_vertex(*vertex, is_gone);
            } else {
                self.sync(*vertex);
                self.free_vertex_if_unowned(*vertex);
            }
        }
    }
}
