//! The directories of cache mounts (`RUN --mount=type=cache`): kept between builds, changed in
//! place, used by one step or several at a time as they ask for.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use weld_digest::Digest;

use crate::db::{Db, DbError};
use crate::durability::{self, Sequence};
use crate::object::{Object, SnapshotId};
use crate::pins::{Pin, Pins};
use crate::usage::{self, NewUsage, RecordType, Uses};
use crate::{gc, names};

/// Who may use a cache mount's directory at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Any number of steps.
    Shared,
    /// One step; another one gets a directory of its own.
    Private,
    /// One step; another one waits.
    Locked,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct CacheMountRequest {
    /// What a user calls it, by which it is retired ([`CacheMounts::retire`]).
    pub id: String,
    /// Its id, with whatever else makes it another one, such as the digest of its first content.
    pub key: String,
    /// Who else may use it.
    pub sharing: Sharing,
    /// What it is listed as: a cache mount, or another directory that is kept between builds.
    pub record_type: RecordType,
    /// What a user reads of it.
    pub description: String,
}

/// Why a cache mount cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CacheMountError {
    /// Its directory cannot be made.
    #[error("make the directory of cache mount {key:?}: {source}")]
    Create {
        /// Which.
        key: String,
        /// What the system said.
        source: io::Error,
    },
    /// The database failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// The cache mounts of a state directory. Cheap to clone.
#[derive(Clone)]
pub struct CacheMounts(Arc<Inner>);

impl std::fmt::Debug for CacheMounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CacheMounts({:?})", self.0.root)
    }
}

struct Inner {
    root: PathBuf,
    db: Db,
    pins: Pins,
    uses: Uses,
    sequence: Arc<Sequence>,
    /// By key, in the order in which they were made.
    directories: Mutex<HashMap<String, Vec<Directory>>>,
    /// By id, the sequence number before which directories are not used any more.
    retired: Mutex<HashMap<String, SnapshotId>>,
    released: watch::Sender<()>,
}

struct Directory {
    id: SnapshotId,
    used: Use,
    /// The update that names it is queued and not yet committed.
    new: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Free,
    Shared(usize),
    Exclusive,
}

/// The choice among the directories of a key.
enum Choice {
    Take(SnapshotId),
    Make,
    Wait,
}

impl CacheMounts {
    pub(crate) fn new(
        root: &Path,
        db: &Db,
        pins: &Pins,
        uses: &Uses,
        sequence: &Arc<Sequence>,
    ) -> Self {
        Self(Arc::new(Inner {
            root: root.to_owned(),
            db: db.clone(),
            pins: pins.clone(),
            uses: uses.clone(),
            sequence: sequence.clone(),
            directories: Mutex::default(),
            retired: Mutex::default(),
            released: watch::channel(()).0,
        }))
    }

    /// Tells of releases that come after this call: subscribe, then try, then wait.
    pub fn releases(&self) -> watch::Receiver<()> {
        self.0.released.subscribe()
    }

    /// Has those who ask from now on get new directories of these ids. Who uses one keeps it.
    ///
    /// # Errors
    /// If the database failed.
    pub fn retire(&self, ids: impl IntoIterator<Item = String>) -> Result<(), CacheMountError> {
        for id in ids {
            // May wait for the committer, which must not have to wait for the lock.
            let before = SnapshotId(self.0.sequence.next()?);
            let retired = self.0.retired.lock();
            retired
                .unwrap_or_else(PoisonError::into_inner)
                .insert(id, before);
        }
        Ok(())
    }

    /// Forgets the directories of a key that are retired.
    fn forget_retired(&self, request: &CacheMountRequest, known: &mut Vec<Directory>) {
        let retired = self.0.retired.lock();
        let retired = retired.unwrap_or_else(PoisonError::into_inner);
        let Some(before) = retired.get(&request.id).copied() else {
            return;
        };
        known.retain(|directory| {
            let keeps = directory.id >= before;
            if !keeps {
                let name = name(&request.key, directory.id);
                drop(self.0.db.update(move |tx| names::remove(tx, &name)));
            }
            keeps
        });
    }

