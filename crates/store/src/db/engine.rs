use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use redb::{Database, ReadTransaction, ReadableDatabase, WriteTransaction};

use super::DbError;
use super::guard::guarded;
use super::storage::{Backend, Storage};

/// How a database is opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening {
    /// Memory for pages, in bytes.
    pub(crate) cache_bytes: usize,
    /// Tells boots of the machine apart.
    pub(crate) boot: u64,
    /// Whether to mend what can be mended, without which it is an error.
    pub(crate) mend: bool,
    /// Whether to verify every page; it is done in any case where there is reason to.
    pub(crate) verify: bool,
}

/// The open database. One that failed to read or write its file, as on a full disk, does nothing
/// any more and is opened anew by the next use, which finds what was committed.
pub(super) struct Engine {
    storage: Arc<Storage>,
    cache_bytes: usize,
    database: RwLock<Option<Database>>,
    /// Held by who writes: a database is not given up beneath a transaction.
    writing: Mutex<()>,
}

impl Engine {
    pub(super) fn open(directory: &Path, opening: &Opening) -> Result<Self, DbError> {
        let Opening {
            cache_bytes, boot, ..
        } = *opening;
        let storage = Arc::new(Storage::open(directory, boot, opening.mend)?);
        let verify = opening.verify || storage.is_doubtful();
        let database = open(&storage, cache_bytes, verify)?;
        if verify {
            storage.trust()?;
        }
        Ok(Self {
            database: RwLock::new(Some(database)),
            storage,
            cache_bytes,
            writing: Mutex::default(),
        })
    }

    pub(super) fn storage(&self) -> &Storage {
        &self.storage
    }

    /// Must not be called within itself.
    pub(super) fn read<T>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, DbError>,
    ) -> Result<T, DbError> {
        self.with(|database| read(&database.begin_read()?))
    }

    pub(super) fn begin_write(&self) -> Result<WriteTransaction, DbError> {
        self.with(|database| Ok(database.begin_write()?))
    }

    fn with<T>(&self, act: impl FnOnce(&Database) -> Result<T, DbError>) -> Result<T, DbError> {
        loop {
            if let Some(database) = &*self.lock() {
                // What makes no sense may also make the database panic.
                return guarded(|| act(database)).flatten().map_err(|error| {
                    self.note(&error);
                    self.with_cause(error)
                });
            }
            let mut slot = self
                .database
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            if slot.is_none() {
                *slot = Some(open(&self.storage, self.cache_bytes, false)?);
            }
        }
    }

    /// Until this is dropped, nobody but the caller may give a database up that failed; one that failed before
    /// is.
    pub(super) fn writing(&self) -> MutexGuard<'_, ()> {
        let writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.storage.failure().is_some() {
            self.give_up();
        }
        writing
    }

    /// Gives up a database that failed, unless someone is at it: waiting for them could be in vain, as nobody knows
    /// what they wait for.
    pub(super) fn recover(&self) {
        if self.storage.failure().is_some()
            && let Ok(_writing) = self.writing.try_lock()
            && let Ok(mut slot) = self.database.try_write()
        {
            drop(slot.take());
        }
    }

    /// Has the next opening look for the damage that an error tells of.
    pub(super) fn note(&self, error: &DbError) {
        if error.is_damage() {
            self.storage.suspect(error);
        }
    }

    /// An error of a database that had failed before, with the reason why it had.
    pub(super) fn with_cause(&self, error: DbError) -> DbError {
        match self.storage.failure() {
            Some(cause) if error.is_consequence() => DbError::Io(cause),
            _ => error,
        }
    }

    /// Ends writing, when no transaction is open and none will be begun; reading goes on.
    pub(super) fn seal(&self) {
        if let Err(error) = self.storage.seal() {
            // Only the next opening takes longer.
            tracing::debug!(%error, "cannot write the index of the state database's log");
        }
    }

    /// Closes a database that failed, after the reads that go on.
    pub(super) fn give_up(&self) {
        let mut slot = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        drop(slot.take());
    }

    fn lock(&self) -> RwLockReadGuard<'_, Option<Database>> {
        self.database.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A damaged file must not take the process down, whatever is in it.
fn open(storage: &Arc<Storage>, cache_bytes: usize, verify: bool) -> Result<Database, DbError> {
    storage.revert();
    let opened = guarded(|| {
        Database::builder()
            .set_cache_size(cache_bytes)
            .set_check_integrity_on_open(verify)
            .create_with_backend(Backend(storage.clone()))
            .map_err(redb::Error::from)
    });
    opened
        .and_then(|opened| Ok(opened?))
        .map_err(|error| error.in_file(&storage.file()))
}
