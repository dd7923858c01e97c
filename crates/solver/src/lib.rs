//! A graph solver: jobs, edges, cache keys and results; generic over operations, with no I/O of its own.
//!
//! Many builds (*jobs*) share one live graph. Work that turns out to be the same is done once: equal vertices are shared when they
//! are loaded, and edges of different vertices are *merged* when their cache keys turn out equal.
//!
//! A client opens a job, loads an [`OpDefinition`], and builds its root:
//!
//! ```text
//! Solver::<T>::new(SolverOptions, Arc<dyn KeyStore>, Arc<dyn ResultStore<T>>) -> Solver<T>
//! solver.new_job(JobOptions { id, domain, session }).await -> Result<Job<T>, SolveError<T>>
//! job.progress() -> ProgressStream
//! job.load(definition).await -> Result<Root, SolveError<T>>
//! job.build(root).await -> Result<Built<ResultRef<T>>, SolveError<T>>      (dropping the future cancels)
//! job.rebuild(root, &built).await    (the result turned out lost; executes anew)
//! job.walk(root).await, job.set_session(..), job.discard().await
//! ```

#[cfg(feature = "bench")]
pub mod bench;
pub mod core;
mod definition;
mod digest;
mod driver;
mod error;
pub mod keystore;
mod op;
mod progress;
mod results;
mod session;
#[cfg(feature = "sim")]
pub mod sim;
mod trace;
mod value;

pub use core::{Built, Census, EdgeState};

pub use definition::*;
pub use digest::{Digest, KeyId};
pub use driver::{
    CacheSource, Job, JobOptions, NoSession, OpContext, ProvenanceVertex, Root, SessionClosed,
    Solver, SolverOptions,
};
pub use error::{Failure, OpCall, OpFailure, SolveError};
pub use keystore::{KeyMatches, KeyQuery, KeyStore, MemoryKeyStore, Record, SaveKey};
pub use op::{CacheMap, InputMap, Op, OpDefinition, OpError};
pub use progress::{LogChunk, ProgressEvent, ProgressStream, Status, VertexUpdate};
pub use results::MemoryResultStore;
pub use session::Session;
pub use trace::{Refusal, TraceEdge, TraceEvent, TraceSink};
pub use value::{LoadError, RecordId, ResultRef, ResultStore, StoreError, Value};
