//! Cache mounts elsewhere: their content is written after a build, and put where a step finds an empty one.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use weld_digest::Digest;
use weld_export::cache::{
    CacheLayer, CacheSink, Chunk, MAX_MOUNTS_CONFIG, MountContent, MountExport, MountPlace,
    MountSelection, Mounts, MountsReadError, PackedMount, mounts_parts, pack_mount, read_mounts,
    unpack_chunk, write_mounts,
};
use weld_op::{MountContents, Worker};
use weld_progress::Sender;
use weld_source::image::{Document, MAX_MANIFEST};
use weld_source::progress::Progress;
use weld_source::registry::Failure;
use weld_store::cache_mounts::archive::MAX_CHUNK;
use weld_store::{CacheMount, Staged, Taken};

use super::CacheExportError;
use super::export::{registry_of, store_of};
use super::origin::{Blobs, ReadError, read};
use crate::internal::Internal;
use crate::job::JobCore;

/// How long a mount that steps use is waited for before it is left out.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many chunks are on their way at once.
const CHUNKS_AT_ONCE: usize = 8;
/// How many are on their way or wait to be unpacked.
const CHUNKS_KEPT: usize = 2 * CHUNKS_AT_ONCE;
/// How long nothing may come of a chunk before its place counts as absent, unless `timeout` tells.
const CHUNK_PATIENCE: Duration = Duration::from_secs(10);
/// How long a chunk may take, after all that is tried again, before the mount counts as not to be had.
const CHUNK_TIME: Duration = Duration::from_secs(120);
/// The most of a mount that is written where no size is told, in bytes: so many chunks fit into a manifest.
const MOST: u64 = 16 << 30;

/// Where cache mounts are, open.
enum Place {
    Registry(
        weld_source::registry::Registry,
        weld_llb::reference::Reference,
    ),
    Store(Arc<dyn weld_source::blob_store::BlobStore>, Option<Digest>),
}

impl Place {
    async fn open(
        job: &JobCore,
        place: &MountPlace,
        patience: Duration,
    ) -> Result<Self, CacheExportError> {
        Ok(match place {
            MountPlace::Registry {
                reference,
                insecure,
            } => {
                let registry = registry_of(job, reference, *insecure).impatient(patience);
                Self::Registry(registry, reference.clone())
            }
            MountPlace::Store { id, digest } => {
                Self::Store(store_of(job, id).await?, digest.clone())
            }
        })
    }

