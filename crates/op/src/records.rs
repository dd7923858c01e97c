//! Results in the store: what the solver saves is the number of a snapshot.

use std::sync::Arc;

use async_trait::async_trait;
use weld_solver::{LoadError, RecordId, ResultStore, StoreError};
use weld_store::Object;

use crate::{Tree, Worker};

/// The solver's results, kept by a worker's store.
pub struct Records(Arc<Worker>);

impl Records {
    /// The results of a worker.
    pub const fn new(worker: Arc<Worker>) -> Self {
        Self(worker)
    }
}

#[async_trait]
impl ResultStore<Tree> for Records {
    fn save(&self, tree: &Tree) -> Result<RecordId, StoreError> {
        let objects = tree
            .snapshot()
            .map(|snapshot| Object::Snapshot(snapshot.id()))
            .into_iter()
            .collect();
        self.0
            .store
            .results()
            .save(objects, Vec::new())
            .map(RecordId)
            .map_err(|error| StoreError::new("save a result", error))
    }

    async fn load(&self, record: RecordId) -> Result<Tree, LoadError> {
        let worker = Arc::clone(&self.0);
        let failed =
            |source: Arc<dyn std::error::Error + Send + Sync>| LoadError::Failed { record, source };
        let loaded = tokio::task::spawn_blocking(move || load(&worker, record)).await;
        loaded.unwrap_or_else(|stopped| Err(failed(Arc::new(stopped))))
    }

    fn forget(&self, record: RecordId) {
        self.0.store.results().forget(record.0);
    }
}

fn load(worker: &Worker, record: RecordId) -> Result<Tree, LoadError> {
    let failed =
        |source: Arc<dyn std::error::Error + Send + Sync>| LoadError::Failed { record, source };
    let saved = worker
        .store
        .results()
        .load(record.0)
        .map_err(|error| failed(Arc::new(error)))?
        .ok_or(LoadError::Gone(record))?;
    let Some(object) = saved.objects.first().map(weld_store::Pin::object) else {
        return Ok(Tree::scratch());
    };
    let Object::Snapshot(id) = object else {
        return Err(LoadError::Gone(record));
    };
    let snapshot = worker
        .snapshots
        .get(*id)
        .map_err(|error| failed(Arc::new(error)))?
        .ok_or(LoadError::Gone(record))?;
    Ok(Tree::of(snapshot))
}
