//! Loading: a definition becomes vertices and edges; what is live already is shared.

use std::cell::Cell;

use smallvec::SmallVec;

use super::{
    Core,
    graph::{
        Asker, Dependent, Edge, EdgeSlot, EdgeState, Hit, Label, Phase, Slot, Status, Step,
        TaskSlot, Vertex, VertexId,
    },
    io::{EdgeId, JobId, Reply, Retired, RootId, TaskId, Ticket},
    jobset::JobSet,
    rank::AskingSearch,
    table::mix,
};
use crate::{CacheSourceId, Definition, Digest, Failure, GraphSize, MergePolicy, VertexDef};

/// A job that becomes interested in all that it loads, while it is loaded: nothing of it has to be walked again.
struct Newcomer {
    slot: u32,
    jobs: JobSet,
    touched: Vec<EdgeId>,
    /// Edges that forward, and vertices with builds of their own: what they lead to is not in the definition.
    forwarding: Vec<EdgeId>,
    nesting: Vec<VertexId>,
}

impl Newcomer {
    fn new(slot: u32) -> Self {
        Self {
            slot,
            jobs: JobSet::one(slot),
            touched: Vec::new(),
            forwarding: Vec::new(),
            nesting: Vec::new(),
        }
    }
}

/// What came of a definition.
struct Loaded {
    root: EdgeId,
    size: GraphSize,
}

impl<O: Clone, V: Clone> Core<O, V> {
    pub(super) fn load_for_job(&mut self, ticket: Ticket, job: JobId, definition: Definition<O>) {
        let Some(state) = self.jobs.get(job) else {
            return self.reply(ticket, Err(Failure::Discarded));
        };
        let (slot, id) = (state.slot, state.id.clone());
        let domain = state.domain;
        let mut newcomer = Newcomer::new(slot);
        let Some(loaded) = self.create(definition, domain, &[], Some(&mut newcomer)) else {
            return;
        };
        self.own_edge(loaded.root);
        self.welcome(job, newcomer);
        self.jobs[job].roots.push(loaded.root);
        self.expect(job, loaded.root);
        self.trace_loaded(Some(id), None, loaded.root, Some(loaded.size));
        self.reply(ticket, Ok(Reply::Root(RootId(loaded.root))));
    }

    /// Loads a graph for an operation that runs, and asks for its result.
    pub(super) fn sub_build(&mut self, ticket: Ticket, task: TaskId, definition: Definition<O>) {
        let asking = self
            .tasks
            .get(task)
            .filter(|task| !task.cancelled)
            .map(|task| (task.vertex, task.actor));
        let Some((parent, actor)) = asking else {
            return self.reply(ticket, Err(Failure::Cancelled));
        };
        let domain = self.vertices[parent].domain.as_deref().copied();
        let asking = if actor == parent {
            &[parent][..]
        } else {
            &[parent, actor]
        };
        let Some(loaded) = self.create(definition, domain, asking, None) else {
            let vertex = &self.vertices[parent];
            let (vertex, name) = (vertex.digest, vertex.label.name.clone());
            return self.reply(ticket, Err(Failure::SubBuildCycle { vertex, name }));
        };
        self.adopt(parent, loaded.root);
        let (interested, listeners) = (self.interested_in(parent), self.listeners_of(parent));
        self.share(loaded.root, interested, listeners);
        self.trace_loaded(None, Some(parent), loaded.root, Some(loaded.size));
        self.ask(ticket, Asker::Task(task), loaded.root);
    }

    /// Makes a vertex the owner of the root of a build that its operation asked for.
    fn adopt(&mut self, parent: VertexId, root: EdgeId) {
        let known = self.vertices[parent].sub_builds();
        if let Some(at) = known.iter().position(|known| *known == root) {
            // One that a former run asked for as well belongs to this one now.
            let extra = self.vertices[parent].extra_mut();
            if at < extra.former_builds {
                extra.sub_builds[at..].rotate_left(1);
                extra.former_builds -= 1;
            }
            return;
        }
        self.own_edge(root);
        self.vertices[parent].extra_mut().sub_builds.push(root);
        let found = self.find(root);
        self.edges[found].extra_mut().parents.push(parent);
        let rank = self.vertices[self.edges[found].vertex].rank + 1;
        self.raise_rank(parent, rank);
    }

