//! Merging: two live edges with an equal index key become one.

use super::{
    Core, EdgeState, faulty,
    graph::{Dependent, KeyUse, Phase, Status, TaskSlot},
    io::EdgeId,
};
use crate::{CancelCause, Refusal, TraceEvent};

impl<O: Clone, V: Clone> Core<O, V> {
    /// Merges two edges unless there is a reason not to. Returns whether they are one now.
    pub(super) fn try_merge(&mut self, edge: EdgeId, other: EdgeId) -> bool {
        match self.target_of(edge, other) {
            Ok(target) => {
                let source = if target == edge { other } else { edge };
                self.merge(source, target);
                true
            }
            Err(reason) => {
                self.trace(|core| TraceEvent::MergeRefused {
                    edge: core.trace_edge(edge),
                    other: core.trace_edge(other),
                    reason,
                });
                false
            }
        }
    }

    /// Which of two equal edges is to survive, or why they stay apart.
    fn target_of(&mut self, edge: EdgeId, other: EdgeId) -> Result<EdgeId, Refusal> {
        let (a, b) = (&self.edges[edge], &self.edges[other]);
        let (va, vb) = (&self.vertices[a.vertex], &self.vertices[b.vertex]);
        if (va.never_merge || vb.never_merge) && !faulty!(self, NeverMergeIgnored) {
            return Err(Refusal::NeverMerge);
        }
        if a.phase == Phase::Complete && b.phase == Phase::Complete {
            return Err(Refusal::BothComplete);
        }
        let forced = (va.ignore_cache != vb.ignore_cache).then_some(other);
        let too_late = matches!(a.phase, Phase::Running | Phase::Complete);
        if forced.is_some() && !faulty!(self, IgnoreCacheMerged) && (va.ignore_cache || too_late) {
            return Err(Refusal::IgnoreCache);
        }
        let (a, b) = (a.vertex, b.vertex);
        if !faulty!(self, AncestorMerged) && self.related(a, b) {
            return Err(Refusal::Ancestor);
        }
        let order = |edge: EdgeId| {
            let state = &self.edges[edge];
            let vertex = &self.vertices[state.vertex];
            let running = matches!(vertex.exec, TaskSlot::Running(_));
            (
                state.phase == Phase::Complete,
                running,
                state.phase == Phase::Loading,
                // One that is to complete its inputs goes on doing so.
                state.no_match && state.desired() == EdgeState::Complete,
                std::cmp::Reverse(vertex.seq),
            )
        };
        Ok(forced.unwrap_or_else(|| {
            if order(edge) > order(other) {
                edge
            } else {
                other
            }
        }))
    }

    /// Makes `source` forward to `target` for ever. Whatever waited for the source waits for the target from now on.
    fn merge(&mut self, source: EdgeId, target: EdgeId) {
        if self.tracing {
            let reason = self.merge_reason(source, target);
            self.trace_merged(source, target, reason);
        }
        #[cfg(feature = "sim")]
        self.audit_merge(source, target);
        self.unindex(source);
        let told = self.edges[source].phase.state() > EdgeState::Initial;
        self.retire(source);
        self.take_over_links(source, target);
        let fresh = !told || self.knows_more(target, source);
        self.edges[source].phase = Phase::Forwarded(target);
        self.edges[source].resolved.set(target);
        if !faulty!(self, TargetNotOwned) {
            self.own_edge(target);
        }
        self.merge_interest(source, target);
        self.move_dependents(source, target, fresh);
        self.move_requests(source, target);
        self.move_parents(source, target);
        self.add_merged(source, target);
        let (from, to) = (self.edges[source].vertex, self.edges[target].vertex);
        self.replay_to_sources(source, target);
        // A run that nobody waited for is no news to those who come.
        if !matches!(self.vertices[to].status, Status::Cancelled { .. }) {
            self.mirror_status(to, from);
            self.mirror_to_sources(source, to);
        }
        self.edges[target].look = true;
        self.touch(target);
        self.sync(from);
        if self.edges[target].phase == Phase::Complete {
            self.answer_requests(target);
        }
    }

    /// Ends the work of an edge that is being merged. What it wants of its inputs it wants until the target wants it: were that given up
    /// first, a wave of giving up and of wanting again would run through everything below.
    fn retire(&mut self, source: EdgeId) {
        let state = &mut self.edges[source];
        state.need_map = false;
        state.need_exec = false;
        state.slots.iter_mut().for_each(|slot| slot.work = false);
        let load = state.load;
        let cause = std::mem::replace(&mut self.cause, CancelCause::Merged);
        self.edges[source].load = self.wind(load);
        self.cause = cause;
        self.retiring.push(source);
    }

