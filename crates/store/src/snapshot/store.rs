//! The snapshots of a state directory.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::fs::CWD;

use super::copy::{set_metadata, set_ownership};
use super::driver::Driver;
use super::handle::{Shared, SnapshotRef};
use super::made_with::{MadeWith, unreadable};
use super::node::{Node, open_directory_at, xattrs_at};
use super::record::{LayerDescriptor, Origin, Record, SNAPSHOTS};
use super::{MutableSnapshot, SnapshotError, changes, farm};
use crate::db::{decode, encode};
use crate::durability;
use crate::mount::{MountSpec, Mounted};
use crate::object::{Object, SnapshotId};
use crate::refs::{self, Reference};
use crate::store::Store;
use crate::usage::{self, NewUsage};

/// The directory of a snapshot's own files in its directory.
pub(crate) const FILES: &str = "fs";

/// What a snapshot finds free when it is begun, in bytes: enough for a small one.
const SMALL: u64 = 64 << 10;

/// The snapshots of a state directory. Cheap to clone; to be made once for a [`Store`].
#[derive(Clone)]
pub struct Snapshots(pub(super) Arc<Inner>);

/// How a snapshot came to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// When, in nanoseconds since 1970.
    pub at: u64,
    /// What a user reads of it, such as the step that made it.
    pub description: String,
}

pub(super) struct Inner {
    pub(super) store: Store,
    pub(super) driver: Driver,
    /// Something that is below a layer that has nothing below it.
    pub(super) empty: PathBuf,
    live: Mutex<HashMap<SnapshotId, Weak<Shared>>>,
    /// Records that are queued and not yet committed.
    pending: Arc<Mutex<HashMap<SnapshotId, Record>>>,
    next_work: AtomicU64,
}

impl Snapshots {
    /// The snapshots of `store`, made as those that are there, or else on overlay mounts where this process can make them, or on plain
    /// copies.
    ///
    /// # Errors
    /// [`SnapshotError::MadeOtherwise`] where this process cannot use those that are there.
    pub fn open(store: &Store) -> Result<Self, SnapshotError> {
        let made = MadeWith::of_those_in(store)?;
        let driver = match &made {
            Some(made) if made.are_copies() => Driver::Copy,
            _ => Driver::find(store)?,
        };
        Self::with_driver(store, driver, made)
    }

    /// As [`Snapshots::open`], on overlay mounts always.
    ///
    /// # Errors
    /// [`SnapshotError::NoOverlay`] where they cannot be had, and [`SnapshotError::MadeOtherwise`].
    pub fn open_overlay(store: &Store) -> Result<Self, SnapshotError> {
        let made = MadeWith::of_those_in(store)?;
        let driver = Driver::find(store)?;
        if driver == Driver::Copy {
            return Err(SnapshotError::NoOverlay(store.root().to_owned()));
        }
        Self::with_driver(store, driver, made)
    }

    /// As [`Snapshots::open`], on plain copies always.
    ///
    /// # Errors
    /// [`SnapshotError::MadeOtherwise`].
    pub fn open_copying(store: &Store) -> Result<Self, SnapshotError> {
        Self::with_driver(store, Driver::Copy, MadeWith::of_those_in(store)?)
    }

    fn with_driver(
        store: &Store,
        driver: Driver,
        made: Option<MadeWith>,
    ) -> Result<Self, SnapshotError> {
        let here = MadeWith::here(&driver).map_err(unreadable)?;
        match made {
            Some(made) if made == here => {}
            Some(made) => {
                return Err(SnapshotError::MadeOtherwise {
                    root: store.root().to_owned(),
                    made: Box::new(made),
                    here: Box::new(here),
                });
            }
            None => here.remember(store),
        }
        let directory = &store.root().join("snapshots");
        let empty = store.root().join("empty");
        for path in [directory, &empty] {
            let made = if path == directory {
                create_spread(path)
            } else {
                create_directory(path).map(drop)
            };
            made.map_err(|source| SnapshotError::Directory {
                action: "create",
                path: path.to_owned(),
                source,
            })?;
        }
        Ok(Self(Arc::new(Inner {
            store: store.clone(),
            driver,
            empty,
            live: Mutex::default(),
            pending: Arc::default(),
            next_work: AtomicU64::new(0),
        })))
    }

    pub(super) fn store(&self) -> &Store {
        &self.0.store
    }

    pub(super) fn driver(&self) -> &Driver {
        &self.0.driver
    }

    pub(super) fn empty(&self) -> &Path {
        &self.0.empty
    }

