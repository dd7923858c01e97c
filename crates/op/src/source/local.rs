//! A directory of the client's as a source.
//!
//! The directory is synced when its cache map is asked for, and its key is that of its content:
//! what is built on it is found by it at once. What was synced before is the layer below: only what
//! changed is written, and an unchanged tree costs its stats.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use async_trait::async_trait;
use weld_digest::{Digest, FieldHasher};
use weld_fileset::SelectionOptions;
use weld_llb::LocalSource;
use weld_solver::{CacheMap, Op, OpContext, OpError, ResultRef};
use weld_source::local::{
    DirTarget, Stat, SyncError, Synced, TreeIndex, TreeProvider, TreeTarget, sync,
};
use weld_source::progress::Progress;
use weld_store::mount::Mounted;
use weld_store::snapshot::{MutableSnapshot, SnapshotError, SnapshotRef};
use weld_store::{DbError, NewUsage, Object, RecordType, names};

use crate::digest::to_solver;
use crate::reporting::reporting;
use crate::session::{self, Session, SessionError};
use crate::{Tree, Worker};

/// How many layers of changes are stacked before they become one.
const MAX_DEPTH: usize = 16;

/// The name of a tree's index in its snapshot's directory.
const INDEX: &str = "local-index";

/// Why a local directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LocalError {
    #[error("local directory {0:?} is not offered by the client")]
    NotOffered(String),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("local directory {name:?}: {source}")]
    Sync { name: String, source: SyncError },
    #[error("local directory {name:?}: {source}")]
    Snapshot {
        name: String,
        source: Box<SnapshotError>,
    },
    #[error("local directory {name:?}: cannot keep its index: {source}")]
    Index { name: String, source: io::Error },
    #[error(transparent)]
    Database(#[from] DbError),
    #[error("local directory {0:?}: metadata-only transfers are not supported")]
    MetadataOnly(String),
}

/// One lock for each tree that is kept: only one sync of a tree at a time.
#[derive(Default)]
pub(crate) struct Trees(Mutex<HashMap<String, std::sync::Weak<tokio::sync::Mutex<()>>>>);

impl Trees {
    fn turn(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = turns.get(key).and_then(std::sync::Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::default();
        turns.insert(key.to_owned(), Arc::downgrade(&turn));
        turn
    }
}

pub(crate) struct Local {
    pub(crate) worker: Arc<Worker>,
    pub(crate) source: LocalSource,
    pub(crate) description: String,
    pub(crate) synced: OnceLock<(Tree, Digest)>,
}

#[async_trait]
impl Op<Tree> for Local {
    async fn cache_map(&self, ctx: &OpContext<Tree>, _index: u32) -> Result<CacheMap, OpError> {
        let (_, content) = self.synced(ctx).await?;
        let digest = FieldHasher::new("weld.op.local.v1")
            .digest(&content)
            .finish();
        Ok(CacheMap::new(to_solver(&digest)))
    }

    async fn exec(
        &self,
        ctx: &OpContext<Tree>,
        _inputs: Vec<ResultRef<Tree>>,
    ) -> Result<Vec<Tree>, OpError> {
        Ok(vec![self.synced(ctx).await?.0])
    }
}

impl Local {
    async fn synced(&self, ctx: &OpContext<Tree>) -> Result<(Tree, Digest), OpError> {
        if let Some(synced) = self.synced.get() {
            return Ok(synced.clone());
        }
        if self.source.metadata_transfer.is_some() {
            return Err(OpError::failed(LocalError::MetadataOnly(
                self.source.name.clone(),
            )));
        }
        let work = reporting(ctx, |progress| {
            ctx.with_session(move |handle| {
                let progress = progress.clone();
                async move { self.sync_from(session::of(&handle), progress).await }
            })
        });
        let synced = tokio::select! {
            synced = work => synced?,
            () = ctx.cancellation().cancelled() => return Err(OpError::Cancelled),
        };
        Ok(self.synced.get_or_init(|| synced).clone())
    }

    async fn sync_from(
        &self,
        session: Option<Arc<dyn Session>>,
        progress: Progress,
    ) -> Result<(Tree, Digest), OpError> {
        let name = &self.source.name;
        let gone = || OpError::gone(LocalError::NotOffered(name.clone()));
        let session = session.ok_or_else(gone)?;
        // A definition may want the directory of one session and no other's.
        if self
            .source
            .session
            .as_deref()
            .is_some_and(|wanted| wanted != session.id())
        {
            return Err(gone());
        }
        let selection = SelectionOptions {
            include_patterns: self.source.include_patterns.clone(),
            exclude_patterns: self.source.exclude_patterns.clone(),
            follow_paths: self.source.follow_paths.clone(),
        };
        let provider = session
            .directory(name, selection)
            .map_err(|error| OpError::failed(LocalError::Session(error)))?
            .ok_or_else(gone)?;
        let identity = session
            .directory_identity(name)
            .unwrap_or_else(|| name.clone());
        let key = self.key(&identity);
        let turn = self.worker.sources.turn(&key);
        let _turn = turn.lock().await;
        self.sync_tree(key, provider, progress)
            .await
            .map_err(OpError::failed)
    }

