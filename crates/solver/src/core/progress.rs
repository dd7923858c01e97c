//! What jobs hear of their vertices, each under the digest that it loaded.

use std::sync::Arc;

use hashbrown::HashSet;
use smallvec::SmallVec;

use super::{
    Core,
    graph::{Status, VertexId},
    io::{EdgeId, Effect, JobId, VertexNews},
    jobset::JobSet,
    table::FixedState,
};

impl<O: Clone, V: Clone> Core<O, V> {
    /// From now on the job hears of its vertices; of what happened so far, at once.
    pub(super) fn subscribe(&mut self, job: JobId) {
        let Some(state) = self.jobs.get_mut(job) else {
            return;
        };
        if std::mem::replace(&mut state.subscribed, true) {
            return;
        }
        let slot = state.slot;
        self.subscribed.insert(slot);
        let one = JobSet::one(slot);
        let mut told: HashSet<_, FixedState> = HashSet::default();
        for edge in self.jobs[job].touched.clone() {
            let Some(edge) = self.edges.get(edge) else {
                continue;
            };
            let vertex = edge.vertex;
            // Once per vertex, of which it may have any edge.
            if self.vertices[vertex].loaded.contains(slot) && told.insert(vertex) {
                self.tell_all(vertex, &one);
            }
        }
    }

    /// Changes what is said of a vertex, and of the vertices whose edges were merged into its edges.
    pub(super) fn set_status(&mut self, vertex: VertexId, status: Status) {
        self.put_status(vertex, status);
        for at in 0..self.vertices[vertex].edges.len() {
            let edge = self.vertices[vertex].edges[at];
            if !self.edges[edge].merged().is_empty() {
                self.mirror_to_sources(edge, vertex);
            }
        }
    }

    /// Says of every vertex whose edge was merged into `edge` what is said of `vertex`.
    pub(super) fn mirror_to_sources(&mut self, edge: super::EdgeId, vertex: VertexId) {
        for source in self.sources_of(edge) {
            self.mirror_status(vertex, self.edges[source].vertex);
        }
    }

    fn put_status(&mut self, vertex: VertexId, status: Status) {
        self.vertices[vertex].status = status;
        if !self.subscribed.is_empty() {
            let jobs = self.vertices[vertex].loaded.clone();
            self.tell(vertex, &jobs);
        }
    }

    /// Says of the vertex `to`, whose edge was merged, what is said of `from`.
    pub(super) fn mirror_status(&mut self, from: VertexId, to: VertexId) {
        let status = self.vertices[from].status;
        if from == to || status == self.vertices[to].status || status == Status::Pending {
            return;
        }
        if let Some(error) = self.vertices[from]
            .extra
            .as_ref()
            .and_then(|extra| extra.error.clone())
        {
            self.vertices[to].extra_mut().error = Some(error);
        }
        self.put_status(to, status);
    }

    /// A record was loaded for this vertex: it and everything below that never ran count as cached.
    pub(super) fn set_cached(&mut self, vertex: VertexId) {
        let at = self.now;
        if !matches!(self.vertices[vertex].status, Status::Completed { .. }) {
            self.set_status(vertex, Status::Cached { at });
        }
        let mut work = vec![vertex];
        while let Some(vertex) = work.pop() {
            for at in 0..self.vertices[vertex].slots.len() {
                let declared = self.vertices[vertex].slots[at].declared;
                let input = self.edges[declared].vertex;
                match self.vertices[input].status {
                    Status::Pending => {
                        self.set_status(input, Status::Cached { at: self.now });
                        work.push(input);
                    }
                    // It told of itself when its keys were computed, and that was all.
                    Status::Started { at: from } if self.vertices[input].tasks == 0 => {
                        self.set_status(input, Status::Completed { from, at: self.now });
                    }
                    _ => {}
                }
            }
        }
    }

    /// The run of a vertex is being cancelled. That it was is said to those who want nothing any more; for others it is a stretch of time
    /// that ended, and there may be another one.
    pub(super) fn set_cancelled(&mut self, vertex: VertexId) {
        let from = self.started_at(vertex);
        self.vertices[vertex].extra_mut().error = Some(Arc::from("cancelled"));
        self.set_status(vertex, Status::Cancelled { from, at: self.now });
        // Whoever comes later hears of the run that is for them.
        if std::mem::take(&mut self.vertices[vertex].extra_mut().reported) {
            let ran = vertex.unique();
            self.effect(Effect::Forget { ran });
        }
    }