    /// A merged edge gives up what it wants of its inputs, now that its target wants what it wants.
    pub(super) fn end_wants(&mut self, source: EdgeId) {
        if self.edges.contains(source) {
            self.withdraw(source);
        }
    }

    /// Whether `edge` has keys that `other` lacks.
    fn knows_more(&self, edge: EdgeId, other: EdgeId) -> bool {
        let known = &self.edges[other].keys;
        self.edges[edge].keys.iter().any(|key| {
            !known
                .iter()
                .any(|other| other.id == key.id && other.usage == key.usage)
        })
    }

    /// Keys, links and records that only the source knew are kept for the result.
    fn take_over_links(&mut self, source: EdgeId, target: EdgeId) {
        let mut links = Vec::new();
        for slot in 0..self.edges[source].slots.len() {
            self.alternatives(source, slot, |mine| {
                let mut known = false;
                self.alternatives(target, slot, |other| {
                    known = other == mine;
                    !known
                });
                if !known {
                    links.push((slot as u32, mine));
                }
                true
            });
        }
        let keys = self.edges[source].keys.clone();
        let more_keys = self.knows_more(source, target);
        let more_links = !links.is_empty();
        if more_links {
            self.edges[target].extra_mut().links.extend(links);
        }
        // An edge that is forced to run neither loads what others found nor lets anything be found through it.
        let forced = self.vertices[self.edges[target].vertex].ignore_cache
            && !faulty!(self, IgnoreCacheMerged);
        for key in keys {
            let usage = if forced && key.usage.finds() {
                KeyUse::Record
            } else {
                key.usage
            };
            self.add_key(target, key.id, usage, key.stored);
        }
        let records = self.edges[source]
            .extra
            .as_mut()
            .map(|extra| std::mem::take(&mut extra.records))
            .unwrap_or_default();
        if self.edges[target].phase != Phase::Complete {
            if !forced {
                self.add_records(target, records);
            }
        } else if more_links || more_keys {
            let root = self.edges[target].slots.is_empty();
            let value = self.edges[target].result.clone().filter(|_| root);
            self.save(target, value);
        }
    }

    fn move_dependents(&mut self, source: EdgeId, target: EdgeId, fresh: bool) {
        self.edges[source].wants = [0; 3];
        let state = self.edges[target].phase.state();
        let rank = self.vertices[self.edges[target].vertex].rank + 1;
        for Dependent { vertex, slot } in std::mem::take(&mut self.edges[source].dependents) {
            self.add_dependent(target, Dependent { vertex, slot });
            if !faulty!(self, RankNotRaised) {
                self.raise_rank(vertex, rank);
            }
            for at in 0..self.vertices[vertex].edges.len() {
                let consumer = self.vertices[vertex].edges[at];
                self.edges[consumer].hear_state(slot as usize, state);
                let want = self.edges[consumer].slots[slot as usize].want;
                if fresh {
                    self.edges[consumer].names_came_in(slot as usize);
                }
                self.add_want(target, want);
                self.touch(consumer);
            }
        }
    }

    fn move_requests(&mut self, source: EdgeId, target: EdgeId) {
        if faulty!(self, RequestsNotMoved) {
            return;
        }
        let moved = std::mem::take(&mut self.edges[source].requests);
        for ticket in &moved {
            if let Some(request) = self.requests.get_mut(ticket) {
                request.edge = target;
            }
        }
        self.edges[target].requests.extend(moved);
    }

    /// Vertices that asked for a build that ends in the source wait for the target now.
    fn move_parents(&mut self, source: EdgeId, target: EdgeId) {
        let parents = self.edges[source]
            .extra
            .as_mut()
            .map(|extra| std::mem::take(&mut extra.parents))
            .unwrap_or_default();
        let rank = self.vertices[self.edges[target].vertex].rank + 1;
        for parent in parents {
            self.edges[target].extra_mut().parents.push(parent);
            self.raise_rank(parent, rank);
        }
    }

    fn add_merged(&mut self, source: EdgeId, target: EdgeId) {
        let merged = &mut self.edges[target].extra_mut().merged;
        let position = merged.len() as u32;
        merged.push(source);
        self.edges[source].position = position;
    }
}
