//! The result store in memory.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;

use crate::{LoadError, RecordId, ResultStore, StoreError, Value};

/// Results in memory; for values that are cheap to clone.
pub struct MemoryResultStore<T> {
    records: Mutex<(u64, HashMap<RecordId, T>)>,
}

impl<T> Default for MemoryResultStore<T> {
    fn default() -> Self {
        Self {
            records: Mutex::new((0, HashMap::new())),
        }
    }
}

impl<T> MemoryResultStore<T> {
    fn lock(&self) -> MutexGuard<'_, (u64, HashMap<RecordId, T>)> {
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
