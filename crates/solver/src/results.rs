//! The result store in memory.

use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use hashbrown::HashMap;

use crate::{LoadError, RecordId, ResultStore, StoreError, Value, core::FixedState};

/// The last id, and what is recorded.
type Records<T> = (u64, HashMap<RecordId, T, FixedState>);

/// Results in memory; for values that are cheap to clone.
pub struct MemoryResultStore<T> {
    records: Mutex<Records<T>>,
}

impl<T> Default for MemoryResultStore<T> {
    fn default() -> Self {
        Self {
            records: Mutex::new((0, HashMap::default())),
        }
    }
}

impl<T> MemoryResultStore<T> {
    fn lock(&self) -> MutexGuard<'_, Records<T>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.lock().1.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[async_trait]
impl<T: Value + Clone> ResultStore<T> for MemoryResultStore<T> {
    fn save(&self, value: &T) -> Result<RecordId, StoreError> {
        let mut records = self.lock();
        records.0 += 1;
        let id = RecordId(records.0);
        records.1.insert(id, value.clone());
        Ok(id)
    }

    async fn load(&self, record: RecordId) -> Result<T, LoadError> {
        self.lock()
            .1
            .get(&record)
            .cloned()
            .ok_or(LoadError::Gone(record))
    }

    fn forget(&self, record: RecordId) {
        self.lock().1.remove(&record);
    }
}
