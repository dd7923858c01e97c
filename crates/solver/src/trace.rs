//! Typed scheduler events: what the core did and why. Only made while tracing is on.

use std::sync::Arc;

use crate::{Digest, KeyId, OpCall, RecordId};

/// An edge, as it is named in events: the vertex digest, the output index, and a number that tells live twins apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceEdge {
    /// Digest of the vertex.
    pub vertex: Digest,
    /// Output index.
    pub output: u32,
    /// Unique for the life of the solver.
    pub id: u64,
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

/// A scheduler event.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TraceEvent {
    /// A job began.
    JobOpened {
        /// Its id.
        job: Arc<str>,
    },
    /// A job ended.
    JobDiscarded {
        /// Its id.
        job: Arc<str>,
    },
    /// A job loaded a graph.
    Loaded {
        /// The job; `None` for a build that an operation asked for.
        job: Option<Arc<str>>,
        /// Digest of the root vertex.
        root: Digest,
        /// Vertices in the graph.
        vertices: u64,
        /// How many of them were not live yet.
        created: u64,
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
    },
    /// Two edges became one.
    Merged {
        /// The one that forwards from now on.
        source: TraceEdge,
        /// The one that survives.
        target: TraceEdge,
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
        /// Digest of the vertex.
        vertex: Digest,
        /// The call.
        call: OpCall,
        /// The input that it is about.
        input: Option<u32>,
    },
    /// A call of an operation ended.
    CallEnded {
        /// Digest of the vertex.
        vertex: Digest,
        /// The call.
        call: OpCall,
        /// Why it failed.
        error: Option<Arc<str>>,
    },
    /// A call or load is being cancelled because nobody waits for it any more.
    CallCancelled {
        /// Digest of the vertex.
        vertex: Digest,
    },
    /// A record did not load; the next one is tried.
    LoadFailed {
        /// The edge.
        edge: TraceEdge,
        /// The record.
        record: RecordId,
        /// Why.
        reason: Arc<str>,
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
}

/// Where trace events go. Must not block.
pub trait TraceSink: Send + Sync + 'static {
    /// Takes one event; `position` counts the inputs of the core.
    fn event(&self, position: u64, event: TraceEvent);
}
