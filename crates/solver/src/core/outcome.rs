//! Outcomes of tasks: what is believed changes the graph, what comes from a cancelled task is released.

use super::{
    Core, EdgeState, faulty,
    graph::{Dependent, Map, Phase, Purpose, Status, Step, Task, TaskSlot, VertexId},
    io::{EdgeId, Effect, LoadFailure, Outcome, TaskId},
};
use crate::{
    CacheMap, CancelCause, Digest, Failure, KeyId, OpCall, OpError, Record, TraceEvent,
    digest::salted,
};

/// How often one edge may lose its result, with nobody who could use it in between, before requests for it fail.
const LOSS_LIMIT: u32 = 4;

impl<O: Clone, V: Clone> Core<O, V> {
    pub(super) fn finished(&mut self, id: TaskId, outcome: Outcome<V>) {
        let Some(task) = self.tasks.remove(id) else {
            return self.discard_outcome(outcome);
        };
        for request in &task.requests {
            self.cancel_request(*request);
        }
        self.let_go(&task);
        let too_late = task.cancelled
            && !(faulty!(self, CancelledResultBelieved)
                && matches!(outcome, Outcome::Exec(Ok(_)) | Outcome::Load(Ok(_))))
            && !(faulty!(self, CancelRecorded) && matches!(outcome, Outcome::Exec(Err(_))));
        let in_vain = !too_late && outcome.is_failed_call() && self.is_only_kept(&task);
        if in_vain {
            self.give_up_kept(id, &task);
        }
        let believed = self.clear_slot(id, &task) && !too_late && !in_vain;
        if believed {
            self.trace_end(id, &task, &outcome);
            let came_to_nothing = matches!(outcome, Outcome::Exec(Err(_)));
            self.believe(&task, outcome);
            if came_to_nothing {
                self.forget_stale(&task);
            }
        } else {
            self.trace(|core| TraceEvent::CallDropped {
                task: id.unique(),
                vertex: core.trace_vertex(task.vertex),
            });
            self.discard_outcome(outcome);
            self.forget_stale(&task);
        }
        if self.vertices.contains(task.vertex) && !faulty!(self, WakeUpLost) {
            self.touch_all(task.vertex);
        }
        self.call_borrowers(&task);
        self.free_vertex_if_unowned(task.vertex);
        self.suspect_vertex(task.vertex);
        if task.actor != task.vertex {
            self.free_vertex_if_unowned(task.actor);
            self.suspect_vertex(task.actor);
        }
    }

    /// The operation is free again: whoever waited to run it may go on.
    fn call_borrowers(&mut self, task: &Task) {
        // A vertex that runs through another one's operation keeps its own from borrowers as well.
        for lender in [task.actor, task.vertex] {
            let Some(extra) = &mut self.vertices[lender].extra else {
                continue;
            };
            for borrower in std::mem::take(&mut extra.borrowers) {
                if self.vertices.contains(borrower) {
                    self.touch_all(borrower);
                }
            }
        }
    }

    fn let_go(&mut self, task: &Task) {
        if task.cancelled || task.actor != task.vertex {
            self.search.held -= 1;
        }
        self.vertices[task.vertex].tasks -= 1;
        if task.actor != task.vertex {
            let actor = &mut self.vertices[task.actor];
            actor.tasks -= 1;
            if task.purpose == Purpose::Exec {
                actor.extra_mut().lent = false;
            }
        }
    }

    /// Empties the slot that the task was in. Returns whether it was there.
    fn clear_slot(&mut self, id: TaskId, task: &Task) -> bool {
        let vertex = &mut self.vertices[task.vertex];
        let slot = match task.purpose {
            Purpose::CacheMap => &mut vertex.map_call,
            Purpose::Exec => &mut vertex.exec,
            Purpose::Slot(slot) => &mut vertex.slots[slot as usize].extra_mut().task,
            Purpose::Load(edge) => match self.edges.get_mut(edge) {
                Some(edge) => &mut edge.load,
                None => return false,
            },
        };
        let there = *slot == TaskSlot::Running(id) || *slot == TaskSlot::Winding(id);
        if there {
            *slot = TaskSlot::Idle;
        }
        there
    }

