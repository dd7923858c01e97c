//! Handles of snapshots.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use super::driver::Driver;
use super::record::{LayerDescriptor, Origin, Record};
use super::store::{FILES, lock, open};
use super::{SnapshotError, Snapshots};
use crate::content_key::KeyTree;
use crate::layer::root_of;
use crate::mount::{MountSpec, Mounted, OverlayUpper};
use crate::object::SnapshotId;
use crate::pins::Pin;
use crate::usage::{self, NewUsage};

/// A committed snapshot. While a handle lives, the snapshot and all that it is made of stay.
#[derive(Clone)]
pub struct SnapshotRef(pub(super) Arc<Shared>);

pub(super) struct Shared {
    pub(super) id: SnapshotId,
    snapshots: Snapshots,
    state: Mutex<Record>,
    pub(super) parents: Vec<SnapshotRef>,
    /// The directories that show its files, lowest first.
    stack: OnceLock<Stack>,
    unpacking: Mutex<()>,
    /// Set once all that it is made of is known to be unpacked.
    usable: OnceLock<()>,
    /// Its content keys as far as they were asked for.
    pub(super) keys: OnceLock<KeyTree>,
    /// Held while a layer blob or content keys are computed, so that it is done once.
    pub(super) computing: Mutex<()>,
    pin: Pin,
}

/// The directories of a snapshot on overlays.
#[derive(Clone, Debug)]
pub(super) struct Stack {
    /// Snapshots with directories of their own, lowest first.
    pub(super) layers: Vec<SnapshotId>,
    /// The lowest may hold marks, which are only understood with something below it.
    marked: bool,
}

impl Shared {
    pub(super) fn new(
        snapshots: Snapshots,
        id: SnapshotId,
        record: Record,
        parents: Vec<SnapshotRef>,
        pin: Pin,
    ) -> Self {
        Self {
            id,
            snapshots,
            state: Mutex::new(record),
            parents,
            stack: OnceLock::new(),
            unpacking: Mutex::default(),
            usable: OnceLock::new(),
            keys: OnceLock::new(),
            computing: Mutex::default(),
            pin,
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.snapshots.leave(self.id);
        // A chain of parents may be too long for recursion.
        let mut ahead = std::mem::take(&mut self.parents);
        while let Some(parent) = ahead.pop() {
            if let Some(mut parent) = Arc::into_inner(parent.0) {
                ahead.append(&mut parent.parents);
            }
        }
    }
}

impl fmt::Debug for SnapshotRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotRef({})", self.0.id)
    }
}

impl PartialEq for SnapshotRef {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for SnapshotRef {}

impl SnapshotRef {
    /// Its number.
    pub fn id(&self) -> SnapshotId {
        self.0.id
    }

    /// What it is made of: its parent, or the inputs of a merge or difference.
    pub fn parents(&self) -> &[SnapshotRef] {
        &self.0.parents
    }

    /// What keeps it.
    pub fn pin(&self) -> &Pin {
        &self.0.pin
    }

    /// The snapshots that it belongs to.
    pub fn snapshots(&self) -> &Snapshots {
        &self.0.snapshots
    }

    pub(super) fn record(&self) -> Record {
        lock(&self.0.state).clone()
    }

    pub(super) fn unpacking(&self) -> MutexGuard<'_, ()> {
        lock(&self.0.unpacking)
    }

    /// The blob that is to be unpacked into it before it can be used, if its files are not here.
    pub fn lazy(&self) -> Option<LayerDescriptor> {
        lock(&self.0.state).lazy.clone()
    }

    /// Notes that it is unpacked.
    pub(super) fn unpacked(&self) -> Record {
        let mut record = lock(&self.0.state);
        record.lazy = None;
        record.clone()
    }

    /// Those of the snapshots that it is made of whose files are not here, in the order in which
    /// they can be unpacked.
    pub fn lazy_layers(&self) -> Vec<SnapshotRef> {
        let mut layers = self.layer_snapshots();
        layers.retain(|layer| layer.lazy().is_some());
        layers
    }

    /// Whether all its files are here.
    pub fn is_unpacked(&self) -> bool {
        self.check_unpacked().is_ok()
    }

    pub(super) fn check_unpacked(&self) -> Result<(), SnapshotError> {
        if self.0.usable.get().is_some() {
            return Ok(());
        }
        for layer in self.layer_snapshots() {
            if let Some(descriptor) = layer.lazy() {
                return Err(SnapshotError::NotUnpacked {
                    id: layer.id(),
                    digest: descriptor.digest,
                });
            }
        }
        let _ = self.0.usable.set(());
        Ok(())
    }

