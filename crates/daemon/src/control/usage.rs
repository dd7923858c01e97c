//! What is kept on disk.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tonic::Status;
use weld_proto::control::{DiskUsageRequest, DiskUsageResponse, PruneRequest, UsageRecord};
use weld_store::{PruneOptions, UsageInfo};

use super::{QUEUE, blocking};
use crate::server::Shared;

pub(super) async fn disk_usage(
    shared: &Arc<Shared>,
    request: DiskUsageRequest,
) -> Result<DiskUsageResponse, Status> {
    let (store, history) = (shared.engine.store().clone(), Arc::clone(&shared.history));
    let infos = blocking(move || store.disk_usage(&request.filter)).await?;
    let hidden = blocking(move || history.blobs()).await?;
    let oldest = age(request.age_limit).and_then(|age| SystemTime::now().checked_sub(age));
    let record = infos
        .into_iter()
        // The history is not a cache.
        .filter(|info| !hidden.contains(&info.id))
        .filter(|info| oldest.is_none_or(|oldest| info.last_used_at() < oldest))
        .map(record)
        .collect();
    Ok(DiskUsageResponse { record })
}

/// Deletes, telling what is deleted as it goes; ends when nobody listens any more.
pub(super) fn prune(
    shared: &Arc<Shared>,
    request: PruneRequest,
) -> mpsc::Receiver<Result<UsageRecord, Status>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let store = shared.engine.store().clone();
    let bytes = |bytes: i64| u64::try_from(bytes).ok().filter(|bytes| *bytes > 0);
    let options = PruneOptions {
        all: request.all,
        filters: request.filter,
        keep_duration: age(request.keep_duration),
        reserved: bytes(request.reserved_space),
        max_used: bytes(request.max_used_space),
        min_free: bytes(request.min_free_space),
    };
    tokio::task::spawn_blocking(move || {
        let pruned = store.prune_with(&options, |info| {
            match sender.blocking_send(Ok(record(info))) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        });
        if let Err(error) = pruned {
            // Whoever went away does not read it.
            let _ = sender.blocking_send(Err(Status::unknown(error.to_string())));
        }
    });
    receiver
}

fn age(nanoseconds: i64) -> Option<Duration> {
    let age = u64::try_from(nanoseconds).ok().filter(|age| *age > 0);
    age.map(Duration::from_nanos)
}

fn record(info: UsageInfo) -> UsageRecord {
    UsageRecord {
        created_at: Some(info.created_at().into()),
        last_used_at: Some(info.last_used_at().into()),
        id: info.id,
        mutable: info.mutable,
        in_use: info.in_use,
        size: info.size.unwrap_or(0).try_into().unwrap_or(i64::MAX),
        parent: String::new(),
        usage_count: info.usage_count.try_into().unwrap_or(i64::MAX),
        description: info.description,
        record_type: info.record_type.to_string(),
        shared: info.shared,
        parents: info.parents,
    }
}
