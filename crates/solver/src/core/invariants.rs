//! What must hold after every input; checked by the simulator.

use std::collections::BTreeMap;

use super::{
    Census, Core,
    graph::{EdgeState, Phase, TaskSlot},
    jobset::JobSet,
};

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The invariant.
    pub invariant: &'static str,
    /// Where.
    pub detail: String,
}

fn broken<T>(invariant: &'static str, detail: T) -> Result<(), Broken>
where
    T: std::fmt::Debug,
{
    Err(Broken {
        invariant,
        detail: format!("{detail:?}"),
    })
}

impl<O: Clone, V: Clone> Core<O, V> {
    /// Checks everything that is alive. Costs O(live graph).
    pub fn check(&self) -> Result<(), Broken> {
        #[cfg(feature = "sim")]
        if let Some(broken) = &self.audit {
            return Err(broken.clone());
        }
        self.check_ownership()?;
        self.check_edges()?;
        self.check_vertices()?;
        self.check_interest()?;
        self.check_requests()?;
        if self.jobs.len() == 0 && self.tasks.len() == 0 && self.census() != Census::default() {
            return broken("nothing is left when all jobs are gone", self.census());
        }
        Ok(())
    }

    /// Whether a job can reach the vertex of a task from one of its roots, or a vertex of which some output was merged into it: what is
    /// done for one output of a vertex is told to all who loaded the vertex.
    pub fn reaches(&self, job: super::JobId, task: super::TaskId) -> bool {
        let (Some(job), Some(task)) = (self.jobs.get(job), self.tasks.get(task)) else {
            return false;
        };
        let mut seen = std::collections::BTreeSet::new();
        let mut work = job.roots.clone();
        while let Some(edge) = work.pop() {
            if !seen.insert(edge) {
                continue;
            }
            let state = &self.edges[edge];
            let mut outputs = self.vertices[state.vertex].edges.iter();
            if state.vertex == task.vertex
                || outputs.any(|output| self.found(*output).vertex == task.vertex)
            {
                return true;
            }
            if let Phase::Forwarded(target) = state.phase {
                work.push(target);
            }
            let vertex = &self.vertices[state.vertex];
            work.extend(
                vertex
                    .slots
                    .iter()
                    .map(|slot| slot.declared)
                    .chain(vertex.sub_builds().iter().copied()),
            );
        }
        false
    }

    /// Whether a task works for a vertex that is forced to run, perhaps through another one's operation.
    #[cfg(feature = "sim")]
    pub fn is_forced(&self, task: crate::core::TaskId) -> bool {
        let task = self.tasks.get(task);
        task.is_some_and(|task| self.vertices[task.vertex].ignore_cache)
    }

    /// Checks with a plain walk that neither of two edges waits for the other.
    #[cfg(feature = "sim")]
    pub(super) fn audit_merge(&mut self, source: super::EdgeId, target: super::EdgeId) {
        let (a, b) = (self.edges[source].vertex, self.edges[target].vertex);
        if self.audited && (self.is_below(a, b) || self.is_below(b, a)) {
            let detail = format!("{source:?} {target:?}");
            self.audit = Some(Broken {
                invariant: "an edge is not merged with its own ancestor",
                detail,
            });
        }
    }

    #[cfg(feature = "sim")]
    fn is_below(&self, top: super::VertexId, wanted: super::VertexId) -> bool {
        let mut seen = std::collections::BTreeSet::new();
        let mut work = vec![top];
        while let Some(vertex) = work.pop() {
            if vertex == wanted {
                return true;
            }
            if seen.insert(vertex) {
                let state = &self.vertices[vertex];
                let below = state
                    .slots
                    .iter()
                    .map(|slot| slot.declared)
                    .chain(state.sub_builds().iter().copied());
                work.extend(below.map(|edge| self.edges[self.find(edge)].vertex));
            }
        }
        false
    }

    fn check_ownership(&self) -> Result<(), Broken> {
        let mut owners: BTreeMap<super::EdgeId, u32> = BTreeMap::new();
        let mut own = |edge| *owners.entry(edge).or_default() += 1;
        self.jobs
            .iter()
            .for_each(|(_, job)| job.roots.iter().for_each(|root| own(*root)));
        for (_, vertex) in self.vertices.iter() {
            vertex.slots.iter().for_each(|slot| own(slot.declared));
            vertex.sub_builds().iter().for_each(|root| own(*root));
        }
        for (_, edge) in self.edges.iter() {
            if let Phase::Forwarded(target) = edge.phase {
                own(target);
            }
        }
        for (id, edge) in self.edges.iter() {
            if owners.remove(&id).unwrap_or(0) != edge.owners || edge.owners == 0 {
                return broken("an edge counts its owners", id);
            }
        }
        if let Some((id, _)) = owners.into_iter().next() {
            return broken("what is referred to is alive", id);
        }
        Ok(())
    }

    fn check_edges(&self) -> Result<(), Broken> {
        for (id, edge) in self.edges.iter() {
            if edge.dirty
                || !self.dirty.is_empty()
                || !self.doomed.is_empty()
                || !self.retiring.is_empty()
                || !self.suspects.is_empty() && self.search.is_due()
                || !self.doubtful.is_empty()
            {
                return broken("no work is left over", id);
            }
            if !self
                .vertices
                .get(edge.vertex)
                .is_some_and(|vertex| vertex.edges.contains(&id))
            {
                return broken("an edge belongs to its vertex", id);
            }
            if let Phase::Forwarded(target) = edge.phase {
                let listed = self.edges[target].merged().get(edge.position as usize) == Some(&id);
                if !listed {
                    return broken("a forward leads to an edge that knows of it", id);
                }
                if !edge.requests.is_empty() || !edge.dependents.is_empty() || edge.wants != [0; 3]
                {
                    return broken("nothing waits for a forwarding edge", id);
                }
                let wants = edge
                    .slots
                    .iter()
                    .any(|slot| slot.want != EdgeState::Initial);
                if wants {
                    return broken("a forwarding edge wants nothing", id);
                }
                continue;
            }
            self.check_wants(id)?;
            let slots = || edge.slots.iter();
            let lacking = slots().filter(|slot| slot.state < slot.want).count();
            let unknown = slots()
                .filter(|slot| slot.state == EdgeState::Initial)
                .count();
            if (lacking, unknown) != (edge.lacking as usize, edge.unknown as usize) {
                return broken("an edge counts the inputs that it waits for", id);
            }
            if (edge.phase == Phase::Complete) != edge.result.is_some() {
                return broken("an edge has a result exactly when it is complete", id);
            }
            if edge.phase == Phase::Loading && !matches!(edge.load, TaskSlot::Running(_)) {
                return broken("a loading edge has a load under way", id);
            }
            if edge.desired() > edge.phase.state() && !self.is_on_its_way(id) {
                return broken(
                    "an edge that is wanted is on its way",
                    (id, edge.phase, edge.desired()),
                );
            }
        }
        Ok(())
    }

    fn check_wants(&self, id: super::EdgeId) -> Result<(), Broken> {
        let edge = &self.edges[id];
        let mut wants = [0; 3];
        for (position, dependent) in edge.dependents.iter().enumerate() {
            let vertex = &self.vertices[dependent.vertex];
            let slot = &vertex.slots[dependent.slot as usize];
            if self.find(slot.declared) != id || slot.position as usize != position {
                return broken("an edge knows its dependents", (id, position));
            }
            for consumer in &vertex.edges {
                let consumer = &self.edges[*consumer];
                let place = &consumer.slots[dependent.slot as usize];
                match place.want {
                    EdgeState::Initial => {}
                    EdgeState::CacheFast => wants[0] += 1,
                    EdgeState::CacheSlow => wants[1] += 1,
                    EdgeState::Complete => wants[2] += 1,
                }
                if place.state != edge.phase.state()
                    && !matches!(consumer.phase, Phase::Complete | Phase::Forwarded(_))
                {
                    return broken(
                        "a dependent knows the state of its inputs",
                        (id, dependent.vertex),
                    );
                }
            }
        }
        if wants != edge.wants {
            return broken(
                "an edge counts what is wanted of it",
                (id, wants, edge.wants),
            );
        }
        Ok(())
    }

    /// Whether something is under way that will take the edge further.
    fn is_on_its_way(&self, id: super::EdgeId) -> bool {
        let edge = &self.edges[id];
        let vertex = &self.vertices[edge.vertex];
        let busy = |slot: TaskSlot| !slot.is_idle();
        let waits = edge.slots.iter().any(|slot| slot.want > slot.state);
        let works = edge
            .slots
            .iter()
            .zip(&vertex.slots)
            .any(|(slot, input)| slot.work && busy(input.task()));
        edge.queries > 0
            || busy(edge.load)
            || (edge.need_map && busy(vertex.map_call))
            || (edge.need_exec
                && (busy(vertex.exec) || self.is_taken(self.actor_of(edge.vertex), edge.vertex)))
            || waits
            || works
    }

    fn check_vertices(&self) -> Result<(), Broken> {
        for (id, vertex) in self.vertices.iter() {
            let mut kept = self.kept_for_jobs.iter().chain(&self.kept_for_requests);
            if vertex.kept != kept.any(|kept| *kept == id) {
                return broken("what is kept is looked at again", id);
            }
            if vertex.edges.is_empty() && vertex.tasks == 0 {
                return broken("a vertex without edges and tasks is freed", id);
            }
            let inputs = vertex
                .slots
                .iter()
                .map(|slot| slot.declared)
                .chain(vertex.sub_builds().iter().copied());
            for edge in inputs {
                let below = &self.vertices[self.edges[self.find(edge)].vertex];
                if below.rank >= vertex.rank {
                    return broken("a vertex ranks above what it waits for", id);
                }
            }
            let wanted = |need: fn(&super::Edge<V>) -> bool| {
                vertex.edges.iter().any(|edge| need(&self.edges[*edge]))
            };
            for (slot, needed) in [
                (vertex.map_call, wanted(|edge| edge.need_map)),
                (vertex.exec, wanted(|edge| edge.need_exec)),
            ] {
                if let TaskSlot::Running(task) = slot
                    && (!(needed || vertex.kept)
                        || self.tasks.get(task).is_none_or(|task| task.cancelled))
                {
                    return broken("what runs is wanted, or kept", id);
                }
            }
        }
        for (id, task) in self.tasks.iter() {
            if self
                .vertices
                .get(task.vertex)
                .is_none_or(|vertex| vertex.tasks == 0)
            {
                return broken("a task keeps its vertex", id);
            }
        }
        Ok(())
    }

    fn check_interest(&self) -> Result<(), Broken> {
        let mut reached: BTreeMap<super::EdgeId, JobSet> = BTreeMap::new();
        let mut work: Vec<_> = self
            .jobs
            .iter()
            .flat_map(|(_, job)| job.roots.iter().map(|root| (*root, JobSet::one(job.slot))))
            .collect();
        while let Some((edge, jobs)) = work.pop() {
            let new = reached.entry(edge).or_default().merge(&jobs);
            if new.is_empty() {
                continue;
            }
            let state = &self.edges[edge];
            if let Phase::Forwarded(target) = state.phase {
                work.push((target, new.clone()));
            }
            let vertex = &self.vertices[state.vertex];
            work.extend(vertex.slots.iter().map(|slot| (slot.declared, new.clone())));
            work.extend(vertex.sub_builds().iter().map(|root| (*root, new.clone())));
        }
        for (id, edge) in self.edges.iter() {
            if reached.remove(&id).unwrap_or_default() != edge.interest {
                return broken(
                    "a job is interested in what it can reach",
                    (id, edge.interest.clone()),
                );
            }
        }
        for (id, vertex) in self.vertices.iter() {
            let interested = self.interested_in(id);
            if vertex.loaded.iter().any(|slot| !interested.contains(slot)) {
                return broken("only interested jobs hear of a vertex", id);
            }
        }
        Ok(())
    }

    fn check_requests(&self) -> Result<(), Broken> {
        let mut listed = 0;
        for (id, edge) in self.edges.iter() {
            for ticket in &edge.requests {
                listed += 1;
                if self
                    .requests
                    .get(ticket)
                    .is_none_or(|request| request.edge != id)
                {
                    return broken("a request knows its edge", (id, ticket));
                }
            }
        }
        if listed != self.requests.len() {
            return broken("a request is in the list of its edge", listed);
        }
        Ok(())
    }
}

impl<O: Clone + std::fmt::Debug, V: Clone> Core<O, V> {
    /// What is alive, one edge a line; for a person who looks at a failure.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for (id, edge) in self.edges.iter() {
            let vertex = &self.vertices[edge.vertex];
            text += &format!(
                "{id:?} of {:?} {:?} {:?}[{}] {:?} wants {:?} requests {:?} keys {:?} queries {} map {:?}/{} exec {:?}/{} load {:?} no_match {}\n",
                edge.vertex,
                vertex.digest,
                vertex.label.name,
                edge.output,
                edge.phase,
                edge.wants,
                edge.requests,
                edge.keys
                    .iter()
                    .map(|key| (key.id, key.usage))
                    .collect::<Vec<_>>(),
                edge.queries,
                vertex.map_call,
                edge.need_map,
                vertex.exec,
                edge.need_exec,
                edge.load,
                edge.no_match,
            );
            for (slot, input) in edge.slots.iter().zip(&vertex.slots) {
                let found = self.find(input.declared);
                text += &format!(
                    "    {:?}->{found:?} state {:?} want {:?} hit {:?} fresh {} work {} steps {:?} {:?} {:?}\n",
                    input.declared,
                    slot.state,
                    slot.want,
                    slot.hit,
                    slot.fresh,
                    slot.work,
                    input.preprocess,
                    input.slow,
                    input.task()
                );
            }
            if !vertex.sub_builds().is_empty() {
                text += &format!("    sub-builds {:?}\n", vertex.sub_builds());
            }
        }
        for (id, task) in self.tasks.iter() {
            text += &format!(
                "task {id:?} {:?} {:?} cancelled {} requests {:?}\n",
                task.vertex, task.purpose, task.cancelled, task.requests
            );
        }
        text
    }
}
