use std::time::{Duration, SystemTime};

use serde::Serialize;
use weld_llb::Platform;
use weld_op::Devices;
use weld_store::{Store, UsageError, UsageInfo};

use crate::engine::Engine;

pub use weld_store::check::{CheckReport, RepairReport};

/// What is kept on disk, and since when it was not used.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UsageRecord {
    /// A snapshot's number or a blob's digest.
    pub id: String,
    /// The ids of what it is made of.
    pub parents: Vec<String>,
    /// What a user reads of it.
    pub description: String,
    /// What it is for, such as `regular` or `exec.cachemount`.
    #[serde(rename = "type")]
    pub kind: String,
    /// When it was made.
    #[serde(serialize_with = "rfc3339")]
    pub created: SystemTime,
    /// When it was last used; making it is a use.
    #[serde(serialize_with = "rfc3339")]
    pub last_used: SystemTime,
    /// How often it was used after it was made.
    pub usage_count: u64,
    /// Its bytes on disk.
    pub size: u64,
    /// Whether it is changed in place.
    pub mutable: bool,
    /// Whether it, or something made of it, is in use now.
    pub in_use: bool,
    /// Whether an image that a user named needs it.
    pub shared: bool,
}

/// What to delete.
#[derive(Clone, Debug, Default)]
pub struct PruneOptions {
    /// Also what frontends and internals use.
    pub all: bool,
    /// Only what matches, in `buildctl`'s filter syntax.
    pub filters: Vec<String>,
    /// Keep what is worth most up to this size, in bytes.
    pub keep_storage: Option<u64>,
    /// Keep what was used within this time.
    pub keep_duration: Option<Duration>,
    /// Keep no more than this many bytes.
    pub max_used: Option<u64>,
    /// Have this many bytes of the file system free.
    pub min_free: Option<u64>,
}

/// Why records cannot be listed or deleted.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct StoreError(#[from] UsageError);

impl Engine {
    /// Where everything is kept; for what belongs to builds but is not made by them.
    pub fn store(&self) -> &Store {
        &self.worker.store
    }

    /// The platform of steps that name none.
    pub fn platform(&self) -> &Platform {
        &self.worker.platform
    }

    /// What is kept on disk and matches all filters. Blocks.
    ///
    /// # Errors
    /// [`StoreError`], also for a filter that is none.
    pub fn usage(&self, filters: &[String]) -> Result<Vec<UsageRecord>, StoreError> {
        let store = &self.worker.store;
        let records = store.disk_usage(filters)?;
        let others = store.overhead(filters)?;
        let all = records.into_iter().chain(others);
        Ok(all.map(UsageRecord::from).collect())
    }

    /// Deletes what no build uses, what is worth least first; returns what was deleted.
    /// Blocks; builds go on meanwhile.
    ///
    /// # Errors
    /// [`StoreError`], also for a filter that is none.
    pub fn prune(&self, options: &PruneOptions) -> Result<Vec<UsageRecord>, StoreError> {
        let removed = self.worker.store.prune(&weld_store::PruneOptions {
            all: options.all,
            filters: options.filters.clone(),
            keep_duration: options.keep_duration,
            reserved: options.keep_storage,
            max_used: options.max_used,
            min_free: options.min_free,
        })?;
        Ok(removed.into_iter().map(UsageRecord::from).collect())
    }
}

/// Why the state directory could not be verified.
#[derive(Debug, thiserror::Error)]
#[error("cannot verify the state directory: {0}")]
pub struct CheckError(#[from] weld_store::check::CheckError);

impl Engine {
    /// The devices that steps may ask for, as they are described now. Blocks.
    pub fn devices(&self) -> Devices {
        self.worker.devices.devices()
    }

    /// Verifies the state directory; nothing may be built meanwhile. Blocks.
    ///
    /// # Errors
    /// [`CheckError`]; what is damaged is in the report.
    pub fn check(&self) -> Result<CheckReport, CheckError> {
        Ok(self.worker.store.check(|_| {})?)
    }

    /// Drops what a check found to be damaged, with what was made of it. Blocks.
    ///
    /// # Errors
    /// [`CheckError`].
    pub fn repair(&self, report: &CheckReport) -> Result<RepairReport, CheckError> {
        Ok(self.worker.store.repair(report)?)
    }
}

impl From<UsageInfo> for UsageRecord {
    fn from(info: UsageInfo) -> Self {
        Self {
            created: info.created_at(),
            last_used: info.last_used_at(),
            id: info.id,
            parents: info.parents,
            description: info.description,
            kind: info.record_type.to_string(),
            usage_count: info.usage_count,
            size: info.size.unwrap_or(0),
            mutable: info.mutable,
            in_use: info.in_use,
            shared: info.shared,
        }
    }
}

fn rfc3339<S: serde::Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    time::serde::rfc3339::serialize(&(*time).into(), serializer)
}