    fn share(&mut self, root: EdgeId, interested: JobSet, listeners: JobSet) {
        self.interest(root, interested);
        self.hear(self.edges[root].vertex, listeners);
    }

    /// A job that is loading a graph becomes interested in a vertex of it and in the edges of its inputs.
    fn meet(&mut self, newcomer: &mut Newcomer, vertex: VertexId, edges: &[EdgeId]) {
        for edge in edges {
            let state = &mut self.edges[*edge];
            if state.interest.insert(newcomer.slot) {
                newcomer.touched.push(*edge);
                if state.is_forwarded() {
                    newcomer.forwarding.push(*edge);
                }
            }
        }
        let state = &mut self.vertices[vertex];
        if state.loaded.insert(newcomer.slot) {
            if !state.sub_builds().is_empty() {
                newcomer.nesting.push(vertex);
            }
            self.tell_all(vertex, &newcomer.jobs);
        }
    }

    /// Makes a job interested in what its graph leads to beyond itself.
    fn welcome(&mut self, job: JobId, newcomer: Newcomer) {
        let Newcomer {
            jobs,
            touched,
            forwarding,
            nesting,
            ..
        } = newcomer;
        let known = &mut self.jobs[job].touched;
        if known.is_empty() {
            *known = touched;
        } else {
            known.extend(touched);
        }
        for vertex in nesting {
            for root in self.vertices[vertex].sub_builds().to_vec() {
                self.share(root, jobs.clone(), jobs.clone());
            }
        }
        for edge in &forwarding {
            if let Phase::Forwarded(target) = self.edges[*edge].phase {
                self.interest(target, jobs.clone());
            }
        }
        for edge in forwarding {
            self.hear_of_nested(edge, &jobs);
        }
    }

    /// Finds or creates everything that the root is made of. New edges are owned by their dependents; the root is owned by nobody yet.
    ///
    /// For a build that operations ask for, `None` where one of its vertices is, or waits for, one of those that ask.
    fn create(
        &mut self,
        definition: Definition<O>,
        domain: Option<Digest>,
        asking: &[VertexId],
        mut newcomer: Option<&mut Newcomer>,
    ) -> Option<Loaded> {
        let (vertices, root) = definition.into_parts();
        let mut needed = vec![false; vertices.len()];
        needed[root.vertex as usize] = true;
        for (at, def) in vertices.iter().enumerate().rev() {
            if needed[at] {
                def.inputs
                    .iter()
                    .for_each(|input| needed[input.vertex as usize] = true);
            }
        }
        let mut ids = vec![VertexId::NIL; vertices.len()];
        let (mut count, mut created) = (0, 0);
        let mut search = AskingSearch::new(asking);
        for (at, def) in vertices.into_iter().enumerate() {
            if !needed[at] {
                continue;
            }
            count += 1;
            if asking
                .iter()
                .any(|asking| self.vertices[*asking].digest == def.digest)
            {
                return None;
            }
            let inputs: SmallVec<[EdgeId; 4]> = def
                .inputs
                .iter()
                .map(|input| self.edge_of(ids[input.vertex as usize], input.index))
                .collect();
            let live = self.live_twins(&def, domain.as_ref(), &inputs);
            let mut shared = live.first().copied();
            if !asking.is_empty() {
                if live
                    .iter()
                    .any(|live| search.is_made_of_asking(self, *live))
                {
                    return None;
                }
                // Where its edge was merged with one that waits for those that ask, the build gets a vertex of its own.
                shared = live
                    .into_iter()
                    .find(|live| !search.waits_for_asking(self, *live));
            }
            ids[at] = match shared {
                Some(vertex) => self.join(vertex, def),
                None => {
                    created += 1;
                    self.create_vertex(def, domain, &inputs)
                }
            };
            if let Some(newcomer) = newcomer.as_deref_mut() {
                self.meet(newcomer, ids[at], &inputs);
            }
        }
        let root = self.edge_of(ids[root.vertex as usize], root.index);
        if let Some(newcomer) = newcomer {
            self.meet(newcomer, self.edges[root].vertex, &[root]);
        }
        Some(Loaded {
            root,
            size: GraphSize {
                vertices: count,
                created,
            },
        })
    }

