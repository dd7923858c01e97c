//! One path of a copy that is no directory: linked, cloned, copied or made anew.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use weld_fileset::{Metadata, Timestamp, open_beneath, read_xattrs, read_xattrs_of};

use super::Source;
use crate::file::actions::{create_symlink, set_owner_at, set_times_at};
use crate::file::content::{ContentCopier, ContentError};
use crate::file::destination::{
    Owner, WriteDir, path_at, set_owner, set_times, set_xattrs, set_xattrs_at,
};
use crate::file::mode::ModeChange;
use crate::file::{Context, FileError};

/// What a copy changes about what it copies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Changes<'c> {
    pub(crate) owner: Option<Owner>,
    pub(crate) mode: &'c ModeChange,
    pub(crate) timestamp: Option<Timestamp>,
}

impl Changes<'_> {
    pub(crate) fn owner_of(&self, metadata: &Metadata) -> Owner {
        self.owner.unwrap_or(Owner {
            uid: metadata.uid,
            gid: metadata.gid,
        })
    }

    pub(crate) fn permissions_of(&self, metadata: &Metadata) -> u32 {
        self.mode.apply(metadata.permissions(), metadata.is_dir())
    }

    /// Access and modification time.
    pub(crate) fn times_of(&self, metadata: &Metadata) -> (Timestamp, Timestamp) {
        self.timestamp
            .map_or((metadata.atime, metadata.mtime), |time| (time, time))
    }

    fn keeps(&self, metadata: &Metadata) -> bool {
        let owner = Owner {
            uid: metadata.uid,
            gid: metadata.gid,
        };
        self.owner_of(metadata) == owner
            && self.permissions_of(metadata) == metadata.permissions()
            && self.timestamp.is_none_or(|time| time == metadata.mtime)
    }
}

/// A path to copy and its place.
pub(crate) struct Leaf<'l> {
    /// The directory that really has it.
    pub(crate) from_dir: BorrowedFd<'l>,
    pub(crate) from_name: &'l OsStr,
    pub(crate) from_path: &'l Path,
    pub(crate) metadata: &'l Metadata,
    pub(crate) to_dir: &'l WriteDir,
    pub(crate) to_name: &'l OsStr,
    pub(crate) to_path: &'l Path,
}

impl Leaf<'_> {
    fn read_error(&self, error: Errno) -> FileError {
        FileError::io("read", self.from_path, error)
    }

    fn write_error(&self, error: Errno) -> FileError {
        FileError::io("write", self.to_path, error)
    }
}

/// Puts paths of a source into a destination. Shared by the threads of a copy.
pub(crate) struct Putter<'p> {
    pub(crate) source: Source<'p>,
    pub(crate) context: &'p Context<'p>,
    pub(crate) changes: Changes<'p>,
    contents: ContentCopier,
    /// Linking from this source to this destination was found impossible.
    no_links: AtomicBool,
}

impl<'p> Putter<'p> {
    pub(crate) fn new(source: Source<'p>, context: &'p Context<'p>, changes: Changes<'p>) -> Self {
        Self {
            source,
            context,
            changes,
            contents: ContentCopier::default(),
            no_links: AtomicBool::new(false),
        }
    }

    /// May a file of a layer of the source be linked to `to` instead of copied?
    pub(crate) fn may_link(&self, metadata: &Metadata, layer: usize, to: &Path) -> bool {
        self.source.immutable
            && !self.no_links.load(Ordering::Relaxed)
            && metadata.file_type() == FileType::RegularFile
            && self.changes.keeps(metadata)
            && self
                .source
                .sharing
                .is_none_or(|sharing| sharing.may_link(layer, metadata, to))
    }

    /// Makes the copy; the place is free. With `link` an own name for the same file will do.
    pub(crate) fn put(&self, leaf: &Leaf<'_>, link: bool) -> Result<(), FileError> {
        self.context.check()?;
        match leaf.metadata.file_type() {
            FileType::RegularFile => {
                if link && self.link(leaf)? {
                    return Ok(());
                }
                self.copy_file(leaf)
            }
            FileType::Symlink => self.copy_symlink(leaf),
            FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo => {
                let (major, minor) = leaf.metadata.rdev;
                let device = rustix::fs::makedev(major, minor);
                self.make_node(leaf, leaf.metadata.file_type(), device)
            }
            // A socket without its server is of no use; BuildKit leaves an empty file, too.
            FileType::Socket => self.make_node(leaf, FileType::RegularFile, 0),
            FileType::Directory | FileType::Unknown => Err(leaf.read_error(Errno::INVAL)),
        }
    }

