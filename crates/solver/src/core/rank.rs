//! Ranks: a number per vertex that is higher than the number of everything that the vertex waits for.
//!
//! They make the ancestor test cheap: of two vertices of equal rank, neither waits for the other; otherwise only the vertices between
//! the two ranks are walked, each once.

use std::{cmp::Reverse, collections::BinaryHeap};

use hashbrown::{HashMap, HashSet};

use super::{Core, graph::VertexId, table::FixedState};

/// A search for those that ask for a build, below what is live of it. What was seen without finding them is not seen again.
pub(super) struct AskingSearch<'a> {
    asking: &'a [VertexId],
    parts: HashSet<VertexId, FixedState>,
    waiting: HashSet<VertexId, FixedState>,
}

impl<'a> AskingSearch<'a> {
    pub(super) fn new(asking: &'a [VertexId]) -> Self {
        Self {
            asking,
            parts: HashSet::default(),
            waiting: HashSet::default(),
        }
    }

    /// Whether a vertex is one of those that ask, equal to one, or was loaded with one below it.
    pub(super) fn is_made_of_asking<O: Clone, V: Clone>(
        &mut self,
        core: &Core<O, V>,
        vertex: VertexId,
    ) -> bool {
        let equal =
            |a: VertexId, b: VertexId| a == b || core.vertices[a].digest == core.vertices[b].digest;
        self.search(core, vertex, equal, false)
    }

    /// Whether a vertex, or what its edges were merged into, waits for one of those that ask.
    pub(super) fn waits_for_asking<O: Clone, V: Clone>(
        &mut self,
        core: &Core<O, V>,
        vertex: VertexId,
    ) -> bool {
        let edges = &core.vertices[vertex].edges;
        edges.iter().any(|edge| {
            self.search(
                core,
                core.edges[core.find(*edge)].vertex,
                |a, b| a == b,
                true,
            )
        })
    }

    fn search<O: Clone, V: Clone>(
        &mut self,
        core: &Core<O, V>,
        from: VertexId,
        same: impl Fn(VertexId, VertexId) -> bool,
        through_merges: bool,
    ) -> bool {
        let seen = if through_merges {
            &mut self.waiting
        } else {
            &mut self.parts
        };
        let mut passed = Vec::new();
        let mut work = vec![from];
        while let Some(vertex) = work.pop() {
            if self.asking.iter().any(|asking| same(*asking, vertex)) {
                // What was passed on the way may lead here as well.
                passed.iter().for_each(|vertex| {
                    seen.remove(vertex);
                });
                return true;
            }
            if !seen.insert(vertex) {
                continue;
            }
            passed.push(vertex);
            let state = &core.vertices[vertex];
            let below = state
                .slots
                .iter()
                .map(|slot| slot.declared)
                .chain(state.sub_builds().iter().copied());
            let resolve = |edge| {
                if through_merges {
                    core.find(edge)
                } else {
                    edge
                }
            };
            work.extend(below.map(|edge| core.edges[resolve(edge)].vertex));
        }
        false
    }
}

impl<O: Clone, V: Clone> Core<O, V> {
    /// Whether either vertex waits, directly or not, for the other.
    pub(super) fn related(&mut self, a: VertexId, b: VertexId) -> bool {
        let (low, high) = if self.vertices[a].rank <= self.vertices[b].rank {
            (a, b)
        } else {
            (b, a)
        };
        a == b || self.waits_for(high, low)
    }

    /// Whether `from` waits, directly or not, for `target`, or is `target`.
    pub(super) fn waits_for(&mut self, from: VertexId, target: VertexId) -> bool {
        let floor = self.vertices[target].rank;
        self.next_mark += 1;
        let mark = self.next_mark;
        let mut work = vec![from];
        while let Some(vertex) = work.pop() {
            if vertex == target {
                return true;
            }
            let state = &mut self.vertices[vertex];
            if state.rank <= floor || state.mark == mark {
                continue;
            }
            state.mark = mark;
            let state = &self.vertices[vertex];
            let inputs = state
                .slots
                .iter()
                .map(|slot| slot.declared)
                .chain(state.sub_builds().iter().copied());
            work.extend(inputs.map(|edge| self.edges[self.find(edge)].vertex));
        }
        false
    }

    /// Raises the rank of a vertex to at least `rank`, and the ranks of all that wait for it accordingly. In the order of the ranks that
    /// they had, so that each is raised once.
    pub(super) fn raise_rank(&mut self, vertex: VertexId, rank: u32) {
        if self.vertices[vertex].rank >= rank {
            return;
        }
        let mut wanted: HashMap<VertexId, u32, FixedState> = HashMap::default();
        wanted.insert(vertex, rank);
        let mut work = BinaryHeap::from([Reverse((self.vertices[vertex].rank, vertex))]);
        while let Some(Reverse((_, vertex))) = work.pop() {
            let Some(rank) = wanted.remove(&vertex) else {
                continue;
            };
            self.vertices[vertex].rank = rank;
            for edge in &self.vertices[vertex].edges {
                let edge = &self.edges[*edge];
                let parents = edge.extra.iter().flat_map(|extra| &extra.parents).copied();
                let dependents = edge.dependents.iter().map(|dependent| dependent.vertex);
                for waiting in dependents.chain(parents) {
                    let now = self.vertices[waiting].rank;
                    let known = wanted.get(&waiting).copied().unwrap_or(now);
                    if known <= rank {
                        wanted.insert(waiting, rank + 1);
                        work.push(Reverse((now, waiting)));
                    }
                }
            }
        }
    }
}