    /// What tells the kept tree from others: whose directory it is, and what is selected of it.
    fn key(&self, identity: &str) -> String {
        let digest = FieldHasher::new("weld.local.v1")
            .text(identity)
            .optional(self.source.shared_key_hint.as_deref())
            .texts(&self.source.include_patterns)
            .texts(&self.source.exclude_patterns)
            .texts(&self.source.follow_paths)
            .finish();
        format!("local:{}", digest.hex())
    }

    async fn sync_tree(
        &self,
        key: String,
        provider: Arc<dyn TreeProvider>,
        progress: Progress,
    ) -> Result<(Tree, Digest), LocalError> {
        let name = self.source.name.clone();
        let (worker, looked_up) = (Arc::clone(&self.worker), key.clone());
        let found = tokio::task::spawn_blocking(move || previous(&worker, &looked_up)).await;
        let (before, index) = found.unwrap_or_else(|_| Ok((None, TreeIndex::empty())))?;
        let target = Arc::new(Target::new(Arc::clone(&self.worker), before.clone()));
        let synced = sync(
            Arc::new(Provider(provider)),
            Arc::clone(&target),
            Arc::new(index),
            &progress,
        )
        .await
        .map_err(|source| LocalError::Sync {
            name: name.clone(),
            source,
        })?;
        let finish = Finish {
            worker: Arc::clone(&self.worker),
            usage: NewUsage {
                record_type: RecordType::LocalSource,
                description: format!("local source for {}", self.description),
                mutable: false,
                size: None,
            },
            name: name.clone(),
            key,
            before,
        };
        let finished = tokio::task::spawn_blocking(move || finish.run(&synced, target)).await;
        finished.unwrap_or_else(|_| Err(LocalError::NotOffered(name)))
    }
}

/// What was synced the last time, with its index.
fn previous(worker: &Worker, key: &str) -> Result<(Option<SnapshotRef>, TreeIndex), LocalError> {
    let nothing = (None, TreeIndex::empty());
    let Some(Object::Snapshot(id)) = worker.store.db().read(|tx| names::get(tx, key))? else {
        return Ok(nothing);
    };
    let Ok(Some(snapshot)) = worker.snapshots.get(id) else {
        return Ok(nothing);
    };
    // Without its index the tree says nothing: it is synced anew.
    let index = std::fs::read(index_path(worker, &snapshot)).ok();
    Ok(
        match index.and_then(|bytes| TreeIndex::decode(&bytes).ok()) {
            Some(index) => (Some(snapshot), index),
            None => nothing,
        },
    )
}

fn index_path(worker: &Worker, snapshot: &SnapshotRef) -> PathBuf {
    worker.store.snapshot_dir(snapshot.id()).join(INDEX)
}

/// What remains to be done after a sync.
struct Finish {
    worker: Arc<Worker>,
    usage: NewUsage,
    name: String,
    key: String,
    before: Option<SnapshotRef>,
}

impl Finish {
    fn run(self, synced: &Synced, target: Arc<Target>) -> Result<(Tree, Digest), LocalError> {
        let content = content_digest(&synced.index);
        let changed = Arc::into_inner(target).and_then(|target| target.made.into_inner());
        let snapshot_error = |source| LocalError::Snapshot {
            name: self.name.clone(),
            source: Box::new(source),
        };
        let snapshot = match (changed, &self.before) {
            (Some(made), _) => made
                .snapshot
                .commit(self.usage.clone())
                .map_err(snapshot_error)?,
            (None, Some(before)) => before.clone(),
            (None, None) => {
                let empty = self.worker.snapshots.create(None).map_err(snapshot_error)?;
                empty.commit(self.usage.clone()).map_err(snapshot_error)?
            }
        };
        let is_new = self
            .before
            .as_ref()
            .is_none_or(|before| before.id() != snapshot.id());
        if is_new || synced.index_changed {
            self.write_index(&snapshot, &synced.index)?;
        }
        let object = Object::Snapshot(snapshot.id());
        if is_new {
            let key = self.key.clone();
            // Nobody waits for it: without the name, the directory is synced anew some day.
            drop(
                self.worker
                    .store
                    .db()
                    .update(move |tx| names::set(tx, &key, &object)),
            );
        } else {
            self.worker.store.uses().add(&object);
        }
        Ok((Tree::of(snapshot), content))
    }

