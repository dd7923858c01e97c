//! Jobs: opening, requests, sessions, discarding.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc};

use super::{
    Core, Input, Reply,
    arena::Id,
    faulty,
    graph::{Asker, JobState, Phase, Request},
    io::{Built, EdgeId, JobId, RootId, SessionNo, TaskId, Ticket},
};
use crate::{Digest, Failure, RequestOutcome, TraceEvent};

/// Small numbers for live jobs, so that sets of jobs are small.
#[derive(Default)]
pub(super) struct Slots {
    jobs: Vec<Option<JobId>>,
    free: BinaryHeap<Reverse<u32>>,
}

impl Slots {
    fn take(&mut self) -> u32 {
        self.free.pop().map_or_else(
            || {
                self.jobs.push(None);
                self.jobs.len() as u32 - 1
            },
            |Reverse(slot)| slot,
        )
    }

    fn set(&mut self, slot: u32, job: Option<JobId>) {
        if let Some(place) = self.jobs.get_mut(slot as usize) {
            *place = job;
        }
        if job.is_none() {
            self.free.push(Reverse(slot));
        }
    }

    /// The job in this slot.
    pub(super) fn job(&self, slot: u32) -> Option<JobId> {
        self.jobs.get(slot as usize).copied().flatten()
    }
}

impl<O: Clone, V: Clone> Core<O, V> {
    pub(super) fn open_job(
        &mut self,
        ticket: Ticket,
        id: Arc<str>,
        domain: Option<Digest>,
        session: Option<SessionNo>,
    ) {
        if self.job_names.contains_key(&id) {
            return self.reply(ticket, Err(Failure::DuplicateJob { job: id }));
        }
        let slot = self.job_slots.take();
        let job = self.jobs.insert(JobState {
            id: Arc::clone(&id),
            slot,
            domain,
            session,
            subscribed: false,
            roots: Vec::new(),
            unasked: Vec::new(),
            touched: Vec::new(),
            requests: Vec::new(),
            was_answered: false,
        });
        self.job_slots.set(slot, Some(job));
        self.trace(|_| TraceEvent::JobOpened {
            job: Arc::clone(&id),
            session: session.is_some(),
        });
        self.job_names.insert(id, job);
        self.reply(ticket, Ok(Reply::Job(job)));
    }

    pub(super) fn set_session(&mut self, job: JobId, session: Option<SessionNo>) {
        let Some(job) = self.jobs.get_mut(job) else {
            return;
        };
        job.session = session;
        let job = Arc::clone(&job.id);
        self.trace(|_| TraceEvent::SessionChanged {
            job,
            session: session.is_some(),
        });
    }

    pub(super) fn build(&mut self, ticket: Ticket, job: JobId, root: RootId) {
        if let Some(edge) = self.checked_root(ticket, job, root) {
            self.ask(ticket, Asker::Job(job), edge);
            self.asked(job, edge);
        }
    }

    pub(super) fn rebuild(&mut self, ticket: Ticket, job: JobId, root: RootId, generation: u32) {
        let Some(edge) = self.checked_root(ticket, job, root) else {
            return;
        };
        self.asked(job, edge);
        let edge = self.find(edge);
        match self.lose(edge, generation) {
            Ok(()) => self.ask(ticket, Asker::Job(job), edge),
            Err(failure) => self.reply(ticket, Err(failure)),
        }
    }

    /// The edge of a root, if the job is alive and loaded it; otherwise the request is answered.
    pub(super) fn checked_root(
        &mut self,
        ticket: Ticket,
        job: JobId,
        root: RootId,
    ) -> Option<EdgeId> {
        let Some(state) = self.jobs.get(job) else {
            self.reply(ticket, Err(Failure::Discarded));
            return None;
        };
        if !self
            .edges
            .get(root.0)
            .is_some_and(|edge| edge.interest.contains(state.slot))
        {
            let job = Arc::clone(&state.id);
            self.reply(ticket, Err(Failure::ForeignRoot { job }));
            return None;
        }
        Some(root.0)
    }

    /// Adds a request for the result of an edge, or answers it where the result is there.
    pub(super) fn ask(&mut self, ticket: Ticket, asker: Asker, edge: EdgeId) {
        let edge = self.find(edge);
        self.trace(|core| TraceEvent::Requested {
            request: ticket,
            job: core.name_of(asker),
            task: asker.task(),
            edge: core.trace_edge(edge),
        });
        if self.edges[edge].phase == Phase::Complete {
            return self.answer_built(ticket, edge);
        }
        self.requests.insert(ticket, Request { asker, edge });
        self.edges[edge].requests.push(ticket);
        match asker {
            Asker::Job(job) => self.jobs[job].requests.push(ticket),
            Asker::Task(task) => self.tasks[task].requests.push(ticket),
        }
        self.touch(edge);
    }

    fn answer_built(&mut self, ticket: Ticket, edge: EdgeId) {
        let state = &self.edges[edge];
        let Some(value) = state.result.clone() else {
            return;
        };
        self.trace_answer(ticket, RequestOutcome::Built);
        let keys = self.record_keys(edge);
        let generation = self.edges[edge].generation;
        self.reply(
            ticket,
            Ok(Reply::Built(Built {
                value,
                keys,
                generation,
            })),
        );
    }

