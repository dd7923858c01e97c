//! The ladder: how an edge gets from nothing to its result, doing as little as possible.
//!
//! 1. `Keys`: the cache map and the definition keys of all inputs are collected, and the stores are asked.
//! 2. `Raise`: no record yet. Inputs through which nothing can be found are raised first, to `CacheSlow` and then, for their content
//!    key, to `Complete`. Only when every input leads somewhere, but not to the same key, are the others raised.
//! 3. `Settled`: there is a record, which is loaded when the result is wanted; or there can be none, and then all inputs are
//!    completed and the operation runs.

use super::{
    Core,
    graph::{EdgeSlot, EdgeState, Hit, Phase, Step, TaskSlot},
    io::EdgeId,
};
use crate::TraceEvent;

/// What came of one step.
#[derive(PartialEq, Eq)]
pub(super) enum Progress {
    /// The edge is in a new phase: go on.
    Again,
    /// Something has to happen first.
    Wait,
}

/// No edge takes this many steps at one input; the driver starts anew with another core where one does.
const ROUND_LIMIT: u32 = 1 << 20;

impl<O: Clone, V: Clone> Core<O, V> {
    /// Takes an edge as far as it can go now.
    pub(super) fn advance(&mut self, edge: EdgeId) {
        let Some(state) = self.edges.get_mut(edge) else {
            return;
        };
        state.dirty = false;
        if matches!(state.phase, Phase::Forwarded(_)) {
            return;
        }
        let vertex = state.vertex;
        if state.phase == Phase::Complete {
            // A finished edge needs nothing; its vertex may still work for its other outputs. By names that came to it since, from what
            // merged into it, others find it.
            if state.look && state.unknown == 0 {
                self.look_for_twin(edge);
            }
        } else if state.desired() == EdgeState::Initial {
            self.rest(edge);
        } else {
            for round in 0.. {
                assert!(round < ROUND_LIMIT, "an edge does not come to rest");
                let state = &self.edges[edge];
                if state.look && state.unknown == 0 && self.look_for_twin(edge) {
                    break;
                }
                if self.step(edge) == Progress::Wait {
                    break;
                }
            }
        }
        self.sync(vertex);
    }

    /// Nobody wants anything of this edge: it lets go of everything that it wanted itself.
    pub(super) fn rest(&mut self, edge: EdgeId) {
        self.withdraw(edge);
        if self.edges[edge].phase == Phase::Loading && self.keep_load(edge) {
            return;
        }
        let state = &mut self.edges[edge];
        let load = state.load;
        if matches!(state.phase, Phase::Loading | Phase::Running) {
            state.phase = Phase::Settled;
        }
        self.edges[edge].load = self.wind(load);
    }

    fn step(&mut self, edge: EdgeId) -> Progress {
        match self.edges[edge].phase {
            Phase::Keys => self.step_keys(edge),
            Phase::Raise => self.step_raise(edge),
            Phase::Settled => self.step_settled(edge),
            Phase::Loading => self.step_loading(edge),
            Phase::Running => self.step_running(edge),
            Phase::Complete | Phase::Forwarded(_) => Progress::Wait,
        }
    }

    pub(super) fn enter(&mut self, edge: EdgeId, phase: Phase) -> Progress {
        let before = self.edges[edge].phase.state();
        self.edges[edge].phase = phase;
        let state = phase.state();
        if state != before {
            self.trace(|core| TraceEvent::State {
                edge: core.trace_edge(edge),
                state,
            });
            self.tell_dependents(edge, before == EdgeState::Initial);
        }
        Progress::Again
    }

    fn step_keys(&mut self, edge: EdgeId) -> Progress {
        if self.edges[edge].slots.is_empty() {
            self.step_root_keys(edge)
        } else {
            self.step_input_keys(edge)
        }
    }

