//! A graph solver: jobs, edges, cache keys and results; generic over operations, with no I/O of its own.
//!
//! Many builds (*jobs*) share one live graph. Work that turns out to be the same is done once: equal vertices are shared when they
//! are loaded, and edges of different vertices are *merged* when their cache keys turn out equal.
//!
//! # Use
//!
//! Implement [`Op`] for what is to be done, build an [`OpDefinition`], and give it to a [`Job`] of a [`Solver`]:
//! [`Job::load`], [`Job::build`], [`Job::progress`], [`Job::discard`]. `examples/arithmetic.rs` is a whole program.
//! [`MemoryKeyStore`] and [`MemoryResultStore`] keep records in memory; [`KeyStore`] and [`ResultStore`] are the seams for others.
//!
//! # Model
//!
//! A *vertex* is an operation with a digest over its definition and its inputs. An *edge* is one output of it, the unit that is
//! solved. An operation tells how it is cached in a [`CacheMap`]: a digest, and per input a selector, a content key and a preparation
//! where it wants them. A *cache key* is that digest, the output and the keys of the inputs; it leads to *records* of results.
//!
//! An edge climbs a ladder, and stops at the first rung that leads to a record: the keys that follow from definitions; then the
//! content of those inputs through which nothing was found, which costs their execution; then its own execution.
//!
//! # Guarantees
//!
//! In short; the [rules] say all of it.
//!
//! - *Sharing.* An operation runs at most once at a time. Edges with an equal key merge as soon as both know it, also when one of them
//!   runs already; never with an ancestor, across isolation domains, against [`MergePolicy::Never`], or from an ignore-cache vertex
//!   into a normal one.
//! - *Liveness.* What can be reached from a job is alive. Whichever job is discarded at whichever moment, no other one fails, restarts
//!   or loses progress. When all are gone, nothing is left but the records.
//! - *Cancelling.* A request that is dropped is over at once. Work is cancelled when nobody wants it and nobody who loaded
//!   what leads to it may come to; asking again starts it again when the old run has wound down. A cancellation is never taken for a result.
//! - *Failures* reach everyone who had asked before, with the vertex, the call and the input; whoever asks later runs the operation
//!   anew. What went away with a job ([`OpError::Gone`]) is tried with the operation of another job that merged; a result that
//!   turns out to be lost ([`OpError::LostInput`]) is made anew while everything above it waits.
//! - *Progress.* A job hears of each of its vertices under the digest that it loaded, whoever did the work and whenever.
//!
//! # Parts
//!
//! [`core`] is a state machine without I/O, clock, randomness or threads; the driver around it runs its effects on tokio. The simulator
//! (feature `sim`) plays random graphs and schedules against the core and checks every invariant after each step; the benchmarks are in
//! feature `bench`.

#[cfg(feature = "bench")]
pub mod bench;
pub mod chain;
pub mod core;
mod definition;
mod digest;
mod driver;
mod error;
pub mod keystore;
mod op;
mod progress;
mod results;
#[doc = include_str!("rules.md")]
pub mod rules {}
mod session;
#[cfg(feature = "sim")]
pub mod sim;
mod trace;
mod value;

pub use core::{Built, Census, EdgeState};

pub use definition::*;
pub use digest::{Digest, KeyId};
pub use driver::{
    CacheSource, Job, JobOptions, LentSessions, NoSession, OpContext, ProvenanceResult,
    ProvenanceVertex, Root, SessionClosed, Solver, SolverOptions,
};
pub use error::{Failure, OpCall, OpFailure, SolveError};
pub use keystore::{KeyMatches, KeyQuery, KeyStore, MemoryKeyStore, Record, SaveKey};
pub use op::{CacheMap, InputMap, Op, OpDefinition, OpError};
pub use progress::{LogChunk, ProgressEvent, ProgressStream, Status, VertexUpdate};
pub use results::MemoryResultStore;
pub use session::Session;
pub use trace::{
    CancelCause, GraphSize, MergeReason, Refusal, RequestOutcome, TraceEdge, TraceEvent,
    TraceInput, TraceSink, TraceStamp, TraceVertex, WaitReason,
};
pub use value::{LoadError, RecordId, ResultRef, ResultStore, StoreError, Value};
