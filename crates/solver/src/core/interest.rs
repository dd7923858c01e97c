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
            }
            let vertex = &self.vertices[state.vertex];
            work.extend(vertex.slots.iter().map(|slot| (slot.declared, new.clone())));
            work.extend(vertex.sub_builds().iter().map(|root| (*root, new.clone())));
        }
    }

    /// Takes a job's interest out of the edges that it touched.
    pub(super) fn lose_interest(&mut self, slot: u32, touched: &[EdgeId]) {
        for edge in touched {
            if let Some(state) = self.edges.get_mut(*edge) {
                state.interest.remove(slot);
                self.vertices[state.vertex].loaded.remove(slot);
            }
        }
    }

    /// Jobs that hear of a vertex: those that loaded it, and those that loaded one that was merged into it.
    pub(super) fn listeners_of(&self, vertex: VertexId) -> JobSet {
        let state = &self.vertices[vertex];
        let mut jobs = state.loaded.clone();
        for edge in &state.edges {
            for source in self.edges[*edge].merged() {
                jobs.merge(&self.vertices[self.edges[*source].vertex].loaded);
            }
        }
        jobs
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
            self.tell(vertex, &new);
            let state = &self.vertices[vertex];
            work.extend(state.slots.iter().map(|slot| (self.edges[slot.declared].vertex, new.clone())));
            work.extend(state.sub_builds().iter().map(|root| (self.edges[*root].vertex, new.clone())));
            for edge in &state.edges {
                if let Phase::Forwarded(target) = self.edges[*edge].phase {
                    let target = &self.vertices[self.edges[target].vertex];
                    work.extend(target.sub_builds().iter().map(|root| (self.edges[*root].vertex, new.clone())));
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
        let heard = self.vertices[self.edges[source].vertex].loaded.clone();
        let nested: Vec<_> = self.vertices[self.edges[target].vertex].sub_builds().to_vec();
        for root in nested {
            self.hear(self.edges[root].vertex, heard.clone());
        }
    }
}
