//! Files that several snapshots have by links.
//!
//! In one mount such a file must not be at two places: there both would be one file, which the
//! steps that made them did not say. So each snapshot that shares files is marked, with an empty
//! file beside its own, before the first link is made; and before snapshots come together in one
//! tree, those that are marked are looked through for inodes that would be there twice. What that
//! meets is copied instead of linked.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use super::changes::{Change, TreeError, tree_changes};
use super::handle::SnapshotRef;
use super::store::{FILES, open};
use super::{MutableSnapshot, SnapshotError, Snapshots};
use crate::object::SnapshotId;

/// The mark, beside the files of a snapshot.
pub(crate) const SHARED: &str = "shared";

/// The files of marked snapshots that have several names, by file system and inode.
#[derive(Debug, Default)]
pub struct SharedFiles(HashMap<(u64, u64), Vec<Box<[u8]>>>);

impl SharedFiles {
    /// Whether an inode is at another path than this one, relative to the root.
    pub fn is_elsewhere(&self, inode: (u64, u64), path: &[u8]) -> bool {
        let paths = self.0.get(&inode);
        paths.is_some_and(|paths| paths.iter().any(|other| **other != *path))
    }

    fn add(&mut self, directory: impl AsFd) -> Result<(), TreeError> {
        tree_changes(None, directory.as_fd(), |change| {
            if let Change::Put(found) = change
                && !found.node.is_directory()
                && found.node.links > 1
            {
                let paths = self.0.entry(found.node.inode).or_default();
                paths.push(found.path.into());
            }
            Ok(())
        })
    }
}

impl Snapshots {
    /// Marks the snapshot whose own files are in this directory: it shares files with others.
    ///
    /// # Errors
    /// If the directory is not that of one snapshot's own files, or the mark cannot be made.
    pub fn mark_shared(&self, files: &Path) -> io::Result<()> {
        match (files.parent(), files.file_name()) {
            (Some(directory), Some(name)) if name == FILES => {
                File::create(directory.join(SHARED)).map(drop)
            }
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Marks a snapshot that is being made.
    pub(super) fn share(&self, snapshot: &MutableSnapshot) -> Result<(), SnapshotError> {
        self.mark(snapshot.id())
    }

    /// Marks snapshots that files are linked from.
    pub(super) fn share_layers(&self, layers: &[SnapshotId]) -> Result<(), SnapshotError> {
        layers.iter().try_for_each(|&id| self.mark(id))
    }

    fn mark(&self, id: SnapshotId) -> Result<(), SnapshotError> {
        let files = self.directory(id).join(FILES);
        self.mark_shared(&files)
            .map_err(SnapshotError::file(id, "mark", files))
    }

    pub(super) fn is_shared(&self, id: SnapshotId) -> bool {
        self.directory(id).join(SHARED).exists()
    }

    /// The files of these layers that have several names, as far as they are in marked ones.
    pub(super) fn shared_in(&self, layers: &[SnapshotId]) -> Result<SharedFiles, SnapshotError> {
        let mut files = SharedFiles::default();
        for &id in layers.iter().filter(|&&id| self.is_shared(id)) {
            let directory = open(id, &self.directory(id).join(FILES))?;
            files.add(directory).map_err(SnapshotError::tree(id))?;
        }
        Ok(files)
    }

    /// Whether a file of one of these layers, which are to be mounted over one another, is another
    /// file of another one.
    pub(super) fn collide(&self, layers: &[SnapshotId]) -> Result<bool, SnapshotError> {
        let shared: Vec<_> = layers
            .iter()
            .copied()
            .filter(|&id| self.is_shared(id))
            .collect();
        let mut below = SharedFiles::default();
        for &id in &shared {
            let own = self.shared_in(&[id])?;
            let meets = |(inode, paths): (&(u64, u64), &Vec<Box<[u8]>>)| {
                paths.iter().any(|path| below.is_elsewhere(*inode, path))
            };
            if own.0.iter().any(meets) {
                return Ok(true);
            }
            for (inode, paths) in own.0 {
                below.0.entry(inode).or_default().extend(paths);
            }
        }
        Ok(false)
    }
}

impl SnapshotRef {
    /// The files that it shares with other snapshots, as far as links were made.
    ///
    /// # Errors
    /// [`SnapshotError`] if they cannot be read.
    pub fn shared_files(&self) -> Result<SharedFiles, SnapshotError> {
        self.snapshots().shared_in(&self.stack().layers)
    }
}
