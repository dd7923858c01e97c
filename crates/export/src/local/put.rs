//! One file after another, put into one directory.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, SeekFrom, XattrFlags};
use rustix::io::Errno;
use weld_fileset::{Entry, Metadata, Xattr};

use super::{Place, name_of, remove, timestamps};
use crate::ExportError;
use crate::error::{read_error, write_error};
use crate::tree::SourceDirectories;
use crate::watch::Watch;

/// Files up to this size go through a buffer: it is less work than to have the kernel copy them.
const SMALL: usize = 128 << 10;
/// A large file is copied in pieces of this many bytes, between which progress is told.
const PIECE: u64 = 16 << 20;

/// A file under a name of its own until it is whole; removed if it never is.
pub(super) struct Partial<'d> {
    directory: BorrowedFd<'d>,
    name: String,
    published: Cell<bool>,
}

impl<'d> Partial<'d> {
    pub(super) fn new(directory: BorrowedFd<'d>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self {
            directory,
            name: format!(".weld-{}-{number}.partial", std::process::id()),
            published: Cell::new(false),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Gives it its real name; what has that name goes.
    pub(super) fn publish(&self, name: &OsStr) -> Result<(), Errno> {
        let rename =
            || rustix::fs::renameat(self.directory, self.name.as_str(), self.directory, name);
        match rename() {
            Err(Errno::ISDIR | Errno::EXIST | Errno::NOTEMPTY) => {
                remove(self.directory, name)?;
                rename()?;
            }
            other => other?,
        }
        self.published.set(true);
        Ok(())
    }
}

impl Drop for Partial<'_> {
    fn drop(&mut self) {
        if self.published.get() {
            return;
        }
        match rustix::fs::unlinkat(self.directory, self.name.as_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => {
                tracing::warn!(name = self.name, %error, "cannot remove a partial file");
            }
        }
    }
}

/// Puts files into one directory.
pub(super) struct Putter<'a> {
    directory: BorrowedFd<'a>,
    place: &'a Place,
    watch: &'a Watch,
    buffer: Vec<u8>,
    /// Bytes that are not told of yet.
    unreported: u64,
}

impl<'a> Putter<'a> {
    pub(super) fn new(directory: BorrowedFd<'a>, place: &'a Place, watch: &'a Watch) -> Self {
        Self {
            directory,
            place,
            watch,
            buffer: Vec::new(),
            unreported: 0,
        }
    }

    /// Tells of what was put.
    pub(super) fn report(&mut self) -> Result<(), ExportError> {
        let amount = std::mem::take(&mut self.unreported);
        let told = self.watch.advance(amount);
        told.map_err(write_error("write to", self.place.path.as_path()))
    }