    /// Tells the trace how a task ended.
    fn trace_end(&mut self, id: TaskId, task: &Task, outcome: &Outcome<V>) {
        if !self.tracing {
            return;
        }
        let (id, vertex) = (id.unique(), self.trace_vertex(task.vertex));
        let ended = |call, digest, error: Option<&OpError>| TraceEvent::CallEnded {
            task: id,
            vertex,
            call,
            digest,
            error: error.map(|error| error.to_string().into()),
        };
        let event = match outcome {
            Outcome::CacheMap(Ok(map)) => ended(OpCall::CacheMap, Some(map.digest), None),
            Outcome::CacheMap(Err(error)) => ended(OpCall::CacheMap, None, Some(error)),
            Outcome::Preprocess(outcome) => ended(OpCall::Preprocess, None, outcome.as_ref().err()),
            Outcome::SlowKey(Ok(key)) => ended(OpCall::SlowKey, *key, None),
            Outcome::SlowKey(Err(error)) => ended(OpCall::SlowKey, None, Some(error)),
            Outcome::Exec(outcome) => ended(OpCall::Exec, None, outcome.as_ref().err()),
            Outcome::Load(outcome) => {
                let Purpose::Load(edge) = task.purpose else {
                    return;
                };
                let record = self.edges[edge].records().first().map(|record| record.id);
                let edge = self.trace_edge(edge);
                match (outcome, record) {
                    (Err(failure), Some(record)) => TraceEvent::LoadFailed {
                        task: id,
                        edge,
                        record,
                        reason: failure.reason.clone(),
                    },
                    _ => TraceEvent::LoadEnded { task: id, edge },
                }
            }
        };
        self.effects.trace.push(event);
    }

    fn discard_outcome(&mut self, outcome: Outcome<V>) {
        match outcome {
            Outcome::Exec(Ok(values)) => self.effects.released.extend(values),
            Outcome::Load(Ok(value)) => self.effects.released.push(value),
            _ => {}
        }
    }

    fn believe(&mut self, task: &Task, outcome: Outcome<V>) {
        let vertex = task.vertex;
        match (task.purpose, outcome) {
            (Purpose::CacheMap, Outcome::CacheMap(Ok(map))) => self.take_map(vertex, map),
            (Purpose::CacheMap, Outcome::CacheMap(Err(error))) => {
                self.call_failed(task, OpCall::CacheMap, error)
            }
            (Purpose::Slot(slot), Outcome::Preprocess(Ok(()))) => {
                self.vertices[vertex].slots[slot as usize].preprocess = Step::Done;
            }
            (Purpose::Slot(_), Outcome::Preprocess(Err(error))) => {
                self.call_failed(task, OpCall::Preprocess, error)
            }
            (Purpose::Slot(slot), Outcome::SlowKey(Ok(key))) => {
                self.take_content(vertex, slot as usize, key)
            }
            (Purpose::Slot(_), Outcome::SlowKey(Err(error))) => {
                self.call_failed(task, OpCall::SlowKey, error)
            }
            (Purpose::Load(edge), Outcome::Load(Ok(value))) => self.loaded(edge, value),
            (Purpose::Load(edge), Outcome::Load(Err(failure))) => self.load_failed(edge, failure),
            (Purpose::Exec, Outcome::Exec(Ok(values))) => {
                self.results_are_good(task);
                self.executed(vertex, values);
            }
            (Purpose::Exec, Outcome::Exec(Err(error))) => {
                self.call_failed(task, OpCall::Exec, error)
            }
            // An outcome of another kind than the call can only be a driver's mistake.
            (_, outcome) => self.discard_outcome(outcome),
        }
    }

    /// What a call that went through was given is not lost again and again.
    fn results_are_good(&mut self, task: &Task) {
        for (input, generation) in &task.inputs {
            if let Some(input) = self.edges.get_mut(*input)
                && input.generation == *generation
                && let Some(extra) = &mut input.extra
            {
                extra.lost = 0;
            }
        }
    }

