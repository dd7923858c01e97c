//! The provenance walk: every vertex of a job's definition, with the operation that really ran for it.

use hashbrown::HashMap;

use super::{
    Core,
    graph::{Phase, VertexId},
    io::{JobId, Reply, RootId, Ticket, WalkedResult, WalkedVertex},
    table::FixedState,
};

impl<O: Clone, V: Clone> Core<O, V> {
    pub(super) fn walk(&mut self, ticket: Ticket, job: JobId, root: RootId) {
        let Some(edge) = self.checked_root(ticket, job, root) else {
            return;
        };
        let order = self.in_order(self.edges[edge].vertex);
        let positions: HashMap<VertexId, u32, FixedState> = order
            .iter()
            .enumerate()
            .map(|(at, vertex)| (*vertex, at as u32))
            .collect();
        let position = |edge| {
            positions
                .get(&self.edges[edge].vertex)
                .copied()
                .unwrap_or(u32::MAX)
        };
        let walked = order.iter().map(|vertex| {
            let state = &self.vertices[*vertex];
            let found = state.edges.iter().map(|edge| self.find(*edge));
            let best = found.max_by_key(|edge| self.edges[*edge].phase == Phase::Complete);
            let ran = best.map_or(*vertex, |edge| self.edges[edge].vertex);
            let complete = best.is_some_and(|edge| self.edges[edge].phase == Phase::Complete);
            WalkedVertex {
                digest: state.digest,
                name: state.label.name.clone(),
                op: state.op.clone(),
                ran: self.vertices[ran].op.clone(),
                ran_digest: self.vertices[ran].digest,
                inputs: state
                    .slots
                    .iter()
                    .map(|slot| (position(slot.declared), self.edges[slot.declared].output))
                    .collect(),
                complete,
                sub_builds: self.vertices[ran]
                    .last_builds()
                    .iter()
                    .map(|root| position(*root))
                    .collect(),
                results: state
                    .edges
                    .iter()
                    .map(|edge| {
                        let target = self.find(*edge);
                        WalkedResult {
                            output: self.edges[*edge].output,
                            value: self.edges[target].result.clone(),
                            keys: self.record_keys(target),
                        }
                    })
                    .collect(),
            }
        });
        let walked = walked.collect();
        self.reply(ticket, Ok(Reply::Walk(walked)));
    }

    /// All vertices below one, and the builds that their operations asked for, inputs before what uses them.
    fn in_order(&mut self, root: VertexId) -> Vec<VertexId> {
        self.next_mark += 1;
        let mark = self.next_mark;
        let mut order = Vec::new();
        let mut work = vec![(root, false)];
        while let Some((vertex, done)) = work.pop() {
            if done {
                order.push(vertex);
                continue;
            }
            if std::mem::replace(&mut self.vertices[vertex].mark, mark) == mark {
                continue;
            }
            work.push((vertex, true));
            let state = &self.vertices[vertex];
            let merged = state
                .edges
                .iter()
                .map(|edge| self.edges[self.find(*edge)].vertex);
            let nested = merged.flat_map(|ran| self.vertices[ran].last_builds());
            let below = state.slots.iter().map(|slot| &slot.declared).chain(nested);
            work.extend(below.map(|edge| (self.edges[*edge].vertex, false)));
        }
        order
    }
}
