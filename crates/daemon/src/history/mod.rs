//! What is remembered of builds: a record of each in the store's database, with its blobs.

mod filter;
mod listen;
mod table;

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::broadcast;
use tonic::Status;
use weld_digest::Digest;
use weld_proto::control::{
    BuildHistoryEvent, BuildHistoryEventType, BuildHistoryRecord, Descriptor,
};
use weld_store::{BlobError, BlobInfo, BlobRef, DbError, Expected, Started, Store};

/// How many events a listener may be behind.
const EVENTS: usize = 1024;

/// What is remembered, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryConfig {
    /// A record that is older may be deleted …
    pub max_age: Duration,
    /// … if there are more than these.
    pub max_entries: usize,
}

impl Default for HistoryConfig {
    /// As BuildKit has it.
    fn default() -> Self {
        Self {
            max_age: Duration::from_secs(48 * 3600),
            max_entries: 50,
        }
    }
}

impl HistoryConfig {
    /// Which of these builds to forget, by when they ended: what is neither among the newest nor
    /// young. And until when no other one will have to go, whichever end meanwhile.
    fn surplus(
        &self,
        mut builds: Vec<(SystemTime, String)>,
        now: SystemTime,
    ) -> (Vec<String>, Option<SystemTime>) {
        builds.sort_unstable_by(|one, other| other.cmp(one));
        let oldest = now
            .checked_sub(self.max_age)
            .unwrap_or(SystemTime::UNIX_EPOCH);
        let (mut surplus, mut next) = (Vec::new(), now.checked_add(self.max_age));
        for (number, (completed, reference)) in builds.into_iter().enumerate() {
            if completed >= oldest {
                next = completed.checked_add(self.max_age);
            } else if number >= self.max_entries {
                surplus.push(reference);
            } else {
                // It goes as soon as there are more.
                next = Some(now);
            }
        }
        (surplus, next)
    }
}

/// The history of a daemon.
pub(crate) struct History {
    store: Store,
    config: HistoryConfig,
    state: Mutex<State>,
    events: broadcast::Sender<Arc<BuildHistoryEvent>>,
}

#[derive(Default)]
struct State {
    active: BTreeMap<String, BuildHistoryRecord>,
    /// No record is old enough to be forgotten before this, if it is known: nothing needs to be
    /// looked through until then.
    quiet_until: Option<SystemTime>,
}