    /// A directory that it or what it is made of should have, and that is not there: somebody deleted it.
    pub fn missing_files(&self) -> Option<PathBuf> {
        let mut seen = HashSet::new();
        let mut left = vec![self.clone()];
        while let Some(snapshot) = left.pop() {
            if !seen.insert(snapshot.id()) {
                continue;
            }
            if !snapshot.has_files() {
                return Some(snapshot.files());
            }
            left.extend(snapshot.parents().iter().cloned());
        }
        None
    }

    /// Whether the files are there that it has itself.
    pub(super) fn has_files(&self) -> bool {
        let record = self.record();
        record.lazy.is_some() || !record.origin.has_files() || self.files().is_dir()
    }

    /// The directory of its own files, if it has one.
    pub(super) fn files(&self) -> PathBuf {
        self.directory().join(FILES)
    }

    pub(super) fn directory(&self) -> PathBuf {
        self.0.snapshots.directory(self.0.id)
    }

    /// The directories that show its files on overlays.
    pub(super) fn stack(&self) -> &Stack {
        if let Some(stack) = self.0.stack.get() {
            return stack;
        }
        // Parents' stacks are found before their children's, without recursion.
        let mut ahead = vec![self.clone()];
        while let Some(next) = ahead.last().cloned() {
            let missing: Vec<_> = next
                .parents()
                .iter()
                .filter(|parent| parent.0.stack.get().is_none())
                .cloned()
                .collect();
            if !missing.is_empty() {
                ahead.extend(missing);
                continue;
            }
            next.0.stack.get_or_init(|| next.stack_over_parents());
            ahead.pop();
        }
        self.0.stack.get_or_init(|| self.stack_over_parents())
    }

    fn stack_over_parents(&self) -> Stack {
        let of = |index: usize| {
            self.parents()
                .get(index)
                .and_then(|parent| parent.0.stack.get())
                .cloned()
        };
        let own = vec![self.id()];
        // Not held meanwhile: a range looks at its own record again.
        let origin = lock(&self.0.state).origin.clone();
        match &origin {
            Origin::Layer { marked, .. } => match of(0) {
                Some(mut stack) => {
                    stack.layers.push(self.id());
                    stack
                }
                None => Stack {
                    layers: own,
                    marked: *marked,
                },
            },
            Origin::Merge { combined: true, .. } => match of(0) {
                Some(mut stack) => {
                    stack.layers.push(self.id());
                    stack
                }
                None => Stack {
                    layers: own,
                    marked: false,
                },
            },
            Origin::Merge {
                inputs,
                combined: false,
            } => {
                let stacks: Vec<_> = (0..inputs.len()).filter_map(of).collect();
                Stack {
                    marked: stacks.first().is_some_and(|stack| stack.marked),
                    layers: uppermost_of_each(
                        stacks.into_iter().flat_map(|stack| stack.layers).collect(),
                    ),
                }
            }
            Origin::Range {
                combined: false, ..
            } => Stack {
                // Each can be mounted over anything; the parents' own directories may be of other
                // combinations.
                layers: self.layer_snapshots().iter().map(Self::id).collect(),
                marked: false,
            },
            Origin::Range { combined: true, .. } | Origin::Difference { .. } => Stack {
                layers: own,
                marked: false,
            },
        }
    }

    /// The directory whose root is the root of its files.
    pub(super) fn uppermost(&self) -> Option<PathBuf> {
        match self.0.snapshots.driver() {
            Driver::Copy => Some(self.files()),
            Driver::Overlay { .. } => {
                let last = self.stack().layers.last()?;
                Some(self.0.snapshots.directory(*last).join(FILES))
            }
        }
    }

    /// The read-only directories of a mount of it, uppermost first.
    pub(super) fn lowers(&self) -> Result<Vec<PathBuf>, SnapshotError> {
        self.check_unpacked()?;
        let Driver::Overlay { max_lowers, .. } = *self.0.snapshots.driver() else {
            return Ok(vec![self.files()]);
        };
        let stack = self.stack();
        let mut lowers: Vec<_> = if stack.layers.len() > max_lowers {
            self.flattened(max_lowers)?
        } else {
            let path = |id: &SnapshotId| self.0.snapshots.directory(*id).join(FILES);
            stack.layers.iter().rev().map(path).collect()
        };
        if lowers.is_empty() || (lowers.len() == 1 && stack.marked) {
            lowers.push(self.0.snapshots.empty().to_owned());
        }
        Ok(lowers)
    }

    /// How to mount its files, which cannot be changed.
    pub fn mount_spec(&self) -> Result<MountSpec, SnapshotError> {
        Ok(MountSpec::layered(self.lowers()?, None, self.userxattr()).read_only())
    }

    /// Mounts it for reading.
    pub fn mount(&self) -> Result<Mounted, SnapshotError> {
        self.0.snapshots.mounted(self.id(), &self.mount_spec()?)
    }

