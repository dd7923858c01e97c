//! A file that is written whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use weld_source::partial::partial_name;

use crate::error::write_error;
use crate::{ExportError, ExportKind, ExportTarget};

/// How many symbolic links may lead to one another, as in the kernel.
const MAX_LINKS: usize = 40;

/// Where an archive goes: a file that is replaced when the new one is whole, or a stream.
pub struct Destination {
    file: File,
    /// How users know it.
    path: PathBuf,
    /// Unless it is written in place.
    partial: Option<Partial>,
}

/// A file that is not whole yet.
struct Partial {
    /// Its temporary name.
    name: PathBuf,
    /// Whether it has that already.
    named: bool,
    /// The name that it will have.
    real: PathBuf,
}

impl Destination {
    /// Opens the destination of an archive.
    ///
    /// # Errors
    /// [`ExportError`] if it is not one, or cannot be written.
    pub fn open(kind: ExportKind, target: &ExportTarget) -> Result<Self, ExportError> {
        match target {
            ExportTarget::File(path) => Self::file(path),
            ExportTarget::Stdout => Self::stdout(),
            ExportTarget::Nowhere | ExportTarget::Directory(_) | ExportTarget::Client(_) => {
                Err(wrong_target(kind, "a file or standard output"))
            }
        }
    }

    fn stdout() -> Result<Self, ExportError> {
        let file = io::stdout().as_fd().try_clone_to_owned();
        Ok(Self {
            file: file.map_err(write_error("open", "standard output"))?.into(),
            path: "standard output".into(),
            partial: None,
        })
    }

    /// The end of a pipe to a client.
    pub(crate) fn client(file: File) -> Self {
        Self {
            file,
            path: "the client".into(),
            partial: None,
        }
    }

    pub(crate) fn file(path: &Path) -> Result<Self, ExportError> {
        let real = followed(path).map_err(write_error("write", path))?;
        let old = fs::metadata(&real).ok();
        if old.as_ref().is_some_and(fs::Metadata::is_dir) {
            return Err(write_error("write", path)(
                io::ErrorKind::IsADirectory.into(),
            ));
        }
        if old.as_ref().is_some_and(|old| !old.is_file()) {
            // A device or a pipe.
            let file = OpenOptions::new().write(true).open(&real);
            return Ok(Self {
                file: file.map_err(write_error("write", path))?,
                path: path.to_owned(),
                partial: None,
            });
        }
        Self::beside(path, real, old)
    }

    /// A file of a directory that is ours to write: whatever has its name is replaced, be it a link or a pipe; but no directory.
    pub(crate) fn replacing(path: &Path) -> Result<Self, ExportError> {
        let old = fs::symlink_metadata(path).ok();
        let old = old.filter(fs::Metadata::is_file);
        Self::beside(path, path.to_owned(), old)
    }

    /// One that `real` will be the name of, with the mode of what has that now.
    fn beside(path: &Path, real: PathBuf, old: Option<fs::Metadata>) -> Result<Self, ExportError> {
        let name = real.with_file_name(partial_name());
        let nameless = nameless_beside(&real);
        let named = nameless.is_none();
        let file = match nameless {
            Some(file) => file,
            None => OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(&name)
                .map_err(write_error("create", path))?,
        };
        let destination = Self {
            file,
            path: path.to_owned(),
            partial: Some(Partial { name, named, real }),
        };
        if let Some(old) = old {
            destination
                .file
                .set_permissions(old.permissions())
                .map_err(write_error("set the mode of", path))?;
        }
        Ok(destination)
    }

    /// What to write to.
    pub fn handle(&self) -> &File {
        &self.file
    }

    /// How users know it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts the file in place, which is whole now.
    ///
    /// # Errors
    /// [`ExportError`] if it cannot be put there.
    pub fn publish(mut self) -> Result<(), ExportError> {
        let failed = |error| write_error("write", self.path.as_path())(error);
        if let Some(partial) = &mut self.partial {
            if !partial.named {
                give_name(&self.file, &partial.name).map_err(failed)?;
                partial.named = true;
            }
            fs::rename(&partial.name, &partial.real).map_err(failed)?;
        }
        self.partial = None;
        Ok(())
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        if let Some(Partial {
            name, named: true, ..
        }) = &self.partial
            && let Err(error) = fs::remove_file(name)
        {
            tracing::warn!(path = %name.display(), %error, "cannot remove a partial file");
        }
    }
}