    /// Live vertices that the definition's may share, the best one first: same digest, domain, audience, policy and inputs. An ignore-cache vertex
    /// shares only with its like; a normal one prefers an ignore-cache one, whose result is newer.
    fn live_twins(
        &self,
        def: &VertexDef<O>,
        domain: Option<&Digest>,
        inputs: &[EdgeId],
    ) -> SmallVec<[VertexId; 2]> {
        let matches = |id: &VertexId| {
            let vertex = &self.vertices[*id];
            vertex.digest == def.digest
                && vertex.domain.as_deref() == domain
                && vertex.never_merge == (def.options.merge == MergePolicy::Never)
                && vertex.public == def.options.public
                && vertex.audience() == def.options.audience.as_ref()
                && (vertex.ignore_cache || !def.options.ignore_cache)
                && vertex.slots.len() == inputs.len()
                && vertex
                    .slots
                    .iter()
                    .zip(inputs)
                    .all(|(slot, input)| slot.declared == *input)
        };
        let hash = live_hash(&def.digest, domain);
        let mut twins: SmallVec<[VertexId; 2]> = self
            .live
            .iter_hash(hash)
            .filter(|live| live.0 == hash)
            .map(|live| live.1)
            .filter(matches)
            .collect();
        if twins.len() > 1 {
            twins.sort_by_key(|id| (!self.vertices[*id].ignore_cache, self.vertices[*id].seq));
        }
        twins
    }

    /// Adds what a further definition says of a live vertex.
    fn join(&mut self, vertex: VertexId, def: VertexDef<O>) -> VertexId {
        // The live vertex has an operation of its own, and hears how it ends.
        let (op, served) = (def.op, false);
        self.effects.retired.push(Retired { op, served });
        if !def.options.cache_sources.is_empty() {
            let extra = self.vertices[vertex].extra_mut();
            let mut sources = extra.sources.as_deref().unwrap_or_default().to_vec();
            sources.extend(def.options.cache_sources);
            extra.sources = merged_sources(sources);
        }
        vertex
    }

    fn create_vertex(
        &mut self,
        def: VertexDef<O>,
        domain: Option<Digest>,
        inputs: &[EdgeId],
    ) -> VertexId {
        let rank = inputs
            .iter()
            .map(|input| self.vertices[self.edges[self.find(*input)].vertex].rank + 1)
            .max();
        let hash = live_hash(&def.digest, domain.as_ref());
        self.next_seq += 1;
        let slots = inputs.iter().map(|input| Slot {
            declared: *input,
            position: 0,
            preprocess: Step::Absent,
            slow: Step::Absent,
            extra: None,
        });
        let mut vertex = Vertex {
            digest: def.digest,
            domain: domain.map(Box::new),
            rank: rank.unwrap_or(0),
            seq: self.next_seq,
            ignore_cache: def.options.ignore_cache,
            never_merge: def.options.merge == MergePolicy::Never,
            public: def.options.public,
            label: Label {
                name: def.name,
                description: def.options.description,
            },
            op: def.op,
            slots: slots.collect(),
            edges: SmallVec::new(),
            maps: SmallVec::new(),
            has_steps: false,
            kept: false,
            has_map: false,
            maps_end: false,
            map_call: TaskSlot::Idle,
            exec: TaskSlot::Idle,
            mark: 0,
            tasks: 0,
            loaded: JobSet::default(),
            status: Status::Pending,
            extra: None,
        };
        if let Some(sources) = merged_sources(def.options.cache_sources) {
            vertex.extra_mut().sources = Some(sources);
        }
        if def.options.audience.is_some() {
            vertex.extra_mut().audience = def.options.audience;
        }
        let id = self.vertices.insert(vertex);
        self.live.insert_unique(hash, (hash, id), |live| live.0);
        for (slot, input) in inputs.iter().enumerate() {
            self.own_edge(*input);
            let input = self.find(*input);
            self.add_dependent(
                input,
                Dependent {
                    vertex: id,
                    slot: slot as u32,
                },
            );
        }
        self.trace_created(id);
        id
    }

