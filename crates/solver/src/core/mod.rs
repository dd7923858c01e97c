//! The sans-IO core: a plain state machine over the live graph.
//!
//! [`Core::handle`] takes one input and yields effects. It never blocks, reads no clock, draws no random number and iterates in a fixed
//! order: the same inputs always give the same effects. An input costs O(degree of the edges that it changes), but for the walks of
//! `rank`, `keeping` and `cycles`.
//!
//! How the parts fit together:
//!
//! - `load` turns definitions into vertices and edges, `ownership` frees them, `interest` says which jobs care;
//! - `demand` counts who wants an edge to reach which state; an edge that nobody wants anything of rests;
//! - `keeping` lets what runs go on while somebody may come to want it;
//! - `ladder` takes an edge through its phases, one step at a time, whenever something changed (`advance`);
//! - `keys` computes cache keys and handles the answers of stores, `index` finds live edges with equal keys, `merge` makes them one;
//! - `tasks` starts and ends calls of operations, `failure` hands their errors up, `outcome` takes their results;
//! - `tracing` tells what is live when somebody begins to watch.

mod arena;
mod chain;
mod cycles;
mod demand;
mod failure;
mod graph;
mod index;
mod interest;
mod invariants;
mod io;
mod jobs;
mod jobset;
mod keeping;
mod keys;
mod ladder;
mod load;
mod merge;
mod outcome;
mod ownership;
mod progress;
mod rank;
#[cfg(feature = "sim")]
mod steady;
mod table;
mod tasks;
mod tracing;
mod walk;

pub use invariants::Broken;

use std::collections::VecDeque;

use arena::Arena;
pub use graph::EdgeState;
use graph::{Edge, EdgeTag, JobState, JobTag, Request, Task, TaskTag, Vertex, VertexId, VertexTag};
use hashbrown::{HashMap, HashTable};
pub use io::*;
use jobset::JobSet;
use smallvec::SmallVec;
pub(crate) use table::{FixedState, mix};

use crate::{CancelCause, TraceEdge, TraceEvent, TraceInput, TraceVertex};

/// A built-in mistake, to prove that the simulator finds it.
#[cfg(feature = "sim")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// A merged edge does not own its target.
    TargetNotOwned,
    /// The target does not get the interest of the jobs of the source.
    InterestNotMerged,
    /// Interest stays when a job is discarded.
    InterestKept,
    /// A result of a cancelled run is believed.
    CancelledResultBelieved,
    /// A cancellation is delivered like a failure of the operation.
    CancelRecorded,
    /// Edges are merged with their own ancestors.
    AncestorMerged,
    /// An ignore-cache edge is merged into a normal one.
    IgnoreCacheMerged,
    /// A session is lent to vertices that its job is not interested in.
    SessionLentToForeign,
    /// The operation of a merged edge is not tried when the target's own one is stranded.
    FallbackDropped,
    /// A vertex that is wanted again while its run is being cancelled is not woken when the run ends.
    WakeUpLost,
    /// A second run is started while a cancelled one is winding down.
    RunsOverlap,
    /// Outputs that nobody asked for are not released.
    OutputLeaked,
    /// Requests of a merged edge are not handed to the target.
    RequestsNotMoved,
    /// Never-merge is not heeded.
    NeverMergeIgnored,
    /// Isolation domains share keys.
    DomainsShared,
    /// A result is released twice when its edge is freed.
    ReleasedTwice,
    /// After a failure, the inputs of a failed edge are still wanted.
    FailureKeptForLater,
    /// Ranks are not raised when edges merge.
    RankNotRaised,
    /// Dependents hear nothing of a result that was lost.
    LossNotTold,
    /// What an operation reported on itself outlives its vertex.
    HistoryKept,
    /// A job in the place of a discarded one listens as that one did.
    ListenerKept,
    /// What runs is given up although a job that has yet to ask may want it.
    NothingKept,
}

