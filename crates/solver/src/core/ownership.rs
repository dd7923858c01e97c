//! Freeing: a thing goes exactly when its last owner lets go, and takes along what only it owned. Nothing here recurses.

use super::{
    Core, faulty,
    graph::{Phase, Status, TaskSlot, VertexId},
    io::{EdgeId, Effect, Retired},
};
use crate::TraceEvent;

impl<O: Clone, V: Clone> Core<O, V> {
    pub(super) fn own_edge(&mut self, edge: EdgeId) {
        self.edges[edge].owners += 1;
    }

    pub(super) fn release_edge(&mut self, edge: EdgeId) {
        let state = &mut self.edges[edge];
        state.owners -= 1;
        if state.owners == 0 {
            self.doomed.push(edge);
        } else {
            self.suspect(edge);
        }
    }

    /// Frees an edge without owners.
    pub(super) fn free_edge(&mut self, edge: EdgeId) {
        if self.edges.get(edge).is_none_or(|state| state.owners > 0) {
            return;
        }
        self.unindex(edge);
        self.withdraw(edge);
        let load = self.edges[edge].load;
        self.wind(load);
        self.trace(|core| TraceEvent::EdgeFreed {
            edge: core.trace_edge(edge),
            state: core.last_state(edge),
        });
        let Some(state) = self.edges.remove(edge) else {
            return;
        };
        if let Phase::Forwarded(target) = state.phase {
            self.detach_merged(target, state.position);
            if !faulty!(self, TargetNotOwned) {
                self.release_edge(target);
            }
        }
        if faulty!(self, ReleasedTwice) {
            self.effects.released.extend(state.result.clone());
        }
        self.effects.released.extend(state.result);
        let vertex = &mut self.vertices[state.vertex];
        vertex.edges.retain(|other| *other != edge);
        self.sync(state.vertex);
        self.free_vertex_if_unowned(state.vertex);
    }

    /// Takes the merged edge at `position` out of the target's list.
    pub(super) fn detach_merged(&mut self, target: EdgeId, position: u32) {
        let Some(extra) = self
            .edges
            .get_mut(target)
            .and_then(|target| target.extra.as_mut())
        else {
            return;
        };
        extra.merged.swap_remove(position as usize);
        if let Some(moved) = extra.merged.get(position as usize).copied() {
            self.edges[moved].position = position;
        }
    }

    pub(super) fn free_vertex_if_unowned(&mut self, vertex: VertexId) {
        let Some(state) = self.vertices.get(vertex) else {
            return;
        };
        if !state.edges.is_empty() || state.tasks > 0 {
            return;
        }
        self.detach_vertex(vertex);
        self.remove_vertex(vertex, |_| false);
    }

    /// Takes a vertex that is about to go out of all that lists it.
    pub(super) fn detach_vertex(&mut self, vertex: VertexId) {
        self.remove_live(vertex);
        // While the vertex is still there: it may be in the same list more than once.
        for slot in 0..self.vertices[vertex].slots.len() {
            let input = &self.vertices[vertex].slots[slot];
            let (declared, position) = (input.declared, input.position);
            self.remove_dependent(self.find(declared), position);
        }
        for root in self.vertices[vertex].sub_builds().to_vec() {
            let found = self.find(root);
            if let Some(extra) = self.edges[found].extra.as_mut()
                && let Some(at) = extra.parents.iter().position(|parent| *parent == vertex)
            {
                extra.parents.swap_remove(at);
            }
        }
    }

    /// Removes a vertex that nothing lists any more. It lets go of what it owns but for what is `gone` already.
    pub(super) fn remove_vertex(&mut self, vertex: VertexId, gone: impl Fn(&EdgeId) -> bool) {
        self.trace(|core| TraceEvent::VertexFreed {
            vertex: core.trace_vertex(vertex),
        });
        let Some(state) = self.vertices.remove(vertex) else {
            return;
        };
        let declared = state.slots.iter().map(|slot| slot.declared);
        let owned = declared.chain(state.sub_builds().iter().copied());
        owned
            .filter(|edge| !gone(edge))
            .for_each(|edge| self.release_edge(edge));
        let reported = state.extra.as_ref().is_some_and(|extra| extra.reported);
        if reported && !faulty!(self, HistoryKept) {
            let ran = vertex.unique();
            self.effect(Effect::Forget { ran });
        }
        let served = matches!(
            state.status,
            Status::Completed { .. } | Status::Cached { .. }
        );
        let op = state.op;
        self.effects.retired.push(Retired { op, served });
    }

    /// Takes the dependent at `position` out of the list of `edge`.
    fn remove_dependent(&mut self, edge: EdgeId, position: u32) {
        let dependents = &mut self.edges[edge].dependents;
        dependents.swap_remove(position as usize);
        if let Some(moved) = dependents.get(position as usize) {
            let (vertex, slot) = (moved.vertex, moved.slot);
            self.vertices[vertex].slots[slot as usize].position = position;
        }
    }

    /// Cancels the task in a slot that is going away; its vertex lives until the task has ended.
    pub(super) fn wind(&mut self, slot: TaskSlot) -> TaskSlot {
        match slot {
            TaskSlot::Running(task) => {
                self.cancel_task(task);
                TaskSlot::Winding(task)
            }
            other => other,
        }
    }
}
