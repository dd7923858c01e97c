//! The live graph: jobs, vertices, edges and tasks, as they lie in their arenas.
//!
//! Owners: a job owns its root edges, an edge its vertex, a vertex the edges of its inputs and the roots of the builds that its
//! operation asked for, a merged edge its target, a task its vertex. A thing is freed when its last owner lets go.

use std::{cell::Cell, sync::Arc};

use smallvec::SmallVec;

use super::{
    arena::Id,
    index::Names,
    io::{EdgeId, JobId, SessionNo, TaskId, Ticket},
    jobset::JobSet,
};
use crate::{CacheSourceId, Digest, KeyId, Record, keystore::InputKey};

/// Marks ids of edges.
pub(crate) struct EdgeTag;
/// Marks ids of vertices.
pub(crate) struct VertexTag;
/// Marks ids of jobs.
pub struct JobTag;
/// Marks ids of tasks.
pub struct TaskTag;

pub(crate) type VertexId = Id<VertexTag>;

/// How far an edge is, or is wanted to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EdgeState {
    /// Nothing is known.
    Initial,
    /// All keys that follow from definitions are known.
    CacheFast,
    /// All keys are known that can be without running this edge's own operation.
    CacheSlow,
    /// The result is there.
    Complete,
}

pub(crate) struct JobState {
    pub(crate) id: Arc<str>,
    pub(crate) slot: u32,
    pub(crate) domain: Option<Digest>,
    pub(crate) session: Option<SessionNo>,
    pub(crate) subscribed: bool,
    pub(crate) roots: Vec<EdgeId>,
    /// Those that it has yet to ask for.
    pub(crate) unasked: Vec<EdgeId>,
    /// Every edge that got this job's interest bit, and perhaps some that were freed since.
    pub(crate) touched: Vec<EdgeId>,
    pub(crate) requests: Vec<Ticket>,
    /// Whether a request of it has been answered, or cancelled.
    pub(crate) was_answered: bool,
}

/// Who is to be answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Asker {
    Job(JobId),
    Task(TaskId),
}

impl Asker {
    /// The number of the call that asks.
    pub(crate) fn task(self) -> Option<u64> {
        match self {
            Self::Job(_) => None,
            Self::Task(task) => Some(task.unique()),
        }
    }
}

pub(crate) struct Request {
    pub(crate) asker: Asker,
    /// The edge that has it in its list; never a forwarding one.
    pub(crate) edge: EdgeId,
}

/// What a vertex is called and said to do; shared with failures and progress.
pub(crate) struct Label {
    pub(crate) name: Arc<str>,
    pub(crate) description: Arc<str>,
}

/// Laid out in this order: what is looked at for every step comes first, so that it shares cache lines.
#[repr(C)]
pub(crate) struct Vertex<O> {
    /// Live edges, in order of creation.
    pub(crate) edges: SmallVec<[EdgeId; 1]>,
    pub(crate) map_call: TaskSlot,
    pub(crate) exec: TaskSlot,
    pub(crate) ignore_cache: bool,
    pub(crate) never_merge: bool,
    pub(crate) public: bool,
    /// Whether there is a cache map.
    pub(crate) has_map: bool,
    /// Whether the last known map is the last one.
    pub(crate) maps_end: bool,
    /// Whether the cache map has steps on the results of inputs.
    pub(crate) has_steps: bool,
    /// In the list of vertices for which something goes on that nobody wants at the moment.
    pub(crate) kept: bool,
    pub(crate) slots: Box<[Slot]>,
    /// Tasks that are not finished; they own the vertex.
    pub(crate) tasks: u32,
    /// Higher than the rank of everything that this vertex waits for.
    pub(crate) rank: u32,
    pub(crate) extra: Option<Box<VertexExtra>>,
    pub(crate) op: O,
    /// Jobs that loaded this vertex themselves, or whose operation did.
    pub(crate) loaded: JobSet,
    pub(crate) maps: SmallVec<[Map; 1]>,
    pub(crate) status: Status,
    /// Order of creation; decides ties.
    pub(crate) seq: u64,
    /// Epoch of the last walk that came by.
    pub(crate) mark: u64,
    pub(crate) domain: Option<Box<Digest>>,
    pub(crate) digest: Digest,
    pub(crate) label: Label,
}