    /// How to mount a tree without files.
    pub fn mount_nothing(&self) -> MountSpec {
        MountSpec::bind(self.empty(), true)
    }

    pub(super) fn directory(&self, id: SnapshotId) -> PathBuf {
        self.0.store.snapshot_dir(id)
    }

    /// Whether snapshots are overlay mounts, as opposed to plain copies.
    pub fn is_overlay(&self) -> bool {
        matches!(self.0.driver, Driver::Overlay { .. })
    }

    /// A new snapshot with the files of `parent`, or none, to be changed.
    pub fn create(&self, parent: Option<&SnapshotRef>) -> Result<MutableSnapshot, SnapshotError> {
        if let Some(parent) = parent {
            parent.check_unpacked()?;
        }
        let snapshot = self.allocate(parent)?;
        match (&self.0.driver, parent) {
            (Driver::Copy, Some(parent)) => self.clone_tree(parent, &snapshot)?,
            (Driver::Overlay { .. }, Some(parent)) => copy_root(parent, &snapshot)?,
            (_, None) => {}
        }
        Ok(snapshot)
    }

    /// A new snapshot with an empty directory of its own.
    pub(super) fn allocate(
        &self,
        parent: Option<&SnapshotRef>,
    ) -> Result<MutableSnapshot, SnapshotError> {
        self.0.store.space().ensure(SMALL).map_err(Box::new)?;
        let id = SnapshotId(self.0.store.next_sequence()?);
        let pin = self.0.store.pins().pin(Object::Snapshot(id));
        let directory = self.directory(id);
        let files = directory.join(FILES);
        self.vacate(id, &directory)?;
        create_within(&directory)
            .and_then(|()| fs::create_dir(&files))
            .map_err(SnapshotError::file(id, "create", &files))?;
        // What a kernel or a user's umask made of the mode is not for the image to see.
        let mode = rustix::fs::Mode::from_raw_mode(0o755);
        rustix::fs::chmod(&files, mode)
            .map_err(|errno| SnapshotError::file(id, "change the mode of", &files)(errno.into()))?;
        Ok(MutableSnapshot::new(
            self.clone(),
            id,
            pin,
            directory,
            parent.cloned(),
        ))
    }

    /// Removes what is in the place of a new snapshot: it is of a database that lost what it knew of it.
    fn vacate(&self, id: SnapshotId, directory: &Path) -> Result<(), SnapshotError> {
        if directory.exists() && self.record(id)?.is_none() {
            self.take_away(directory);
        }
        Ok(())
    }

    fn clone_tree(&self, from: &SnapshotRef, to: &MutableSnapshot) -> Result<(), SnapshotError> {
        copy_tree(to.id(), open(to.id(), &from.files())?, to.files())
    }

    /// Copies all files of a snapshot into a directory, such as a cache mount's, which may then be
    /// changed.
    pub fn copy_into(&self, from: &SnapshotRef, directory: &Path) -> Result<(), SnapshotError> {
        copy_tree(from.id(), from.root()?, directory)
    }

    /// The snapshot of a number, pinned, or `None`. One that lost its files, or that is made of one that did, counts as not there.
    pub fn get(&self, id: SnapshotId) -> Result<Option<SnapshotRef>, SnapshotError> {
        // Parents are loaded before what is made of them, without recursion.
        let mut ahead = vec![id];
        let mut loaded: HashMap<SnapshotId, SnapshotRef> = HashMap::new();
        while let Some(&next) = ahead.last() {
            if loaded.contains_key(&next) {
                ahead.pop();
                continue;
            }
            if let Some(live) = self.live(next) {
                // Somebody may hold what is of no use to anybody.
                if !live.has_files() {
                    return Ok(None);
                }
                loaded.insert(next, live);
                ahead.pop();
                continue;
            }
            let pin = self.0.store.pins().pin(Object::Snapshot(next));
            let Some(record) = self.record(next)? else {
                return Ok(None);
            };
            let parents = record.origin.parents();
            let missing: Vec<_> = parents
                .iter()
                .filter(|parent| !loaded.contains_key(*parent))
                .copied()
                .collect();
            if !missing.is_empty() {
                ahead.extend(missing);
                continue;
            }
            if record.lazy.is_none() && record.origin.has_files() {
                let files = self.directory(next).join(FILES);
                if !files.is_dir() {
                    tracing::warn!(snapshot = %next, path = %files.display(), "the files of a snapshot are gone");
                    return Ok(None);
                }
            }
            let parents = parents
                .iter()
                .filter_map(|id| loaded.get(id).cloned())
                .collect();
            let snapshot = self.enter(Shared::new(self.clone(), next, record, parents, pin));
            loaded.insert(next, snapshot);
            ahead.pop();
        }
        Ok(loaded.remove(&id))
    }

