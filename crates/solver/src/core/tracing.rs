//! The trace: what is live when tracing begins, and what events have in common.

use std::sync::Arc;

use super::{
    Core, Input,
    graph::{Asker, Phase, Purpose, Step, VertexId},
    io::{EdgeId, Effects, TaskId, Ticket},
};
use crate::{
    CancelCause, EdgeState, GraphSize, MergeReason, OpCall, RequestOutcome, TraceEvent, WaitReason,
};

impl<O: Clone, V: Clone> Core<O, V> {
    /// Digest of the vertex that a task works for.
    pub fn vertex_of(&self, task: TaskId) -> Option<crate::Digest> {
        let task = self.tasks.get(task)?;
        Some(self.vertices[task.vertex].digest)
    }

    /// What there is to tell of a call that waits from now on, or no more; `None` while nothing is traced, or where the call
    /// is not live.
    pub fn slot_event(&self, task: TaskId, waits: Option<WaitReason>) -> Option<TraceEvent> {
        let vertex = self.tasks.get(task).filter(|_| self.tracing)?.vertex;
        let (task, vertex) = (task.unique(), self.trace_vertex(vertex));
        Some(match waits {
            Some(reason) => TraceEvent::SlotAwaited {
                task,
                vertex,
                reason,
            },
            None => TraceEvent::SlotTaken { task, vertex },
        })
    }

    /// What there is to tell of a call or load that began this long before the trace; `None` as above, or where it is cancelled.
    pub fn under_way_event(&self, task: TaskId, micros: u64) -> Option<TraceEvent> {
        let live = self.tasks.get(task).filter(|_| self.tracing)?;
        (!live.cancelled).then(|| TraceEvent::UnderWay {
            task: task.unique(),
            vertex: self.trace_vertex(live.vertex),
            micros,
        })
    }

    /// Switches trace events on or off.
    pub fn set_tracing(&mut self, on: bool) {
        self.tracing = on;
    }

    /// Switches trace events on and tells what is live: jobs, vertices, what was loaded, states, forwards, calls, open requests.
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
        for (_, vertex) in &vertices {
            self.trace_created(*vertex);
        }
        self.trace_roots(vertices.into_iter().map(|(_, vertex)| vertex));
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
                // What they have in common now is no proof of what it was then.
                self.trace_merged(edge, target, None);
            }
        }
        let running = self.tasks.iter().filter(|(_, task)| !task.cancelled);
        let running: Vec<_> = running.map(|(id, task)| (id, task.purpose)).collect();
        for (task, purpose) in running {
            self.trace_running(task, purpose);
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
                task: asker.task(),
                edge: core.trace_edge(edge),
            });
        }
        std::mem::swap(&mut self.effects, effects);
    }

    /// Tells the roots of jobs, and of the builds that operations asked for.
    fn trace_roots(&mut self, vertices: impl Iterator<Item = VertexId>) {
        let of_jobs = self.jobs.iter().flat_map(|(_, job)| {
            let roots = job.roots.iter();
            roots.map(|root| (Some(Arc::clone(&job.id)), None, *root))
        });
        let of_vertices = vertices.flat_map(|vertex| {
            let roots = self.vertices[vertex].sub_builds().iter();
            roots.map(move |root| (None, Some(vertex), *root))
        });
        let roots: Vec<_> = of_jobs.chain(of_vertices).collect();
        for (job, parent, root) in roots {
            self.trace_loaded(job, parent, root, None);
        }
    }

    /// Tells that a task began.
    fn trace_running(&mut self, id: TaskId, purpose: Purpose) {
        match purpose {
            Purpose::CacheMap => self.trace_call(id, OpCall::CacheMap, None),
            Purpose::Exec => self.trace_call(id, OpCall::Exec, None),
            Purpose::Slot(slot) => {
                let input = &self.vertices[self.tasks[id].vertex].slots[slot as usize];
                let call = match input.preprocess {
                    Step::Todo => OpCall::Preprocess,
                    Step::Absent | Step::Done => OpCall::SlowKey,
                };
                self.trace_call(id, call, Some(slot));
            }
            Purpose::Load(edge) => {
                if let Some(record) = self.edges[edge].records().first().copied() {
                    self.trace(|core| TraceEvent::LoadStarted {
                        task: id.unique(),
                        edge: core.trace_edge(edge),
                        record: record.id,
                        source: record.source,
                    });
                }
            }
        }
    }

    pub(super) fn trace_loaded(
        &mut self,
        job: Option<Arc<str>>,
        parent: Option<VertexId>,
        root: EdgeId,
        size: Option<GraphSize>,
    ) {
        self.trace(|core| TraceEvent::Loaded {
            job,
            parent: parent.map(|parent| core.trace_vertex(parent)),
            root: core.trace_edge(root),
            id: core.edges[root].vertex.unique(),
            size,
        });
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

    pub(super) fn trace_merged(
        &mut self,
        source: EdgeId,
        target: EdgeId,
        reason: impl Into<Option<MergeReason>>,
    ) {
        self.trace(|core| TraceEvent::Merged {
            source: core.trace_edge(source),
            target: core.trace_edge(target),
            reason: reason.into(),
        });
    }

    pub(super) fn trace_answer(&mut self, request: Ticket, outcome: RequestOutcome) {
        self.trace(|_| TraceEvent::Answered { request, outcome });
    }

    /// The job that asks.
    /// How far an edge came that is to be gone; `None` where it forwards.
    pub(super) fn last_state(&self, edge: EdgeId) -> Option<EdgeState> {
        let edge = self.edges.get(edge)?;
        (!edge.is_forwarded()).then(|| edge.phase.state())
    }

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