    fn write_index(&self, snapshot: &SnapshotRef, index: &TreeIndex) -> Result<(), LocalError> {
        let path = index_path(&self.worker, snapshot);
        let partial = path.with_extension("partial");
        std::fs::write(&partial, index.encode())
            .and_then(|()| std::fs::rename(&partial, &path))
            .map_err(|source| LocalError::Index {
                name: self.name.clone(),
                source,
            })
    }
}

/// The digest of what a tree holds: all but times, which change nothing in what is built.
fn content_digest(index: &TreeIndex) -> Digest {
    let entries = index.entries();
    let path = |path: &Path| path.as_os_str().as_encoded_bytes().to_vec();
    entries
        .iter()
        .fold(
            FieldHasher::new("weld.local.content.v1").number(entries.len() as u64),
            |hasher, entry| {
                let stat = &entry.stat;
                let link = stat
                    .link_target
                    .as_deref()
                    .or(stat.hard_link.as_deref())
                    .map(path)
                    .unwrap_or_default();
                let hasher = hasher
                    .bytes(&path(&stat.path))
                    .number(u64::from(stat.mode))
                    .number(u64::from(stat.uid) << 32 | u64::from(stat.gid))
                    .number(u64::from(stat.rdev.0) << 32 | u64::from(stat.rdev.1))
                    .bytes(&link)
                    .number(stat.xattrs.len() as u64);
                let hasher = stat.xattrs.iter().fold(hasher, |hasher, (name, value)| {
                    hasher.bytes(name.as_encoded_bytes()).bytes(value)
                });
                match &entry.digest {
                    Some(digest) => hasher.number(1).digest(digest),
                    None => hasher.number(0),
                }
            },
        )
        .finish()
}

/// A provider that is known at run time only.
struct Provider(Arc<dyn TreeProvider>);

impl TreeProvider for Provider {
    fn stats(&self, known: &TreeIndex) -> Result<Vec<Stat>, weld_source::local::ProviderError> {
        self.0.stats(known)
    }

    fn announce(&self, wanted: &[usize]) {
        self.0.announce(wanted);
    }

    fn open(&self, number: usize, stat: &Stat) -> io::Result<Box<dyn Read + Send>> {
        self.0.open(number, stat)
    }

    fn parallel(&self) -> usize {
        self.0.parallel()
    }
}

/// A new layer over what was synced before, made when the first change comes.
struct Target {
    worker: Arc<Worker>,
    before: Option<SnapshotRef>,
    made: OnceLock<Made>,
}

struct Made {
    target: DirTarget,
    snapshot: MutableSnapshot,
}

impl Target {
    const fn new(worker: Arc<Worker>, before: Option<SnapshotRef>) -> Self {
        Self {
            worker,
            before,
            made: OnceLock::new(),
        }
    }

    fn make(&self) -> io::Result<Made> {
        let snapshots = &self.worker.snapshots;
        let Some(before) = &self.before else {
            let snapshot = snapshots.create(None).map_err(io::Error::other)?;
            let target = DirTarget::open(snapshot.files())?;
            return Ok(Made { target, snapshot });
        };
        if before.layer_snapshots().len() >= MAX_DEPTH || !snapshots.is_overlay() {
            let snapshot = snapshots.create(None).map_err(io::Error::other)?;
            snapshots
                .copy_into(before, snapshot.files())
                .map_err(io::Error::other)?;
            let target = DirTarget::open(snapshot.files())?;
            return Ok(Made { target, snapshot });
        }
        let snapshot = snapshots.create(Some(before)).map_err(io::Error::other)?;
        let target = DirTarget::at(Mounted::into_fd(
            snapshot.mount().map_err(io::Error::other)?,
        ));
        Ok(Made { target, snapshot })
    }

    fn made(&self) -> io::Result<&DirTarget> {
        match self.made.get() {
            Some(made) => Ok(&made.target),
            None => Err(io::Error::other("the tree is changed before it is made")),
        }
    }
}

impl TreeTarget for Target {
    fn begin(&self) -> io::Result<()> {
        let made = self.make()?;
        self.made
            .set(made)
            .map_err(|_| io::Error::other("the tree is made twice"))
    }

    fn remove(&self, stat: &Stat) -> io::Result<()> {
        self.made()?.remove(stat)
    }

    fn make_dir(&self, stat: &Stat) -> io::Result<()> {
        self.made()?.make_dir(stat)
    }

    fn make_file(&self, stat: &Stat, content: &mut dyn Read) -> io::Result<()> {
        self.made()?.make_file(stat, content)
    }

    fn make_node(&self, stat: &Stat) -> io::Result<()> {
        self.made()?.make_node(stat)
    }

    fn hard_link(&self, stat: &Stat, first: &Path) -> io::Result<()> {
        self.made()?.hard_link(stat, first)
    }

    fn set_dir_metadata(&self, stat: &Stat) -> io::Result<()> {
        self.made()?.set_dir_metadata(stat)
    }
}
