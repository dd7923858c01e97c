//! Demand: which state an edge is wanted to reach, by its dependents and by requests.

use super::{
    Core, faulty,
    graph::{EdgeState, Phase, TaskSlot, VertexId},
    io::EdgeId,
};

fn level(state: EdgeState) -> Option<usize> {
    match state {
        EdgeState::Initial => None,
        EdgeState::CacheFast => Some(0),
        EdgeState::CacheSlow => Some(1),
        EdgeState::Complete => Some(2),
    }
}

impl<O: Clone, V: Clone> Core<O, V> {
    /// Sets what an edge wants of one of its inputs.
    pub(super) fn want(&mut self, edge: EdgeId, slot: usize, want: EdgeState) {
        let state = &mut self.edges[edge];
        let old = state.set_want(slot, want);
        if old == want {
            return;
        }
        let vertex = state.vertex;
        let declared = self.vertices[vertex].slots[slot].declared;
        self.count_want(self.find(declared), old, want);
    }

    /// Wants the same of every input.
    pub(super) fn want_all(&mut self, edge: EdgeId, want: EdgeState) {
        let slots = &self.edges[edge].slots;
        if slots.iter().all(|slot| slot.want == want) {
            return;
        }
        for slot in 0..slots.len() {
            self.want(edge, slot, want);
        }
    }

    fn count_want(&mut self, input: EdgeId, old: EdgeState, new: EdgeState) {
        let state = &mut self.edges[input];
        let before = state.desired();
        if let Some(level) = level(old) {
            state.wants[level] -= 1;
        }
        if let Some(level) = level(new) {
            state.wants[level] += 1;
        }
        // A complete edge has nothing to do, whatever is wanted of it.
        if state.desired() != before && state.phase != Phase::Complete && !state.dirty {
            state.dirty = true;
            self.dirty.push_back(input);
        }
    }

    /// Adds what a dependent wants; used where it moves from one edge to another.
    pub(super) fn add_want(&mut self, input: EdgeId, want: EdgeState) {
        self.count_want(input, EdgeState::Initial, want);
    }

    /// Wants nothing of any input any more, and no work of the own vertex.
    pub(super) fn withdraw(&mut self, edge: EdgeId) {
        self.want_all(edge, EdgeState::Initial);
        let state = &mut self.edges[edge];
        state.slots.iter_mut().for_each(|slot| slot.work = false);
        state.need_map = false;
        state.need_exec = false;
    }

    /// Starts and cancels the calls of a vertex's operation according to what its edges need.
    pub(super) fn sync(&mut self, vertex: VertexId) {
        let state = &self.vertices[vertex];
        let (mut need_map, mut need_exec) = (false, false);
        for edge in &state.edges {
            let edge = &self.edges[*edge];
            need_map |= edge.need_map;
            need_exec |= edge.need_exec;
        }
        let resting = state.map_call.is_idle() && state.exec.is_idle() && !state.has_steps;
        if resting && !need_map && !need_exec {
            return;
        }
        let map_call = self.vertices[vertex].map_call;
        match map_call {
            TaskSlot::Idle if need_map => self.start_cache_map(vertex),
            slot @ TaskSlot::Running(_) if !need_map && !self.keep(vertex) => {
                self.vertices[vertex].map_call = self.wind(slot)
            }
            _ => {}
        }
        let exec = self.vertices[vertex].exec;
        match exec {
            TaskSlot::Idle if need_exec => self.start_exec(vertex),
            slot @ TaskSlot::Running(_) if !need_exec && !self.keep(vertex) => {
                let winding = self.wind(slot);
                self.vertices[vertex].exec = if faulty!(self, RunsOverlap) {
                    TaskSlot::Idle
                } else {
                    winding
                };
                self.set_cancelled(vertex);
            }
            _ => {}
        }
        if self.vertices[vertex].has_steps {
            for slot in 0..self.vertices[vertex].slots.len() {
                self.sync_slot(vertex, slot);
            }
        }
    }

    fn sync_slot(&mut self, vertex: VertexId, slot: usize) {
        let state = &self.vertices[vertex];
        let task = state.slots[slot].task();
        if task.is_idle() && !state.slots[slot].has_work() {
            return;
        }
        let needed = state
            .edges
            .iter()
            .any(|edge| self.edges[*edge].slots[slot].work);
        match task {
            TaskSlot::Idle if needed => self.start_slot_work(vertex, slot),
            TaskSlot::Running(_) if !needed && !self.keep(vertex) => {
                let winding = self.wind(task);
                self.vertices[vertex].slots[slot].extra_mut().task = winding;
            }
            _ => {}
        }
    }
}