    fn take_map(&mut self, vertex: VertexId, map: CacheMap) {
        self.calls_succeed(vertex);
        let domain = self.vertices[vertex]
            .domain
            .as_deref()
            .copied()
            .filter(|_| !faulty!(self, DomainsShared));
        let state = &mut self.vertices[vertex];
        // A public vertex finds what public ones of any domain made, and nothing else: of the domain without a name, too.
        let op = match domain {
            _ if state.public => salted(Digest::of(b"public"), map.digest),
            Some(domain) => salted(domain, map.digest),
            None => map.digest,
        };
        if !state.has_map {
            for (slot, input) in state.slots.iter_mut().zip(&map.inputs) {
                state.has_steps |= input.preprocess || input.slow_key;
                slot.preprocess = if input.preprocess {
                    Step::Todo
                } else {
                    Step::Absent
                };
                slot.slow = if input.slow_key {
                    Step::Todo
                } else {
                    Step::Absent
                };
            }
        }
        let selectors = || {
            let inputs = map.inputs.iter().take(state.slots.len());
            inputs.map(|input| input.selector)
        };
        let selectors = selectors()
            .any(|selector| selector.is_some())
            .then(|| selectors().collect());
        state.maps_end = !map.more || !state.slots.is_empty();
        state.maps.push(Map { op, selectors });
        state.has_map = true;
        for edge in state.edges.clone() {
            let state = &mut self.edges[edge];
            state.look = true;
            // Each says anew whether it needs another one: the first to go on would have one called for the others as well.
            state.need_map = false;
        }
    }

    /// A content key: one more name for the input, which may find a record or a live edge.
    fn take_content(&mut self, vertex: VertexId, slot: usize, key: Option<Digest>) {
        self.calls_succeed(vertex);
        let state = &mut self.vertices[vertex].slots[slot];
        state.slow = Step::Done;
        state.extra_mut().content = key.map(KeyId::content);
        if key.is_none() {
            return;
        }
        for edge in self.vertices[vertex].edges.clone() {
            self.edges[edge].names_came_in(slot);
        }
    }

    fn loaded(&mut self, edge: EdgeId, value: V) {
        let state = &self.edges[edge];
        if state.phase != Phase::Loading {
            return self.effects.released.push(value);
        }
        let vertex = state.vertex;
        let record = state.records().first().copied();
        self.complete(edge, value, record);
        if record.is_some_and(|record| record.source != crate::CacheSourceId::LOCAL) {
            // What came from elsewhere is found here next time.
            self.save_chain(edge);
            let value = self.edges[edge].result.clone();
            self.save(edge, value);
        } else if self.has_several_names(edge) {
            self.save(edge, None);
        }
        self.vertices[vertex].leave_builds();
        self.set_cached(vertex);
    }

    fn load_failed(&mut self, edge: EdgeId, failure: LoadFailure) {
        let state = &mut self.edges[edge];
        if state.phase != Phase::Loading {
            return;
        }
        state.phase = Phase::Settled;
        let extra = state.extra_mut();
        if extra.records.is_empty() {
            return;
        }
        let record = extra.records.remove(0);
        extra.tried.push(record);
        if extra.records.is_empty() {
            self.after_last_record(edge);
        }
        if failure.gone {
            self.effect(Effect::DropRecord { record });
        }
    }

    /// No record is left to load. A root may have further cache maps, content keys may find another record.
    fn after_last_record(&mut self, edge: EdgeId) {
        let state = &mut self.edges[edge];
        let more_maps = state.slots.is_empty() && !self.vertices[state.vertex].maps_end;
        state.no_match = state.slots.is_empty() && !more_maps;
        self.enter(edge, if more_maps { Phase::Keys } else { Phase::Raise });
    }

