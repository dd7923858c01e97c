//! Typed scheduler events: what the core did and why. Only made while tracing is on.

use std::sync::Arc;

use crate::{CacheSourceId, Digest, KeyId, OpCall, RecordId};

/// A vertex, as it is named in events: its digest, and a number that tells live twins apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceVertex {
    /// Its digest.
    pub digest: Digest,
    /// Unique for the life of the core.
    pub id: u64,
}

/// An edge, as it is named in events: the vertex digest, the output index, and a number that tells live twins apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceEdge {
    /// Digest of the vertex.
    pub vertex: Digest,
    /// Output index.
    pub output: u32,
    /// Unique for the life of the core.
    pub id: u64,
}

/// An input, as it is named when its vertex becomes live: by numbers, since all of them were live before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceInput {
    /// The edge.
    pub edge: u64,
    /// Its vertex.
    pub vertex: u64,
    /// Output index.
    pub output: u32,
}

/// How large a graph was when it was loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GraphSize {
    /// Vertices in it.
    pub vertices: u64,
    /// How many of them were not live yet.
    pub created: u64,
}

/// Why two edges with an equal index key were not merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// One of the vertices is marked never to be merged.
    NeverMerge,
    /// An ignore-cache edge does not follow a normal one.
    IgnoreCache,
    /// One is an ancestor of the other.
    Ancestor,
    /// Both have their result already.
    BothComplete,
}

/// What a call that executes waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitReason {
    /// A slot to execute in.
    Slot,
    /// What another call holds; this one has no slot meanwhile.
    Lock,
}

/// By what two edges turned out to be equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MergeReason {
    /// Keys of their definitions, or keys that a store gave them.
    FastKey,
    /// The content of at least one input.
    SlowKey,
}

/// Why a call or a load is cancelled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CancelCause {
    /// What it would find out is not needed any more.
    #[default]
    NotNeeded,
    /// The last request for it was cancelled.
    RequestCancelled,
    /// The last interested job was discarded.
    JobDiscarded,
    /// Its edge was merged into another.
    Merged,
    /// What it worked on failed, or was lost.
    Failed,
}

/// How a request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RequestOutcome {
    /// With the result.
    Built,
    /// With a failure.
    Failed,
    /// It was cancelled.
    Cancelled,
}

