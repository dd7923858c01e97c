//! Copies of clients' directories, kept in step from build to build.
//!
//! A copy is a snapshot with a name, the client's key. What it was made from, the index, is kept
//! beside it, so that an unchanged directory costs one comparison. A changed one is changed in
//! place if nobody uses the old state any more; otherwise the new state shares its unchanged
//! files by hard links.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use weld_digest::{Digest, Hasher};
use weld_solver::RecordId;

use super::changes::tree_changes;
use super::copy::copy_at;
use super::farm::{Farm, Links, Removals};
use super::keys::KEYS;
use super::node::Node;
use super::record::Origin;
use super::shared::SharedFiles;
use super::store::{FILES, lock, open};
use super::{MutableSnapshot, SnapshotError, SnapshotRef, Snapshots};
use crate::content_key::cache::{self, KeyMap, Keys};
use crate::gc::{self, Removable};
use crate::names;
use crate::object::{Object, SnapshotId};
use crate::refs::{self, Reference};
use crate::usage::NewUsage;

/// The file of the index, beside the files.
const INDEX: &str = "index";

/// A client's directory as it was copied last, to be compared with what it is now.
pub struct LocalTree {
    snapshots: Snapshots,
    name: String,
    last: Option<SnapshotRef>,
    index: Vec<u8>,
}

/// The copy of a client's directory, to be changed. It is gone when this value goes, unless it is
/// committed.
#[must_use = "a copy that is not committed is removed"]
pub struct LocalTreeChange {
    name: String,
    snapshot: MutableSnapshot,
    /// Keys of files that were kept, by their paths.
    kept: KeyMap,
    /// Files may be another snapshot's too.
    shared: bool,
}

impl Snapshots {
    /// The copy that is named by `key`; an empty one if there is none yet.
    pub fn local_tree(&self, key: &str) -> Result<LocalTree, SnapshotError> {
        let name = format!("local/{key}");
        let found = self.store().db().read(|tx| names::get(tx, &name))?;
        let last = match found {
            Some(Object::Snapshot(id)) => self.get(id)?,
            _ => None,
        };
        let index = match &last {
            Some(last) => fs::read(last.directory().join(INDEX)).unwrap_or_default(),
            None => Vec::new(),
        };
        // Without an index nothing is known of the files.
        let last = last.filter(|_| !index.is_empty());
        Ok(LocalTree {
            snapshots: self.clone(),
            name,
            last,
            index,
        })
    }
}

impl LocalTree {
    /// The index that was committed with the copy; empty for an empty copy.
    pub fn index(&self) -> &[u8] {
        &self.index
    }

    /// The copy as it is, for a directory that did not change.
    pub fn unchanged(&self) -> Option<&SnapshotRef> {
        self.last.as_ref()
    }

    /// Starts to change the copy: in place where nobody else uses it.
    pub fn change(self) -> Result<LocalTreeChange, SnapshotError> {
        let snapshot = self.snapshots.allocate(None)?;
        // With the copies before and after it, and with what is copied from it.
        self.snapshots.share(&snapshot)?;
        let Some(last) = self.last else {
            return Ok(LocalTreeChange {
                name: self.name,
                snapshot,
                kept: KeyMap::new(),
                shared: false,
            });
        };
        let id = last.id();
        let kept = cache::load(&last.directory().join(KEYS));
        drop(last);
        let shared = !self.snapshots.take_over(id, &snapshot)?;
        if shared {
            let last = self.snapshots.get(id)?.ok_or(SnapshotError::NotFound(id))?;
            share(&last, &snapshot)?;
        }
        Ok(LocalTreeChange {
            name: self.name,
            snapshot,
            kept,
            shared,
        })
    }
}

impl LocalTreeChange {
    /// The directory of the copy. Files in it are made anew when they change, never written in
    /// place, if [`is_shared`](Self::is_shared).
    pub fn files(&self) -> &Path {
        self.snapshot.files()
    }

    /// Whether unchanged files are another snapshot's too, so that nothing of them must change:
    /// [`unshare`](Self::unshare) one before its metadata are set.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// Makes a file this copy's own. `path` is from the root of the copy, without symlinks.
    pub fn unshare(&self, path: &Path) -> Result<(), SnapshotError> {
        let id = self.snapshot.id();
        let unshare = || -> io::Result<()> {
            let Some(name) = path.file_name() else {
                return Ok(());
            };
            let parent = path.parent().unwrap_or(Path::new(""));
            let parent = open_directory(self.files(), parent)?;
            let node = Node::at(&parent, name)?;
            if node.is_directory() || node.links < 2 {
                return Ok(());
            }
            let copy = Path::new(".unshared").as_os_str();
            copy_at(parent.as_fd(), name, &node, parent.as_fd(), copy)?;
            Ok(rustix::fs::renameat(&parent, copy, &parent, name)?)
        };
        unshare().map_err(SnapshotError::file(id, "copy", path))
    }