    fn executed(&mut self, vertex: VertexId, values: Vec<V>) {
        self.calls_succeed(vertex);
        let returned = values.len() as u32;
        let mut values: Vec<Option<V>> = values.into_iter().map(Some).collect();
        self.set_status(
            vertex,
            Status::Completed {
                from: self.started_at(vertex),
                at: self.now,
            },
        );
        for edge in self.vertices[vertex].edges.clone() {
            let Some(state) = self.edges.get(edge) else {
                continue;
            };
            if matches!(state.phase, Phase::Complete | Phase::Forwarded(_)) {
                continue;
            }
            let output = state.output;
            match values.get_mut(output as usize).and_then(Option::take) {
                Some(value) => {
                    self.complete(edge, value, None);
                    let value = self.edges[edge].result.clone();
                    self.save(edge, value);
                }
                None if self.edges[edge].need_exec => {
                    let state = &self.vertices[vertex];
                    let (vertex, name) = (state.digest, state.label.name.clone());
                    self.fail(
                        edge,
                        Failure::MissingOutput {
                            vertex,
                            name,
                            output,
                            returned,
                        },
                    );
                }
                None => {}
            }
        }
        let unwanted = values.into_iter().flatten();
        if faulty!(self, OutputLeaked) {
            unwanted.for_each(std::mem::forget);
        } else {
            self.effects.released.extend(unwanted);
        }
    }

    /// The edge has its result: everyone who waited is served, nothing is wanted of the inputs any more.
    fn complete(&mut self, edge: EdgeId, value: V, record: Option<Record>) {
        let load = self.edges[edge].load;
        let load = self.wind(load);
        self.withdraw(edge);
        let silent = self.edges[edge].phase == Phase::Keys;
        self.own_keys(edge);
        let state = &mut self.edges[edge];
        state.load = load;
        state.phase = Phase::Complete;
        state.generation += 1;
        if let Some(extra) = &mut state.extra {
            extra.records = Vec::new();
            extra.tried = Vec::new();
            extra.loaded_from = record;
        }
        self.effects.released.extend(state.result.replace(value));
        self.trace(|core| TraceEvent::State {
            edge: core.trace_edge(edge),
            state: EdgeState::Complete,
        });
        self.tell_dependents(edge, silent);
        self.answer_requests(edge);
        if !self.edges[edge].indexed || self.edges[edge].look {
            // It got here without looking for itself, or by all its names; others may be on their way to the same result.
            self.look_for_twin(edge);
        }
    }

    /// A result turned out to be worthless: the edge is executed anew, with everything above it waiting. Does nothing where the edge has
    /// another result by now.
    pub(super) fn lose(&mut self, edge: EdgeId, generation: u32) -> Result<(), Failure<V>> {
        let state = &mut self.edges[edge];
        if state.phase != Phase::Complete || state.generation != generation {
            return Ok(());
        }
        let vertex = state.vertex;
        let extra = state.extra_mut();
        if extra.lost == LOSS_LIMIT {
            let times = extra.lost;
            let vertex = &self.vertices[vertex];
            return Err(Failure::ResultLost {
                vertex: vertex.digest,
                name: vertex.label.name.clone(),
                times,
            });
        }
        extra.lost += 1;
        let record = extra.loaded_from.take();
        state.phase = Phase::Settled;
        state.no_match = true;
        state.epoch += 1;
        state.queries = 0;
        self.cause = CancelCause::Failed;
        self.trace(|core| TraceEvent::ResultLost {
            edge: core.trace_edge(edge),
        });
        if let Some(value) = self.edges[edge].result.take() {
            self.effect(Effect::Lost { value, record });
        }
        if !faulty!(self, LossNotTold) {
            self.forget_contents(edge);
            self.tell_dependents(edge, false);
        }
        self.touch(edge);
        Ok(())
    }

    /// What dependents learnt from a result that is lost has to be learnt anew: another may come in its place.
    fn forget_contents(&mut self, edge: EdgeId) {
        let lost = self.edges[edge].generation;
        let mut renamed = Vec::new();
        for at in 0..self.edges[edge].dependents.len() {
            let Dependent { vertex, slot } = &self.edges[edge].dependents[at];
            let (vertex, slot) = (*vertex, *slot as usize);
            // What runs with the lost result comes to what belongs to its content, not to that of the next.
            if !self.executes_with(vertex, edge, lost) {
                self.forget_content(vertex, slot, &mut renamed);
            }
        }
        self.forget_names_above(renamed);
    }

    fn executes_with(&self, vertex: VertexId, input: EdgeId, generation: u32) -> bool {
        let TaskSlot::Running(task) = self.vertices[vertex].exec else {
            return false;
        };
        let given = self.tasks.get(task).map(|task| &task.inputs);
        given.is_some_and(|given| given.contains(&(input, generation)))
    }