/// What a path names by its symbolic links, which are left alone: what they lead to is replaced, or made where it is not there.
fn followed(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::canonicalize(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            found => return found,
        }
        match fs::read_link(&path) {
            Ok(target) => path = directory_of(&path).join(target),
            Err(_) => return Ok(path),
        }
    }
    Err(rustix::io::Errno::LOOP.into())
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A file without a name, which is gone with the process, in the directory of another; `None` where the file system has none.
fn nameless_beside(other: &Path) -> Option<File> {
    use rustix::fs::{Mode, OFlags, open};
    let directory = directory_of(other);
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = open(directory, flags, Mode::from_raw_mode(0o666)).ok()?;
    Some(file.into())
}

fn give_name(file: &File, name: &Path) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD, linkat};
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(CWD, own, CWD, name, AtFlags::SYMLINK_FOLLOW)?)
}

pub(crate) const fn wrong_target(kind: ExportKind, needs: &'static str) -> ExportError {
    ExportError::Target {
        kind: kind.name(),
        needs,
    }
}

/// Whether it is a file, which is replaced: no stream, and no device or pipe.
pub(crate) fn is_replaced(target: &ExportTarget) -> bool {
    let ExportTarget::File(path) = target else {
        return false;
    };
    match fs::metadata(path) {
        Ok(old) => old.is_file(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Whether a result can go to `target` at all, before it is built.
pub(crate) fn check(
    kind: ExportKind,
    target: &ExportTarget,
    directory: bool,
) -> Result<(), ExportError> {
    match (kind, directory, target) {
        (ExportKind::Image | ExportKind::CacheOnly, ..) | (.., ExportTarget::Client(_)) => Ok(()),
        (ExportKind::Local, _, ExportTarget::Directory(path))
        | (_, true, ExportTarget::Directory(path)) => check_directory(path),
        (ExportKind::Local, ..) | (_, true, _) => Err(wrong_target(kind, "a directory")),
        (_, false, ExportTarget::File(path)) => check_file(path),
        (_, false, ExportTarget::Stdout) => {
            if io::IsTerminal::is_terminal(&io::stdout()) {
                return Err(ExportError::Terminal { kind: kind.name() });
            }
            Ok(())
        }
        _ => Err(wrong_target(kind, "a file or standard output")),
    }
}

fn check_file(path: &Path) -> Result<(), ExportError> {
    let fail = |error: io::Error| write_error("write", path)(error);
    match fs::metadata(path) {
        Ok(old) if old.is_dir() => return Err(fail(io::ErrorKind::IsADirectory.into())),
        Ok(old) if !old.is_file() => return writable(path),
        _ => {}
    }
    let real = followed(path).map_err(fail)?;
    let parent = directory_of(&real);
    let parent_metadata =
        fs::metadata(parent).map_err(write_error("write to directory", parent))?;
    if !parent_metadata.is_dir() {
        return Err(fail(io::ErrorKind::NotADirectory.into()));
    }
    writable(parent)
}

fn check_directory(path: &Path) -> Result<(), ExportError> {
    // The lowest of its parents that is there has to take it.
    let mut existing = path;
    loop {
        match fs::metadata(existing) {
            Ok(metadata) if metadata.is_dir() => return writable(existing),
            Ok(_) => {
                let error = io::ErrorKind::NotADirectory.into();
                return Err(write_error("write to", existing)(error));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(write_error("write to", existing)(error)),
        }
        match existing.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => existing = parent,
            _ => return writable(Path::new(".")),
        }
    }
}

fn writable(path: &Path) -> Result<(), ExportError> {
    let flags = rustix::fs::AtFlags::EACCESS;
    rustix::fs::accessat(rustix::fs::CWD, path, Access::WRITE_OK, flags)
        .map_err(|errno| write_error("write to", path)(errno.into()))
}