    fn blobs(&self) -> Blobs<'_> {
        match self {
            Self::Registry(registry, reference) => Blobs::Registry(registry, reference),
            Self::Store(store, _) => Blobs::Store(&**store),
        }
    }

    fn sink(&self) -> CacheSink {
        match self {
            Self::Registry(registry, reference) => {
                CacheSink::Registry(registry.clone(), reference.clone())
            }
            Self::Store(store, _) => CacheSink::Store(Arc::clone(store)),
        }
    }

    /// Whether an error says that what a directory holds is damaged, other than that it is something else or cannot be reached.
    fn is_damage(&self, error: &ReadError) -> bool {
        let is_bad = |kind| matches!(kind, io::ErrorKind::InvalidData | io::ErrorKind::NotFound);
        let is_store = matches!(self, Self::Store(..));
        is_store
            && match error {
                ReadError::Blob { source, .. } => is_bad(source.kind()),
                ReadError::Document(_) => true,
                ReadError::MountsRead(error) => !matches!(error, MountsReadError::Other),
                _ => false,
            }
    }

    /// The chunks of mounts of these ids that need not be written again. A directory is looked at for each of them, since a disk may have
    /// changed it; those of other mounts are not read for that, and so are written if they are needed.
    async fn chunks(
        &self,
        mounts: &Mounts,
        ids: &[String],
    ) -> Result<HashMap<Digest, Chunk>, CacheExportError> {
        let all = |mounts: &mut dyn Iterator<Item = &MountContent>| {
            let chunks = mounts.flat_map(|content| &content.chunks);
            let chunks = chunks.map(|chunk| (chunk.digest.clone(), chunk.clone()));
            chunks.collect::<HashMap<_, _>>()
        };
        let Self::Store(store, _) = self else {
            return Ok(all(&mut mounts.values()));
        };
        let is_wanted = |name: &str| {
            let bare = name.strip_prefix('/').unwrap_or(name);
            ids.iter().any(|id| id == name || id == bare)
        };
        let wanted = mounts.iter().filter(|(name, _)| is_wanted(name));
        let wanted = all(&mut wanted.map(|(_, content)| content));
        let looks = wanted.into_iter().map(|(digest, chunk)| async move {
            let there = store.has(&chunk.blob.digest, chunk.blob.size).await;
            Ok::<_, io::Error>(there?.then_some((digest, chunk)))
        });
        let looks: Vec<_> = looks.map(FutureExt::boxed).collect();
        let mut looks = futures_util::stream::iter(looks).buffer_unordered(CHUNKS_AT_ONCE);
        let mut known = HashMap::new();
        while let Some(look) = looks.next().await {
            let look = look.map_err(|error| {
                CacheExportError::Mounts(format!("look at what is there: {error}"))
            })?;
            known.extend(look);
        }
        Ok(known)
    }

    /// What is there, with the digest of its manifest; `None` if nothing is.
    async fn mounts(&self) -> Result<Option<(Digest, Mounts)>, ReadError> {
        let (digest, document) = match self {
            Self::Registry(registry, reference) => {
                match registry.resolve_document(reference).await {
                    Ok(served) => (served.descriptor.digest, served.document),
                    Err(error) if error.is_not_found() => return Ok(None),
                    Err(error) => return Err(error.into()),
                }
            }
            Self::Store(_, None) => return Ok(None),
            Self::Store(store, Some(digest)) => {
                let bytes = read(&**store, digest, MAX_MANIFEST).await?;
                (digest.clone(), Document::parse(&bytes, "")?)
            }
        };
        let (config, layers) = mounts_parts(document)?;
        let config = self.blobs().bytes(&config, MAX_MOUNTS_CONFIG).await?;
        Ok(Some((digest, read_mounts(&config, &layers)?)))
    }
}

/// Writes the cache mounts that are here; the manifest's descriptor. What cannot be had is left out, and what the place has of
/// other ids, or of mounts that are not here, stays.
pub(super) async fn export(
    job: &Arc<JobCore>,
    options: &MountExport,
    patience: Duration,
    step: &Internal,
) -> Result<Option<String>, CacheExportError> {
    let progress = step.transfers();
    let place = Place::open(job, &options.place, patience).await?;
    let found = match place.mounts().await {
        Ok(found) => found,
        Err(error) if place.is_damage(&error) => {
            step.warn(format!(
                "cache mounts: what is there cannot be read ({error}): it is written anew, and those that are not here are lost"
            ));
            None
        }
        // What is there is no cache mounts: it is not written over.
        Err(error) => return Err(CacheExportError::Mounts(error.to_string())),
    };
    let (published, mut mounts) = match found {
        Some((digest, mounts)) => (Some(digest), mounts),
        None => (None, Mounts::new()),
    };
    let known = place.chunks(&mounts, &options.selection.ids).await?;
    let known = Arc::new(known);
    let mut left = options.selection.max_size.unwrap_or(MOST);
    let mut new: Vec<CacheLayer> = Vec::new();
    for id in &options.selection.ids {
        let leave_out = |why: String| {
            step.warn(format!("cache mount {id:?} is left out: {why}"));
        };
        let Some((name, mount)) = taken(job, id, &leave_out).await? else {
            continue;
        };
        let (store, known) = (job.worker.store.clone(), Arc::clone(&known));
        // The mount is free again when it is read; nobody waits for it to be uploaded.
        let packed = tokio::task::spawn_blocking(move || pack_mount(&store, &mount, left, &known));
        match packed.await? {
            Ok(PackedMount { content, new: made }) => {
                left = left.saturating_sub(content.length());
                new.extend(made);
                mounts.insert(name, content);
            }
            Err(error) => leave_out(error.to_string()),
        }
    }
    if mounts.is_empty() {
        return Ok(None);
    }
    let sink = place.sink();
    let store = &job.worker.store;
    let written = write_mounts(store, &sink, &mounts, &new, published.as_ref(), &progress);
    let written = written.boxed().await?;
    let descriptor = serde_json::to_string(&written.descriptor)
        .map_err(weld_export::cache::CacheWriteError::from)?;
    Ok(Some(descriptor))
}

