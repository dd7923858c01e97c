//! What is remembered of builds: a record of each in the store's database, with its blobs.

mod filter;
mod listen;
mod surplus;
mod table;

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use prost::Message as _;
use tokio::sync::broadcast;
use tonic::Status;
use weld_digest::Digest;
use weld_proto::control::{
    BuildHistoryEvent, BuildHistoryEventType, BuildHistoryRecord, Descriptor,
};
use weld_store::{BlobError, BlobInfo, BlobRef, DbError, Expected, Started, Store};

use surplus::Ended;
pub use surplus::HistoryConfig;

/// How many events a listener may be behind.
const EVENTS: usize = 1024;
/// What a file takes on the disk at least, in steps of, in bytes.
const BLOCK: u64 = 4096;

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
    /// How many bytes more there may be before any has to be forgotten.
    bytes_left: u64,
}

/// What the history takes on the disk.
pub(crate) struct HistoryUsage {
    /// The digests of all blobs that records name.
    pub(crate) blobs: HashSet<String>,
    pub(crate) builds: usize,
    pub(crate) bytes: u64,
    /// When the first and the last build ended.
    pub(crate) times: Option<(SystemTime, SystemTime)>,
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
        let history = Arc::new(Self {
            store,
            config,
            state: Mutex::default(),
            events: broadcast::Sender::new(EVENTS),
        });
        let weak = Arc::downgrade(&history);
        // Rather without old builds' logs than without new builds.
        history.store.space().set_last_resort(move |bytes| {
            let history = weak.upgrade();
            let freed = history.map_or(Ok(0), |history| history.free(bytes));
            freed.unwrap_or_else(|error| {
                tracing::warn!(%error, "old builds cannot be forgotten");
                0
            })
        });
        Ok(history)
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
        let bytes = self.bytes_of(&blobs);
        let saved = self.save(record.clone(), blobs).await;
        let fits = {
            let mut state = self.lock();
            state.active.remove(&reference);
            self.tell(event(BuildHistoryEventType::Complete, record));
            state.take(bytes)
        };
        saved?;
        if fits { Ok(()) } else { self.tidy().await }
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
        // It may be old, and pinned no longer; or be larger.
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
            let surplus = this
                .config
                .surplus(&this.ended()?, disk_of(this.store.root()), now);
            this.forget(&surplus.references)?;
            let mut state = this.lock();
            state.quiet_until = surplus.quiet_until;
            state.bytes_left = surplus.bytes_left;
            Ok(())
        })
        .await?
    }

    /// Forgets the oldest builds that are not pinned until so many bytes are free; returns how many are.
    fn free(&self, bytes: u64) -> Result<u64, HistoryError> {
        let (references, freed) = surplus::oldest(&self.ended()?, bytes);
        let count = references.len();
        if count > 0 {
            tracing::warn!(count, "forgot old builds, to make room");
        }
        self.forget(&references)?;
        Ok(freed)
    }

    /// All builds that ended, the newest first, each with what it alone takes on the disk.
    fn ended(&self) -> Result<Vec<Ended>, HistoryError> {
        let db = self.store.db();
        let mut ended = Vec::new();
        table::visit(db, |record| {
            ended.push(Ended {
                completed: completed(&record),
                pinned: record.pinned,
                bytes: record.encoded_len() as u64,
                reference: record.reference,
            });
        })?;
        ended.sort_unstable_by(|one, other| {
            let newness = |build: &Ended| (build.pinned, build.completed);
            newness(other)
                .cmp(&newness(one))
                .then_with(|| other.reference.cmp(&one.reference))
        });
        let mut named = table::named(db)?;
        let mut counted = HashSet::new();
        for build in &mut ended {
            for digest in named.remove(&build.reference).unwrap_or_default() {
                if !counted.contains(&digest) {
                    build.bytes += self.bytes_of(std::slice::from_ref(&digest));
                    counted.insert(digest);
                }
            }
        }
        Ok(ended)
    }

    /// What blobs take on the disk.
    fn bytes_of(&self, digests: &[Digest]) -> u64 {
        let blobs = self.store.blobs();
        let sizes = digests.iter().filter_map(|digest| {
            let size = blobs.size(digest).ok()??;
            Some(size.next_multiple_of(BLOCK))
        });
        sizes.sum()
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

    /// What it takes on the disk. Blocks.
    pub(crate) fn usage(&self) -> Result<HistoryUsage, HistoryError> {
        let named = table::named(self.store.db())?;
        let blobs: HashSet<_> = named.into_values().flatten().collect();
        let all: Vec<_> = blobs.iter().cloned().collect();
        let mut usage = HistoryUsage {
            bytes: self.bytes_of(&all),
            blobs: all.iter().map(ToString::to_string).collect(),
            builds: 0,
            times: None,
        };
        table::visit(self.store.db(), |record| {
            let time = completed(&record);
            let (first, last) = usage.times.unwrap_or((time, time));
            usage.times = Some((first.min(time), last.max(time)));
            usage.builds += 1;
        })?;
        Ok(usage)
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

/// The size of the disk that a directory is on, in bytes.
fn disk_of(directory: &Path) -> u64 {
    rustix::fs::statvfs(directory)
        .map_or(u64::MAX, |disk| disk.f_blocks.saturating_mul(disk.f_frsize))
}

impl State {
    /// Counts bytes that are there now; whether there may be as many.
    fn take(&mut self, bytes: u64) -> bool {
        let left = self.bytes_left.checked_sub(bytes);
        self.bytes_left = left.unwrap_or(0);
        if left.is_none() {
            self.quiet_until = None;
        }
        left.is_some()
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
