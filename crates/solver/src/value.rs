//! Results: the value type, counted references to it, and the store that records of it live in.

use std::{
    error::Error,
    fmt,
    ops::Deref,
    sync::{Arc, OnceLock},
};

use async_trait::async_trait;

/// What operations produce. Values are moved and dropped; they are never cloned by the solver.
pub trait Value: Send + Sync + 'static {}

impl<T: Send + Sync + 'static> Value for T {}

/// Name of a stored result inside one [`ResultStore`]. Of two records of the same moment, the one with the higher name is newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId(pub u64);

/// Why a record could not be loaded.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The record does not exist any more; it is dropped from the key store.
    #[error("record {} is gone", .0.0)]
    Gone(RecordId),
    /// The record may exist but could not be loaded now.
    #[error("record {} could not be loaded: {source}", .record.0)]
    Failed {
        /// The record.
        record: RecordId,
        /// What went wrong.
        source: Arc<dyn Error + Send + Sync>,
    },
}

/// A store refused or failed a request.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{action}: {source}")]
pub struct StoreError {
    /// What was asked of the store.
    pub action: &'static str,
    /// What went wrong.
    pub source: Arc<dyn Error + Send + Sync>,
}

impl StoreError {
    /// An error of the given action.
    pub fn new(action: &'static str, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            action,
            source: Arc::from(error.into()),
        }
    }
}

/// Where results are recorded, so that a later build can load them.
#[async_trait]
pub trait ResultStore<T: Value>: Send + Sync + 'static {
    /// Records `value`. Must not block; a `load` that starts after the return finds the record. Durability is the store's affair.
    fn save(&self, value: &T) -> Result<RecordId, StoreError>;

    /// Loads a record. The value may be lazy: known, its bytes still to be fetched.
    async fn load(&self, record: RecordId) -> Result<T, LoadError>;

    /// The solver will not ask for this record again.
    fn forget(&self, record: RecordId) {
        let _ = record;
    }

    /// Called exactly once for every value that an operation or `load` has returned, when its last reference is gone.
    fn release(&self, value: T) {
        drop(value);
    }
}

struct Inner<T: Value> {
    /// `None` only while the last reference is being dropped.
    value: Option<T>,
    store: Arc<dyn ResultStore<T>>,
    record: OnceLock<RecordId>,
}

impl<T: Value> Drop for Inner<T> {
    fn drop(&mut self) {
        if let Some(value) = self.value.take() {
            self.store.release(value);
        }
    }
}

/// A counted reference to a result. The value is released when the last reference is dropped.
pub struct ResultRef<T: Value>(Arc<Inner<T>>);

impl<T: Value> ResultRef<T> {
    pub(crate) fn new(value: T, store: Arc<dyn ResultStore<T>>) -> Self {
        Self(Arc::new(Inner {
            value: Some(value),
            store,
            record: OnceLock::new(),
        }))
    }

    /// The record of this value in the solver's own store, once there is one.
    pub fn record(&self) -> Option<RecordId> {
        self.0.record.get().copied()
    }

    pub(crate) fn set_record(&self, record: RecordId) {
        // A value that is saved under further keys keeps its first record.
        self.0.record.get_or_init(|| record);
    }

    /// Whether both refer to the same value.
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T: Value> Clone for ResultRef<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Value> Deref for ResultRef<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.0.value {
            Some(value) => value,
            None => unreachable!("the value is only taken when no reference is left"),
        }
    }
}

impl<T: Value + fmt::Debug> fmt::Debug for ResultRef<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
