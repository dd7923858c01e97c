//! Space put by for a disk that has none left: without it, a state directory on a full disk could not be
//! opened, and so nothing in it could be removed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

/// Enough for the database to start, and for the records of what is removed, in bytes.
const SIZE: u64 = 4 << 20;
/// Free space above which the reserve is made, in bytes: it must not be what fills a disk.
const PLENTY: u64 = 4 * SIZE;
/// Free space below which the database may fail to open or to write, in bytes.
pub(crate) const NO_SPACE: u64 = SIZE / 2;
/// What a reserve that is put back leaves for the small things that a process still writes, in bytes.
const LEFT: u64 = 256 << 10;

/// The smallest reserve that is put back, in bytes.
const LEAST: u64 = 64 << 10;

fn path(root: &Path) -> PathBuf {
    root.join("reserve")
}

/// How many bytes this user can still write to the disk.
pub(crate) fn free_space(root: &Path) -> io::Result<u64> {
    let space = rustix::fs::statvfs(root)?;
    if space.f_blocks == 0 {
        // A file system that does not tell.
        return Ok(u64::MAX);
    }
    Ok(space.f_bavail.saturating_mul(space.f_frsize))
}

/// How many bytes [`make`] is still to put by.
pub(crate) fn missing(root: &Path) -> u64 {
    let there = fs::metadata(path(root)).map_or(0, |reserve| reserve.len());
    SIZE.saturating_sub(there)
}

/// Puts the space by, if it is not, or not all of it, and the disk has plenty.
pub(crate) fn make(root: &Path) -> io::Result<()> {
    if missing(root) == 0 || free_space(root)? < PLENTY {
        return Ok(());
    }
    put_by(root, SIZE)
}

/// Puts by what is left of a reserve that was spent, so that it serves again.
fn put_back(root: &Path) -> io::Result<()> {
    if path(root).exists() {
        return Ok(());
    }
    let space = rustix::fs::statvfs(root)?;
    // What is kept from others on some file systems is there for root alone, who may have filled the disk up to it.
    for free in [space.f_bfree, space.f_bavail] {
        let free = free.saturating_mul(space.f_frsize);
        let mut size = SIZE.min(free.saturating_sub(LEFT));
        // Others may take some of it meanwhile; less is better than none.
        while size >= LEAST {
            match put_by(root, size) {
                Err(error) if error.kind() == io::ErrorKind::StorageFull => size /= 2,
                done => return done,
            }
        }
    }
    Ok(())
}

fn put_by(root: &Path, size: u64) -> io::Result<()> {
    let path = path(root);
    // Renamed when it is whole: what a kill leaves half made must not count.
    let new = path.with_extension("new");
    let file = File::create(&new)?;
    match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size) {
        Ok(()) => fs::rename(&new, &path),
        Err(errno) => {
            fs::remove_file(&new)?;
            match errno {
                // The file system cannot put space by.
                Errno::OPNOTSUPP => Ok(()),
                errno => Err(errno.into()),
            }
        }
    }
}

/// Room on a full disk for the records of what is opened or removed: the reserve, until this is dropped.
pub(crate) struct Room<'a> {
    root: &'a Path,
    spent: bool,
}

impl<'a> Room<'a> {
    /// Spends the reserve if the disk has no space.
    pub(crate) fn make(root: &'a Path) -> io::Result<Self> {
        let spent = free_space(root)? < NO_SPACE
            && match fs::remove_file(path(root)) {
                Ok(()) => true,
                Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                Err(error) => return Err(error),
            };
        Ok(Self { root, spent })
    }

    /// Whether the disk had no space.
    pub(crate) const fn is_spent(&self) -> bool {
        self.spent
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if self.spent
            && let Err(error) = put_back(self.root)
        {
            tracing::warn!(%error, "cannot put space by again for a full disk");
        }
    }
}
