//! What runs and is wanted by nobody at the moment goes on while somebody may come to want it: one who asks for keys and has not
//! decided, or a job that loaded what leads to it and has yet to ask.

use hashbrown::HashSet;

use super::{
    Core, faulty,
    graph::{EdgeState, Phase, Purpose, Task, VertexId},
    io::{EdgeId, JobId, TaskId},
    jobset::JobSet,
    table::FixedState,
};
use crate::{CancelCause, TraceEvent};

/// Who may come to want what nobody wants at the moment.
#[derive(Clone, Copy)]
enum MayWant {
    /// A job that has yet to ask.
    Job,
    /// A request that waits for keys.
    Request,
}

impl<O: Clone, V: Clone> Core<O, V> {
    /// Notes that a job has loaded a root for which it has not asked.
    pub(super) fn expect(&mut self, job: JobId, root: EdgeId) {
        let state = &mut self.jobs[job];
        if !state.unasked.contains(&root) {
            state.unasked.push(root);
            let slot = state.slot;
            self.expected.insert(slot);
        }
    }

    /// A job asks for one of its roots: what is kept for it is wanted from now on, or is not needed.
    pub(super) fn asked(&mut self, job: JobId, root: EdgeId) {
        let state = &mut self.jobs[job];
        state.unasked.retain(|unasked| *unasked != root);
        let slot = state.slot;
        if state.unasked.is_empty() {
            self.expected.remove(slot);
        }
        self.reconsider_for(slot);
    }

    /// A job goes, and will not ask; before it loses its interest.
    pub(super) fn expect_no_more(&mut self, slot: u32) {
        self.expected.remove(slot);
        self.reconsider_for(slot);
    }

    /// What is kept may have been kept for this job.
    fn reconsider_for(&mut self, slot: u32) {
        let (vertices, edges) = (&self.vertices, &self.edges);
        let for_it = |vertex: &mut VertexId| {
            let Some(state) = vertices.get(*vertex) else {
                return true;
            };
            let mut of_it = state.edges.iter();
            of_it.any(|edge| edges[*edge].interest.contains(slot))
        };
        for kept in [&mut self.kept_for_jobs, &mut self.kept_for_requests] {
            self.doubtful.extend(kept.extract_if(.., for_it));
        }
    }

    /// What is kept may have been kept for a request that has found a record.
    pub(super) fn reconsider_for_requests(&mut self) {
        self.doubtful.append(&mut self.kept_for_requests);
    }

    /// Whether what runs for a vertex goes on although nobody wants it at the moment. If so, it is looked at again when somebody asks or
    /// goes, or a record is loaded; not where a result in between makes it needless before that, which would cost a walk for every result.
    pub(super) fn keep(&mut self, vertex: VertexId) -> bool {
        let may_be_wanted = self.may_be_wanted(&self.vertices[vertex].edges);
        self.note_kept(vertex, may_be_wanted)
    }

    /// As [`Self::keep`], for the load of a record.
    pub(super) fn keep_load(&mut self, edge: EdgeId) -> bool {
        let may_be_wanted = self.may_be_wanted(&[edge]);
        self.note_kept(self.edges[edge].vertex, may_be_wanted)
    }

    fn note_kept(&mut self, vertex: VertexId, may_be_wanted: Option<MayWant>) -> bool {
        let Some(by) = may_be_wanted.filter(|_| !faulty!(self, NothingKept)) else {
            return false;
        };
        if !std::mem::replace(&mut self.vertices[vertex].kept, true) {
            let kept = match by {
                MayWant::Job => &mut self.kept_for_jobs,
                MayWant::Request => &mut self.kept_for_requests,
            };
            kept.push(vertex);
        }
        true
    }

    /// Whether a call goes on for those alone who may come to want it.
    pub(super) fn is_only_kept(&self, task: &Task) -> bool {
        let state = &self.vertices[task.vertex];
        let mut edges = state.edges.iter();
        state.kept && !edges.any(|edge| self.needs_call(*edge, task.purpose))
    }