    pub(super) fn add_dependent(&mut self, input: EdgeId, dependent: Dependent) {
        let dependents = &mut self.edges[input].dependents;
        let position = dependents.len() as u32;
        self.vertices[dependent.vertex].slots[dependent.slot as usize].position = position;
        dependents.push(dependent);
    }

    /// The edge of an output, created where it is not live.
    fn edge_of(&mut self, vertex: VertexId, output: u32) -> EdgeId {
        let state = &self.vertices[vertex];
        if let Some(edge) = state
            .edges
            .iter()
            .find(|edge| self.edges[**edge].output == output)
        {
            return *edge;
        }
        let slots: SmallVec<[EdgeSlot; 3]> = state
            .slots
            .iter()
            .map(|slot| {
                let input = &self.edges[self.find(slot.declared)];
                let state = input.phase.state();
                EdgeSlot {
                    state,
                    want: EdgeState::Initial,
                    hit: Hit::Unknown,
                    fresh: !input.keys.is_empty(),
                    work: false,
                }
            })
            .collect();
        let edge = self.edges.insert(Edge {
            vertex,
            output,
            phase: Phase::Keys,
            owners: 0,
            interest: JobSet::default(),
            dependents: SmallVec::new(),
            wants: [0; 3],
            requests: SmallVec::new(),
            keys: SmallVec::new(),
            lacking: 0,
            unknown: slots
                .iter()
                .map(|slot| u32::from(slot.state == EdgeState::Initial))
                .sum(),
            slots,
            result: None,
            generation: 0,
            maps_seen: 0,
            queries: 0,
            epoch: 0,
            load: TaskSlot::Idle,
            no_match: false,
            dirty: false,
            indexed: false,
            names: SmallVec::new(),
            look: true,
            unmatched: true,
            need_map: false,
            need_exec: false,
            resolved: Cell::new(EdgeId::NIL),
            position: 0,
            extra: None,
        });
        self.vertices[vertex].edges.push(edge);
        // An edge that nobody comes to own is freed when the input has been handled.
        self.doomed.push(edge);
        edge
    }

    pub(super) fn remove_live(&mut self, vertex: VertexId) {
        let state = &self.vertices[vertex];
        let hash = live_hash(&state.digest, state.domain.as_deref());
        if let Ok(entry) = self.live.find_entry(hash, |live| live.1 == vertex) {
            entry.remove();
        }
        if self.live.capacity() > 64 && self.live.len() * 4 < self.live.capacity() {
            self.live.shrink_to_fit(|live| live.0);
        }
    }
}

fn live_hash(digest: &Digest, domain: Option<&Digest>) -> u64 {
    mix(domain.map_or(0, Digest::short), digest.short())
}

fn merged_sources(mut sources: Vec<CacheSourceId>) -> Option<std::sync::Arc<[CacheSourceId]>> {
    sources.retain(|source| *source != CacheSourceId::LOCAL);
    sources.sort_unstable();
    sources.dedup();
    (!sources.is_empty()).then(|| sources.into())
}
