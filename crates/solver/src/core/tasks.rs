//! Tasks: calls of operations and loads of records, from start to cancel. Each vertex has at most one of a kind under way.

use super::{
    Core,
    graph::{Given, Phase, Purpose, Slot, Status, Step, Task, TaskSlot, VertexId},
    io::{Call, EdgeId, Effect, TaskId},
};
use crate::{OpCall, Record, TraceEvent};

impl Slot {
    /// Whether a step on the input's result has still to run.
    pub(super) fn has_work(&self) -> bool {
        self.preprocess == Step::Todo || self.slow == Step::Todo
    }
}

impl<O: Clone, V: Clone> Core<O, V> {
    fn start_task(&mut self, vertex: VertexId, purpose: Purpose, inputs: Given) -> (TaskId, O) {
        let actor = self.actor_of(vertex);
        let task = self.tasks.insert(Task {
            vertex,
            actor,
            purpose,
            cancelled: false,
            on_behalf: self.next_on_behalf(vertex),
            requests: Vec::new(),
            inputs,
        });
        self.vertices[vertex].tasks += 1;
        if actor != vertex {
            self.search.held += 1;
            self.vertices[actor].tasks += 1;
            self.vertices[actor].extra_mut().lent |= purpose == Purpose::Exec;
        }
        (task, self.vertices[actor].op.clone())
    }

    pub(super) fn start_cache_map(&mut self, vertex: VertexId) {
        let index = self.vertices[vertex].maps.len() as u32;
        let (task, op) = self.start_task(vertex, Purpose::CacheMap, Given::new());
        self.vertices[vertex].map_call = TaskSlot::Running(task);
        self.trace_call(task, OpCall::CacheMap, None);
        self.effect(Effect::Start {
            task,
            call: Call::CacheMap { op, index },
        });
    }

    /// Starts the next step on the result of an input: preparation first, then the content key.
    pub(super) fn start_slot_work(&mut self, vertex: VertexId, slot: usize) {
        let state = &self.vertices[vertex].slots[slot];
        let preprocess = state.preprocess == Step::Todo;
        let edge = self.find(state.declared);
        let input = &self.edges[edge];
        let Some(value) = input.result.clone() else {
            return;
        };
        let given = Given::from_iter([(edge, input.generation)]);
        let (task, op) = self.start_task(vertex, Purpose::Slot(slot as u32), given);
        self.vertices[vertex].slots[slot].extra_mut().task = TaskSlot::Running(task);
        let input = slot as u32;
        let (call, kind) = if preprocess {
            (Call::Preprocess { op, input, value }, OpCall::Preprocess)
        } else {
            (Call::SlowKey { op, input, value }, OpCall::SlowKey)
        };
        self.trace_call(task, kind, Some(input));
        self.effect(Effect::Start { task, call });
    }

    /// Whether the operation of a vertex runs for another one than `vertex`.
    pub(super) fn is_taken(&self, actor: VertexId, vertex: VertexId) -> bool {
        let state = &self.vertices[actor];
        let lent = state.extra.as_ref().is_some_and(|extra| extra.lent);
        lent || (actor != vertex && !state.exec.is_idle())
    }

    pub(super) fn start_exec(&mut self, vertex: VertexId) {
        let actor = self.actor_of(vertex);
        if self.is_taken(actor, vertex) {
            let borrowers = &mut self.vertices[actor].extra_mut().borrowers;
            if !borrowers.contains(&vertex) {
                borrowers.push(vertex);
            }
            return;
        }
        let mut given = Given::new();
        let mut inputs = Vec::with_capacity(self.vertices[vertex].slots.len());
        for slot in &self.vertices[vertex].slots {
            let edge = self.find(slot.declared);
            let input = &self.edges[edge];
            let Some(value) = input.result.clone() else {
                return;
            };
            given.push((edge, input.generation));
            inputs.push(value);
        }
        self.vertices[vertex].leave_builds();
        let (task, op) = self.start_task(vertex, Purpose::Exec, given);
        self.vertices[vertex].exec = TaskSlot::Running(task);
        // Where it told of itself before, it goes on: clients take another start for another stretch of time, and wait for the end of
        // each.
        let at = match self.vertices[vertex].status {
            Status::Started { at } => at,
            _ => self.now,
        };
        self.set_status(vertex, Status::Started { at });
        self.trace_call(task, OpCall::Exec, None);
        self.effect(Effect::Start {
            task,
            call: Call::Exec { op, inputs },
        });
    }

