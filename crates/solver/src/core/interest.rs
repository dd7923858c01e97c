//! Interest: which jobs can reach an edge. It decides who hears, who lends a session and whose going ends work; never what is alive.

use super::{
    Core, faulty,
    graph::{Phase, VertexId},
    io::EdgeId,
    jobset::JobSet,
};

impl<O: Clone, V: Clone> Core<O, V> {
    /// Makes `jobs` interested in an edge and in all that can be reached from it. Stops where they are interested already.
    pub(super) fn interest(&mut self, edge: EdgeId, jobs: JobSet) {
        let mut work = vec![(edge, jobs)];
        let mut forwarding = Vec::new();
        while let Some((edge, jobs)) = work.pop() {
            let state = &mut self.edges[edge];
            let new = state.interest.merge(&jobs);
            if new.is_empty() {
                continue;
            }
            for slot in new.iter() {
                if let Some(job) = self.job_slots.job(slot) {
                    self.jobs[job].touched.push(edge);
                }
            }
            let state = &self.edges[edge];
            if let Phase::Forwarded(target) = state.phase {
                work.push((target, new.clone()));
                forwarding.push((edge, new.clone()));
            }
            let vertex = &self.vertices[state.vertex];
            work.extend(vertex.slots.iter().map(|slot| (slot.declared, new.clone())));
            work.extend(vertex.sub_builds().iter().map(|root| (*root, new.clone())));
        }
        for (edge, jobs) in forwarding {
            self.hear_of_nested(edge, &jobs);
        }
    }

    /// Lets those of `jobs` that loaded a forwarding edge hear of the builds that the operation it forwards to asks for.
    pub(super) fn hear_of_nested(&mut self, edge: EdgeId, jobs: &JobSet) {
        let heard = self.vertices[self.edges[edge].vertex]
            .loaded
            .intersection(jobs);
        let target = self.edges[self.find(edge)].vertex;
        if heard.is_empty() || self.vertices[target].sub_builds().is_empty() {
            return;
        }
        for root in self.vertices[target].sub_builds().to_vec() {
            self.hear(self.edges[root].vertex, heard.clone());
        }
    }

    /// Takes a job's interest out of the edges that it touched.
    pub(super) fn lose_interest(&mut self, slot: u32, touched: &[EdgeId]) {
        for edge in touched {
            if let Some(state) = self.edges.get_mut(*edge) {
                state.interest.remove(slot);
                let vertex = &mut self.vertices[state.vertex];
                vertex.loaded.remove(slot);
                if let Some(extra) = &mut vertex.extra {
                    extra.given_up_jobs.remove(slot);
                }
            }
        }
    }

    /// Jobs that hear of a vertex: those that loaded it, and those that loaded one whose edge was merged into one of its edges.
    pub(super) fn listeners_of(&self, vertex: VertexId) -> JobSet {
        let state = &self.vertices[vertex];
        let mut jobs = state.loaded.clone();
        for source in state.edges.iter().flat_map(|edge| self.sources_of(*edge)) {
            jobs.merge(&self.loaders_of(source));
        }
        jobs
    }

    /// Jobs that loaded this very edge.
    fn loaders_of(&self, edge: EdgeId) -> JobSet {
        let state = &self.edges[edge];
        self.vertices[state.vertex]
            .loaded
            .intersection(&state.interest)
    }

    /// Jobs that are interested in any output of a vertex.
    pub(super) fn interested_in(&self, vertex: VertexId) -> JobSet {
        let mut jobs = JobSet::default();
        for edge in &self.vertices[vertex].edges {
            jobs.merge(&self.edges[*edge].interest);
        }
        jobs
    }

    /// Lets `jobs` hear of a vertex as one that they loaded, of all its inputs, and of the builds that its operation asks for. What
    /// happened already is told again.
    pub(super) fn hear(&mut self, vertex: VertexId, jobs: JobSet) {
        let mut work = vec![(vertex, jobs)];
        while let Some((vertex, jobs)) = work.pop() {
            let new = self.vertices[vertex].loaded.merge(&jobs);
            if new.is_empty() {
                continue;
            }
            self.tell_all(vertex, &new);
            let state = &self.vertices[vertex];
            work.extend(
                state
                    .slots
                    .iter()
                    .map(|slot| (self.edges[slot.declared].vertex, new.clone())),
            );
            work.extend(
                state
                    .sub_builds()
                    .iter()
                    .map(|root| (self.edges[*root].vertex, new.clone())),
            );
            for edge in state.edges.clone() {
                if self.edges[edge].is_forwarded() {
                    let jobs = self.edges[edge].interest.intersection(&new);
                    let target = &self.vertices[self.edges[self.find(edge)].vertex];
                    work.extend(
                        target
                            .sub_builds()
                            .iter()
                            .map(|root| (self.edges[*root].vertex, jobs.clone())),
                    );
                }
            }
        }
    }

    /// Hands the interest in a merged edge on to its target.
    pub(super) fn merge_interest(&mut self, source: EdgeId, target: EdgeId) {
        if faulty!(self, InterestNotMerged) {
            return;
        }
        self.interest(target, self.edges[source].interest.clone());
        for source in std::iter::once(source).chain(self.sources_of(source)) {
            self.hear_of_nested(source, &self.edges[source].interest.clone());
        }
    }
}
