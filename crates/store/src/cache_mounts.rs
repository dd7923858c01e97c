//! The directories of cache mounts (`RUN --mount=type=cache`): kept between builds, changed in
//! place, used by one step or several at a time as they ask for.

pub mod archive;
mod staged;

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
use crate::snapshot::FILES;
use crate::usage::{self, NewUsage, RecordType, Uses};
use crate::{gc, names};

use staged::is_bare;
pub use staged::{RootMetadata, Staged};

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
    /// Whether a directory that is there and has nothing in it is filled as a new one is.
    pub refills: bool,
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

/// What an attempt to have a cache mount for oneself came to.
#[derive(Debug)]
pub enum Taken {
    /// It is the caller's until this goes.
    Taken(CacheMount),
    /// A step uses it ([`CacheMounts::releases`]).
    InUse,
    /// There is none.
    Absent,
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
    fn forget_retired(&self, id: &str, key: &str, known: &mut Vec<Directory>) {
        let retired = self.0.retired.lock();
        let retired = retired.unwrap_or_else(PoisonError::into_inner);
        let Some(before) = retired.get(id).copied() else {
            return;
        };
        known.retain(|directory| {
            let keeps = directory.id >= before;
            if !keeps {
                let names = [name(key, directory.id), name_by_id(id, key, directory.id)];
                drop(self.0.db.update(move |tx| {
                    let mut names = names.iter();
                    names.try_for_each(|name| names::remove(tx, name))
                }));
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
        self.forget_retired(&request.id, &request.key, known);
        let mut refills = false;
        let id = loop {
            match choose(known, request.sharing) {
                Choice::Wait => return Ok(None),
                Choice::Make => break unused,
                Choice::Take(id) => {
                    let pin = self.0.pins.pin(Object::Snapshot(id));
                    if !self.is_there(&request.key, id, known)? {
                        known.retain(|directory| directory.id != id);
                        continue;
                    }
                    let is_free = |directory: &&mut Directory| directory.used == Use::Free;
                    if request.refills
                        && is_bare(&self.directory(id)).unwrap_or(false)
                        && let Some(directory) = find(known, id).filter(is_free)
                    {
                        // Nobody shares it before it is filled.
                        directory.used = Use::Exclusive;
                        refills = true;
                        break id;
                    }
                    let how = (request.key.as_str(), request.sharing);
                    return Ok(Some(self.take(known, how, pin, id)));
                }
            }
        };
        let pin = self.0.pins.pin(Object::Snapshot(id));
        if !refills {
            known.push(Directory {
                id,
                // Nobody shares it before it is filled.
                used: Use::Exclusive,
                new: true,
            });
        }
        drop(all);
        let made = self.make(request, id, fill);
        let mut all = self.lock();
        let known = all.entry(request.key.clone()).or_default();
        if let Err(source) = made {
            match find(known, id).filter(|_| refills) {
                Some(directory) => directory.used = Use::Free,
                None => known.retain(|directory| directory.id != id),
            }
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
        match refills {
            true => self.0.uses.add(pin.object()),
            false => self.save(request, id),
        }
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

    /// Whether a directory that is taken now would have nothing in it, and nobody has it.
    ///
    /// # Errors
    /// If the database failed, or the directory cannot be read.
    pub fn wants_content(&self, request: &CacheMountRequest) -> Result<bool, CacheMountError> {
        let mut all = self.lock();
        self.load(&mut all, &request.key)?;
        let known = all.entry(request.key.clone()).or_default();
        self.forget_retired(&request.id, &request.key, known);
        match choose(known, request.sharing) {
            Choice::Make => Ok(true),
            Choice::Wait => Ok(false),
            Choice::Take(id) => {
                let free = find(known, id).is_some_and(|found| found.used == Use::Free);
                let bare = free
                    && is_bare(&self.directory(id)).map_err(|source| {
                        let key = request.key.clone();
                        CacheMountError::Create { key, source }
                    })?;
                Ok(bare)
            }
        }
    }

    /// Takes the newest directory of an id for the caller alone, if there is one.
    ///
    /// # Errors
    /// If the database failed.
    pub fn try_take(&self, id: &str) -> Result<Taken, CacheMountError> {
        // One that was made a moment ago counts.
        self.0.db.flush()?;
        let prefix = prefix_by_id(id);
        let named = self.0.db.read(|tx| names::starting_with(tx, &prefix))?;
        let newest = named.last().and_then(|(name, _)| key_in(name, &prefix));
        // Earlier versions had no such names, and most keys are the id.
        let key = newest.unwrap_or(id).to_owned();
        let mut all = self.lock();
        self.load(&mut all, &key)?;
        let known = all.entry(key.clone()).or_default();
        self.forget_retired(id, &key, known);
        loop {
            match choose(known, Sharing::Locked) {
                Choice::Wait => return Ok(Taken::InUse),
                Choice::Make => return Ok(Taken::Absent),
                Choice::Take(at) => {
                    let pin = self.0.pins.pin(Object::Snapshot(at));
                    if self.is_there(&key, at, known)? {
                        let how = (key.as_str(), Sharing::Locked);
                        return Ok(Taken::Taken(self.take(known, how, pin, at)));
                    }
                    known.retain(|directory| directory.id != at);
                }
            }
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
        (key, sharing): (&str, Sharing),
        pin: Pin,
        id: SnapshotId,
    ) -> CacheMount {
        if let Some(directory) = find(known, id) {
            directory.used = match (sharing, directory.used) {
                (Sharing::Shared, Use::Shared(count)) => Use::Shared(count + 1),
                (Sharing::Shared, _) => Use::Shared(1),
                (Sharing::Private | Sharing::Locked, _) => Use::Exclusive,
            };
        }
        self.0.uses.add(pin.object());
        CacheMount {
            mounts: self.clone(),
            key: key.to_owned(),
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
        let names = [
            name(&request.key, id),
            name_by_id(&request.id, &request.key, id),
        ];
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
                let mut names = names.iter();
                names.try_for_each(|name| names::set(tx, name, &object))
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
        gc::snapshot_dir(&self.0.root, id).join(FILES)
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

/// What the names begin with that tell the directories of an id, whatever their keys.
fn prefix_by_id(id: &str) -> String {
    format!("cache-mount-of/{}/", Digest::sha256_of(id).hex())
}

/// A name by which a directory is found by its id; later ones come later.
fn name_by_id(id: &str, key: &str, directory: SnapshotId) -> String {
    format!("{}{:020}/{key}", prefix_by_id(id), directory.0)
}

/// The key in such a name.
fn key_in<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    name.strip_prefix(prefix)?
        .split_once('/')
        .map(|(_, key)| key)
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