    /// An operation reports on itself outside of a run: it has started.
    pub(super) fn started_at(&self, vertex: VertexId) -> u64 {
        match self.vertices[vertex].status {
            Status::Started { at } => at,
            Status::Completed { from, .. } => from,
            _ => self.now,
        }
    }

    /// Tells those of `jobs` that listen all that happened to a vertex.
    pub(super) fn tell_all(&mut self, vertex: VertexId, jobs: &JobSet) {
        if matches!(self.vertices[vertex].status, Status::Cancelled { .. }) {
            let mut news = self.news(vertex);
            (news.started, news.completed, news.error) = (None, None, None);
            return self.send(&news, jobs);
        }
        let reported = self.reported_of(vertex);
        if !reported.is_empty() {
            // Whose words they are comes before them, and that it has ended behind them.
            let mut news = self.news(vertex);
            (news.completed, news.cached, news.error) = (None, false, None);
            self.send(&news, jobs);
            for ran in reported {
                self.replay_run(vertex, ran, jobs);
            }
        }
        self.tell(vertex, jobs);
    }

    /// Tells those of `jobs` that listen how a vertex stands.
    pub(super) fn tell(&mut self, vertex: VertexId, jobs: &JobSet) {
        let mut slots = jobs.iter();
        if !slots.any(|slot| self.subscribed.contains(slot)) {
            return;
        }
        let news = self.news(vertex);
        if !matches!(self.vertices[vertex].status, Status::Cancelled { .. }) {
            return self.send(&news, jobs);
        }
        let ended = VertexNews {
            error: None,
            ..news.clone()
        };
        for slot in jobs.iter() {
            let news = if self.wants_no_more(slot) {
                &news
            } else {
                &ended
            };
            self.send(news, &JobSet::one(slot));
        }
    }

    /// Whether all that a job asked for has been answered.
    fn wants_no_more(&self, slot: u32) -> bool {
        let job = self.job_slots.job(slot).and_then(|job| self.jobs.get(job));
        job.is_some_and(|job| job.was_answered && job.requests.is_empty())
    }

    fn send(&mut self, news: &VertexNews, jobs: &JobSet) {
        let listening: Vec<JobId> = jobs
            .iter()
            .filter(|slot| self.subscribed.contains(*slot))
            .filter_map(|slot| self.job_slots.job(slot))
            .collect();
        for job in listening {
            self.effect(Effect::Progress {
                job,
                news: news.clone(),
            });
        }
    }

    fn news(&self, vertex: VertexId) -> VertexNews {
        let state = &self.vertices[vertex];
        let inputs = state
            .slots
            .iter()
            .map(|slot| self.vertices[self.edges[slot.declared].vertex].digest);
        let (started, completed, cached) = match state.status {
            Status::Pending => (None, None, false),
            Status::Started { at } => (Some(at), None, false),
            Status::Completed { from, at }
            | Status::Failed { from, at }
            | Status::Cancelled { from, at } => (Some(from), Some(at), false),
            Status::Cached { at } => (Some(at), Some(at), true),
        };
        let failed = matches!(
            state.status,
            Status::Failed { .. } | Status::Cancelled { .. }
        );
        let error = state
            .extra
            .as_ref()
            .and_then(|extra| extra.error.clone())
            .filter(|_| failed);
        VertexNews {
            digest: state.digest,
            name: state.label.name.clone(),
            inputs: inputs.collect(),
            started,
            completed,
            cached,
            error,
        }
    }

    /// Who is to hear a report of a task, each with the digest that it loaded.
    pub fn listeners(&self, task: super::TaskId) -> Vec<(JobId, crate::Digest)> {
        let task = self.tasks.get(task);
        task.map_or_else(Vec::new, |task| self.heard_by(task.vertex))
    }

