//! The one embedded database: what belongs together commits together.
//!
//! Modules define their own tables. Writes are closures queued to one committer thread, which runs
//! all that is waiting in one transaction, commits it, and goes on with what came meanwhile.
//! A reader sees what is committed; a module that must see its own writes at once keeps them in
//! memory until its [`Ticket`] is done.
//!
//! What is committed survives the end of this process in any way, at once. It survives a loss of
//! power once it is synced, which no commit waits for; until then the last commits may be gone,
//! all of them from some one on. See `storage.rs`.

mod applied;
mod committer;
mod engine;
mod error;
mod guard;
mod index;
mod log;
mod storage;
mod ticket;

use std::path::Path;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};

use redb::{ReadTransaction, WriteTransaction};

pub(crate) use engine::Opening;
pub use error::DbError;
pub use guard::panic_becomes_error;
pub(crate) use storage::Damage;
pub use ticket::Ticket;

use crate::lock::DirectoryLock;

use committer::{Barrier, Committer, Job, Typed};
use engine::Engine;

/// How many updates may wait for the committer; more make their callers wait.
const QUEUE_LEN: usize = 4096;

/// The database of a state directory. Cheap to clone.
#[derive(Clone)]
pub struct Db(Arc<Inner>);

struct Inner {
    engine: Arc<Engine>,
    queue: Mutex<Option<SyncSender<Box<dyn Job>>>>,
    committer: Mutex<Option<Committer>>,
    /// Held for as long as the database is open, which the committer may have it last.
    _lock: Arc<DirectoryLock>,
}

impl Db {
    pub(crate) fn open(
        directory: &Path,
        opening: &Opening,
        lock: Arc<DirectoryLock>,
    ) -> Result<Self, DbError> {
        let engine = Arc::new(Engine::open(directory, opening)?);
        let (queue, jobs) = std::sync::mpsc::sync_channel(QUEUE_LEN);
        let committer = Committer::start(engine.clone(), jobs, lock.clone())?;
        Ok(Self(Arc::new(Inner {
            engine,
            queue: Mutex::new(Some(queue)),
            committer: Mutex::new(Some(committer)),
            _lock: lock,
        })))
    }

    /// What was damaged when it was opened, and is mended.
    pub(crate) fn mended(&self) -> &[Damage] {
        self.0.engine.storage().mended()
    }

    /// Whether the last commits before it was opened may be gone.
    pub(crate) fn may_lack_commits(&self) -> bool {
        self.0.engine.storage().may_lack_commits()
    }

    /// Queues an update. Updates commit in the order in which they were queued, many in one
    /// transaction; one that returns an error leaves no trace, and the others go through.
    ///
    /// The closure may run more than once (when another one of its group failed), each time on a
    /// transaction in which none of its former runs happened: so it must have no effect but on
    /// the transaction. It must not open a table that it still has open.
    pub fn update<T, F>(&self, update: F) -> Ticket<T>
    where
        T: Send + 'static,
        F: Fn(&WriteTransaction) -> Result<T, DbError> + Send + 'static,
    {
        self.update_then(update, |_| {})
    }

    /// Queues an update and has `done` called with its outcome, on the committer's thread and
    /// before the ticket is. It must not take a lock that anybody holds while queueing or waiting
    /// for an update.
    pub(crate) fn update_then<T, F, D>(&self, update: F, done: D) -> Ticket<T>
    where
        T: Send + 'static,
        F: Fn(&WriteTransaction) -> Result<T, DbError> + Send + 'static,
        D: FnOnce(&Result<T, DbError>) + Send + 'static,
    {
        let (job, ticket) = Typed::new(update, done);
        self.send(Box::new(job));
        ticket
    }

    fn send(&self, job: Box<dyn Job>) {
        let queue = self
            .0
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        match queue {
            Some(queue) => {
                if let Err(refused) = queue.send(job) {
                    refused.0.finish(Err(DbError::Closed));
                }
            }
            None => job.finish(Err(DbError::Closed)),
        }
    }

    /// Reads one consistent state: all that was committed before. Must not be called within itself.
    pub fn read<T>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, DbError>,
    ) -> Result<T, DbError> {
        self.0.engine.recover();
        self.0.engine.read(read)
    }

    /// Waits until all that was queued before is committed: it then survives the end of this
    /// process in any way.
    pub fn flush(&self) -> Result<(), DbError> {
        let (barrier, ticket) = Barrier::new();
        self.send(Box::new(barrier));
        ticket.wait()
    }

    /// Whether something that was read made no sense: opening it anew looks for the damage, and mends what can be mended.
    pub fn is_suspect(&self) -> bool {
        self.0.engine.storage().is_suspect()
    }

    /// Moves what is committed from the log into the database's file and syncs it; this also
    /// happens by itself in the background when the log has grown.
    pub fn checkpoint(&self) -> Result<(), DbError> {
        let storage = self.0.engine.storage();
        Ok(storage.checkpoint().map_err(redb::Error::Io)?)
    }

    /// Makes room of the log, where there is some to be made; whether it did.
    pub(crate) fn fold(&self) -> Result<bool, DbError> {
        let is_worth = self.0.engine.storage().is_worth_folding();
        if is_worth {
            self.checkpoint()?;
        }
        Ok(is_worth)
    }

    pub(crate) fn wants_checkpoint(&self) -> bool {
        self.0.engine.storage().wants_checkpoint()
    }

    /// Whether the log is so long that not even the end of a process should leave it.
    pub(crate) fn needs_checkpoint(&self) -> bool {
        self.0.engine.storage().needs_checkpoint()
    }

    /// Commits what is queued and ends the committer; later updates are refused.
    pub(crate) fn close(&self) {
        self.0
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let committer = self
            .0
            .committer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(committer) = committer {
            committer.join();
            self.0.engine.seal();
        }
    }
}

/// A value as it is kept in a table.
pub(crate) fn encode<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, DbError> {
    postcard::to_stdvec(value).map_err(DbError::Encode)
}

/// A value from a table; `what` names it in the error.
pub(crate) fn decode<T: serde::de::DeserializeOwned>(
    what: &'static str,
    bytes: &[u8],
) -> Result<T, DbError> {
    postcard::from_bytes(bytes).map_err(|source| DbError::Decode { what, source })
}
