//! Failures: whether a failed call is final, and who hears of it.

use std::sync::Arc;

use super::{
    Core, EdgeState, faulty,
    graph::{Phase, Purpose, Status, Task, TaskSlot, VertexId},
    io::EdgeId,
    jobset::JobSet,
};
use crate::{Failure, OpCall, OpError, OpFailure, TraceEvent};

impl<O: Clone, V: Clone> Core<O, V> {
    /// A call of an operation failed. It may be repeated, with another operation or a new input; otherwise everyone who waits for it
    /// hears of it.
    pub(super) fn call_failed(&mut self, task: &Task, call: OpCall, error: OpError) {
        let vertex = task.vertex;
        match &error {
            OpError::LostInput { input, .. } => {
                let at = if matches!(task.purpose, Purpose::Slot(_)) {
                    0
                } else {
                    *input as usize
                };
                if let Some((edge, generation)) = task.inputs.get(at).copied() {
                    return self.input_lost(vertex, edge, generation);
                }
            }
            OpError::Gone(error) if self.fall_back(task) => {
                return self
                    .tell_of_retry(vertex, format!("tried again for another build: {error}"));
            }
            _ => {}
        }
        self.calls_succeed(vertex);
        let failure = self.op_failure(task, call, error);
        self.set_failed(vertex, failure.reason().to_string().into());
        let failure = Failure::Op {
            failure: Arc::new(failure),
            inputs: self.given(task),
        };
        for edge in self.vertices[vertex].edges.clone() {
            if self.needs_call(edge, task.purpose) {
                self.fail(edge, failure.clone());
            }
        }
    }

    /// The results that a call was given.
    fn given(&self, task: &Task) -> Arc<[V]> {
        let inputs = task.inputs.iter();
        inputs
            .filter_map(|(edge, _)| self.edges.get(*edge)?.result.clone())
            .collect()
    }

    fn op_failure(&self, task: &Task, call: OpCall, error: OpError) -> OpFailure {
        let vertex = &self.vertices[task.vertex];
        let input = if let Purpose::Slot(slot) = task.purpose {
            Some(slot)
        } else {
            None
        };
        let sources = vertex.edges.iter().flat_map(|edge| self.sources_of(*edge));
        let digests = sources.map(|source| self.vertices[self.edges[source].vertex].digest);
        let mut merged: Vec<_> = digests.filter(|digest| *digest != vertex.digest).collect();
        merged.sort_unstable();
        merged.dedup();
        OpFailure {
            vertex: vertex.digest,
            merged: merged.into(),
            name: vertex.label.name.clone(),
            description: vertex.label.description.clone(),
            call,
            input,
            error,
        }
    }

    pub(super) fn needs_call(&self, edge: EdgeId, purpose: Purpose) -> bool {
        let edge = &self.edges[edge];
        match purpose {
            Purpose::CacheMap => edge.need_map,
            Purpose::Slot(slot) => edge.slots[slot as usize].work,
            Purpose::Exec => edge.need_exec,
            Purpose::Load(_) => false,
        }
    }

    /// The result that a call was given is lost: it is made anew, and then the call is repeated.
    fn input_lost(&mut self, vertex: VertexId, edge: EdgeId, generation: u32) {
        let lost = if self.edges.contains(edge) {
            self.lose(edge, generation)
        } else {
            Ok(())
        };
        let edges = self.vertices[vertex].edges.clone();
        match lost {
            Ok(()) => {
                edges
                    .into_iter()
                    .for_each(|edge| self.edges[edge].need_exec = false);
                // Whoever lost it has told the cause, once for all that needs it.
                self.tell_of_retry(vertex, "an input is made anew");
            }
            Err(failure) => {
                for edge in edges {
                    if self.edges[edge].need_exec
                        || self.edges[edge].slots.iter().any(|slot| slot.work)
                    {
                        self.fail(edge, failure.clone());
                    }
                }
            }
        }
    }