    /// When and by what each of these snapshots was made, as far as that is kept. May wait for one
    /// commit.
    pub fn made(&self, snapshots: &[SnapshotRef]) -> Result<Vec<Option<Made>>, SnapshotError> {
        let pending = lock(&self.0.pending).len();
        if pending > 0 {
            self.0.store.db().flush()?;
        }
        let made = self.0.store.db().read(|tx| {
            let table = tx.open_table(usage::USAGE)?;
            let made = |snapshot: &SnapshotRef| {
                let row = usage::get(&table, &Object::Snapshot(snapshot.id()))?;
                Ok(row.map(|row| Made {
                    at: row.created,
                    description: row.description,
                }))
            };
            snapshots.iter().map(made).collect()
        })?;
        Ok(made)
    }

    fn live(&self, id: SnapshotId) -> Option<SnapshotRef> {
        lock(&self.0.live).get(&id)?.upgrade().map(SnapshotRef)
    }

    /// Makes a snapshot known, or finds that it is.
    fn enter(&self, shared: Shared) -> SnapshotRef {
        let mut live = lock(&self.0.live);
        if let Some(known) = live.get(&shared.id).and_then(Weak::upgrade) {
            return SnapshotRef(known);
        }
        let shared = Arc::new(shared);
        live.insert(shared.id, Arc::downgrade(&shared));
        SnapshotRef(shared)
    }

    /// Called when the last handle goes.
    pub(super) fn leave(&self, id: SnapshotId) {
        let mut live = lock(&self.0.live);
        if live.get(&id).is_some_and(|weak| weak.strong_count() == 0) {
            live.remove(&id);
        }
    }

    fn record(&self, id: SnapshotId) -> Result<Option<Record>, SnapshotError> {
        if let Some(record) = lock(&self.0.pending).get(&id) {
            return Ok(Some(record.clone()));
        }
        let record = self.0.store.db().read(|tx| {
            tx.open_table(SNAPSHOTS)?
                .get(id.0)?
                .map(|row| decode("a snapshot", row.value()))
                .transpose()
        })?;
        Ok(record)
    }

    /// Has the database know a snapshot, without waiting for it.
    pub(super) fn save(
        &self,
        id: SnapshotId,
        record: Record,
        usage: Option<NewUsage>,
    ) -> Result<(), SnapshotError> {
        let row = encode(&record)?;
        let parents = record.origin.parents();
        lock(&self.0.pending).insert(id, record);
        // Not the store itself, which must not end on the thread that commits.
        let pending = self.0.pending.clone();
        let object = Object::Snapshot(id);
        drop(self.0.store.db().update_then(
            move |tx| {
                tx.open_table(SNAPSHOTS)?.insert(id.0, row.as_slice())?;
                match &usage {
                    Some(usage) => usage::record(tx, &object, usage)?,
                    // It is cached already, but its files are new.
                    None => durability::written(tx, &object)?,
                }
                for parent in &parents {
                    refs::add(tx, &Reference::Snapshot(id), &Object::Snapshot(*parent))?;
                }
                Ok(())
            },
            move |_| {
                lock(&pending).remove(&id);
            },
        ));
        Ok(())
    }

    /// Ends the making of a snapshot.
    pub(super) fn publish(
        &self,
        snapshot: MutableSnapshot,
        origin: Origin,
        usage: NewUsage,
    ) -> Result<SnapshotRef, SnapshotError> {
        let record = Record { origin, lazy: None };
        let parents = self.parents(&record)?;
        // Somebody may have deleted it meanwhile.
        fs::metadata(snapshot.files()).map_err(SnapshotError::file(
            snapshot.id(),
            "find",
            snapshot.files(),
        ))?;
        let (id, pin) = snapshot.into_parts();
        self.save(id, record.clone(), Some(usage))?;
        Ok(self.enter(Shared::new(self.clone(), id, record, parents, pin)))
    }

    /// A snapshot without files of its own.
    pub(super) fn publish_virtual(
        &self,
        origin: Origin,
        lazy: Option<LayerDescriptor>,
        usage: NewUsage,
    ) -> Result<SnapshotRef, SnapshotError> {
        let id = SnapshotId(self.0.store.next_sequence()?);
        let pin = self.0.store.pins().pin(Object::Snapshot(id));
        let record = Record { origin, lazy };
        let parents = self.parents(&record)?;
        // The directory is there for what is derived, such as content keys.
        let directory = self.directory(id);
        self.vacate(id, &directory)?;
        create_within(&directory).map_err(SnapshotError::file(id, "create", &directory))?;
        self.save(id, record.clone(), Some(usage))?;
        Ok(self.enter(Shared::new(self.clone(), id, record, parents, pin)))
    }