    /// A run that came to nothing, and had inputs that were lost meanwhile: the next has others.
    fn forget_stale(&mut self, task: &Task) {
        if task.purpose != Purpose::Exec || !self.vertices.contains(task.vertex) {
            return;
        }
        let mut renamed = Vec::new();
        for slot in 0..self.vertices[task.vertex].slots.len() {
            let input = self.find(self.vertices[task.vertex].slots[slot].declared);
            let state = &self.edges[input];
            let is_current = state.phase == Phase::Complete;
            let mut given = task.inputs.iter();
            if given.any(|(of, with)| *of == input && !(is_current && state.generation == *with)) {
                self.forget_content(task.vertex, slot, &mut renamed);
            }
        }
        self.forget_names_above(renamed);
    }

    fn forget_content(&mut self, vertex: VertexId, slot: usize, renamed: &mut Vec<EdgeId>) {
        let state = &mut self.vertices[vertex].slots[slot];
        let again = |step| {
            if step == Step::Absent {
                Step::Absent
            } else {
                Step::Todo
            }
        };
        (state.preprocess, state.slow) = (again(state.preprocess), again(state.slow));
        let mut had_content = false;
        if let Some(extra) = &mut state.extra {
            had_content = extra.content.take().is_some();
            let task = extra.task;
            let task = self.wind(task);
            self.vertices[vertex].slots[slot].extra_mut().task = task;
        }
        for consumer in self.vertices[vertex].edges.clone() {
            self.unindex(consumer);
            self.edges[consumer].look = true;
            // What merged here may have done so by the content alone.
            if self.forget_links(consumer, slot) || had_content {
                self.edges[consumer].names_came_in(slot);
                if self.forget_found_keys(consumer) {
                    renamed.push(consumer);
                }
                self.touch(consumer);
            }
        }
    }

    /// Whether there were names of an input that only merged edges knew.
    fn forget_links(&mut self, edge: EdgeId, slot: usize) -> bool {
        let Some(extra) = &mut self.edges[edge].extra else {
            return false;
        };
        let known = extra.links.len();
        extra.links.retain(|(of, _)| *of as usize != slot);
        extra.links.len() < known
    }

    /// Keys for inputs with names that are not theirs any more, from a store or from what merged: what is recorded under them is not what
    /// comes next. Whether there were any.
    fn forget_found_keys(&mut self, edge: EdgeId) -> bool {
        let state = &mut self.edges[edge];
        if matches!(state.phase, Phase::Complete | Phase::Forwarded(_)) {
            return false;
        }
        // Answers that are on their way were asked for with such names.
        state.epoch += 1;
        state.queries = 0;
        let known = std::mem::take(&mut state.keys);
        if !known.is_empty() && state.phase != Phase::Keys {
            self.own_keys(edge);
        }
        let own = &self.edges[edge].keys;
        known
            .iter()
            .any(|known| !own.iter().any(|own| own.id == known.id))
    }

    /// As [`Self::forget_found_keys`] for all that is above edges that lost such keys, and was found by them.
    fn forget_names_above(&mut self, mut renamed: Vec<EdgeId>) {
        while let Some(edge) = renamed.pop() {
            for at in 0..self.edges[edge].dependents.len() {
                let Dependent { vertex, slot } = &self.edges[edge].dependents[at];
                let (vertex, slot) = (*vertex, *slot as usize);
                for consumer in self.vertices[vertex].edges.clone() {
                    self.unindex(consumer);
                    self.forget_links(consumer, slot);
                    self.edges[consumer].names_came_in(slot);
                    if self.forget_found_keys(consumer) {
                        renamed.push(consumer);
                    }
                    self.touch(consumer);
                }
            }
        }
    }
}

impl<V> Outcome<V> {
    /// Whether a call of an operation failed.
    fn is_failed_call(&self) -> bool {
        match self {
            Self::CacheMap(outcome) => outcome.is_err(),
            Self::Preprocess(outcome) => outcome.is_err(),
            Self::SlowKey(outcome) => outcome.is_err(),
            Self::Exec(outcome) => outcome.is_err(),
            Self::Load(_) => false,
        }
    }
}