/// What few vertices have.
#[derive(Default)]
pub(crate) struct VertexExtra {
    pub(crate) sub_builds: Vec<EdgeId>,
    /// How many of them belong to former runs, which did not lead to the result.
    pub(crate) former_builds: usize,
    pub(crate) sources: Option<Arc<[CacheSourceId]>>,
    /// Who may share the vertex, where that is not everybody.
    pub(crate) audience: Option<Digest>,
    /// The vertex whose operation is called in place of the own one, because what that one needed went away.
    pub(crate) stand_in: Option<VertexId>,
    /// Vertices whose operation failed because what it needed went away.
    pub(crate) given_up: Vec<VertexId>,
    /// Jobs on whose behalf the own operation failed for that reason.
    pub(crate) given_up_jobs: JobSet,
    /// Whether the operation reported on itself, so that there is a history of it.
    pub(crate) reported: bool,
    pub(crate) error: Option<Arc<str>>,
    /// Whether the operation runs for another vertex at the moment.
    pub(crate) lent: bool,
    /// Vertices that wait for the operation to be free, to run it.
    pub(crate) borrowers: Vec<VertexId>,
}

/// An input of a vertex.
pub(crate) struct Slot {
    /// The edge that was loaded as the input; owned. It may forward.
    pub(crate) declared: EdgeId,
    /// Position in the list of dependents of the edge that `declared` resolves to.
    pub(crate) position: u32,
    pub(crate) preprocess: Step,
    pub(crate) slow: Step,
    /// Of inputs with steps on their results.
    pub(crate) extra: Option<Box<SlotExtra>>,
}

/// What few inputs have.
#[derive(Default)]
pub(crate) struct SlotExtra {
    pub(crate) task: TaskSlot,
    /// The key of the content of the input's result.
    pub(crate) content: Option<KeyId>,
}

impl Slot {
    pub(crate) fn extra_mut(&mut self) -> &mut SlotExtra {
        self.extra.get_or_insert_default()
    }

    pub(crate) fn task(&self) -> TaskSlot {
        self.extra
            .as_ref()
            .map_or(TaskSlot::Idle, |extra| extra.task)
    }

    pub(crate) fn content(&self) -> Option<&KeyId> {
        self.extra.as_ref().and_then(|extra| extra.content.as_ref())
    }
}

/// Progress of a step that runs at most once per result of the input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// There is no such step, or the cache map is not known yet.
    Absent,
    Todo,
    Done,
}

/// A place for one task.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum TaskSlot {
    #[default]
    Idle,
    Running(TaskId),
    /// Cancelled, but not ended yet.
    Winding(TaskId),
}

impl TaskSlot {
    pub(crate) fn is_idle(self) -> bool {
        self == Self::Idle
    }
}

/// A cache map, as far as the core needs it.
pub(crate) struct Map {
    /// Digest of the operation, salted with the isolation domain, or as public.
    pub(crate) op: Digest,
    /// Per input; `None` where no input has a selector.
    pub(crate) selectors: Option<Box<[Option<Digest>]>>,
}

impl Map {
    pub(crate) fn selector(&self, slot: usize) -> Option<Digest> {
        self.selectors
            .as_ref()
            .and_then(|selectors| selectors.get(slot).copied().flatten())
    }
}

/// What jobs were told of a vertex.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Status {
    Pending,
    Started {
        at: u64,
    },
    Completed {
        from: u64,
        at: u64,
    },
    Cached {
        at: u64,
    },
    Failed {
        from: u64,
        at: u64,
    },
    /// Its run was cancelled: nothing that whoever wants its result needs to hear of.
    Cancelled {
        from: u64,
        at: u64,
    },
}

pub(crate) struct Dependent {
    pub(crate) vertex: VertexId,
    pub(crate) slot: u32,
}

/// How an edge is being solved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// Definition keys of this edge and its inputs are being collected.
    Keys,
    /// Definition keys led to no record; inputs are raised one rung of the ladder after the other.
    Raise,
    /// No more keys can be known without running the operation: there is a record to load, or there can be none.
    Settled,
    /// A record is being loaded.
    Loading,
    /// The operation is to run, or runs.
    Running,
    /// The result is there.
    Complete,
    /// Merged into another edge.
    Forwarded(EdgeId),
}

impl Phase {
    pub(crate) fn state(self) -> EdgeState {
        match self {
            Self::Keys => EdgeState::Initial,
            Self::Raise => EdgeState::CacheFast,
            Self::Settled | Self::Loading | Self::Running => EdgeState::CacheSlow,
            Self::Complete => EdgeState::Complete,
            // A forwarding edge is never looked at for its own state.
            Self::Forwarded(_) => EdgeState::Initial,
        }
    }
}