    pub(super) fn start_load(&mut self, edge: EdgeId, record: Record) {
        // What is below may be needless now.
        self.reconsider_for_requests();
        let state = &mut self.edges[edge];
        state.phase = Phase::Loading;
        let vertex = state.vertex;
        let task = self.tasks.insert(Task {
            vertex,
            actor: vertex,
            purpose: Purpose::Load(edge),
            cancelled: false,
            on_behalf: None,
            requests: Vec::new(),
            inputs: Given::new(),
        });
        self.vertices[vertex].tasks += 1;
        self.edges[edge].load = TaskSlot::Running(task);
        self.trace(|core| TraceEvent::LoadStarted {
            task: task.unique(),
            edge: core.trace_edge(edge),
            record: record.id,
            source: record.source,
        });
        self.effect(Effect::Start {
            task,
            call: Call::Load { record },
        });
    }

    /// Asks a task to end. Its outcome will not be believed; requests that its operation made are cancelled with it.
    pub(super) fn cancel_task(&mut self, task: TaskId) {
        let Some(state) = self.tasks.get_mut(task) else {
            return;
        };
        if std::mem::replace(&mut state.cancelled, true) {
            return;
        }
        let vertex = state.vertex;
        if state.actor == vertex {
            self.search.held += 1;
        }
        for request in std::mem::take(&mut state.requests) {
            self.cancel_request(request);
        }
        self.trace(|core| TraceEvent::CallCancelled {
            task: task.unique(),
            vertex: core.trace_vertex(vertex),
            cause: core.cause,
        });
        self.effect(Effect::Cancel { task });
    }

    /// The vertex whose operation is called for this one: itself, unless another one stands in.
    pub(super) fn actor_of(&self, vertex: VertexId) -> VertexId {
        let stand_in = self.vertices[vertex]
            .extra
            .as_ref()
            .and_then(|extra| extra.stand_in);
        stand_in
            .filter(|stand_in| self.vertices.contains(*stand_in))
            .unwrap_or(vertex)
    }

    /// The job that a task works for, by its slot; the first of several.
    pub fn job_of(&self, task: TaskId) -> Option<u32> {
        let task = self.tasks.get(task)?;
        let interested = || {
            let edges = self.vertices[task.vertex].edges.iter();
            edges
                .flat_map(|edge| self.edges[*edge].interest.iter())
                .next()
        };
        task.on_behalf.or_else(interested)
    }

    /// Whether the vertex of a task had a record that gave it no result that lasts.
    pub fn is_after_loss(&self, task: TaskId) -> bool {
        let Some(task) = self.tasks.get(task) else {
            return false;
        };
        let edges = self.vertices[task.vertex].edges.iter();
        edges
            .filter_map(|edge| self.edges[*edge].extra.as_ref())
            .any(|extra| extra.lost > 0 || !extra.tried.is_empty())
    }

    pub(super) fn trace_call(&mut self, id: TaskId, call: OpCall, input: Option<u32>) {
        self.trace(|core| {
            let task = &core.tasks[id];
            let actor = (task.actor != task.vertex).then(|| core.vertices[task.actor].digest);
            TraceEvent::CallStarted {
                task: id.unique(),
                vertex: core.trace_vertex(task.vertex),
                call,
                input,
                actor,
            }
        });
    }
}
