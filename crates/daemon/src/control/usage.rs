//! What is kept on disk.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tonic::Status;
use weld_proto::control::{DiskUsageRequest, DiskUsageResponse, PruneRequest, UsageRecord};
use weld_store::{Filter, PruneOptions, RecordType, UsageError, UsageInfo};

use super::{QUEUE, blocking};
use crate::history::{HistoryError, HistoryUsage};
use crate::server::Shared;

pub(super) async fn disk_usage(
    shared: &Arc<Shared>,
    request: DiskUsageRequest,
) -> Result<DiskUsageResponse, Status> {
    let store = shared.engine.store().clone();
    let (filters, kept) = (request.filter, Arc::clone(&shared.history));
    let (infos, others) = blocking(move || {
        let history = kept.usage()?;
        // The history is not a cache, and has a record of its own.
        let cached = |filters: &[String]| {
            let mut infos = store.disk_usage(filters)?;
            infos.retain(|info| !history.blobs.contains(&info.id));
            Ok::<_, UsageError>(infos)
        };
        let infos = cached(&filters)?;
        // To a client an empty cache is one of which nothing is listed.
        if infos.is_empty() && (filters.is_empty() || cached(&[])?.is_empty()) {
            return Ok((infos, Vec::new()));
        }
        let mut others = together(store.overhead(&filters)?);
        let info = of_history(&history);
        if history.builds > 0 && Filter::parse(&filters).is_ok_and(|filter| filter.matches(&info)) {
            others.push(info);
        }
        Ok::<_, ListError>((infos, others))
    })
    .await?;
    let oldest = age(request.age_limit).and_then(|age| SystemTime::now().checked_sub(age));
    let record = infos
        .into_iter()
        .chain(others)
        .filter(|info| oldest.is_none_or(|oldest| info.last_used_at() < oldest))
        .map(record)
        .collect();
    Ok(DiskUsageResponse { record })
}

/// Why what is kept cannot be listed.
#[derive(Debug, thiserror::Error)]
enum ListError {
    #[error(transparent)]
    Usage(#[from] UsageError),
    #[error(transparent)]
    History(#[from] HistoryError),
}

/// What is always there as one record: clients count records to find what leaks, and wait until none is in use any more.
fn together(others: Vec<UsageInfo>) -> Vec<UsageInfo> {
    let (always, mut told): (Vec<_>, Vec<_>) = others.into_iter().partition(|info| info.in_use);
    let size = always.iter().filter_map(|info| info.size).sum();
    let parts: Vec<_> = always
        .iter()
        .map(|info| format!("{} {} B", info.id, info.size.unwrap_or(0)))
        .collect();
    told.extend(always.into_iter().next().map(|first| UsageInfo {
        id: "state".to_owned(),
        description: format!("the engine's own: {}", parts.join(", ")),
        size: Some(size),
        in_use: false,
        ..first
    }));
    told
}

fn of_history(history: &HistoryUsage) -> UsageInfo {
    let nanoseconds = |time: SystemTime| {
        let since = time.duration_since(SystemTime::UNIX_EPOCH);
        u64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
    };
    let (first, last) = history
        .times
        .unwrap_or((SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH));
    UsageInfo {
        id: "history".to_owned(),
        parents: Vec::new(),
        description: format!(
            "build history: logs and provenance of {} builds",
            history.builds
        ),
        record_type: RecordType::Internal,
        created: nanoseconds(first),
        last_used: nanoseconds(last),
        usage_count: 0,
        size: Some(history.bytes),
        mutable: true,
        // No prune frees it; but see `together`.
        in_use: false,
        shared: false,
    }
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