/// What a key of an edge may be used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum KeyUse {
    /// For look-ups, for the index and for records.
    Full,
    /// For look-ups and records, but not for the index: the edge, or one that leads to it, is never merged.
    Apart,
    /// For the index only: the key exists in this process alone.
    Live,
    /// For records only: the edge was forced to run, nothing may be found through it.
    Record,
}

impl KeyUse {
    /// Good for finding records.
    pub(crate) fn finds(self) -> bool {
        matches!(self, Self::Full | Self::Apart)
    }

    /// Good for all of these.
    pub(crate) fn is_full(self) -> bool {
        self == Self::Full
    }

    /// Good for finding live edges.
    pub(crate) fn merges(self) -> bool {
        matches!(self, Self::Full | Self::Live)
    }

    /// Good for naming records.
    pub(crate) fn records(self) -> bool {
        self != Self::Live
    }
}

/// One way in which an input of an edge can be named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Alternative {
    pub(crate) key: InputKey,
    pub(crate) usage: KeyUse,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct EdgeKey {
    pub(crate) id: KeyId,
    pub(crate) usage: KeyUse,
    /// Found in a store by a query, rather than computed here.
    pub(crate) stored: bool,
}

/// What an edge knows and wants of one input of its vertex.
#[derive(Clone, Copy)]
pub(crate) struct EdgeSlot {
    /// State of the input, as last heard.
    pub(crate) state: EdgeState,
    /// What this edge wants of it; counted in the input's `wants`.
    pub(crate) want: EdgeState,
    pub(crate) hit: Hit,
    /// Keys of the input came in that no query was made with.
    pub(crate) fresh: bool,
    /// The steps on the input's result are wanted.
    pub(crate) work: bool,
}

/// Whether any stored key can be reached through an input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Hit {
    Unknown,
    Yes,
    No,
}

/// Laid out in this order: what is looked at for every step comes first, so that it shares cache lines.
#[repr(C)]
pub(crate) struct Edge<V> {
    pub(crate) phase: Phase,
    pub(crate) vertex: VertexId,
    /// How many inputs are not as far as they are wanted to be.
    pub(crate) lacking: u32,
    /// How many inputs have not told their keys.
    pub(crate) unknown: u32,
    /// Queries under way.
    pub(crate) queries: u32,
    /// How many dependent edges want `CacheFast`, `CacheSlow` and `Complete`.
    pub(crate) wants: [u32; 3],
    /// No record can match, whatever is learnt of the inputs.
    pub(crate) no_match: bool,
    /// In the list of edges to advance.
    pub(crate) dirty: bool,
    /// In the index.
    pub(crate) indexed: bool,
    /// The index should be looked at: names of inputs came in.
    pub(crate) look: bool,
    /// Names of inputs came in since a match over all inputs was last asked for.
    pub(crate) unmatched: bool,
    pub(crate) need_map: bool,
    pub(crate) need_exec: bool,
    pub(crate) slots: SmallVec<[EdgeSlot; 3]>,
    pub(crate) requests: SmallVec<[Ticket; 1]>,
    pub(crate) extra: Option<Box<EdgeExtra>>,
    pub(crate) output: u32,
    /// Cache maps that were taken into account.
    pub(crate) maps_seen: u32,
    /// Inputs of live vertices that resolve to this edge.
    pub(crate) dependents: SmallVec<[Dependent; 3]>,
    pub(crate) result: Option<V>,
    pub(crate) keys: SmallVec<[EdgeKey; 1]>,
    /// How many results this edge has had.
    pub(crate) generation: u32,
    pub(crate) load: TaskSlot,
    /// Answers to queries of an older epoch are not believed.
    pub(crate) epoch: u32,
    pub(crate) owners: u32,
    pub(crate) interest: JobSet,
    /// The names under which it is in the index.
    pub(crate) names: Names,
    /// Where a forwarding edge leads in the end, as far as known: a short cut along its targets, owned by nobody.
    pub(crate) resolved: Cell<EdgeId>,
    /// Position in the list of merged edges of the target.
    pub(crate) position: u32,
}

/// What few edges have.
#[derive(Default)]
pub(crate) struct EdgeExtra {
    /// Edges that forward to this one, in one step.
    pub(crate) merged: Vec<EdgeId>,
    /// Vertices whose operation asked for a build that ends in this edge.
    pub(crate) parents: Vec<VertexId>,
    /// Keys of inputs that only merged edges knew, by input.
    pub(crate) links: Vec<(u32, Alternative)>,
    /// Records to try, best first.
    pub(crate) records: Vec<Record>,
    /// Records that were tried.
    pub(crate) tried: Vec<Record>,
    /// The record that the result was loaded from.
    pub(crate) loaded_from: Option<Record>,
    /// How often a result was lost.
    pub(crate) lost: u32,
    /// What leads to it was saved, although it has no result here.
    pub(crate) chained: bool,
}

