//! From layers to snapshots: at once, or when their files are needed.

use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use super::driver::Driver;
use super::handle::SnapshotRef;
use super::record::{LayerDescriptor, Origin};
use super::roomy::Roomy;
use super::store::{FILES, open};
use super::{MutableSnapshot, SnapshotError, Snapshots};
use crate::layer::{self, ApplyOptions, LayerError, Whiteouts};
use crate::usage::NewUsage;

impl Snapshots {
    /// The snapshot that a layer makes of `parent`. The layer is read from `blob`, compressed or
    /// not; what it came from is kept in mind, so that the snapshot's layer is that blob.
    ///
    /// The caller verifies the blob's own digest; the digest of its content is verified here.
    pub fn apply(
        &self,
        parent: Option<&SnapshotRef>,
        blob: impl Read + Send,
        descriptor: &LayerDescriptor,
        usage: NewUsage,
    ) -> Result<SnapshotRef, SnapshotError> {
        let snapshot = self.create(parent)?;
        self.unpack_into(&snapshot, parent, blob, &descriptor.diff_id)?;
        let origin = Origin::Layer {
            parent: parent.map(|parent| parent.id().0),
            marked: true,
        };
        let snapshot = self.publish(snapshot, origin, usage)?;
        // Waited for, since whoever asks next reads what is committed.
        snapshot.remember_layer(descriptor)?.wait()?;
        Ok(snapshot)
    }

    /// A snapshot that a layer will make of `parent` when its files are needed.
    pub fn declare(
        &self,
        parent: Option<&SnapshotRef>,
        descriptor: &LayerDescriptor,
        usage: NewUsage,
    ) -> Result<SnapshotRef, SnapshotError> {
        let (snapshot, committed) = self.declare_one(parent, descriptor, usage)?;
        committed.wait()?;
        Ok(snapshot)
    }

    /// The snapshots that layers will make of `parent` and of one another, lowest first, each with
    /// its usage; one commit is waited for.
    pub fn declare_stack(
        &self,
        parent: Option<&SnapshotRef>,
        layers: impl IntoIterator<Item = (LayerDescriptor, NewUsage)>,
    ) -> Result<Vec<SnapshotRef>, SnapshotError> {
        let mut declared: Vec<SnapshotRef> = Vec::new();
        let mut last = None;
        for (descriptor, usage) in layers {
            let below = declared.last().or(parent);
            let (snapshot, committed) = self.declare_one(below, &descriptor, usage)?;
            declared.push(snapshot);
            last = Some(committed);
        }
        // Updates commit in the order in which they were queued.
        if let Some(last) = last {
            last.wait()?;
        }
        Ok(declared)
    }

    fn declare_one(
        &self,
        parent: Option<&SnapshotRef>,
        descriptor: &LayerDescriptor,
        usage: NewUsage,
    ) -> Result<(SnapshotRef, crate::Ticket<()>), SnapshotError> {
        let origin = Origin::Layer {
            parent: parent.map(|parent| parent.id().0),
            marked: true,
        };
        let snapshot = self.publish_virtual(origin, Some(descriptor.clone()), usage)?;
        let committed = snapshot.remember_layer(descriptor)?;
        Ok((snapshot, committed))
    }

    /// Unpacks a declared snapshot, whose parents are unpacked. Does nothing if it is.
    pub fn unpack(
        &self,
        snapshot: &SnapshotRef,
        blob: impl Read + Send,
    ) -> Result<(), SnapshotError> {
        let _turn = snapshot.unpacking();
        let Some(descriptor) = snapshot.lazy() else {
            return Ok(());
        };
        let parent = snapshot.parents().first();
        let unpacked = self.create(parent)?;
        self.unpack_into(&unpacked, parent, blob, &descriptor.diff_id)?;
        let target = self.directory(snapshot.id()).join(FILES);
        fs::rename(unpacked.files(), &target).map_err(SnapshotError::file(
            snapshot.id(),
            "create",
            &target,
        ))?;
        let record = snapshot.unpacked();
        self.save(snapshot.id(), record, None)
    }

    fn unpack_into(
        &self,
        snapshot: &MutableSnapshot,
        parent: Option<&SnapshotRef>,
        blob: impl Read + Send,
        diff_id: &weld_digest::Digest,
    ) -> Result<(), SnapshotError> {
        let id = snapshot.id();
        let root = open(id, snapshot.files())?;
        let blob = Roomy::new(blob, self.0.store.space());
        let below = || -> Result<OwnedFd, LayerError> {
            match parent {
                Some(parent) => parent.root().map_err(|error| match error {
                    SnapshotError::Mount { source, .. } => LayerError::Mount(source),
                    other => LayerError::Read(std::io::Error::other(other)),
                }),
                None => layer::open_root(&self.0.empty),
            }
        };
        let mut options = ApplyOptions::new(match self.0.driver {
            Driver::Overlay { userxattr, .. } => Whiteouts::Overlay { userxattr },
            Driver::Copy => Whiteouts::Remove,
        });
        if parent.is_some() {
            options.parent = Some(&below);
        }
        let unpacked =
            layer::unpack(blob, root.as_fd(), &options).map_err(SnapshotError::layer(id))?;
        if unpacked.diff_id != *diff_id {
            return Err(SnapshotError::WrongDiffId {
                id,
                expected: diff_id.clone(),
                actual: unpacked.diff_id,
            });
        }
        Ok(())
    }
}