/// A cache mount for us alone, with its name among the mounts elsewhere; `None` if there is none.
async fn taken(
    job: &Arc<JobCore>,
    id: &str,
    leave_out: &impl Fn(String),
) -> Result<Option<(String, CacheMount)>, CacheExportError> {
    let all = job.worker.store.cache_mounts();
    let mut releases = all.releases();
    let wait = async {
        loop {
            for name in [format!("/{id}"), id.to_owned()] {
                let (mounts, scoped) = (all.clone(), job.worker.domain().scoped(name.clone()));
                let attempt = tokio::task::spawn_blocking(move || mounts.try_take(&scoped));
                match attempt.await? {
                    Ok(Taken::Taken(mount)) => return Ok(Some((name, mount))),
                    Ok(Taken::Absent) => {}
                    Ok(Taken::InUse) => {
                        // The sender lives as long as the store.
                        drop(releases.changed().await);
                        break;
                    }
                    Err(error) => {
                        leave_out(error.to_string());
                        return Ok(None);
                    }
                }
                if name == id {
                    return Ok(None);
                }
            }
        }
    };
    match tokio::time::timeout(PATIENCE, wait).await {
        Ok(taken) => taken,
        Err(_) => {
            leave_out(format!("steps use it since {} s", PATIENCE.as_secs()));
            Ok(None)
        }
    }
}

/// Reads what cache mounts there are, and makes them known to the steps of a build.
pub(super) async fn import(
    job: &Arc<JobCore>,
    place: &MountPlace,
    selection: MountSelection,
    name: &str,
    patience: Option<Duration>,
) -> Result<Arc<dyn MountContents>, ReadError> {
    let patience = patience.unwrap_or(CHUNK_PATIENCE);
    let opened = Place::open(job, place, patience).await;
    let opened = opened.map_err(|error| ReadError::Mounts(error.to_string()))?;
    let (_, mounts) = opened
        .mounts()
        .await?
        .ok_or_else(|| ReadError::Mounts("there are none at this place".to_owned()))?;
    let contents: Arc<dyn MountContents> = Arc::new(Imported {
        worker: Arc::clone(&job.worker),
        progress: job.progress.clone(),
        name: name.to_owned(),
        place: opened,
        mounts,
        selection,
        patience,
        silent: AtomicBool::new(false),
        staged: Mutex::default(),
    });
    job.worker.mount_sources.add(job.session.id(), &contents);
    Ok(contents)
}

/// Cache mounts elsewhere that a build reads.
struct Imported {
    worker: Arc<Worker>,
    progress: Sender,
    name: String,
    place: Place,
    mounts: Mounts,
    selection: MountSelection,
    /// How long nothing may come of a chunk.
    patience: Duration,
    /// Its place was silent for so long: it is not asked for the other mounts.
    silent: AtomicBool,
    /// Each is fetched once, by the first who asks.
    staged: Mutex<BTreeMap<String, Staging>>,
}

type Staging = Arc<OnceCell<Option<Arc<Staged>>>>;

#[async_trait]
impl MountContents for Imported {
    async fn stage(&self, id: &str) -> Option<Arc<Staged>> {
        if !self.selection.means(id) {
            return None;
        }
        let content = self.mounts.get(id)?;
        let staging = {
            let mut staged = self.staged.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(staged.entry(id.to_owned()).or_default())
        };
        let stage = || async {
            let shown = id.trim_start_matches('/');
            let text = format!("importing cache mount {shown:?} from {}", self.name);
            let step = Internal::begin(&self.progress, &text, id);
            let fetched = match self.silent.load(Ordering::Relaxed) {
                false => self.fetch(content, &step.transfers()).await,
                true => Err(ReadError::Slow(self.patience)),
            };
            if fetched.as_ref().is_err_and(is_silence) {
                self.silent.store(true, Ordering::Relaxed);
            }
            // The step goes on with an empty mount; this tells why.
            step.end(fetched).ok().map(Arc::new)
        };
        staging.get_or_init(stage).await.clone()
    }
}