    /// Takes a directory, or `None` if one has to be waited for ([`CacheMounts::releases`]).
    ///
    /// A new one is empty and owned by this process's user; `fill` gives it its first content.
    pub fn try_acquire(
        &self,
        request: &CacheMountRequest,
        fill: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<Option<CacheMount>, CacheMountError> {
        let exclusive = request.sharing != Sharing::Shared;
        // May wait for the committer, which must not have to wait for the lock.
        let unused = SnapshotId(self.0.sequence.next()?);
        let mut all = self.lock();
        self.load(&mut all, &request.key)?;
        let known = all.entry(request.key.clone()).or_default();
        self.forget_retired(request, known);
        let id = loop {
            match choose(known, request.sharing) {
                Choice::Wait => return Ok(None),
                Choice::Make => break unused,
                Choice::Take(id) => {
                    let pin = self.0.pins.pin(Object::Snapshot(id));
                    if self.is_there(&request.key, id, known)? {
                        let mount = self.take(known, request, pin, id);
                        return Ok(Some(mount));
                    }
                    known.retain(|directory| directory.id != id);
                }
            }
        };
        let pin = self.0.pins.pin(Object::Snapshot(id));
        known.push(Directory {
            id,
            // Nobody shares it before it is filled.
            used: Use::Exclusive,
            new: true,
        });
        drop(all);
        let made = self.make(request, id, fill);
        let mut all = self.lock();
        let known = all.entry(request.key.clone()).or_default();
        if let Err(source) = made {
            known.retain(|directory| directory.id != id);
            drop(all);
            self.0.released.send_replace(());
            return Err(CacheMountError::Create {
                key: request.key.clone(),
                source,
            });
        }
        if !exclusive && let Some(directory) = find(known, id) {
            directory.used = Use::Shared(1);
        }
        drop(all);
        self.0.released.send_replace(());
        self.save(request, id);
        Ok(Some(CacheMount {
            mounts: self.clone(),
            key: request.key.clone(),
            id,
            _pin: pin,
        }))
    }

    /// As [`CacheMounts::try_acquire`], waiting for a directory if need be.
    pub async fn acquire(
        &self,
        request: &CacheMountRequest,
        fill: impl Fn(&Path) -> io::Result<()> + Clone + Send + 'static,
    ) -> Result<CacheMount, CacheMountError> {
        let mut releases = self.releases();
        loop {
            let (mounts, wanted, fill) = (self.clone(), request.clone(), fill.clone());
            let attempt =
                tokio::task::spawn_blocking(move || mounts.try_acquire(&wanted, fill)).await;
            match attempt {
                Ok(Ok(Some(mount))) => return Ok(mount),
                Ok(Ok(None)) => {}
                Ok(Err(error)) => return Err(error),
                Err(stopped) => {
                    return Err(CacheMountError::Create {
                        key: request.key.clone(),
                        source: io::Error::other(stopped),
                    });
                }
            }
            // The sender lives as long as `self`.
            drop(releases.changed().await);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Vec<Directory>>> {
        self.0
            .directories
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads which directories a key has, the first time it is asked for.
    fn load(&self, all: &mut HashMap<String, Vec<Directory>>, key: &str) -> Result<(), DbError> {
        if all.contains_key(key) {
            return Ok(());
        }
        let named = self
            .0
            .db
            .read(|tx| names::starting_with(tx, &name_prefix(key)))?;
        let directories = named.into_iter().filter_map(|(_, object)| match object {
            Object::Snapshot(id) => Some(Directory {
                id,
                used: Use::Free,
                new: false,
            }),
            Object::Blob(_) => None,
        });
        all.insert(key.to_owned(), directories.collect());
        Ok(())
    }

    /// Whether a directory, which is pinned, was not pruned.
    fn is_there(&self, key: &str, id: SnapshotId, known: &[Directory]) -> Result<bool, DbError> {
        if known
            .iter()
            .any(|directory| directory.id == id && directory.new)
        {
            return Ok(true);
        }
        let object = Object::Snapshot(id);
        let named = self.0.db.read(|tx| names::get(tx, &name(key, id)))?;
        Ok(named == Some(object) && self.directory(id).is_dir())
    }

    fn take(
        &self,
        known: &mut [Directory],
        request: &CacheMountRequest,
        pin: Pin,
        id: SnapshotId,
    ) -> CacheMount {
        if let Some(directory) = find(known, id) {
            directory.used = match (request.sharing, directory.used) {
                (Sharing::Shared, Use::Shared(count)) => Use::Shared(count + 1),
                (Sharing::Shared, _) => Use::Shared(1),
                (Sharing::Private | Sharing::Locked, _) => Use::Exclusive,
            };
        }
        self.0.uses.add(pin.object());
        CacheMount {
            mounts: self.clone(),
            key: request.key.clone(),
            id,
            _pin: pin,
        }
    }

    fn make(
        &self,
        request: &CacheMountRequest,
        id: SnapshotId,
        fill: impl FnOnce(&Path) -> io::Result<()>,
    ) -> io::Result<()> {
        let directory = self.directory(id);
        tracing::debug!(key = request.key, %id, "making a cache mount");
        fs::create_dir_all(&directory)?;
        fill(&directory)
    }

    fn save(&self, request: &CacheMountRequest, id: SnapshotId) {
        let object = Object::Snapshot(id);
        let name = name(&request.key, id);
        let new = NewUsage {
            record_type: request.record_type,
            description: request.description.clone(),
            mutable: true,
            size: None,
        };
        let (mounts, key) = (self.clone(), request.key.clone());
        drop(self.0.db.update_then(
            move |tx| {
                usage::record(tx, &object, &new)?;
                names::set(tx, &name, &object)
            },
            move |_| {
                if let Some(directory) = mounts
                    .lock()
                    .get_mut(&key)
                    .and_then(|known| find(known, id))
                {
                    directory.new = false;
                }
            },
        ));
    }

    fn directory(&self, id: SnapshotId) -> PathBuf {
        gc::snapshot_dir(&self.0.root, id).join("fs")
    }

    fn release(&self, key: &str, id: SnapshotId) {
        let mut all = self.lock();
        if let Some(directory) = all.get_mut(key).and_then(|known| find(known, id)) {
            directory.used = match directory.used {
                Use::Shared(count) if count > 1 => Use::Shared(count - 1),
                _ => Use::Free,
            };
        }
        drop(all);
        // What the step wrote is not on the medium yet.
        let object = Object::Snapshot(id);
        drop(self.0.db.update(move |tx| durability::written(tx, &object)));
        self.0.released.send_replace(());
    }
}

fn choose(known: &[Directory], sharing: Sharing) -> Choice {
    let first = |wanted: fn(Use) -> bool| {
        known
            .iter()
            .find(|directory| wanted(directory.used))
            .map(|directory| directory.id)
    };
    let free = first(|used| used == Use::Free);
    let shared = first(|used| matches!(used, Use::Shared(_)));
    let chosen = match sharing {
        Sharing::Shared => shared.or(free),
        Sharing::Private | Sharing::Locked => free,
    };
    match chosen {
        Some(id) => Choice::Take(id),
        None if sharing == Sharing::Private || known.is_empty() => Choice::Make,
        None => Choice::Wait,
    }
}

fn find(known: &mut [Directory], id: SnapshotId) -> Option<&mut Directory> {
    known.iter_mut().find(|directory| directory.id == id)
}

/// A key is any text, of any length.
fn name_prefix(key: &str) -> String {
    format!("cache-mount/{}/", Digest::sha256_of(key).hex())
}

fn name(key: &str, id: SnapshotId) -> String {
    format!("{}{id}", name_prefix(key))
}

/// A cache mount's directory, for as long as this lives.
pub struct CacheMount {
    mounts: CacheMounts,
    key: String,
    id: SnapshotId,
    _pin: Pin,
}

impl CacheMount {
    /// The directory to mount.
    pub fn path(&self) -> PathBuf {
        self.mounts.directory(self.id)
    }

    /// Its number in usage records.
    pub fn id(&self) -> SnapshotId {
        self.id
    }
}

impl Drop for CacheMount {
    fn drop(&mut self) {
        self.mounts.release(&self.key, self.id);
    }
}

impl std::fmt::Debug for CacheMount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CacheMount({:?}, {})", self.key, self.id)
    }
}
