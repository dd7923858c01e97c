//! The copy of a client's tree in the store.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use weld_digest::{Digest, Hasher};
use weld_store::NewUsage;
use weld_store::content_key::FileHeader;
use weld_store::snapshot::{LocalTree, LocalTreeChange, SnapshotError, SnapshotRef, Snapshots};

use super::dir_target::DirTarget;
use super::ends::{TreeProvider, TreeTarget};
use super::index::{IndexEntry, TreeIndex};
use super::stat::Stat;
use super::sync::{SyncError, Synced, sync};
use crate::progress::Progress;

/// Why a client's tree could not be brought into the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreSyncError {
    /// The tree could not be synced.
    #[error(transparent)]
    Sync(#[from] SyncError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] SnapshotError),
    /// The copy's directory could not be handled.
    #[error("cannot open the copy {path}: {source}", path = path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A client's tree in the store.
#[derive(Clone)]
pub struct StoredTree {
    /// The copy. Of a tree that did not change it is the same as before.
    pub snapshot: SnapshotRef,
    /// What the sync came to; the digests of its index are, for files that were not changed
    /// meanwhile, the content keys.
    pub synced: Synced,
}

/// How long before a sync a file must have been written for [`Differ::Settled`] to trust its time.
const FRESH: Duration = Duration::from_secs(2);

/// How it is found out which files changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Differ {
    /// By their metadata: size, times, mode, owner.
    #[default]
    Metadata,
    /// Likewise, but what was written within two seconds of a sync is transferred again by the next one. For copies that directories
    /// share of which nothing tells whose they are: files that one program writes have the same time within a tick of the clock.
    Settled,
    /// Not at all: every file is transferred.
    None,
}