    /// A kept call failed, and nobody wants what it was for: whoever comes to want it has it called anew, and hears of that.
    pub(super) fn give_up_kept(&mut self, id: TaskId, task: &Task) {
        self.trace(|core| TraceEvent::CallCancelled {
            task: id.unique(),
            vertex: core.trace_vertex(task.vertex),
            cause: CancelCause::NotNeeded,
        });
        if task.purpose == Purpose::Exec {
            self.set_cancelled(task.vertex);
        }
    }

    /// Ends what was kept and is not wanted by those either for whom it was.
    pub(super) fn reconsider(&mut self) {
        for vertex in std::mem::take(&mut self.doubtful) {
            if let Some(state) = self.vertices.get_mut(vertex) {
                state.kept = false;
                self.touch_all(vertex);
            }
        }
    }

    /// Who may come to want the result of one of these edges. Where both may, it is the job: what is kept for it is not looked at again
    /// for each record.
    fn may_be_wanted(&self, edges: &[EdgeId]) -> Option<MayWant> {
        let mut jobs = JobSet::default();
        let mut expected = Vec::new();
        let mut asked = Vec::new();
        for edge in edges {
            let state = &self.edges[*edge];
            if !state.is_open() {
                continue;
            }
            let by = state.interest.intersection(&self.expected);
            if !by.is_empty() {
                jobs.merge(&by);
                expected.push(*edge);
            }
            // Also where it has a record itself: that may not load.
            if state.desired() > EdgeState::Initial {
                asked.push(*edge);
            }
        }
        if !expected.is_empty() && self.lead_to(&jobs, expected) {
            Some(MayWant::Job)
        } else if !asked.is_empty() && self.are_undecided_above(asked) {
            Some(MayWant::Request)
        } else {
            None
        }
    }

    /// Whether a request waits for what is asked of one of the edges, with none in between that has found a record: what is below that
    /// is wanted only if the record does not load.
    fn are_undecided_above(&self, mut work: Vec<EdgeId>) -> bool {
        let mut seen: HashSet<EdgeId, FixedState> = work.iter().copied().collect();
        while let Some(edge) = work.pop() {
            let state = &self.edges[edge];
            if !state.requests.is_empty() {
                return true;
            }
            for dependent in &state.dependents {
                for above in &self.vertices[dependent.vertex].edges {
                    let state = &self.edges[*above];
                    let asks = state.slots[dependent.slot as usize].want > EdgeState::Initial;
                    if asks && state.is_open() && state.records().is_empty() && seen.insert(*above)
                    {
                        work.push(*above);
                    }
                }
            }
        }
        false
    }

    /// Whether a root for which one of `jobs` has yet to ask leads to one of the edges, with no result in between.
    fn lead_to(&self, jobs: &JobSet, mut work: Vec<EdgeId>) -> bool {
        let roots: HashSet<EdgeId, FixedState> = jobs
            .iter()
            .filter_map(|slot| self.job_slots.job(slot))
            .flat_map(|job| self.jobs[job].unasked.iter())
            .map(|root| self.find(*root))
            .collect();
        let mut seen: HashSet<EdgeId, FixedState> = work.iter().copied().collect();
        while let Some(edge) = work.pop() {
            if roots.contains(&edge) {
                return true;
            }
            for dependent in &self.edges[edge].dependents {
                for above in &self.vertices[dependent.vertex].edges {
                    let state = &self.edges[*above];
                    let leads = state.is_open() && !state.interest.intersection(jobs).is_empty();
                    if leads && seen.insert(*above) {
                        work.push(*above);
                    }
                }
            }
        }
        false
    }
}

impl<V> super::Edge<V> {
    /// Whether it has neither a result nor another edge in its place.
    fn is_open(&self) -> bool {
        !matches!(self.phase, Phase::Complete | Phase::Forwarded(_))
    }
}
