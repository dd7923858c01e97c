//! What a daemon keeps.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost_types::Timestamp;
use tonic::Request;
use weld_engine::{PruneOptions, UsageRecord};
use weld_proto::control::{DiskUsageRequest, PruneRequest, UsageRecord as Record};

use crate::{Client, ClientError};

impl Client {
    /// What the daemon keeps on disk and matches all filters.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn usage(&self, filters: &[String]) -> Result<Vec<UsageRecord>, ClientError> {
        let request = Request::new(DiskUsageRequest {
            filter: filters.to_vec(),
            ..DiskUsageRequest::default()
        });
        let answer = self.control().disk_usage(request).await?.into_inner();
        Ok(answer.record.into_iter().map(record).collect())
    }

    /// Has the daemon delete what no build uses; returns what was deleted.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn prune(&self, options: &PruneOptions) -> Result<Vec<UsageRecord>, ClientError> {
        let bytes = |size: Option<u64>| size.map_or(0, |size| size.try_into().unwrap_or(i64::MAX));
        let duration = options.keep_duration.unwrap_or_default().as_nanos();
        let request = Request::new(PruneRequest {
            filter: options.filters.clone(),
            all: options.all,
            keep_duration: duration.try_into().unwrap_or(i64::MAX),
            reserved_space: bytes(options.keep_storage),
            max_used_space: bytes(options.max_used),
            min_free_space: bytes(options.min_free),
        });
        let mut answers = self.control().prune(request).await?.into_inner();
        let mut removed = Vec::new();
        while let Some(answer) = answers.message().await? {
            removed.push(record(answer));
        }
        Ok(removed)
    }
}

fn record(record: Record) -> UsageRecord {
    let created = record.created_at.and_then(time).unwrap_or(UNIX_EPOCH);
    UsageRecord {
        id: record.id,
        parents: record.parents,
        description: record.description,
        kind: record.record_type,
        created,
        last_used: record.last_used_at.and_then(time).unwrap_or(created),
        usage_count: record.usage_count.try_into().unwrap_or(0),
        size: record.size.try_into().unwrap_or(0),
        mutable: record.mutable,
        shared: record.shared,
        in_use: record.in_use,
    }
}

fn time(timestamp: Timestamp) -> Option<SystemTime> {
    let seconds = u64::try_from(timestamp.seconds).ok()?;
    let nanoseconds = u32::try_from(timestamp.nanos).ok()?;
    UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds))
}