/// What a task is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    CacheMap,
    Slot(u32),
    Load(EdgeId),
    Exec,
}

/// Results of inputs that a call was given, by generation.
pub(crate) type Given = SmallVec<[(EdgeId, u32); 4]>;

pub(crate) struct Task {
    pub(crate) vertex: VertexId,
    /// The vertex whose operation is called.
    pub(crate) actor: VertexId,
    pub(crate) purpose: Purpose,
    pub(crate) cancelled: bool,
    /// The slot of the job whose needs it works with first, if any.
    pub(crate) on_behalf: Option<u32>,
    /// Requests of sub-builds that the operation made and that are not answered.
    pub(crate) requests: Vec<Ticket>,
    /// Results of inputs that the call was given, by generation.
    pub(crate) inputs: Given,
}

impl<O> Vertex<O> {
    pub(crate) fn extra_mut(&mut self) -> &mut VertexExtra {
        self.extra.get_or_insert_default()
    }

    /// Who may share the vertex, where that is not everybody.
    pub(crate) fn audience(&self) -> Option<&Digest> {
        self.extra.as_ref()?.audience.as_ref()
    }

    /// Roots of builds that the operation asked for, in any run.
    pub(crate) fn sub_builds(&self) -> &[EdgeId] {
        self.extra.as_ref().map_or(&[], |extra| &extra.sub_builds)
    }

    /// Those of the last run.
    pub(crate) fn last_builds(&self) -> &[EdgeId] {
        self.extra
            .as_ref()
            .and_then(|extra| extra.sub_builds.get(extra.former_builds..))
            .unwrap_or_default()
    }

    /// A new result is on its way: what was built for the last one does not belong to it.
    pub(crate) fn leave_builds(&mut self) {
        if let Some(extra) = &mut self.extra {
            extra.former_builds = extra.sub_builds.len();
        }
    }
}

impl<V> Edge<V> {
    pub(crate) fn extra_mut(&mut self) -> &mut EdgeExtra {
        self.extra.get_or_insert_default()
    }

    pub(crate) fn merged(&self) -> &[EdgeId] {
        self.extra.as_ref().map_or(&[], |extra| &extra.merged)
    }

    pub(crate) fn links(&self) -> &[(u32, Alternative)] {
        self.extra.as_ref().map_or(&[], |extra| &extra.links)
    }

    pub(crate) fn records(&self) -> &[Record] {
        self.extra.as_ref().map_or(&[], |extra| &extra.records)
    }

    /// The state that somebody wants this edge to reach.
    pub(crate) fn desired(&self) -> EdgeState {
        let [fast, slow, complete] = self.wants;
        if complete > 0 || !self.requests.is_empty() {
            EdgeState::Complete
        } else if slow > 0 {
            EdgeState::CacheSlow
        } else if fast > 0 {
            EdgeState::CacheFast
        } else {
            EdgeState::Initial
        }
    }

    /// Notes how far an input is; returns how far it was.
    pub(crate) fn hear_state(&mut self, slot: usize, state: EdgeState) -> EdgeState {
        let place = &mut self.slots[slot];
        let old = std::mem::replace(&mut place.state, state);
        self.lacking += u32::from(state < place.want);
        self.lacking -= u32::from(old < place.want);
        self.unknown += u32::from(state == EdgeState::Initial);
        self.unknown -= u32::from(old == EdgeState::Initial);
        old
    }

    /// Notes how far an input is wanted to be; returns how far it was.
    pub(crate) fn set_want(&mut self, slot: usize, want: EdgeState) -> EdgeState {
        let place = &mut self.slots[slot];
        let old = std::mem::replace(&mut place.want, want);
        self.lacking += u32::from(place.state < want);
        self.lacking -= u32::from(place.state < old);
        old
    }

    /// Notes that an input has names that nothing was asked with.
    pub(crate) fn names_came_in(&mut self, slot: usize) {
        self.slots[slot].fresh = true;
        self.look = true;
        self.unmatched = true;
    }

    pub(crate) fn is_forwarded(&self) -> bool {
        matches!(self.phase, Phase::Forwarded(_))
    }
}
