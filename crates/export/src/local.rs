//! The files of results, copied into a directory.
//!
//! Directories are made first, in order; then files are copied in parallel; then further names of
//! files are linked; last, directories get their metadata, which writing into them changes. What
//! takes the place of something else has a name of its own until it is whole, so that there is
//! always the old or the new under the real one. The destination is worked on through descriptors
//! alone, and no symbolic link in it is followed.

mod copy;
mod fresh;
mod prune;
mod put;

use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;
use weld_fileset::{Timestamp, metadata_at, open_beneath};

use crate::ExportError;
use crate::error::write_error;
use crate::options::LocalMode;
use crate::tree::Tree;
use crate::watch::Watch;
use copy::TreeCopy;

/// An export into a directory.
pub(crate) struct LocalExport<'a> {
    place: Place,
    epoch: Option<Timestamp>,
    watch: &'a Watch,
}

/// A directory that is written into.
pub(crate) struct Place {
    directory: OwnedFd,
    /// How users know it.
    path: PathBuf,
}

impl<'a> LocalExport<'a> {
    /// Opens the directory, making it if it is not there.
    pub(crate) fn open(
        path: &Path,
        epoch: Option<Timestamp>,
        watch: &'a Watch,
    ) -> Result<Self, ExportError> {
        fresh::create_directory(path).map_err(write_error("create directory", path))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| write_error("open directory", path)(errno.into()))?;
        Ok(Self {
            place: Place {
                directory,
                path: path.to_owned(),
            },
            epoch,
            watch,
        })
    }

    /// Copies the files of `trees`, each into a directory of its own if `split`.
    pub(crate) fn write(
        &self,
        trees: &[Tree],
        split: bool,
        mode: LocalMode,
    ) -> Result<(), ExportError> {
        if mode == LocalMode::Delete {
            check_delete(&self.place.path)?;
        }
        for tree in trees {
            if split {
                self.write_split(tree)?;
            } else {
                self.copy(&self.place, tree)?;
            }
        }
        match mode {
            LocalMode::Copy => Ok(()),
            LocalMode::Delete => prune::others(&self.place, trees, split, self.watch),
        }
    }

    fn write_split(&self, tree: &Tree) -> Result<(), ExportError> {
        let name = tree.directory();
        self.place.make_directory(&name)?;
        let place = self.place.enter(&name)?;
        self.copy(&place, tree)?;
        let fail = |errno: Errno| place.error("set the metadata of", Path::new(""))(errno);
        rustix::fs::fchmod(&place.directory, Mode::from_raw_mode(0o755)).map_err(fail)?;
        if let Some(epoch) = self.epoch {
            rustix::fs::futimens(&place.directory, &timestamps(epoch)).map_err(fail)?;
        }
        Ok(())
    }

    fn copy(&self, place: &Place, tree: &Tree) -> Result<(), ExportError> {
        TreeCopy::new(place, tree, self.watch).run()
    }
}

impl Place {
    fn error(
        &self,
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(Errno) -> ExportError + use<> {
        let path = match path.as_os_str().is_empty() {
            true => self.path.clone(),
            false => self.path.join(path),
        };
        move |errno| write_error(action, path)(errno.into())
    }

    /// Opens a directory beneath it, through no symbolic link.
    fn open(&self, path: &Path) -> Result<OwnedFd, ExportError> {
        open_beneath(
            self.directory.as_fd(),
            path,
            OFlags::RDONLY | OFlags::DIRECTORY,
        )
        .map_err(self.error("open directory", path))
    }

    fn enter(&self, path: &Path) -> Result<Self, ExportError> {
        Ok(Self {
            directory: self.open(path)?,
            path: self.path.join(path),
        })
    }

    /// Sees to it that there is a directory at a path whose parent is one, and that it can be
    /// written into. What else is there goes.
    fn make_directory(&self, path: &Path) -> Result<(), ExportError> {
        let fail = |errno: Errno| self.error("create directory", path)(errno);
        let parent = self.open(parent_of(path))?;
        let name = name_of(path);
        match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(fail(errno)),
        }
        let old = metadata_at(parent.as_fd(), name).map_err(fail)?;
        if !old.is_dir() {
            rustix::fs::unlinkat(&parent, name, AtFlags::empty()).map_err(fail)?;
            return rustix::fs::mkdirat(&parent, name, Mode::RWXU).map_err(fail);
        }
        if old.permissions() & 0o700 != 0o700 {
            let directory =
                open_beneath(parent.as_fd(), Path::new(name), OFlags::PATH).map_err(fail)?;
            let mode = Mode::from_raw_mode(old.permissions() | 0o700);
            // Not by name, which may be a symbolic link by now.
            let path = format!(
                "/proc/self/fd/{}",
                std::os::fd::AsRawFd::as_raw_fd(&directory)
            );
            rustix::fs::chmod(path, mode).map_err(fail)?;
        }
        Ok(())
    }
}

/// Whether what is in `path` may be deleted.
pub(crate) fn check_delete(path: &Path) -> Result<(), ExportError> {
    match fs::canonicalize(path) {
        Ok(real) if real.parent().is_none() => Err(ExportError::DeleteRoot(path.to_owned())),
        _ => Ok(()),
    }
}

/// Removes whatever has a name in a directory.
fn remove(directory: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    let number = std::os::fd::AsRawFd::as_raw_fd(&directory);
    let path = Path::new("/proc/self/fd")
        .join(number.to_string())
        .join(name);
    fs::remove_dir_all(path).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

fn parent_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

fn name_of(path: &Path) -> &OsStr {
    path.file_name().unwrap_or_default()
}

fn timestamps(time: Timestamp) -> Timestamps {
    let time = Timespec {
        tv_sec: time.seconds,
        tv_nsec: i64::from(time.nanoseconds),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Whether a file of this type is exported: a socket means nothing without the program that
/// listens.
fn is_exported(kind: FileType) -> bool {
    !matches!(kind, FileType::Socket | FileType::Unknown)
}