    /// Ends the changes. `index` describes the copy. `keys` are what became of files' content
    /// keys: for each path that was made or whose metadata changed the key that
    /// [`FileHeader`](crate::content_key::FileHeader) gives, or nothing if it is not known and to
    /// be found by reading, as for each path that is gone. Other paths keep their keys.
    pub fn commit(
        self,
        index: &[u8],
        keys: impl IntoIterator<Item = (PathBuf, Option<Digest>)>,
        usage: NewUsage,
    ) -> Result<SnapshotRef, SnapshotError> {
        let id = self.snapshot.id();
        let snapshots = self.snapshot.snapshots().clone();
        let directory = snapshots.directory(id);
        let kept = changed_keys(self.kept, keys);
        cache::save(&directory.join(KEYS), &kept).map_err(SnapshotError::file(
            id,
            "write",
            directory.join(KEYS),
        ))?;
        fs::write(directory.join(INDEX), index).map_err(SnapshotError::file(
            id,
            "write",
            directory.join(INDEX),
        ))?;
        let origin = Origin::Layer {
            parent: None,
            marked: false,
        };
        let snapshot = snapshots.publish(self.snapshot, origin, usage)?;
        let name = self.name;
        // Waited for, so that the next build, which may come at once, finds it.
        let named = snapshots
            .store()
            .db()
            .update(move |tx| names::set(tx, &name, &Object::Snapshot(id)));
        named.wait()?;
        Ok(snapshot)
    }
}

/// The keys after changes. Those of directories with what is in them are found again where
/// something changed beneath; the others stay, so that they need not be looked into.
fn changed_keys(
    mut kept: KeyMap,
    keys: impl IntoIterator<Item = (PathBuf, Option<Digest>)>,
) -> KeyMap {
    for (path, key) in keys {
        for above in path.ancestors().skip(1) {
            if let Some(known) = kept.get_mut(above.as_os_str().as_bytes()) {
                known.whole = None;
            }
        }
        let path = path.as_os_str().as_bytes().to_vec();
        match key.and_then(|key| key.as_sha256().copied()) {
            Some(own) => {
                let known = Keys {
                    own: Some(own),
                    whole: None,
                };
                kept.insert(path, known);
            }
            None => {
                kept.remove(&path);
            }
        }
    }
    // The root of a copy is the engine's and has no metadata of the client's.
    let root = kept.entry(Vec::new()).or_default();
    root.own = Hasher::sha256().finish().as_sha256().copied();
    kept
}

impl Snapshots {
    /// Makes the files of a snapshot that nobody uses those of a new one. The old one, and what
    /// the cache had of it, is gone then.
    fn take_over(&self, id: SnapshotId, to: &MutableSnapshot) -> Result<bool, SnapshotError> {
        let object = Object::Snapshot(id);
        let Some(_claim) = self.store().pins().claim(&object) else {
            return Ok(false);
        };
        let holders = self
            .store()
            .db()
            .read(|tx| refs::holders(&tx.open_table(refs::HOLDERS)?, &object))?;
        let made_of_it =
            |holder: &Reference| !matches!(holder, Reference::Name(_) | Reference::Result(_));
        if holders.iter().any(made_of_it) {
            return Ok(false);
        }
        // The record goes first, and for good: it must never name files that are changed.
        let objects = vec![object];
        let removal = self
            .store()
            .db()
            .update(move |tx| gc::remove(tx, &objects, Removable::Cached))
            .wait()?;
        let results: Vec<_> = removal.results.iter().copied().map(RecordId).collect();
        self.store().keys().drop_records(&results);
        if removal.removed.is_empty() {
            return Ok(false);
        }
        let old = self.directory(id);
        fs::remove_dir(to.files())
            .and_then(|()| fs::rename(old.join(FILES), to.files()))
            .map_err(SnapshotError::file(to.id(), "take over", old.join(FILES)))?;
        self.take_away(&old);
        Ok(true)
    }
}

/// Fills a new snapshot with links of the files of another.
fn share(from: &SnapshotRef, to: &MutableSnapshot) -> Result<(), SnapshotError> {
    let _turn = lock(&from.0.computing);
    let source = open(to.id(), &from.files())?;
    let mut farm = Farm::new(
        open(to.id(), to.files())?,
        Removals::Done,
        Links::within(SharedFiles::default()),
    );
    tree_changes(None, source.as_fd(), |change| farm.change(change))
        .and_then(|()| farm.finish())
        .map_err(SnapshotError::tree(to.id()))
}

fn open_directory(root: &Path, path: &Path) -> io::Result<OwnedFd> {
    use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
    let root = super::node::open_directory_at(CWD, root.as_os_str())?;
    if path.as_os_str().is_empty() {
        return Ok(root);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    Ok(rustix::fs::openat2(
        &root,
        path,
        flags,
        Mode::empty(),
        resolve,
    )?)
}