/// A scheduler event.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TraceEvent {
    /// Tracing began while there were jobs: what follows was before, as far as it is still alive.
    Resumed,
    /// A job began.
    JobOpened {
        /// Its id.
        job: Arc<str>,
        /// Whether it has a session.
        session: bool,
    },
    /// A job's session opened or closed.
    SessionChanged {
        /// The job.
        job: Arc<str>,
        /// Whether it has one now.
        session: bool,
    },
    /// A job ended.
    JobDiscarded {
        /// Its id.
        job: Arc<str>,
    },
    /// A vertex became live.
    VertexCreated {
        /// The vertex.
        vertex: TraceVertex,
        /// Its name.
        name: Arc<str>,
        /// Its inputs.
        inputs: Box<[TraceInput]>,
        /// Whether the cache is not asked for it.
        ignore_cache: bool,
        /// Whether it is never merged.
        never_merge: bool,
    },
    /// A vertex is not live any more.
    VertexFreed {
        /// The vertex.
        vertex: TraceVertex,
    },
    /// An edge is not live any more.
    EdgeFreed {
        /// The edge.
        edge: TraceEdge,
        /// How far it came; `None` where it forwards.
        state: Option<crate::EdgeState>,
    },
    /// A job loaded a graph.
    Loaded {
        /// The job; `None` for a build that an operation asked for.
        job: Option<Arc<str>>,
        /// The vertex whose operation asked for it.
        parent: Option<TraceVertex>,
        /// The root.
        root: TraceEdge,
        /// Number of the root's vertex.
        id: u64,
        /// How large it is; `None` where it was loaded before tracing began.
        size: Option<GraphSize>,
    },
    /// The result of an edge is asked for.
    Requested {
        /// Names the request.
        request: u64,
        /// The job that asks; `None` for a build that an operation asks for.
        job: Option<Arc<str>>,
        /// The call whose operation asks.
        task: Option<u64>,
        /// The edge.
        edge: TraceEdge,
    },
    /// A request is answered.
    Answered {
        /// The request.
        request: u64,
        /// With what.
        outcome: RequestOutcome,
    },
    /// An edge reached a state.
    State {
        /// The edge.
        edge: TraceEdge,
        /// `CacheFast`, `CacheSlow` or `Complete`.
        state: crate::EdgeState,
    },
    /// A cache key of an edge became known.
    Key {
        /// The edge.
        edge: TraceEdge,
        /// The key.
        key: KeyId,
        /// Whether a store knew it.
        stored: bool,
    },
    /// Stores answered whether something can be found.
    Queried {
        /// The edge.
        edge: TraceEdge,
        /// The input that the query was about; `None` for all of them.
        input: Option<u32>,
        /// Whether something leads on, or was found.
        hit: bool,
        /// Records that were found.
        records: u32,
    },
    /// Two edges became one.
    Merged {
        /// The one that forwards from now on.
        source: TraceEdge,
        /// The one that survives.
        target: TraceEdge,
        /// By what they are equal; `None` where they were merged before tracing began.
        reason: Option<MergeReason>,
    },
    /// Two edges have an equal index key but stay apart.
    MergeRefused {
        /// The edge that looked.
        edge: TraceEdge,
        /// The edge that it found.
        other: TraceEdge,
        /// Why.
        reason: Refusal,
    },
    /// A call of an operation began.
    CallStarted {
        /// Unique for the life of the core.
        task: u64,
        /// The vertex.
        vertex: TraceVertex,
        /// The call.
        call: OpCall,
        /// The input that it is about.
        input: Option<u32>,
        /// The vertex whose operation is called, where that is another one.
        actor: Option<Digest>,
    },
    /// A call of an operation ended, and the outcome counts.
    CallEnded {
        /// The call's number.
        task: u64,
        /// The vertex.
        vertex: TraceVertex,
        /// The call.
        call: OpCall,
        /// The operation's digest or the key of the content.
        digest: Option<Digest>,
        /// Why it failed.
        error: Option<Arc<str>>,
    },
    /// A record is being loaded.
    LoadStarted {
        /// Unique among loads and calls.
        task: u64,
        /// The edge.
        edge: TraceEdge,
        /// The record.
        record: RecordId,
        /// Where it is; 0 is the local store.
        source: CacheSourceId,
    },
    /// A record was loaded.
    LoadEnded {
        /// The load's number.
        task: u64,
        /// The edge.
        edge: TraceEdge,
    },
    /// A record did not load; the next one is tried.
    LoadFailed {
        /// The load's number.
        task: u64,
        /// The edge.
        edge: TraceEdge,
        /// The record.
        record: RecordId,
        /// Why.
        reason: Arc<str>,
    },
    /// A call or load is being cancelled because nobody waits for it any more.
    CallCancelled {
        /// Its number.
        task: u64,
        /// The vertex.
        vertex: TraceVertex,
        /// Why.
        cause: CancelCause,
    },
    /// A call or load that was told of as begun when the trace resumed had begun before.
    UnderWay {
        /// Its number.
        task: u64,
        /// The vertex.
        vertex: TraceVertex,
        /// How long before, in microseconds.
        micros: u64,
    },
    /// A call waits: for a slot to execute in, as many as may execute at a time do, or for something that another one holds.
    SlotAwaited {
        /// The call's number.
        task: u64,
        /// The vertex.
        vertex: TraceVertex,
        /// What for.
        reason: WaitReason,
    },
    /// A call that waited for a slot or for what another one held goes on: it has it, or is cancelled.
    SlotTaken {
        /// The call's number.
        task: u64,
        /// The vertex.
        vertex: TraceVertex,
    },
    /// A call or load ended, and its outcome was let go of.
    CallDropped {
        /// Its number.
        task: u64,
        /// The vertex.
        vertex: TraceVertex,
    },
    /// A result could not be recorded; it is still used.
    SaveFailed {
        /// Why.
        reason: Arc<str>,
    },
    /// A cache source failed or took too long; it counts as a miss.
    SourceFailed {
        /// Number of the source; 0 is the local store.
        source: u32,
        /// Why.
        reason: Arc<str>,
    },
    /// A result could not be made real; it is executed anew.
    ResultLost {
        /// The edge.
        edge: TraceEdge,
    },
    /// A session was lent to an operation.
    SessionLent {
        /// Digest of the vertex.
        vertex: Digest,
        /// The job whose session it is.
        job: Arc<str>,
    },
    /// The operation of another vertex takes over because what the last one needed went away.
    Fallback {
        /// Digest of the vertex.
        vertex: Digest,
        /// Digest of the vertex whose operation is tried next.
        next: Digest,
    },
    /// An operation tells why it has to run.
    Explained {
        /// Digest of the vertex.
        vertex: Digest,
        /// Why, for a person.
        why: Arc<str>,
    },
    /// The core broke an invariant: everything live failed, and a new core took over.
    Broken {
        /// What was broken.
        invariant: Arc<str>,
    },
}

/// When an event happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceStamp {
    /// Counts the inputs of the core.
    pub position: u64,
    /// Microseconds since 1970.
    pub micros: u64,
}

/// Where trace events go. Must not block.
pub trait TraceSink: Send + Sync + 'static {
    /// Takes one event, which was made for a recording. Another one may have begun since; the event is of none of its business, for
    /// what is live comes first in that one.
    fn event(&self, recording: u64, at: TraceStamp, event: TraceEvent);

    /// Takes events that belong together, in their order, and leaves none.
    fn events(&self, recording: u64, at: TraceStamp, events: &mut Vec<TraceEvent>) {
        for event in events.drain(..) {
            self.event(recording, at, event);
        }
    }

    /// Number of the recording that is under way; 0 for none, and then no event is made. When another one begins while something is
    /// live, its first event is [`TraceEvent::Resumed`], and what is live follows.
    fn recording(&self) -> u64 {
        1
    }
}