/// The core. `O` is the handle of an operation, `V` that of a result.
pub struct Core<O, V> {
    now: u64,
    position: u64,
    tracing: bool,
    /// Why a task that is cancelled now is cancelled; for the trace.
    cause: CancelCause,
    jobs: Arena<JobTag, JobState>,
    job_names: HashMap<std::sync::Arc<str>, JobId, FixedState>,
    job_slots: jobs::Slots,
    subscribed: JobSet,
    vertices: Arena<VertexTag, Vertex<O>>,
    edges: Arena<EdgeTag, Edge<V>>,
    tasks: Arena<TaskTag, Task>,
    /// Live vertices by digest and domain, with the hash of these.
    live: HashTable<(u64, VertexId)>,
    index: index::Index,
    requests: HashMap<Ticket, Request, FixedState>,
    dirty: VecDeque<EdgeId>,
    doomed: Vec<EdgeId>,
    /// Edges that lost an owner, still have one, and are of interest to nobody.
    suspects: Vec<EdgeId>,
    search: cycles::Search,
    /// Merged edges that still want what they wanted, until their targets have taken over.
    retiring: Vec<EdgeId>,
    /// Jobs that have yet to ask for a root that they loaded.
    expected: JobSet,
    /// Vertices for which something goes on that nobody wants at the moment, by who may come to want it.
    kept_for_jobs: Vec<VertexId>,
    kept_for_requests: Vec<VertexId>,
    /// Those among them that may be needless now.
    doubtful: Vec<VertexId>,
    effects: Effects<O, V>,
    next_seq: u64,
    next_mark: u64,
    #[cfg(feature = "sim")]
    fault: Option<Fault>,
    /// Whether merges are audited, which costs a walk each, and what that found.
    #[cfg(feature = "sim")]
    audited: bool,
    #[cfg(feature = "sim")]
    audit: Option<Broken>,
}

/// How much is alive; all zero when every job is discarded and every task has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Jobs.
    pub jobs: usize,
    /// Vertices.
    pub vertices: usize,
    /// Edges.
    pub edges: usize,
    /// Calls of operations and loads of records, cancelled ones included until they end.
    pub tasks: usize,
    /// Requests without an answer.
    pub requests: usize,
    /// Entries of the index of live keys.
    pub index: usize,
}

impl<O: Clone, V: Clone> Default for Core<O, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<O: Clone, V: Clone> Core<O, V> {
    /// An empty core.
    pub fn new() -> Self {
        Self {
            now: 0,
            position: 0,
            tracing: false,
            cause: CancelCause::default(),
            jobs: Arena::default(),
            job_names: HashMap::default(),
            job_slots: jobs::Slots::default(),
            subscribed: JobSet::default(),
            vertices: Arena::default(),
            edges: Arena::default(),
            tasks: Arena::default(),
            live: HashTable::new(),
            index: index::Index::default(),
            requests: HashMap::default(),
            dirty: VecDeque::new(),
            doomed: Vec::new(),
            suspects: Vec::new(),
            search: cycles::Search::default(),
            retiring: Vec::new(),
            expected: JobSet::default(),
            kept_for_jobs: Vec::new(),
            kept_for_requests: Vec::new(),
            doubtful: Vec::new(),
            effects: Effects::default(),
            next_seq: 0,
            next_mark: 0,
            #[cfg(feature = "sim")]
            fault: None,
            #[cfg(feature = "sim")]
            audited: false,
            #[cfg(feature = "sim")]
            audit: None,
        }
    }

    /// Builds a mistake in.
    #[cfg(feature = "sim")]
    pub fn set_fault(&mut self, fault: Option<Fault>) {
        self.fault = fault;
    }

    /// Audits every merge with a plain walk; [`Core::check`] tells what that found.
    #[cfg(feature = "sim")]
    pub fn audit_merges(&mut self) {
        self.audited = true;
    }

    /// Number of inputs handled so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// How much is alive.
    pub fn census(&self) -> Census {
        Census {
            jobs: self.jobs.len(),
            vertices: self.vertices.len(),
            edges: self.edges.len(),
            tasks: self.tasks.len(),
            requests: self.requests.len(),
            index: self.index.len(),
        }
    }

    /// Handles one input at time `now` (any unit; it is only handed back in progress). The effects are appended to `effects`.
    pub fn handle(&mut self, now: u64, input: Input<O, V>, effects: &mut Effects<O, V>) {
        self.now = now;
        self.position += 1;
        self.search.afford_more();
        std::mem::swap(&mut self.effects, effects);
        self.cause = input.cancel_cause();
        self.dispatch(input);
        self.settle();
        std::mem::swap(&mut self.effects, effects);
    }

    fn dispatch(&mut self, input: Input<O, V>) {
        match input {
            Input::Open {
                ticket,
                id,
                domain,
                session,
            } => self.open_job(ticket, id, domain, session),
            Input::Session { job, session } => self.set_session(job, session),
            Input::Subscribe { job } => self.subscribe(job),
            Input::Load {
                ticket,
                job,
                definition,
            } => self.load_for_job(ticket, job, definition),
            Input::Build { ticket, job, root } => self.build(ticket, job, root),
            Input::Rebuild {
                ticket,
                job,
                root,
                generation,
            } => self.rebuild(ticket, job, root, generation),
            Input::Cancel { ticket } => self.cancel_request(ticket),
            Input::Discard { ticket, job } => self.discard_job(ticket, job),
            Input::SubBuild {
                ticket,
                task,
                definition,
            } => self.sub_build(ticket, task, definition),
            Input::NextSession {
                ticket,
                task,
                tried,
            } => self.next_session(ticket, task, &tried),
            Input::Walk { ticket, job, root } => self.walk(ticket, job, root),
            Input::Chain { ticket, job, roots } => self.chain(ticket, job, &roots),
            Input::Answer { query, matches } => self.answer(query, matches),
            Input::Finished { task, outcome } => self.finished(task, outcome),
        }
    }

