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

fn path(root: &Path) -> PathBuf {
    root.join("reserve")
}

/// How many bytes this user can still write to the disk.
pub(crate) fn free_space(root: &Path) -> io::Result<u64> {
    let space = rustix::fs::statvfs(root)?;
    Ok(space.f_bavail.saturating_mul(space.f_frsize))
}

/// How many bytes [`make`] is still to put by.
pub(crate) fn missing(root: &Path) -> u64 {
    if path(root).exists() { 0 } else { SIZE }
}

/// Puts the space by, if it is not and the disk has plenty.
pub(crate) fn make(root: &Path) -> io::Result<()> {
    let path = path(root);
    if path.exists() || free_space(root)? < PLENTY {
        return Ok(());
    }
    // Renamed when it is whole: what a kill leaves half made must not count.
    let new = path.with_extension("new");
    let file = File::create(&new)?;
    match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, SIZE) {
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

/// Gives the space back; whether there was any.
pub(crate) fn spend(root: &Path) -> io::Result<bool> {
    match fs::remove_file(path(root)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