    fn link(&self, leaf: &Leaf<'_>) -> Result<bool, FileError> {
        if self.no_links.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let linked = leaf.to_dir.create(leaf.to_name, |upper| {
            rustix::fs::linkat(
                leaf.from_dir,
                leaf.from_name,
                upper,
                leaf.to_name,
                AtFlags::empty(),
            )
        });
        match linked {
            Ok(()) => Ok(true),
            // This file has as many names as the file system allows.
            Err(Errno::MLINK) => Ok(false),
            Err(Errno::XDEV | Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::ACCESS) => {
                self.no_links.store(true, Ordering::Relaxed);
                Ok(false)
            }
            Err(error) => Err(leaf.write_error(error)),
        }
    }

    fn copy_file(&self, leaf: &Leaf<'_>) -> Result<(), FileError> {
        let from = open_beneath(
            leaf.from_dir,
            Path::new(leaf.from_name),
            OFlags::RDONLY | OFlags::NONBLOCK,
        )
        .map_err(|error| leaf.read_error(error))?;
        let to = create_file(leaf).map_err(|error| leaf.write_error(error))?;
        let (cancelled, metadata) = (self.context.cancelled, leaf.metadata);
        self.contents
            .copy(from.as_fd(), metadata, to.as_fd(), cancelled)
            .map_err(|error| match error {
                ContentError::Read(error) => leaf.read_error(error),
                ContentError::Write(error) => leaf.write_error(error),
                ContentError::Cancelled => FileError::Cancelled,
            })?;
        let xattrs = read_xattrs_of(from.as_fd()).map_err(|error| leaf.read_error(error))?;
        self.finish_file(to.as_fd(), metadata)
            .and_then(|()| set_xattrs(to.as_fd(), xattrs))
            .map_err(|error| leaf.write_error(error))
    }

    /// Owner, permissions and times of a copy. A new owner takes set-id bits and capabilities
    /// away, so it comes first.
    pub(crate) fn finish_file(&self, to: BorrowedFd<'_>, metadata: &Metadata) -> Result<(), Errno> {
        set_owner(to, self.changes.owner_of(metadata))?;
        rustix::fs::fchmod(
            to,
            Mode::from_raw_mode(self.changes.permissions_of(metadata)),
        )?;
        let (atime, mtime) = self.changes.times_of(metadata);
        set_times(to, atime, mtime)
    }

    fn copy_symlink(&self, leaf: &Leaf<'_>) -> Result<(), FileError> {
        let target = rustix::fs::readlinkat(leaf.from_dir, leaf.from_name, Vec::new())
            .map_err(|error| leaf.read_error(error))?;
        let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
        let owner = self.changes.owner_of(leaf.metadata);
        create_symlink(leaf.to_dir, leaf.to_name, &target, Some(owner))
            .map_err(|error| leaf.write_error(error))?;
        self.finish_by_name(leaf)
    }

    fn make_node(
        &self,
        leaf: &Leaf<'_>,
        kind: FileType,
        device: rustix::fs::Dev,
    ) -> Result<(), FileError> {
        let permissions = self.changes.permissions_of(leaf.metadata);
        let mode = Mode::from_raw_mode(permissions);
        leaf.to_dir
            .create(leaf.to_name, |upper| {
                rustix::fs::mknodat(upper, leaf.to_name, kind, mode, device)
            })
            .and_then(|()| {
                let owner = self.changes.owner_of(leaf.metadata);
                set_owner_at(leaf.to_dir, leaf.to_name, owner)?;
                // What was just made is no link, so following none is no matter.
                rustix::fs::chmodat(leaf.to_dir.upper(), leaf.to_name, mode, AtFlags::empty())
            })
            .map_err(|error| leaf.write_error(error))?;
        self.finish_by_name(leaf)
    }

    fn finish_by_name(&self, leaf: &Leaf<'_>) -> Result<(), FileError> {
        let xattrs = read_xattrs(&path_at(leaf.from_dir, leaf.from_name))
            .map_err(|error| leaf.read_error(error))?;
        let (atime, mtime) = self.changes.times_of(leaf.metadata);
        set_xattrs_at(leaf.to_dir.upper(), leaf.to_name, xattrs)
            .and_then(|()| set_times_at(leaf.to_dir, leaf.to_name, atime, mtime))
            .map_err(|error| leaf.write_error(error))
    }
}

fn create_file(leaf: &Leaf<'_>) -> Result<OwnedFd, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    leaf.to_dir.create(leaf.to_name, |upper| {
        rustix::fs::openat(upper, leaf.to_name, flags, Mode::from_raw_mode(0o600))
    })
}