    /// Lets the operation of another interested job stand in for one whose needs went away. Returns whether there is one.
    fn fall_back(&mut self, task: &Task) -> bool {
        let (vertex, actor) = (task.vertex, task.actor);
        if faulty!(self, FallbackDropped) {
            return false;
        }
        if actor == vertex && self.try_for_another(vertex, task.on_behalf) {
            return true;
        }
        self.vertices[vertex].extra_mut().given_up.push(actor);
        let merged = self.vertices[vertex]
            .edges
            .iter()
            .flat_map(|edge| self.sources_of(*edge));
        let next = merged
            .filter(|source| !self.edges[*source].interest.is_empty())
            .map(|source| self.edges[source].vertex)
            .find(|source| self.may_stand_in(vertex, *source));
        if let Some(next) = next {
            self.vertices[vertex].extra_mut().stand_in = Some(next);
            self.trace(|core| TraceEvent::Fallback {
                vertex: core.vertices[vertex].digest,
                next: core.vertices[next].digest,
            });
        }
        next.is_some()
    }

    /// Lets the same operation try again for another job that loaded it: equal digests mean equal operations, but what they need
    /// belongs to a job. Returns whether there is one.
    fn try_for_another(&mut self, vertex: VertexId, failed_for: Option<u32>) -> bool {
        let given_up = &mut self.vertices[vertex].extra_mut().given_up_jobs;
        failed_for.map(|job| given_up.insert(job));
        let again = self.next_on_behalf(vertex).is_some();
        if again {
            self.vertices[vertex].extra_mut().stand_in = None;
            self.trace(|core| TraceEvent::Fallback {
                vertex: core.vertices[vertex].digest,
                next: core.vertices[vertex].digest,
            });
        }
        again
    }

    /// The job whose needs a call for this vertex works with first: one that loaded it, and was not tried in vain.
    pub(super) fn next_on_behalf(&self, vertex: VertexId) -> Option<u32> {
        let state = &self.vertices[vertex];
        let given_up = state.extra.as_ref().map(|extra| &extra.given_up_jobs);
        let mut loaded = state.loaded.iter();
        loaded.find(|job| given_up.is_none_or(|given_up| !given_up.contains(*job)))
    }

    fn may_stand_in(&self, vertex: VertexId, source: VertexId) -> bool {
        let given_up = self.vertices[vertex]
            .extra
            .as_ref()
            .is_some_and(|extra| extra.given_up.contains(&source));
        // An operation that runs for its own vertex is left alone: it may be waiting for this one.
        !given_up
            && !matches!(self.vertices[source].exec, TaskSlot::Running(_))
            && !self.is_taken(source, source)
    }

    /// A call went through, or its failure is final: the own operation is tried first again next time.
    pub(super) fn calls_succeed(&mut self, vertex: VertexId) {
        if let Some(extra) = &mut self.vertices[vertex].extra {
            extra.stand_in = None;
            extra.given_up.clear();
            extra.given_up_jobs = JobSet::default();
        }
    }

    /// Fails everyone who waits for more of an edge than it has reached, all the way up. What is left is as if the failed step had
    /// never been taken: a later request takes it anew.
    pub(super) fn fail(&mut self, edge: EdgeId, failure: Failure<V>) {
        let mut work = vec![(edge, self.edges[edge].phase.state())];
        while let Some((edge, reached)) = work.pop() {
            for dependent in &self.edges[edge].dependents {
                for consumer in &self.vertices[dependent.vertex].edges {
                    let state = &self.edges[*consumer];
                    if state.is_forwarded() || state.slots[dependent.slot as usize].want <= reached
                    {
                        continue;
                    }
                    // An edge that completes its inputs early still owes its keys to those who want no more.
                    let early = state.phase == Phase::Keys && reached >= EdgeState::CacheFast;
                    work.push((
                        *consumer,
                        if early {
                            EdgeState::CacheSlow
                        } else {
                            state.phase.state()
                        },
                    ));
                }
            }
            self.fail_requests(edge, &failure);
            if !faulty!(self, FailureKeptForLater) {
                self.rest(edge);
                self.touch(edge);
            }
        }
    }

    /// Marks a vertex as failed for those who hear of it.
    fn set_failed(&mut self, vertex: VertexId, text: Arc<str>) {
        let from = self.started_at(vertex);
        self.vertices[vertex].extra_mut().error = Some(text);
        self.set_status(vertex, Status::Failed { from, at: self.now });
    }
}
