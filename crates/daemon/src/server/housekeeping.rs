//! What is done now and then: deleting what is too much.

use std::sync::Arc;
use std::time::Duration;

use weld_store::PruneOptions;

use super::Shared;
use crate::config::{GcPolicy, Space};

/// How often the history is looked through, and what lingers is dropped.
const TIDY_INTERVAL: Duration = Duration::from_secs(30);
/// The shortest time between two collections.
const GC_INTERVAL: Duration = Duration::from_secs(60);
/// How long after a build the first collection begins.
const GC_DELAY: Duration = Duration::from_secs(1);

/// Never returns.
pub(super) async fn run(shared: Arc<Shared>) {
    tokio::join!(tidy(&shared), collect(&shared), shared.watch_trace());
}

async fn tidy(shared: &Arc<Shared>) {
    let mut interval = tokio::time::interval(TIDY_INTERVAL);
    // The builds that had ended when memory, and code, were given back.
    let (mut trimmed, mut let_go) = (shared.metrics.ended(), shared.metrics.ended());
    loop {
        interval.tick().await;
        shared.builds.tidy();
        if let Err(error) = shared.history.tidy().await {
            tracing::warn!(%error, "old builds cannot be forgotten");
        }
        let ended = shared.metrics.ended();
        let is_idle = shared.builds.count() == 0;
        // It takes its time, and is of no use to anybody if it fails.
        if is_idle && ended != let_go {
            (trimmed, let_go) = (ended, ended);
            let _ = tokio::task::spawn_blocking(give_back).await;
        } else if ended != trimmed {
            // A daemon that is never idle scatters what it needs over ever more memory.
            trimmed = ended;
            let _ = tokio::task::spawn_blocking(weld_runtime::memory::give_back).await;
        }
    }
}

/// Gives back the memory that a burst of builds, or the start, needed. Blocks.
pub(super) fn give_back() {
    weld_runtime::memory::give_back();
    weld_runtime::memory::let_code_go();
}

async fn collect(shared: &Arc<Shared>) {
    let Some(policies) = shared.config.gc.clone() else {
        return;
    };
    loop {
        shared.gc_due.notified().await;
        tokio::time::sleep(GC_DELAY).await;
        let (shared, policies) = (Arc::clone(shared), policies.clone());
        let collected = tokio::task::spawn_blocking(move || {
            for policy in &policies {
                let options = options(policy, shared.engine.store().root());
                let removed = shared.engine.store().prune(&options)?;
                let bytes: u64 = removed.iter().filter_map(|info| info.size).sum();
                shared.metrics.collected(removed.len(), bytes);
                if bytes > 0 {
                    tracing::info!(count = removed.len(), bytes, "deleted what was not used");
                }
            }
            Ok::<_, weld_store::UsageError>(())
        });
        match collected.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "what is not used cannot be deleted"),
            Err(error) => tracing::warn!(%error, "a collection ended early"),
        }
        tokio::time::sleep(GC_INTERVAL).await;
    }
}

/// A policy in bytes, for the disk of `root`.
pub(crate) fn options(policy: &GcPolicy, root: &std::path::Path) -> PruneOptions {
    let total = rustix::fs::statvfs(root).map_or(0, |disk| disk.f_blocks * disk.f_frsize);
    let bytes = |space: Option<Space>| {
        space
            .map(|space| space.of(total))
            .filter(|bytes| *bytes > 0)
    };
    PruneOptions {
        all: policy.all,
        filters: policy.filters.clone(),
        keep_duration: policy.keep_duration,
        reserved: bytes(policy.reserved),
        max_used: bytes(policy.max_used),
        min_free: bytes(policy.min_free),
    }
}
