//! Content for a cache mount that is made beside it, and put in place at once.

use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

use super::archive::{ArchiveError, unpack};
use super::{CacheMountError, CacheMounts};
use crate::object::Object;
use crate::pins::Pin;
use crate::snapshot::remove::remove_at;
use crate::space::Space;

/// Who owns the directory of a cache mount, who may use it, and when it was changed: of all that is in it the archive tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootMetadata {
    /// Its permissions.
    pub mode: u32,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// When it was changed, in seconds since 1970 and nanoseconds.
    pub mtime: (i64, i64),
}

impl RootMetadata {
    /// Of a directory.
    ///
    /// # Errors
    /// What asking meets.
    pub fn of(directory: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(directory)?;
        Ok(Self {
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }

    fn give(self, directory: &Path) -> io::Result<()> {
        std::os::unix::fs::chown(directory, Some(self.uid), Some(self.gid))?;
        fs::set_permissions(directory, fs::Permissions::from_mode(self.mode))?;
        let (tv_sec, tv_nsec) = self.mtime;
        let modified = Timespec { tv_sec, tv_nsec };
        let times = Timestamps {
            last_access: modified,
            last_modification: modified,
        };
        Ok(rustix::fs::utimensat(
            CWD,
            directory,
            &times,
            AtFlags::empty(),
        )?)
    }
}

/// Content that no cache mount has yet. Deleted in the background when this goes.
pub struct Staged {
    directory: PathBuf,
    root: RootMetadata,
    _pin: Pin,
}

impl CacheMounts {
    /// Makes the files of an archive's chunks, for a cache mount to be filled with. Blocks.
    ///
    /// # Errors
    /// [`ArchiveError`]; then nothing is left of it.
    pub fn stage(
        &self,
        space: &Space,
        root: RootMetadata,
        chunks: impl Read,
    ) -> Result<Staged, ArchiveError> {
        let inner = &self.0;
        let failed = |error: CacheMountError| ArchiveError::Chunk(io::Error::other(error));
        let id = inner
            .sequence
            .next()
            .map_err(|error| failed(error.into()))?;
        let id = crate::object::SnapshotId(id);
        let pin = inner.pins.pin(Object::Snapshot(id));
        let directory = self.directory(id);
        fs::create_dir_all(&directory).map_err(ArchiveError::Chunk)?;
        unpack(chunks, &directory, space.growing())?;
        Ok(Staged {
            directory,
            root,
            _pin: pin,
        })
    }
}

impl Staged {
    /// Puts the content into a directory in which there are no files; into the first one, if there are several. Blocks.
    ///
    /// # Errors
    /// What looking and moving meet.
    pub fn fill(&self, directory: &Path) -> io::Result<()> {
        // What the mount began with wins.
        match is_bare(directory)? {
            true => self.move_into(directory),
            false => Ok(()),
        }
    }

    fn move_into(&self, directory: &Path) -> io::Result<()> {
        let entries = fs::read_dir(&self.directory)?.collect::<io::Result<Vec<_>>>()?;
        if entries.is_empty() {
            return Ok(());
        }
        let to = fs::File::open(directory)?;
        for entry in entries {
            let name = entry.file_name();
            // Directories that the mount began with are in what was made of them, too.
            remove_at(to.as_fd(), &name)?;
            fs::rename(entry.path(), directory.join(&name))?;
        }
        self.root.give(directory)
    }
}

/// Whether there is nothing in a directory but directories.
pub(super) fn is_bare(directory: &Path) -> io::Result<bool> {
    let mut waiting = vec![directory.to_owned()];
    while let Some(next) = waiting.pop() {
        let entries = match fs::read_dir(&next) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                return Ok(false);
            }
            waiting.push(entry.path());
        }
    }
    Ok(true)
}

impl std::fmt::Debug for Staged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Staged({})", self.directory.display())
    }
}