/// Brings the copy that the store has under `key` in step with what `provider` has, and returns
/// it. The content keys of its files are found on the way.
///
/// # Errors
/// [`StoreSyncError`]; the store then has the old copy, or none, but no half of one.
pub async fn sync_into_store<P: TreeProvider + ?Sized>(
    provider: Arc<P>,
    snapshots: &Snapshots,
    key: &str,
    differ: Differ,
    usage: NewUsage,
    progress: &Progress,
) -> Result<StoredTree, StoreSyncError> {
    let (snapshots, key) = (snapshots.clone(), key.to_owned());
    let (target, previous) =
        blocking(move || Ok(StoreTarget::open(snapshots.local_tree(&key)?))).await?;
    let previous = match differ {
        Differ::Metadata | Differ::Settled => previous,
        Differ::None => previous.without_contents(),
    };
    let target = Arc::new(target);
    let fresh = SystemTime::now() - FRESH;
    let mut synced = sync(provider, Arc::clone(&target), Arc::new(previous), progress).await?;
    if differ == Differ::Settled {
        synced.index.distrust_since(fresh);
    }
    blocking(move || {
        let snapshot = target.finish(&synced, usage)?;
        Ok(StoredTree { snapshot, synced })
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreSyncError> + Send + 'static,
) -> Result<T, StoreSyncError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        // It is never aborted.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Starts to change the store's copy when there is something to change.
struct StoreTarget {
    tree: Mutex<Option<LocalTree>>,
    /// Whether the copy has files that the index does not know.
    is_unknown: bool,
    changing: OnceLock<Changing>,
}

struct Changing {
    /// Taken when it is committed.
    change: Mutex<Option<LocalTreeChange>>,
    directory: DirTarget,
}

impl StoreTarget {
    fn open(tree: LocalTree) -> (Self, TreeIndex) {
        let decoded = match tree.index() {
            [] => Ok(TreeIndex::empty()),
            bytes => TreeIndex::decode(bytes),
        };
        let target = Self {
            tree: Mutex::new(Some(tree)),
            is_unknown: decoded.is_err(),
            changing: OnceLock::new(),
        };
        (target, decoded.unwrap_or_default())
    }

    fn tree(&self) -> Option<LocalTree> {
        let mut tree = self.tree.lock().unwrap_or_else(PoisonError::into_inner);
        tree.take()
    }

    fn start(&self) -> Result<Option<Changing>, StoreSyncError> {
        let Some(tree) = self.tree() else {
            return Ok(None);
        };
        let change = tree.change()?;
        let failed = |source| StoreSyncError::Directory {
            path: change.files().to_owned(),
            source,
        };
        if self.is_unknown {
            clear(change.files()).map_err(failed)?;
        }
        let directory = DirTarget::open(change.files()).map_err(failed)?;
        Ok(Some(Changing {
            change: Mutex::new(Some(change)),
            directory,
        }))
    }

    fn directory(&self) -> io::Result<&DirTarget> {
        let changing = self.changing.get();
        changing
            .map(|changing| &changing.directory)
            .ok_or_else(|| io::Error::other("the copy is not being changed"))
    }

    fn finish(&self, synced: &Synced, usage: NewUsage) -> Result<SnapshotRef, StoreSyncError> {
        if !synced.tree_changed
            && let Some(tree) = self.tree()
        {
            if let Some(unchanged) = tree.unchanged() {
                return Ok(unchanged.clone());
            }
            // An empty tree that the store has no copy of yet.
            return Ok(tree.change()?.commit(&synced.index.encode(), [], usage)?);
        }
        let change = self.changing.get().and_then(|changing| {
            let change = changing.change.lock();
            change.unwrap_or_else(PoisonError::into_inner).take()
        });
        match change {
            Some(change) => Ok(change.commit(&synced.index.encode(), keys(synced), usage)?),
            None => Err(SyncError::Cancelled.into()),
        }
    }
}

/// The content keys of what changed.
fn keys(synced: &Synced) -> Vec<(PathBuf, Option<Digest>)> {
    let entries = synced.index.entries();
    let changed = synced
        .changed
        .iter()
        .filter_map(|changed| entries.get(*changed));
    let made = changed.map(|entry| (entry.stat.path.clone(), key(entry)));
    let gone = synced.removed.iter().map(|path| (path.clone(), None));
    made.chain(gone).collect()
}

fn key(entry: &IndexEntry) -> Option<Digest> {
    match entry.stat.file_type() {
        // The header of a file that was changed while it was read had another length.
        rustix::fs::FileType::RegularFile if !entry.settled => None,
        rustix::fs::FileType::RegularFile => entry.digest.clone(),
        _ => Some(header(&entry.stat).finish()),
    }
}

/// What a content key begins with.
fn header(stat: &Stat) -> Hasher {
    let xattrs: Vec<_> = stat
        .xattrs
        .iter()
        .map(|(name, value)| (name.as_encoded_bytes().to_vec(), value.clone()))
        .collect();
    let target = stat.link_target.as_ref();
    FileHeader {
        kind: stat.file_type(),
        mode: stat.permissions(),
        uid: stat.uid,
        gid: stat.gid,
        size: stat.size,
        target: target.map_or(b"", |target| target.as_os_str().as_bytes()),
        device: stat.rdev,
        xattrs: &xattrs,
    }
    .hasher()
}

fn clear(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

impl TreeTarget for StoreTarget {
    /// What a file can do is of the file. Everything else (labels, where it was downloaded) is of
    /// the machine, and would make another image of the same files there.
    fn takes(&self, attribute: &OsStr) -> bool {
        attribute == "security.capability"
    }

    fn begin(&self) -> io::Result<()> {
        if let Some(changing) = self.start().map_err(io::Error::other)? {
            // It is called once.
            let _ = self.changing.set(changing);
        }
        Ok(())
    }

    fn hasher(&self, stat: &Stat) -> Hasher {
        header(stat)
    }

    fn remove(&self, stat: &Stat) -> io::Result<()> {
        self.directory()?.remove(stat)
    }

    fn make_dir(&self, stat: &Stat) -> io::Result<()> {
        self.directory()?.make_dir(stat)
    }

    fn make_file(&self, stat: &Stat, content: &mut dyn Read) -> io::Result<()> {
        self.directory()?.make_file(stat, content)
    }

    fn make_node(&self, stat: &Stat) -> io::Result<()> {
        self.directory()?.make_node(stat)
    }

    fn hard_link(&self, stat: &Stat, first: &Path) -> io::Result<()> {
        self.directory()?.hard_link(stat, first)
    }

    fn set_metadata(&self, stat: &Stat) -> io::Result<()> {
        self.directory()?.set_metadata(stat)
    }
}