    /// Without inputs: one cache map after the other, while no record is found.
    fn step_root_keys(&mut self, edge: EdgeId) -> Progress {
        let state = &self.edges[edge];
        let vertex = &self.vertices[state.vertex];
        let ignore_cache = vertex.ignore_cache;
        if let Some(map) = vertex.maps.get(state.maps_seen as usize)
            && state.queries == 0
            && state.records().is_empty()
        {
            let op = map.op;
            let key = crate::KeyId::root(op, state.output);
            self.edges[edge].maps_seen += 1;
            if ignore_cache {
                self.own_keys(edge);
                self.add_key(edge, key, super::graph::KeyUse::Record, false);
            } else {
                if self.stays_apart(edge) {
                    self.own_keys(edge);
                }
                let usage = self.use_of_found(edge);
                self.add_key(edge, key, usage, false);
                self.query_root(edge, op);
            }
            self.edges[edge].look = true;
            return Progress::Again;
        }
        if state.queries > 0 {
            self.edges[edge].need_map = false;
            return Progress::Wait;
        }
        let more = state.records().is_empty() && !vertex.maps_end;
        let state = &mut self.edges[edge];
        state.need_map = more;
        if more {
            return Progress::Wait;
        }
        state.no_match = state.records().is_empty();
        self.enter(edge, Phase::Settled)
    }

    fn step_input_keys(&mut self, edge: EdgeId) -> Progress {
        let state = &self.edges[edge];
        let vertex = &self.vertices[state.vertex];
        let (ignore_cache, map_known) = (vertex.ignore_cache, vertex.has_map);
        let count = state.slots.len();
        let state = &mut self.edges[edge];
        state.need_map = !map_known;
        state.no_match |= ignore_cache && map_known;
        if map_known && !state.no_match {
            self.probe_early(edge);
        }
        let state = &self.edges[edge];
        let complete = state.no_match && state.desired() == EdgeState::Complete;
        self.want_all(
            edge,
            if complete {
                EdgeState::Complete
            } else {
                EdgeState::CacheFast
            },
        );
        let state = &self.edges[edge];
        if !map_known
            || state.queries > 0
            || state
                .slots
                .iter()
                .any(|slot| slot.state < EdgeState::CacheFast)
        {
            return Progress::Wait;
        }
        if !state.no_match {
            let dead = (0..count).any(|slot| self.is_dead(edge, slot));
            if !dead && self.needs_query(edge) {
                self.query_inputs(edge);
                return if self.edges[edge].queries > 0 {
                    Progress::Wait
                } else {
                    Progress::Again
                };
            }
            self.edges[edge].no_match = dead;
        }
        self.own_keys(edge);
        self.edges[edge].maps_seen = 1;
        self.enter(edge, Phase::Raise)
    }

    /// Asks about inputs that will get no further keys while others are still on their way: if nothing can be found through one of
    /// them, all inputs may be completed at once.
    fn probe_early(&mut self, edge: EdgeId) {
        for slot in 0..self.edges[edge].slots.len() {
            let state = &self.edges[edge].slots[slot];
            let final_state = state.state >= EdgeState::CacheSlow;
            if final_state
                && (state.fresh || state.hit == Hit::Unknown)
                && !self.may_get_content(edge, slot)
            {
                if self.edges[edge].queries > 0 {
                    return;
                }
                self.probe(edge, slot);
                // Asked one at a time, so that the first miss saves the others.
                if self.edges[edge].queries > 0 {
                    return;
                }
            }
            if self.is_dead(edge, slot) {
                self.edges[edge].no_match = true;
                return;
            }
        }
    }

    /// Whether a query could tell more than is known: about an input by itself, or about all of them together.
    fn needs_query(&self, edge: EdgeId) -> bool {
        let state = &self.edges[edge];
        let alone = |slot: &EdgeSlot| slot.fresh || slot.hit == Hit::Unknown;
        state.slots.iter().any(alone)
            || (state.unmatched && state.slots.iter().all(|slot| slot.hit == Hit::Yes))
    }

    fn step_raise(&mut self, edge: EdgeId) -> Progress {
        let state = &self.edges[edge];
        if !state.records().is_empty() || state.no_match {
            return self.enter(edge, Phase::Settled);
        }
        if state.queries > 0 {
            return Progress::Wait;
        }
        if (0..state.slots.len()).any(|slot| self.is_dead(edge, slot)) {
            self.edges[edge].no_match = true;
            return Progress::Again;
        }
        if self.needs_query(edge) {
            self.query_inputs(edge);
            return if self.edges[edge].queries > 0 {
                Progress::Wait
            } else {
                Progress::Again
            };
        }
        if self.edges[edge].desired() < EdgeState::CacheSlow {
            self.want_all(edge, EdgeState::CacheFast);
            return Progress::Wait;
        }
        if self.raise_inputs(edge) {
            return Progress::Wait;
        }
        self.edges[edge].no_match = true;
        Progress::Again
    }