    /// Advances what is dirty and frees what has no owner, until nothing changes any more.
    fn settle(&mut self) {
        loop {
            if let Some(edge) = self.dirty.pop_front() {
                self.advance(edge);
            } else if !self.doubtful.is_empty() {
                // Only now: what is wanted from now on has been told to all that leads there.
                self.reconsider();
            } else if let Some(edge) = self.retiring.pop() {
                self.end_wants(edge);
            } else if let Some(edge) = self.doomed.pop() {
                self.free_edge(edge);
            } else if !self.suspects.is_empty() && self.search.is_due() {
                self.collect_cycles();
            } else {
                return;
            }
        }
    }

    fn effect(&mut self, effect: Effect<O, V>) {
        self.effects.list.push(effect);
    }

    fn reply(&mut self, ticket: Ticket, reply: Result<Reply<O, V>, crate::Failure<V>>) {
        self.effect(Effect::Reply { ticket, reply });
    }

    /// Notes that something about the edge changed.
    fn touch(&mut self, edge: EdgeId) {
        if let Some(state) = self.edges.get_mut(edge)
            && !state.dirty
        {
            state.dirty = true;
            self.dirty.push_back(edge);
        }
    }

    /// Something about a vertex changed: its edges go on, and what they do not need any more ends.
    fn touch_all(&mut self, vertex: VertexId) {
        let mut finished = false;
        for at in 0..self.vertices[vertex].edges.len() {
            let edge = self.vertices[vertex].edges[at];
            if self.edges[edge].phase == graph::Phase::Complete {
                finished = true;
            } else {
                self.touch(edge);
            }
        }
        if finished {
            self.sync(vertex);
        }
    }

    /// The edge that `edge` has become: a union-find look-up, with path compression.
    #[inline(always)]
    fn find(&self, edge: EdgeId) -> EdgeId {
        if self.edges[edge].is_forwarded() {
            self.find_forwarded(edge)
        } else {
            edge
        }
    }

    #[inline(never)]
    fn find_forwarded(&self, edge: EdgeId) -> EdgeId {
        let mut root = edge;
        while self.edges[root].is_forwarded() {
            root = self.edges[root].resolved.get();
        }
        let mut edge = edge;
        while edge != root {
            edge = self.edges[edge].resolved.replace(root);
        }
        root
    }

    /// What `edge` has become.
    #[inline]
    fn found(&self, edge: EdgeId) -> &Edge<V> {
        let state = &self.edges[edge];
        if state.is_forwarded() {
            &self.edges[self.find(edge)]
        } else {
            state
        }
    }

    /// Edges that forward to `edge`, in any number of steps.
    fn sources_of(&self, edge: EdgeId) -> SmallVec<[EdgeId; 4]> {
        let mut sources = SmallVec::from_slice(self.edges[edge].merged());
        let mut at = 0;
        while let Some(source) = sources.get(at).copied() {
            sources.extend_from_slice(self.edges[source].merged());
            at += 1;
        }
        sources
    }

    fn trace(&mut self, event: impl FnOnce(&Self) -> TraceEvent) {
        if self.tracing {
            let event = event(self);
            self.effects.trace.push(event);
        }
    }

    fn trace_edge(&self, edge: EdgeId) -> TraceEdge {
        let state = &self.edges[edge];
        TraceEdge {
            vertex: self.vertices[state.vertex].digest,
            output: state.output,
            id: edge.unique(),
        }
    }

    fn trace_input(&self, edge: EdgeId) -> TraceInput {
        let state = &self.edges[edge];
        TraceInput {
            edge: edge.unique(),
            vertex: state.vertex.unique(),
            output: state.output,
        }
    }

    fn trace_vertex(&self, vertex: VertexId) -> TraceVertex {
        TraceVertex {
            digest: self.vertices[vertex].digest,
            id: vertex.unique(),
        }
    }

    #[cfg(feature = "sim")]
    fn faulty(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }
}

/// Whether a built-in mistake is on; never in a build without the simulator.
macro_rules! faulty {
    ($core:expr, $fault:ident) => {{
        #[cfg(feature = "sim")]
        let on = $core.faulty($crate::core::Fault::$fault);
        #[cfg(not(feature = "sim"))]
        let on = false;
        on
    }};
}
use faulty;