/// Whether a place said nothing, which it will not do sooner for another mount.
fn is_silence(error: &ReadError) -> bool {
    match error {
        ReadError::Slow(_) => true,
        ReadError::Registry(error) => matches!(
            error.failure(),
            Some(Failure::Silent(_) | Failure::Trickle { .. })
        ),
        _ => false,
    }
}

impl Imported {
    async fn fetch(
        &self,
        content: &MountContent,
        progress: &Progress,
    ) -> Result<Staged, ReadError> {
        let length = content.length();
        if let Some(most) = self.selection.max_size
            && length > most
        {
            return Err(ReadError::Mounts(format!(
                "it has {length} bytes, and max-size allows {most}"
            )));
        }
        let transfer = progress.start("chunks", "chunks", Some(length));
        // No more are on their way or wait to be unpacked. What is asked for is always listened to, so that it is not its place that
        // counts as slow where this disk is.
        let room = Arc::new(Semaphore::new(CHUNKS_KEPT));
        let (chunks, unpacked) = tokio::sync::mpsc::channel::<Fetched>(CHUNKS_KEPT);
        let (worker, root) = (Arc::clone(&self.worker), content.root);
        let staging = tokio::task::spawn_blocking(move || {
            let store = &worker.store;
            let stream = Stream {
                chunks: unpacked,
                current: Bytes::new(),
                _room: None,
                left: length,
            };
            store.cache_mounts().stage(store.space(), root, stream)
        });
        let fetches = content.chunks.iter().map(|chunk| {
            let room = Arc::clone(&room);
            let fetch = async move {
                // Never closed.
                let room = room.acquire_owned().await.ok();
                Ok::<Fetched, ReadError>((self.chunk(chunk).await?, room))
            };
            fetch.boxed()
        });
        let fetches: Vec<_> = fetches.collect();
        let mut fetches = futures_util::stream::iter(fetches).buffered(CHUNKS_AT_ONCE);
        let mut failed = None;
        while let Some(fetched) = fetches.next().await {
            match fetched {
                // Who unpacks says why it ended early.
                Ok(chunk) => match chunks.send(chunk).await {
                    Ok(()) => {}
                    Err(_) => break,
                },
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        drop(chunks);
        let staged = staging.await?;
        match failed {
            Some(error) => Err(error),
            None => {
                let staged = staged.map_err(|error| ReadError::Mounts(error.to_string()))?;
                transfer.complete();
                Ok(staged)
            }
        }
    }

    async fn chunk(&self, chunk: &Chunk) -> Result<Vec<u8>, ReadError> {
        // What cannot be compressed gets a little longer.
        let longest = (MAX_CHUNK + (64 << 10)) as u64;
        let blobs = self.place.blobs();
        let fetch = blobs.bytes(&chunk.blob, longest);
        let blob = tokio::time::timeout(CHUNK_TIME, fetch).await;
        let blob = blob.map_err(|_| ReadError::Slow(CHUNK_TIME))??;
        let chunk = chunk.clone();
        let unpacked = tokio::task::spawn_blocking(move || unpack_chunk(&chunk, &blob)).await?;
        unpacked.map_err(|error| ReadError::Mounts(error.to_string()))
    }
}

/// A chunk, and the room that it takes until it is unpacked.
type Fetched = (Vec<u8>, Option<OwnedSemaphorePermit>);

/// Chunks in their order, as one stream. One that ends before all are there is an error.
struct Stream {
    chunks: tokio::sync::mpsc::Receiver<Fetched>,
    current: Bytes,
    _room: Option<OwnedSemaphorePermit>,
    left: u64,
}

impl Read for Stream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.chunks.blocking_recv() {
                Some((chunk, room)) => (self.current, self._room) = (chunk.into(), room),
                None if self.left == 0 => return Ok(0),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let count = out.len().min(self.current.len());
        let now = self.current.split_to(count);
        out[..count].copy_from_slice(&now);
        self.left = self.left.saturating_sub(count as u64);
        Ok(count)
    }
}