    fn parents(&self, record: &Record) -> Result<Vec<SnapshotRef>, SnapshotError> {
        record
            .origin
            .parents()
            .into_iter()
            .map(|id| self.get(id)?.ok_or(SnapshotError::NotFound(id)))
            .collect()
    }

    /// A fresh directory for an overlay mount's own use.
    pub(super) fn work_directory(&self, directory: &Path) -> PathBuf {
        let number = self.0.next_work.fetch_add(1, Ordering::Relaxed);
        directory.join(format!("work-{number}"))
    }

    /// Takes a directory away; its deletion goes on in the background.
    pub(super) fn take_away(&self, path: &Path) {
        if let Err(error) = self.0.store.collector().take_away(path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove a directory");
        }
    }

    /// Mounts, for reading here.
    pub(super) fn mounted(
        &self,
        id: SnapshotId,
        spec: &MountSpec,
    ) -> Result<Mounted, SnapshotError> {
        Mounted::open(spec).map_err(SnapshotError::mount(id))
    }
}

/// Makes a directory, if it is not there yet; tells whether it was not.
fn create_directory(path: &Path) -> io::Result<bool> {
    match fs::create_dir(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes the directory of all snapshots, if it is not there yet.
fn create_spread(path: &Path) -> io::Result<()> {
    if create_directory(path)? {
        spread_children(path);
    }
    Ok(())
}

/// Makes the directory of a snapshot; where somebody deleted that of all snapshots, that one, too.
fn create_within(path: &Path) -> io::Result<()> {
    match (fs::create_dir(path), path.parent()) {
        (Err(error), Some(all)) if error.kind() == io::ErrorKind::NotFound => {
            create_spread(all)?;
            fs::create_dir(path)
        }
        (made, _) => made,
    }
}

/// Asks the file system to give what is in each subdirectory a place of its own, where it knows
/// how to (ext4): snapshots have nothing to do with each other. Beside a snapshot that was just
/// removed a new one would be slow to make, since ext4 without a journal looks at each inode that
/// was freed within the last minutes before it takes another one.
fn spread_children(directory: &Path) {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    let spread = open_directory_at(CWD, directory.as_os_str()).and_then(|directory| {
        let flags = ioctl_getflags(&directory)?;
        Ok(ioctl_setflags(&directory, flags | IFlags::TOPDIR)?)
    });
    if let Err(error) = spread {
        tracing::debug!(%error, "snapshots are not spread over the file system");
    }
}

/// Gives the upper directory of an overlay the metadata of the root below it, which it covers.
fn copy_root(parent: &SnapshotRef, to: &MutableSnapshot) -> Result<(), SnapshotError> {
    let Some(from) = parent.uppermost() else {
        return Ok(());
    };
    let copy = || {
        let from = open_directory_at(CWD, from.as_os_str())?;
        let target = open_directory_at(CWD, to.files().as_os_str())?;
        let xattrs = xattrs_at(&from, OsStr::new("."))?;
        set_ownership(target.as_fd(), OsStr::new("."), &Node::of(&from)?, &xattrs)
    };
    copy().map_err(SnapshotError::file(
        to.id(),
        "set the metadata of",
        to.files(),
    ))
}

pub(super) fn open(id: SnapshotId, path: &Path) -> Result<OwnedFd, SnapshotError> {
    open_directory_at(CWD, path.as_os_str()).map_err(SnapshotError::file(id, "open", path))
}

/// Copies a tree into a directory that exists, with the metadata of its root.
fn copy_tree(id: SnapshotId, source: OwnedFd, directory: &Path) -> Result<(), SnapshotError> {
    let target = open(id, directory)?;
    let mut farm = farm::Farm::new(target, farm::Removals::Done, farm::Links::Never);
    changes::tree_changes(None, source.as_fd(), |change| farm.change(change))
        .and_then(|()| farm.finish())
        .map_err(SnapshotError::tree(id))?;
    Node::of(&source)
        .and_then(|node| {
            let xattrs = xattrs_at(&source, OsStr::new("."))?;
            let target = open_directory_at(CWD, directory.as_os_str())?;
            set_metadata(target.as_fd(), OsStr::new("."), &node, &xattrs)
        })
        .map_err(SnapshotError::file(id, "set the metadata of", directory))
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