    /// Raises inputs by one rung. Returns whether any is on its way.
    fn raise_inputs(&mut self, edge: EdgeId) -> bool {
        let all_hit = self.edges[edge]
            .slots
            .iter()
            .all(|slot| slot.hit == Hit::Yes);
        // Once every input leads somewhere, no input is completed while another may still find a key without that.
        let slow_first = all_hit
            && self.edges[edge]
                .slots
                .iter()
                .any(|slot| slot.state < EdgeState::CacheSlow);
        let mut raising = false;
        for slot in 0..self.edges[edge].slots.len() {
            let state = self.edges[edge].slots[slot];
            let want = if !all_hit && state.hit == Hit::Yes {
                EdgeState::CacheFast
            } else if state.state < EdgeState::CacheSlow {
                EdgeState::CacheSlow
            } else if !slow_first && self.may_get_content(edge, slot) {
                EdgeState::Complete
            } else {
                EdgeState::CacheFast
            };
            raising |= want > EdgeState::CacheFast;
            self.want(edge, slot, want);
            let work = want == EdgeState::Complete && state.state == EdgeState::Complete;
            self.edges[edge].slots[slot].work = work;
        }
        raising
    }

    fn step_settled(&mut self, edge: EdgeId) -> Progress {
        let state = &self.edges[edge];
        let wanted = state.desired() == EdgeState::Complete;
        if let Some(record) = state.records().first().copied() {
            self.want_all(edge, EdgeState::CacheFast);
            self.edges[edge]
                .slots
                .iter_mut()
                .for_each(|slot| slot.work = false);
            if wanted && self.edges[edge].load.is_idle() {
                self.start_load(edge, record);
            }
            return Progress::Wait;
        }
        if !wanted {
            self.want_all(edge, EdgeState::CacheFast);
            self.edges[edge]
                .slots
                .iter_mut()
                .for_each(|slot| slot.work = false);
            return Progress::Wait;
        }
        self.want_all(edge, EdgeState::Complete);
        for slot in 0..self.edges[edge].slots.len() {
            let state = &mut self.edges[edge].slots[slot];
            state.work = state.state == EdgeState::Complete;
        }
        // A cancelled load or query may still be under way; neither may be overtaken by a run.
        if !self.inputs_ready(edge)
            || !self.edges[edge].load.is_idle()
            || self.edges[edge].queries > 0
        {
            return Progress::Wait;
        }
        self.own_keys(edge);
        self.enter(edge, Phase::Running)
    }

    /// Whether every input is complete and all steps on it are done.
    fn inputs_ready(&self, edge: EdgeId) -> bool {
        let state = &self.edges[edge];
        let vertex = &self.vertices[state.vertex];
        state.slots.iter().zip(&vertex.slots).all(|(slot, input)| {
            slot.state == EdgeState::Complete
                && input.preprocess != Step::Todo
                && input.slow != Step::Todo
        })
    }

    fn step_loading(&mut self, edge: EdgeId) -> Progress {
        // Who asks for less than the result may come to want it.
        if matches!(self.edges[edge].load, TaskSlot::Running(_)) {
            return Progress::Wait;
        }
        self.edges[edge].phase = Phase::Settled;
        Progress::Again
    }

    fn step_running(&mut self, edge: EdgeId) -> Progress {
        let wanted = self.edges[edge].desired() == EdgeState::Complete;
        let running = matches!(
            self.vertices[self.edges[edge].vertex].exec,
            TaskSlot::Running(_)
        );
        let ready = wanted && (running || self.inputs_ready(edge));
        self.edges[edge].need_exec = ready;
        if ready {
            return Progress::Wait;
        }
        self.edges[edge].phase = Phase::Settled;
        Progress::Again
    }
}