    fn heard_by(&self, vertex: VertexId) -> Vec<(JobId, crate::Digest)> {
        let edges = self.vertices[vertex].edges.iter();
        let merged = edges.flat_map(|edge| self.sources_of(*edge));
        let mut seen: HashSet<_, FixedState> = HashSet::default();
        let mut listeners = Vec::new();
        for vertex in std::iter::once(vertex).chain(merged.map(|source| self.edges[source].vertex))
        {
            let state = &self.vertices[vertex];
            let jobs = state
                .loaded
                .iter()
                .filter(|slot| self.subscribed.contains(*slot));
            for job in jobs.filter_map(|slot| self.job_slots.job(slot)) {
                if seen.insert((job, state.digest)) {
                    listeners.push((job, state.digest));
                }
            }
        }
        listeners
    }

    /// Notes that a task reported on itself, on what was at `since` at the earliest, so that its vertex counts as started then: clients
    /// tell the times of what they hear from that. Returns a name of the vertex, unless the task is
    /// cancelled.
    pub fn reported(
        &mut self,
        now: u64,
        since: u64,
        task: super::TaskId,
        effects: &mut super::Effects<O, V>,
    ) -> Option<u64> {
        self.now = now;
        let vertex = self
            .tasks
            .get(task)
            .filter(|task| !task.cancelled)
            .map(|task| task.vertex)?;
        self.vertices[vertex].extra_mut().reported = true;
        if self.vertices[vertex].status == Status::Pending {
            std::mem::swap(&mut self.effects, effects);
            let at = since.min(now);
            self.set_status(vertex, Status::Started { at });
            std::mem::swap(&mut self.effects, effects);
        }
        Some(vertex.unique())
    }

    /// A call for a vertex failed and is made anew.
    pub(super) fn tell_of_retry(&mut self, vertex: VertexId, why: impl Into<Arc<str>>) {
        if self.vertices[vertex].status == Status::Pending {
            self.set_status(vertex, Status::Started { at: self.now });
        }
        self.vertices[vertex].extra_mut().reported = true;
        let (jobs, ran) = (self.heard_by(vertex), vertex.unique());
        let why = why.into();
        self.effect(Effect::Retry { jobs, ran, why });
    }

    /// The vertices that a vertex's edges lead to whose operations reported on themselves.
    fn reported_of(&self, vertex: VertexId) -> SmallVec<[VertexId; 1]> {
        let mut reported = SmallVec::new();
        if self.subscribed.is_empty() {
            return reported;
        }
        for edge in &self.vertices[vertex].edges {
            let found = self.edges[self.find(*edge)].vertex;
            if self.has_reported(found) && !reported.contains(&found) {
                reported.push(found);
            }
        }
        reported
    }

    fn has_reported(&self, vertex: VertexId) -> bool {
        let extra = self.vertices[vertex].extra.as_ref();
        extra.is_some_and(|extra| extra.reported)
    }

    /// Lets those of `jobs` that listen hear what was reported of `ran` before, as of `vertex`, of which they know.
    fn replay_run(&mut self, vertex: VertexId, ran: VertexId, jobs: &JobSet) {
        let digest = self.vertices[vertex].digest;
        for slot in jobs.iter().filter(|slot| self.subscribed.contains(*slot)) {
            if let Some(job) = self.job_slots.job(slot) {
                let ran = ran.unique();
                self.effects.list.push(Effect::Replay { job, digest, ran });
            }
        }
    }

    /// After `source` was merged into `target`: those who loaded the source, or what had merged into it, hear what the target's
    /// operation reported before.
    pub(super) fn replay_to_sources(&mut self, source: EdgeId, target: EdgeId) {
        let ran = self.edges[target].vertex;
        if self.subscribed.is_empty() || !self.has_reported(ran) {
            return;
        }
        for merged in std::iter::once(source).chain(self.sources_of(source)) {
            let vertex = self.edges[merged].vertex;
            let mut others = self.vertices[vertex].edges.iter();
            let heard =
                others.any(|other| *other != merged && self.edges[self.find(*other)].vertex == ran);
            if !heard && vertex != ran {
                let jobs = self.vertices[vertex].loaded.clone();
                self.replay_run(vertex, ran, &jobs);
            }
        }
    }
}
