use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use redb::{Database, ReadTransaction, ReadableDatabase, WriteTransaction};

use super::DbError;
use super::committer::panicked;

/// The open database. One that failed to read or write its file, as on a full disk, does nothing
/// any more and is opened anew by the next use, which finds what was committed.
pub(super) struct Engine {
    path: PathBuf,
    cache_bytes: usize,
    database: RwLock<Option<Database>>,
}

impl Engine {
    pub(super) fn open(path: &Path, cache_bytes: usize) -> Result<Self, DbError> {
        Ok(Self {
            path: path.to_owned(),
            cache_bytes,
            database: RwLock::new(Some(open(path, cache_bytes)?)),
        })
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
                *slot = Some(open(&self.path, self.cache_bytes)?);
            }
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
fn open(path: &Path, cache_bytes: usize) -> Result<Database, DbError> {
    let open = AssertUnwindSafe(|| {
        Database::builder()
            .set_cache_size(cache_bytes)
            .create(path)
            .map_err(redb::Error::from)
    });
    Ok(catch_unwind(open).map_err(panicked)??)
}
