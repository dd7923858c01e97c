use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use redb::{Database, ReadTransaction, ReadableDatabase, WriteTransaction};

use super::DbError;
use super::committer::panicked;
use super::storage::{Backend, Storage};

/// The open database. One that failed to read or write its file, as on a full disk, does nothing
/// any more and is opened anew by the next use, which finds what was committed.
pub(super) struct Engine {
    storage: Arc<Storage>,
    cache_bytes: usize,
    database: RwLock<Option<Database>>,
}

impl Engine {
    pub(super) fn open(directory: &Path, cache_bytes: usize, boot: u64) -> Result<Self, DbError> {
        let storage = Storage::open(directory, boot).map_err(redb::Error::Io)?;
        let storage = Arc::new(storage);
        Ok(Self {
            database: RwLock::new(Some(open(&storage, cache_bytes)?)),
            storage,
            cache_bytes,
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
                return act(database);
            }
            let mut slot = self
                .database
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            if slot.is_none() {
                *slot = Some(open(&self.storage, self.cache_bytes)?);
            }
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
fn open(storage: &Arc<Storage>, cache_bytes: usize) -> Result<Database, DbError> {
    storage.revert();
    let open = AssertUnwindSafe(|| {
        Database::builder()
            .set_cache_size(cache_bytes)
            .create_with_backend(Backend(storage.clone()))
            .map_err(redb::Error::from)
    });
    Ok(catch_unwind(open).map_err(panicked)??)
}