    /// Answers every request for a complete edge.
    pub(super) fn answer_requests(&mut self, edge: EdgeId) {
        for ticket in std::mem::take(&mut self.edges[edge].requests) {
            self.forget_request(ticket);
            self.answer_built(ticket, edge);
        }
    }

    /// Fails every request for an edge.
    pub(super) fn fail_requests(&mut self, edge: EdgeId, failure: &Failure<V>) {
        for ticket in std::mem::take(&mut self.edges[edge].requests) {
            self.forget_request(ticket);
            self.trace_answer(ticket, RequestOutcome::Failed);
            self.reply(ticket, Err(failure.clone()));
        }
    }

    /// Removes a request that is no longer in its edge's list.
    fn forget_request(&mut self, ticket: Ticket) {
        let Some(request) = self.requests.remove(&ticket) else {
            return;
        };
        let list = match request.asker {
            Asker::Job(job) => self.jobs.get_mut(job).map(|job| {
                job.was_answered = true;
                &mut job.requests
            }),
            Asker::Task(task) => self.tasks.get_mut(task).map(|task| &mut task.requests),
        };
        if let Some(list) = list
            && let Some(at) = list.iter().rposition(|other| *other == ticket)
        {
            list.swap_remove(at);
        }
    }

    /// Answers a request with `Cancelled`, at once; the work that only it wanted is cancelled.
    pub(super) fn cancel_request(&mut self, ticket: Ticket) {
        let Some(request) = self.requests.get(&ticket) else {
            return;
        };
        let edge = request.edge;
        let requests = &mut self.edges[edge].requests;
        if let Some(at) = requests.iter().rposition(|other| *other == ticket) {
            requests.remove(at);
        }
        self.forget_request(ticket);
        self.trace_answer(ticket, RequestOutcome::Cancelled);
        self.reply(ticket, Err(Failure::Cancelled));
        self.touch(edge);
    }

    pub(super) fn discard_job(&mut self, ticket: Ticket, job: JobId) {
        let Some(state) = self.jobs.get_mut(job) else {
            return self.reply(ticket, Err(Failure::Discarded));
        };
        // The last one first: each is at the end of its list then.
        for request in std::mem::take(&mut state.requests).into_iter().rev() {
            self.cancel_request(request);
        }
        let Some(state) = self.jobs.remove(job) else {
            return;
        };
        self.job_names.remove(&state.id);
        if !faulty!(self, ListenerKept) {
            self.subscribed.remove(state.slot);
        }
        self.expect_no_more(state.slot);
        if !faulty!(self, InterestKept) {
            self.lose_interest(state.slot, &state.touched);
        }
        self.job_slots.set(state.slot, None);
        for root in state.roots {
            self.release_edge(root);
        }
        self.trace(|_| TraceEvent::JobDiscarded { job: state.id });
        self.reply(ticket, Ok(Reply::Done));
    }

    /// A live session of a job that is interested in what the task works for: of those that loaded the vertex first.
    pub(super) fn next_session(&mut self, ticket: Ticket, task: TaskId, tried: &[SessionNo]) {
        let found = self
            .tasks
            .get(task)
            .filter(|task| !task.cancelled)
            .map(|task| (task.vertex, task.actor))
            .and_then(|(vertex, actor)| {
                let state = &self.vertices[vertex];
                let own = self.next_on_behalf(vertex).into_iter();
                // Where another vertex's operation stands in, it is that one's needs that are met.
                let own = own.chain(self.vertices[actor].loaded.iter());
                let own = own.chain(state.loaded.iter());
                let interested = state
                    .edges
                    .iter()
                    .flat_map(|edge| self.edges[*edge].interest.iter());
                own.chain(interested)
                    .chain(
                        faulty!(self, SessionLentToForeign)
                            .then_some(0..64)
                            .into_iter()
                            .flatten(),
                    )
                    .filter_map(|slot| self.job_slots.job(slot))
                    .find_map(|job| {
                        let job = &self.jobs[job];
                        let session = job.session.filter(|session| !tried.contains(session))?;
                        Some((session, Arc::clone(&job.id), state.digest))
                    })
            });
        if let Some((_, job, vertex)) = &found {
            self.trace(|_| TraceEvent::SessionLent {
                vertex: *vertex,
                job: Arc::clone(job),
            });
        }
        self.reply(
            ticket,
            Ok(Reply::Session(found.map(|(session, ..)| session))),
        );
    }
}

impl<O, V> Input<O, V> {
    /// The request that this input makes, if it is one that is answered.
    pub fn ticket(&self) -> Option<Ticket> {
        match self {
            Self::Open { ticket, .. }
            | Self::Load { ticket, .. }
            | Self::Build { ticket, .. }
            | Self::Rebuild { ticket, .. }
            | Self::Discard { ticket, .. }
            | Self::SubBuild { ticket, .. }
            | Self::NextSession { ticket, .. }
            | Self::Walk { ticket, .. }
            | Self::Chain { ticket, .. } => Some(*ticket),
            Self::Session { .. }
            | Self::Subscribe { .. }
            | Self::Cancel { .. }
            | Self::Answer { .. }
            | Self::Finished { .. } => None,
        }
    }
}

impl<K> Default for Id<K> {
    fn default() -> Self {
        Self::NIL
    }
}