/// Why the history did not do what was asked of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HistoryError {
    /// There is no such record.
    #[error("failed to retrieve ref {0}: not found")]
    Absent(String),
    /// The database failed.
    #[error("build history: {0}")]
    Db(#[from] DbError),
    /// A blob cannot be written or read.
    #[error("build history: {0}")]
    Blob(#[from] BlobError),
    /// A build's progress cannot be read.
    #[error("build history: read the progress: {0}")]
    Progress(#[from] io::Error),
    /// A record is damaged.
    #[error("build history: the record of {reference}: {source}")]
    Record {
        /// The build's name.
        reference: String,
        /// What is wrong.
        source: weld_proto::DecodeError,
    },
    /// Work on a thread that may block ended early.
    #[error("build history: a task ended early: {0}")]
    Stopped(#[from] tokio::task::JoinError),
}

impl From<HistoryError> for Status {
    fn from(error: HistoryError) -> Self {
        match error {
            HistoryError::Absent(_) => Self::not_found(error.to_string()),
            _ => Self::internal(error.to_string()),
        }
    }
}

/// A blob of a record; pinned, so that it is there when the record comes to name it.
pub(crate) struct Kept {
    blob: BlobRef,
    media_type: &'static str,
}

impl Kept {
    pub(crate) fn digest(&self) -> Digest {
        self.blob.digest().clone()
    }

    pub(crate) fn descriptor(&self) -> Descriptor {
        Descriptor {
            media_type: self.media_type.to_owned(),
            digest: self.blob.digest().to_string(),
            size: self.blob.size().try_into().unwrap_or(i64::MAX),
            annotations: BTreeMap::new(),
        }
    }
}

impl History {
    /// Opens what is remembered in a store.
    pub(crate) async fn open(
        store: Store,
        config: HistoryConfig,
    ) -> Result<Arc<Self>, HistoryError> {
        let db = store.db().clone();
        tokio::task::spawn_blocking(move || table::create(&db)).await??;
        Ok(Arc::new(Self {
            store,
            config,
            state: Mutex::default(),
            events: broadcast::Sender::new(EVENTS),
        }))
    }

    /// A build began.
    pub(crate) fn started(&self, record: BuildHistoryRecord) {
        let event = event(BuildHistoryEventType::Started, record.clone());
        let mut state = self.lock();
        state.active.insert(record.reference.clone(), record);
        // With the lock held: whoever lists what is active hears of it once.
        self.tell(event);
    }

    /// A build ended: `record` is all that is known of it, `blobs` what it names.
    pub(crate) async fn completed(
        self: &Arc<Self>,
        record: BuildHistoryRecord,
        blobs: Vec<Digest>,
    ) -> Result<(), HistoryError> {
        let reference = record.reference.clone();
        let saved = self.save(record.clone(), blobs).await;
        let mut state = self.lock();
        state.active.remove(&reference);
        self.tell(event(BuildHistoryEventType::Complete, record));
        drop(state);
        saved
    }

    /// A build ended of which nothing can be remembered.
    pub(crate) fn abandoned(&self, reference: &str) {
        let record = self.lock().active.remove(reference);
        if let Some(record) = record {
            self.tell(event(BuildHistoryEventType::Deleted, record));
        }
    }

    /// What is remembered of a build.
    pub(crate) async fn get(
        self: &Arc<Self>,
        reference: &str,
    ) -> Result<Option<BuildHistoryRecord>, HistoryError> {
        let (this, reference) = (Arc::clone(self), reference.to_owned());
        tokio::task::spawn_blocking(move || table::get(this.store.db(), &reference)).await?
    }

    /// Changes a record.
    pub(crate) async fn update(
        self: &Arc<Self>,
        reference: &str,
        change: impl FnOnce(&mut BuildHistoryRecord),
        blobs: Vec<Digest>,
    ) -> Result<(), HistoryError> {
        let absent = || HistoryError::Absent(reference.to_owned());
        let mut record = self.get(reference).await?.ok_or_else(absent)?;
        change(&mut record);
        record.generation = record.generation.saturating_add(1);
        self.save(record.clone(), blobs).await?;
        // It may be old, and pinned no longer.
        self.lock().quiet_until = None;
        self.tell(event(BuildHistoryEventType::Complete, record));
        Ok(())
    }

    /// Forgets a build.
    pub(crate) async fn delete(self: &Arc<Self>, reference: &str) -> Result<(), HistoryError> {
        let (this, name) = (Arc::clone(self), reference.to_owned());
        tokio::task::spawn_blocking(move || {
            if table::get(this.store.db(), &name)?.is_none() {
                return Err(HistoryError::Absent(name));
            }
            this.forget(&[name])
        })
        .await?
    }

    /// Forgets what is too old where there is too much of it.
    pub(crate) async fn tidy(self: &Arc<Self>) -> Result<(), HistoryError> {
        let now = SystemTime::now();
        if self.lock().quiet_until.is_some_and(|until| now < until) {
            return Ok(());
        }
        let this = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let mut builds = Vec::new();
            table::visit(this.store.db(), |record| {
                if !record.pinned {
                    builds.push((completed(&record), record.reference));
                }
            })?;
            let (surplus, quiet_until) = this.config.surplus(builds, now);
            this.forget(&surplus)?;
            this.lock().quiet_until = quiet_until;
            Ok(())
        })
        .await?
    }

    fn forget(&self, references: &[String]) -> Result<(), HistoryError> {
        if references.is_empty() {
            return Ok(());
        }
        table::delete(self.store.db(), references)?;
        for reference in references {
            self.tell(event(
                BuildHistoryEventType::Deleted,
                BuildHistoryRecord {
                    reference: reference.clone(),
                    ..BuildHistoryRecord::default()
                },
            ));
        }
        if let Err(error) = self.store.collect_garbage() {
            tracing::warn!(%error, "the blobs of a deleted build remain");
        }
        Ok(())
    }

    /// Takes a small blob for a record.
    pub(crate) async fn keep(
        &self,
        content: Vec<u8>,
        media_type: &'static str,
    ) -> Result<Kept, HistoryError> {
        self.keep_from(io::Cursor::new(content), media_type).await
    }

    /// Takes a blob for a record.
    pub(crate) async fn keep_from(
        &self,
        mut content: impl io::Read + Send + 'static,
        media_type: &'static str,
    ) -> Result<Kept, HistoryError> {
        let blobs = self.store.blobs().clone();
        let blob = tokio::task::spawn_blocking(move || -> Result<_, HistoryError> {
            let info = BlobInfo {
                media_type: Some(media_type.to_owned()),
                ..BlobInfo::default()
            };
            match blobs.ingest(None, Expected::default())? {
                Started::Present(blob) => Ok(blob),
                Started::Ingest(mut ingest) => {
                    io::copy(&mut content, &mut ingest)?;
                    Ok(ingest.commit(info)?)
                }
            }
        })
        .await??;
        Ok(Kept { blob, media_type })
    }

    /// The digests of all blobs that records name.
    pub(crate) fn blobs(&self) -> Result<HashSet<String>, HistoryError> {
        table::blobs(self.store.db())
    }

    async fn save(
        &self,
        record: BuildHistoryRecord,
        blobs: Vec<Digest>,
    ) -> Result<(), HistoryError> {
        let ticket = table::put(self.store.db(), &record, blobs);
        Ok(tokio::task::spawn_blocking(move || ticket.wait()).await??)
    }

    fn tell(&self, event: BuildHistoryEvent) {
        // Nobody needs to listen.
        let _ = self.events.send(Arc::new(event));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn event(kind: BuildHistoryEventType, record: BuildHistoryRecord) -> BuildHistoryEvent {
    BuildHistoryEvent {
        kind: kind.into(),
        record: Some(record),
    }
}

fn completed(record: &BuildHistoryRecord) -> SystemTime {
    record
        .completed_at
        .and_then(|time| SystemTime::try_from(time).ok())
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_neither_new_nor_young_goes_and_the_rest_is_left_alone_till_its_time() {
        let hours = |hours: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(hours * 3600);
        let config = HistoryConfig {
            max_age: Duration::from_secs(48 * 3600),
            max_entries: 2,
        };
        let builds = |ended: &[u64]| {
            let named = |ended: &u64| (hours(*ended), ended.to_string());
            ended.iter().map(named).collect::<Vec<_>>()
        };
        let at = |ended: &[u64], now| config.surplus(builds(ended), hours(now));
        let none = Vec::<String>::new();
        assert_eq!(at(&[], 100), (none.clone(), Some(hours(148))));
        assert_eq!(at(&[60, 70, 90], 100), (none.clone(), Some(hours(108))));
        // Both are among the newest: the next one that ends drives one out.
        assert_eq!(at(&[10, 20], 100), (none, Some(hours(100))));
        let (gone, until) = at(&[10, 70, 20, 60], 100);
        assert_eq!(
            (gone, until),
            (vec!["20".into(), "10".into()], Some(hours(108)))
        );
        let (gone, until) = at(&[10, 70, 20], 100);
        assert_eq!((gone, until), (vec!["10".into()], Some(hours(100))));
    }
}
