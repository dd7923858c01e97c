//! Ranks: a number per vertex that is higher than the number of everything that the vertex waits for.
//!
//! They make the ancestor test cheap: of two vertices of equal rank, neither waits for the other; otherwise only the vertices between
//! the two ranks are walked, each once.

use super::{Core, graph::VertexId};

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

    /// Raises the rank of a vertex to at least `rank`, and the ranks of all that wait for it accordingly.
    pub(super) fn raise_rank(&mut self, vertex: VertexId, rank: u32) {
        let mut work = vec![(vertex, rank)];
        while let Some((vertex, rank)) = work.pop() {
            let state = &mut self.vertices[vertex];
            if state.rank >= rank {
                continue;
            }
            state.rank = rank;
            for edge in &self.vertices[vertex].edges {
                let edge = &self.edges[*edge];
                let parents = edge
                    .extra
                    .iter()
                    .flat_map(|extra| extra.parents.iter().copied());
                work.extend(
                    edge.dependents
                        .iter()
                        .map(|dependent| dependent.vertex)
                        .chain(parents)
                        .map(|v| (v, rank + 1)),
                );
            }
        }
    }
}
