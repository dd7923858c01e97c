//! Cache chains of a job, collected from the core and the stores.

use std::sync::{Arc, PoisonError};

use super::{
    CoreInput, CoreReply, Job, Root, Shared, Solver,
    pump::{now_micros, stamp},
};
use crate::{
    CacheSourceId, KeyStore, LoadError, Record, ResultRef, SolveError, TraceEvent, Value,
    chain::{CacheChains, Candidate, ChainOptions, SolvedEdge, Stores, walk},
};

impl<T: Value> Job<T> {
    /// The keys that lead to the results of some roots, as far as the job and the stores that it used know them, with the records that
    /// may be exported. To be asked for when the roots are built. What [`VertexOptions::export_cache`](crate::VertexOptions) keeps here
    /// has no records in it.
    ///
    /// # Errors
    /// [`SolveError`] where a root is not the job's, or the job is discarded.
    pub async fn cache_chains(
        &self,
        roots: &[Root],
        options: ChainOptions,
    ) -> Result<CacheChains<Candidate>, SolveError<T>> {
        let (job, roots) = (self.id, roots.iter().map(|root| root.0).collect());
        let reply = self
            .ask(|ticket| CoreInput::Chain { ticket, job, roots })
            .await?;
        let CoreReply::Chain(edges) = reply else {
            return Err(SolveError::Shutdown);
        };
        let shared = &self.shared;
        let failed = |source: CacheSourceId, error: crate::StoreError| {
            if let Some(sink) = &shared.options.trace {
                let reason = error.to_string().into();
                let source = source.0;
                sink.event(
                    sink.recording(),
                    stamp(0, now_micros()),
                    TraceEvent::SourceFailed { source, reason },
                );
            }
        };
        let stores = Stores::new(
            stores(shared, &edges),
            shared.options.source_timeout,
            failed,
        );
        let private = self
            .private
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        Ok(walk(&edges, &private, options, stores).await)
    }
}

/// The stores that were asked about these edges, the local one first.
fn stores<T: Value>(
    shared: &Shared<T>,
    edges: &[SolvedEdge],
) -> Vec<(CacheSourceId, Arc<dyn KeyStore>)> {
    let mut sources: Vec<_> = edges
        .iter()
        .filter_map(|edge| edge.sources.as_deref())
        .flatten()
        .copied()
        .collect();
    sources.sort_unstable();
    sources.dedup();
    let others = sources
        .into_iter()
        .filter_map(|id| Some((id, Arc::clone(&shared.sources.get(id)?.keys))));
    let local = (CacheSourceId::LOCAL, Arc::clone(&shared.sources.local.keys));
    std::iter::once(local).chain(others).collect()
}

impl<T: Value> Solver<T> {
    /// Loads a record of a cache chain.
    ///
    /// # Errors
    /// [`LoadError`] where it is gone, or its source is.
    pub async fn load_record(&self, record: Record) -> Result<ResultRef<T>, LoadError> {
        let results = if record.source == CacheSourceId::LOCAL {
            Arc::clone(&self.shared.sources.local.results)
        } else {
            let source = self.shared.sources.get(record.source);
            Arc::clone(&source.ok_or(LoadError::Gone(record.id))?.results)
        };
        let value = results.load(record.id).await?;
        Ok(ResultRef::new(value, results))
    }
}
