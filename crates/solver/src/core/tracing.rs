//! The trace: what is live when tracing begins, and what events have in common.

use std::sync::Arc;

use super::{
    Core, Input,
    graph::{Asker, Phase, Purpose},
    io::{EdgeId, Effects, TaskId, Ticket},
};
use crate::{CancelCause, EdgeState, MergeReason, OpCall, RequestOutcome, TraceEvent};

impl<O: Clone, V: Clone> Core<O, V> {
    /// Digest of the vertex that a task works for.
    pub fn vertex_of(&self, task: TaskId) -> Option<crate::Digest> {
        let task = self.tasks.get(task)?;
        Some(self.vertices[task.vertex].digest)
    }

    /// Switches trace events on or off.
    pub fn set_tracing(&mut self, on: bool) {
        self.tracing = on;
    }

    /// Switches trace events on and tells what is live: jobs, vertices, states, forwards, calls, open requests.
    pub fn resume_tracing(&mut self, effects: &mut Effects<O, V>) {
        self.tracing = true;
        std::mem::swap(&mut self.effects, effects);
        self.trace(|_| TraceEvent::Resumed);
        let jobs: Vec<_> = self
            .jobs
            .iter()
            .map(|(_, job)| (Arc::clone(&job.id), job.session.is_some()))
            .collect();
        for (job, session) in jobs {
            self.trace(|_| TraceEvent::JobOpened { job, session });
        }
        let mut vertices: Vec<_> = self
            .vertices
            .iter()
            .map(|(id, vertex)| (vertex.seq, id))
            .collect();
        vertices.sort_unstable();
        for (_, vertex) in vertices {
            self.trace_created(vertex);
        }
        let edges: Vec<_> = self.edges.iter().map(|(id, _)| id).collect();
        for edge in &edges {
            let state = self.edges[*edge].phase.state();
            if !self.edges[*edge].is_forwarded() && state > EdgeState::Initial {
                self.trace(|core| TraceEvent::State {
                    edge: core.trace_edge(*edge),
                    state,
                });
            }
        }
        for edge in edges {
            if let Phase::Forwarded(target) = self.edges[edge].phase {
                self.trace_merged(edge, target, MergeReason::FastKey);
            }
        }
        // Loads and work on inputs are short: they are told when they end.
        let calls: Vec<_> = self
            .tasks
            .iter()
            .filter(|(_, task)| !task.cancelled)
            .filter_map(|(id, task)| match task.purpose {
                Purpose::CacheMap => Some((id, OpCall::CacheMap)),
                Purpose::Exec => Some((id, OpCall::Exec)),
                Purpose::Slot(_) | Purpose::Load(_) => None,
            })
            .collect();
        for (task, call) in calls {
            self.trace_call(task, call, None);
        }
        let mut requests: Vec<_> = self
            .requests
            .iter()
            .map(|(ticket, request)| (*ticket, request.asker, request.edge))
            .collect();
        requests.sort_unstable_by_key(|(ticket, ..)| *ticket);
        for (request, asker, edge) in requests {
            self.trace(|core| TraceEvent::Requested {
                request,
                job: core.name_of(asker),
                edge: core.trace_edge(edge),
            });
        }
        std::mem::swap(&mut self.effects, effects);
    }

    pub(super) fn trace_created(&mut self, vertex: super::VertexId) {
        self.trace(|core| {
            let state = &core.vertices[vertex];
            let inputs = state
                .slots
                .iter()
                .map(|slot| core.trace_input(slot.declared));
            TraceEvent::VertexCreated {
                vertex: core.trace_vertex(vertex),
                name: Arc::clone(&state.label.name),
                inputs: inputs.collect(),
                ignore_cache: state.ignore_cache,
                never_merge: state.never_merge,
            }
        });
    }

    pub(super) fn trace_merged(&mut self, source: EdgeId, target: EdgeId, reason: MergeReason) {
        self.trace(|core| TraceEvent::Merged {
            source: core.trace_edge(source),
            target: core.trace_edge(target),
            reason,
        });
    }

    pub(super) fn trace_answer(&mut self, request: Ticket, outcome: RequestOutcome) {
        self.trace(|_| TraceEvent::Answered { request, outcome });
    }

    /// The job that asks.
    pub(super) fn name_of(&self, asker: Asker) -> Option<Arc<str>> {
        match asker {
            Asker::Job(job) => Some(Arc::clone(&self.jobs.get(job)?.id)),
            Asker::Task(_) => None,
        }
    }

    /// By what two edges that are to be merged are equal: by content where an input has no definition key in common.
    pub(super) fn merge_reason(&self, source: EdgeId, target: EdgeId) -> MergeReason {
        let slots = &self.vertices[self.edges[source].vertex].slots;
        let others = &self.vertices[self.edges[target].vertex].slots;
        let by_definition = slots.iter().zip(others).all(|(slot, other)| {
            let (a, b) = (self.find(slot.declared), self.find(other.declared));
            let keys = &self.edges[b].keys;
            a == b
                || self.edges[a]
                    .keys
                    .iter()
                    .any(|key| keys.iter().any(|other| other.id == key.id))
        });
        if by_definition {
            MergeReason::FastKey
        } else {
            MergeReason::SlowKey
        }
    }
}

impl<O, V> Input<O, V> {
    /// Why tasks are cancelled that end because of this input, unless something else is known.
    pub(super) fn cancel_cause(&self) -> CancelCause {
        match self {
            Self::Cancel { .. } => CancelCause::RequestCancelled,
            Self::Discard { .. } => CancelCause::JobDiscarded,
            Self::Rebuild { .. } => CancelCause::Failed,
            _ => CancelCause::NotNeeded,
        }
    }
}