    /// The root of its files, to be read.
    pub fn root(&self) -> Result<OwnedFd, SnapshotError> {
        let lowers = self.lowers()?;
        if let [only] = lowers.as_slice() {
            return open(self.id(), only);
        }
        let mount = self.mount()?;
        root_of(&mount).map_err(SnapshotError::layer(self.id()))
    }

    pub(super) fn userxattr(&self) -> bool {
        matches!(
            self.0.snapshots.driver(),
            Driver::Overlay {
                userxattr: true,
                ..
            }
        )
    }

    /// The bytes that it takes on disk, without what it shares with its parents.
    pub fn size(&self) -> Result<u64, SnapshotError> {
        let directory = self.directory();
        usage::on_disk(&directory).map_err(SnapshotError::file(self.id(), "measure", &directory))
    }
}

/// Drops of equal layers all but the uppermost, which hides the others.
fn uppermost_of_each(layers: Vec<SnapshotId>) -> Vec<SnapshotId> {
    let mut seen = std::collections::HashSet::new();
    let mut kept: Vec<_> = layers
        .into_iter()
        .rev()
        .filter(|id| seen.insert(*id))
        .collect();
    kept.reverse();
    kept
}

/// A snapshot that is being made. It is removed when this value goes, unless it is committed.
#[must_use = "a snapshot that is not committed is removed"]
pub struct MutableSnapshot {
    snapshots: Snapshots,
    id: SnapshotId,
    directory: PathBuf,
    files: PathBuf,
    parent: Option<SnapshotRef>,
    pin: Pin,
    committed: bool,
}

impl MutableSnapshot {
    pub(super) fn new(
        snapshots: Snapshots,
        id: SnapshotId,
        pin: Pin,
        directory: PathBuf,
        parent: Option<SnapshotRef>,
    ) -> Self {
        Self {
            snapshots,
            id,
            files: directory.join(FILES),
            directory,
            parent,
            pin,
            committed: false,
        }
    }

    /// Its number, which it keeps when it is committed.
    pub fn id(&self) -> SnapshotId {
        self.id
    }

    pub(super) fn snapshots(&self) -> &Snapshots {
        &self.snapshots
    }

    /// What it started from.
    pub fn parent(&self) -> Option<&SnapshotRef> {
        self.parent.as_ref()
    }

    /// The directory that its changes go to: on overlays what is new and marks of what is gone,
    /// on copies all its files. To be changed directly only while it is not mounted.
    pub fn files(&self) -> &Path {
        &self.files
    }

    /// How to mount it for writing, each time afresh.
    pub fn mount_spec(&self) -> Result<MountSpec, SnapshotError> {
        let (Driver::Overlay { userxattr, .. }, Some(parent)) =
            (self.snapshots.driver(), &self.parent)
        else {
            return Ok(MountSpec::bind(&self.files, false));
        };
        let work = self.snapshots.work_directory(&self.directory);
        fs::create_dir(&work).map_err(SnapshotError::file(self.id, "create", &work))?;
        let upper = OverlayUpper {
            upper: self.files.clone(),
            work,
        };
        let lowers = parent.lowers()?;
        Ok(MountSpec::layered(lowers, Some(upper), *userxattr))
    }

    /// Mounts it for writing.
    pub fn mount(&self) -> Result<Mounted, SnapshotError> {
        let spec = self.mount_spec()?;
        self.snapshots.mounted(self.id, &spec)
    }

    /// Ends its changes. The database knows of it soon; nothing waits for that.
    pub fn commit(self, usage: NewUsage) -> Result<SnapshotRef, SnapshotError> {
        let origin = Origin::Layer {
            parent: self.parent.as_ref().map(|parent| parent.id().0),
            marked: false,
        };
        let snapshots = self.snapshots.clone();
        snapshots.publish(self, origin, usage)
    }

    /// Ends the making: what is left of mounts goes, the files stay.
    pub(super) fn into_parts(mut self) -> (SnapshotId, Pin) {
        self.remove_work();
        self.committed = true;
        (self.id, self.pin.clone())
    }

    fn remove_work(&self) {
        let Ok(entries) = fs::read_dir(&self.directory) else {
            return;
        };
        for entry in entries.filter_map(Result::ok) {
            if entry.file_name().to_string_lossy().starts_with("work-") {
                self.snapshots.take_away(&entry.path());
            }
        }
    }
}

impl Drop for MutableSnapshot {
    fn drop(&mut self) {
        if !self.committed {
            self.snapshots.take_away(&self.directory);
        }
    }
}

impl fmt::Debug for MutableSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MutableSnapshot({})", self.id)
    }
}
