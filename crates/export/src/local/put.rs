//! One file after another, put into one directory.

use std::borrow::Cow;
use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, SeekFrom, XattrFlags};
use rustix::io::Errno;
use weld_fileset::{Entry, Metadata, Xattr};
use weld_source::partial::partial_name;

use super::{Place, name_of, remove, timestamps};
use crate::ExportError;
use crate::error::{read_error, write_error};
use crate::tree::SourceDirectories;
use crate::watch::Watch;

/// Files up to this size go through a buffer: it is less work than to have the kernel copy them.
const SMALL: usize = 128 << 10;
/// A large file is copied in pieces of this many bytes, between which progress is told.
const PIECE: u64 = 16 << 20;

/// A file that is being made; removed if it never becomes whole. It has its real name from the
/// start if nothing else has it, as with docker; else one of its own, until it is whole.
pub(super) struct Partial<'d> {
    directory: BorrowedFd<'d>,
    name: Cow<'d, OsStr>,
    real: &'d OsStr,
    published: Cell<bool>,
}

impl<'d> Partial<'d> {
    /// Makes what is to be called `name` by `make`, which is told what to call it for now and
    /// must not replace anything.
    pub(super) fn make<T>(
        directory: BorrowedFd<'d>,
        real: &'d OsStr,
        make: impl Fn(&OsStr) -> Result<T, Errno>,
    ) -> Result<(Self, T), Errno> {
        let (name, made) = match make(real) {
            Ok(made) => (Cow::Borrowed(real), made),
            Err(Errno::EXIST) => {
                let name = OsString::from(partial_name());
                let made = make(&name)?;
                (Cow::Owned(name), made)
            }
            Err(errno) => return Err(errno),
        };
        let partial = Self {
            directory,
            name,
            real,
            published: Cell::new(false),
        };
        Ok((partial, made))
    }

    /// What it is called now.
    pub(super) fn name(&self) -> &OsStr {
        &self.name
    }

    /// Gives it its real name; what has that name goes.
    pub(super) fn publish(&self) -> Result<(), Errno> {
        let rename =
            || rustix::fs::renameat(self.directory, self.name(), self.directory, self.real);
        if self.name != self.real {
            match rename() {
                Err(Errno::ISDIR | Errno::EXIST | Errno::NOTEMPTY) => {
                    remove(self.directory, self.real)?;
                    rename()?;
                }
                other => other?,
            }
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
        match rustix::fs::unlinkat(self.directory, self.name(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => {
                tracing::warn!(name = %self.name.display(), %error, "cannot remove a partial file");
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
        self.special(entry, sources)
    }

    /// Puts a symbolic link, a device or a pipe.
    fn special(&self, entry: &Entry, sources: &SourceDirectories<'_>) -> Result<(), ExportError> {
        let fail = |errno: Errno| self.place.error("create", &entry.path)(errno);
        let (directory, name) = (self.directory, name_of(&entry.path));
        let partial = match entry.metadata.file_type() {
            FileType::Symlink => {
                let target = sources.tree().link_target(entry)?;
                let make = |name: &OsStr| rustix::fs::symlinkat(target, directory, name);
                Partial::make(directory, name, make).map_err(fail)?.0
            }
            kind => {
                let (major, minor) = entry.metadata.rdev;
                let device = rustix::fs::makedev(major, minor);
                let mode = Mode::from_raw_mode(entry.metadata.permissions());
                let make = |name: &OsStr| rustix::fs::mknodat(directory, name, kind, mode, device);
                let (partial, ()) = Partial::make(directory, name, make).map_err(fail)?;
                // Without what the umask takes.
                rustix::fs::chmodat(directory, partial.name(), mode, AtFlags::empty())
                    .map_err(fail)?;
                partial
            }
        };
        let times = timestamps(entry.metadata.mtime);
        rustix::fs::utimensat(directory, partial.name(), &times, AtFlags::SYMLINK_NOFOLLOW)
            .and_then(|()| partial.publish())
            .map_err(fail)
    }

    fn regular(&mut self, entry: &Entry, from: &File) -> Result<(), ExportError> {
        let (place, path) = (self.place, entry.path.as_path());
        let fail = |errno: Errno| place.error("write", path)(errno);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let (partial, file) = Partial::make(self.directory, name_of(path), |name| {
            let mode = Mode::RUSR | Mode::WUSR;
            rustix::fs::openat(self.directory, name, flags | OFlags::CLOEXEC, mode)
        })
        .map_err(fail)?;
        let file = File::from(file);
        self.content(entry, from, &file)?;
        set_xattrs(file.as_fd(), &entry.xattrs).map_err(fail)?;
        let mode = Mode::from_raw_mode(entry.metadata.permissions());
        rustix::fs::fchmod(&file, mode)
            .and_then(|()| rustix::fs::futimens(&file, &timestamps(entry.metadata.mtime)))
            .and_then(|()| partial.publish())
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
