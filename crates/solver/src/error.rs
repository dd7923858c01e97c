//! What a request can end in.

use std::{fmt, sync::Arc};

use crate::{DefinitionError, Digest, OpError, ResultRef};

/// The call of an operation that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OpCall {
    /// [`Op::cache_map`](crate::Op::cache_map).
    CacheMap,
    /// [`Op::preprocess`](crate::Op::preprocess).
    Preprocess,
    /// [`Op::slow_key`](crate::Op::slow_key).
    SlowKey,
    /// [`Op::exec`](crate::Op::exec).
    Exec,
}

impl fmt::Display for OpCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CacheMap => "computing the cache map",
            Self::Preprocess => "preparing the input",
            Self::SlowKey => "computing the content key",
            Self::Exec => "running",
        })
    }
}

/// A failed call of an operation, with where it happened.
#[derive(Clone, Debug)]
pub struct OpFailure {
    /// Digest of the vertex.
    pub vertex: Digest,
    /// Digests of the vertices that were merged into it: one who loaded one of these knows the failure by it.
    pub merged: Arc<[Digest]>,
    /// Name of the vertex.
    pub name: Arc<str>,
    /// What the operation does, in its own words.
    pub description: Arc<str>,
    /// The call that failed.
    pub call: OpCall,
    /// The input that the call was about.
    pub input: Option<u32>,
    /// The operation's own error.
    pub error: OpError,
}

impl fmt::Display for OpFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.description.is_empty() {
            &self.name
        } else {
            &self.description
        };
        write!(f, "{what}: {}", self.reason())
    }
}

impl OpFailure {
    /// What went wrong, for where it is known what it was that failed.
    pub fn reason(&self) -> impl fmt::Display {
        fmt::from_fn(|f| match self.input {
            // The error says best what it was about: a command, an address, a path of an input.
            _ if matches!(self.call, OpCall::Exec | OpCall::CacheMap | OpCall::SlowKey) => {
                write!(f, "{}", self.error)
            }
            None => write!(f, "{}: {}", self.call, self.error),
            Some(input) => write!(f, "{} {input}: {}", self.call, self.error),
        })
    }
}

/// Why a request of a job was not answered with a result.
pub type SolveError<T> = Failure<ResultRef<T>>;

/// Why a request was not answered with a result; `V` is the handle of a result.
///
/// Cheap to clone: one failure goes to everyone who waited for it.
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Failure<V> {
    /// A call of an operation failed.
    #[error("{failure}")]
    Op {
        /// What failed and where.
        failure: Arc<OpFailure>,
        /// The results that the failed call was given, kept alive for a debugger until the error is dropped.
        inputs: Arc<[V]>,
    },
    /// The operation returned fewer outputs than are referred to.
    #[error("{name} ({vertex}) has no output {output}: it returned {returned}")]
    MissingOutput {
        /// Digest of the vertex.
        vertex: Digest,
        /// Name of the vertex.
        name: Arc<str>,
        /// The output that was asked for.
        output: u32,
        /// How many there are.
        returned: u32,
    },
    /// The request was cancelled, or its job was discarded.
    #[error("cancelled")]
    Cancelled,
    /// The job was discarded before the request was made.
    #[error("the job is discarded already")]
    Discarded,
    /// A live job has this id already.
    #[error("there is a job {job} already")]
    DuplicateJob {
        /// The id.
        job: Arc<str>,
    },
    /// The root was not loaded by the job that asked.
    #[error("the root was not loaded by job {job}")]
    ForeignRoot {
        /// The job that asked.
        job: Arc<str>,
    },
    /// The list of vertices is not a definition.
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    /// An operation asked for a build that waits, directly or not, for that operation.
    #[error("{name} ({vertex}) asks for a build that depends on itself")]
    SubBuildCycle {
        /// Digest of the asking vertex.
        vertex: Digest,
        /// Name of the asking vertex.
        name: Arc<str>,
    },
    /// A lost result was executed anew too often.
    #[error("the result of {name} ({vertex}) was lost {times} times")]
    ResultLost {
        /// Digest of the vertex.
        vertex: Digest,
        /// Name of the vertex.
        name: Arc<str>,
        /// How often.
        times: u32,
    },
    /// The solver broke one of its own invariants. The request is lost, the solver lives on.
    #[error("solver invariant broken at event {position}: {invariant}")]
    Invariant {
        /// The invariant.
        invariant: Arc<str>,
        /// Number of inputs that the core had handled.
        position: u64,
    },
    /// The solver was shut down.
    #[error("the solver is shut down")]
    Shutdown,
}

impl<V> fmt::Debug for Failure<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Op { failure, .. } => failure.fmt(f),
            other => write!(f, "Failure({other})"),
        }
    }
}
