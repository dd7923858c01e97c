//! The driver: runs the core's effects as tokio tasks and feeds the outcomes back. All concurrency lives here.

mod chain;
mod context;
mod control;
mod history;
mod inbox;
mod job;
mod lent;
mod pump;
mod run;
mod running;
mod slot;
mod slots;
mod sources;
mod waiting;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

pub use context::OpContext;
use inbox::{Inbox, Message};
pub use job::{Job, JobOptions, ProvenanceResult, ProvenanceVertex, Root};
pub use lent::{LentSessions, NoSession, SessionClosed};
use pump::Pump;
use slots::Slots;
use sources::Sources;

use crate::{
    CacheSourceId, Digest, KeyStore, Op, ResultRef, ResultStore, Session, SolveError, TraceSink,
    Value,
    core::{self, Census},
};

pub(crate) type CoreInput<T> = core::Input<Arc<dyn Op<T>>, ResultRef<T>>;
pub(crate) type CoreReply<T> = core::Reply<Arc<dyn Op<T>>, ResultRef<T>>;

/// For requests that are not tied to what an earlier core handed out.
const ANY_EPOCH: u32 = u32::MAX;

/// How a solver behaves.
#[derive(Clone)]
pub struct SolverOptions {
    /// How many operations execute at once, shared evenly by the jobs that want to; no limit where `None`.
    pub parallelism: Option<usize>,
    /// How long an operation may take to end after it was cancelled; then its future is dropped.
    pub cancel_grace: Duration,
    /// How long a cache source may take to answer before it counts as a miss.
    pub source_timeout: Duration,
    /// Where scheduler events go.
    pub trace: Option<Arc<dyn TraceSink>>,
}

impl Default for SolverOptions {
    fn default() -> Self {
        Self {
            parallelism: None,
            cancel_grace: Duration::from_secs(30),
            source_timeout: Duration::from_secs(10),
            trace: None,
        }
    }
}

/// A further place with keys and records, consulted beside the solver's own store.
pub struct CacheSource<T: Value> {
    /// Its keys.
    pub keys: Arc<dyn KeyStore>,
    /// Its results.
    pub results: Arc<dyn ResultStore<T>>,
}

/// What the pump, the jobs and the tasks share.
pub(crate) struct Shared<T: Value> {
    inbox: Inbox<T>,
    pump: Mutex<Pump<T>>,
    sessions: SessionTable,
    sources: Sources<T>,
    slots: Option<Arc<Slots>>,
    options: SolverOptions,
}

impl<T: Value> Shared<T> {
    fn pump(&self) -> MutexGuard<'_, Pump<T>> {
        self.pump.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A graph solver. Cheap to clone; the last clone to be dropped ends it, with every task.
pub struct Solver<T: Value> {
    shared: Arc<Shared<T>>,
    _owner: Arc<Owner<T>>,
}

impl<T: Value> Clone for Solver<T> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            _owner: Arc::clone(&self._owner),
        }
    }
}

/// Ends the pump when the last solver and the last job are gone.
pub(crate) struct Owner<T: Value>(Arc<Shared<T>>);

impl<T: Value> Drop for Owner<T> {
    fn drop(&mut self) {
        self.0.inbox.tell_pump(Message::Stop);
    }
}

impl<T: Value> Solver<T> {
    /// Starts a solver on the current tokio runtime.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(
        options: SolverOptions,
        keys: Arc<dyn KeyStore>,
        results: Arc<dyn ResultStore<T>>,
    ) -> Self {
        let shared = Arc::new(Shared {
            inbox: Inbox::new(),
            pump: Mutex::new(Pump::new()),
            sessions: SessionTable::default(),
            sources: Sources::new(CacheSource { keys, results }),
            slots: options.parallelism.map(Slots::new),
            options,
        });
        tokio::spawn(pump::run(Arc::clone(&shared)));
        let owner = Arc::new(Owner(Arc::clone(&shared)));
        Self {
            shared,
            _owner: owner,
        }
    }

    /// Opens a job.
    pub async fn new_job(&self, options: JobOptions) -> Result<Job<T>, SolveError<T>> {
        Job::open(Arc::clone(&self.shared), Arc::clone(&self._owner), options).await
    }

    /// Makes a cache source known, for [`VertexOptions::cache_sources`](crate::VertexOptions::cache_sources).
    pub fn add_cache_source(&self, source: CacheSource<T>) -> CacheSourceId {
        self.shared.sources.add(source)
    }

    /// Forgets a cache source; vertices that name it go without.
    pub fn remove_cache_source(&self, id: CacheSourceId) {
        self.shared.sources.remove(id);
    }

    /// How much is alive.
    pub async fn census(&self) -> Result<Census, SolveError<T>> {
        self.shared.inbox.census().await
    }

    /// Waits until nothing is alive: every job is discarded, and every call that was cancelled has come to its end.
    ///
    /// # Errors
    /// [`SolveError::Shutdown`] if the solver has ended.
    pub async fn settled(&self) -> Result<(), SolveError<T>> {
        self.shared.inbox.settled().await
    }
}

/// The sessions of live jobs, by the numbers that the core knows them by.
#[derive(Default)]
struct SessionTable {
    inner: Mutex<Sessions>,
}

#[derive(Default)]
struct Sessions {
    last: u64,
    by_number: HashMap<u64, Session>,
}

impl SessionTable {
    fn add(&self, session: Session) -> u64 {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.last += 1;
        let number = inner.last;
        inner.by_number.insert(number, session);
        number
    }

    fn remove(&self, number: u64) {
        self.inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .by_number
            .remove(&number);
    }

    /// Numbers of those of the given sessions that are in use.
    fn numbers(&self, sessions: &[Session]) -> Vec<u64> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let known = inner.by_number.iter();
        known
            .filter(|(_, known)| sessions.iter().any(|session| session.id() == known.id()))
            .map(|(number, _)| *number)
            .collect()
    }

    fn get(&self, number: u64) -> Option<Session> {
        self.inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .by_number
            .get(&number)
            .cloned()
    }
}

/// An isolation domain by its name.
pub(crate) fn domain_digest(name: &str) -> Digest {
    Digest::of(name)
}