    /// Puts one file that is no directory.
    pub(super) fn put(
        &mut self,
        entry: &Entry,
        sources: &mut SourceDirectories<'_>,
    ) -> Result<(), ExportError> {
        if entry.metadata.file_type() == FileType::RegularFile {
            return self.regular(entry, &sources.file(entry)?);
        }
        let fail = |errno: Errno| self.place.error("create", &entry.path)(errno);
        let partial = Partial::new(self.directory);
        match entry.metadata.file_type() {
            FileType::Symlink => {
                let target = sources.tree().link_target(entry)?;
                rustix::fs::symlinkat(target, self.directory, partial.name()).map_err(fail)?;
            }
            kind => {
                let (major, minor) = entry.metadata.rdev;
                let device = rustix::fs::makedev(major, minor);
                let mode = Mode::from_raw_mode(entry.metadata.permissions());
                rustix::fs::mknodat(self.directory, partial.name(), kind, mode, device)
                    .and_then(|()| {
                        // Without what the umask takes.
                        rustix::fs::chmodat(self.directory, partial.name(), mode, AtFlags::empty())
                    })
                    .map_err(fail)?;
            }
        }
        let times = timestamps(entry.metadata.mtime);
        rustix::fs::utimensat(
            self.directory,
            partial.name(),
            &times,
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .and_then(|()| partial.publish(name_of(&entry.path)))
        .map_err(fail)
    }

    fn regular(&mut self, entry: &Entry, from: &File) -> Result<(), ExportError> {
        let (place, path) = (self.place, entry.path.as_path());
        let fail = |errno: Errno| place.error("write", path)(errno);
        let partial = Partial::new(self.directory);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(
            self.directory,
            partial.name(),
            flags | OFlags::CLOEXEC,
            Mode::RUSR | Mode::WUSR,
        );
        let file = File::from(file.map_err(fail)?);
        self.content(entry, from, &file)?;
        set_xattrs(file.as_fd(), &entry.xattrs).map_err(fail)?;
        let mode = Mode::from_raw_mode(entry.metadata.permissions());
        rustix::fs::fchmod(&file, mode)
            .and_then(|()| rustix::fs::futimens(&file, &timestamps(entry.metadata.mtime)))
            .and_then(|()| partial.publish(name_of(path)))
            .map_err(fail)
    }

    fn content(&mut self, entry: &Entry, from: &File, to: &File) -> Result<(), ExportError> {
        let size = entry.metadata.size;
        if size == 0 {
            return Ok(());
        }
        if size <= SMALL as u64 {
            self.unreported += size;
            return self.small(entry, from, to);
        }
        self.report()?;
        let whole = match is_sparse(&entry.metadata) {
            true => copy_sparse(from, to, size, self.watch),
            false => copy_range(from, to, size, self.watch),
        };
        whole.map_err(write_error("write", self.place.path.join(&entry.path)))
    }

    fn small(&mut self, entry: &Entry, from: &File, mut to: &File) -> Result<(), ExportError> {
        let size = entry.metadata.size;
        self.buffer.clear();
        self.buffer.reserve_exact(SMALL);
        from.take(size)
            .read_to_end(&mut self.buffer)
            .and_then(|count| complete(count as u64, size))
            .map_err(read_error("read", &entry.path))?;
        to.write_all(&self.buffer)
            .map_err(write_error("write", self.place.path.join(&entry.path)))
    }
}

fn is_sparse(metadata: &Metadata) -> bool {
    metadata.blocks.saturating_mul(512) < metadata.size
}

fn copy_sparse(from: &File, to: &File, size: u64, watch: &Watch) -> io::Result<()> {
    rustix::fs::ftruncate(to, size)?;
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(()),
            // Not every file system knows its holes.
            Err(Errno::INVAL) => {
                rustix::fs::seek(from, SeekFrom::Start(at))?;
                rustix::fs::seek(to, SeekFrom::Start(at))?;
                return copy_range(from, to, size - at, watch);
            }
            Err(errno) => return Err(errno.into()),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start))?.min(size);
        rustix::fs::seek(from, SeekFrom::Start(start))?;
        rustix::fs::seek(to, SeekFrom::Start(start))?;
        copy_range(from, to, end.saturating_sub(start), watch)?;
        at = end;
    }
    Ok(())
}

/// Copies from where both stand; the kernel does it where it can.
fn copy_range(from: &File, mut to: &File, size: u64, watch: &Watch) -> io::Result<()> {
    let mut copied = 0;
    while copied < size {
        let piece = (size - copied).min(PIECE);
        let count = io::copy(&mut from.take(piece), &mut to)?;
        watch.advance(count)?;
        copied += count;
        if count < piece {
            break;
        }
    }
    complete(copied, size)
}

fn complete(copied: u64, size: u64) -> io::Result<()> {
    match copied == size {
        true => Ok(()),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Sets extended attributes, but for those that this user may not set or the file system does
/// not keep.
pub(super) fn set_xattrs(file: BorrowedFd<'_>, xattrs: &[Xattr]) -> Result<(), Errno> {
    for (name, value) in xattrs {
        match rustix::fs::fsetxattr(file, Path::new(name), value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
