//! Space put by for a disk that has none left: without it, a state directory on a full disk could not be
//! opened, and so nothing in it could be removed.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

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

/// Puts the space by, if it is not and the disk has plenty.
pub(crate) fn make(root: &Path) -> io::Result<()> {
    let path = path(root);
    if path.exists() || free_space(root)? < PLENTY {
        return Ok(());
    }
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)?;
    match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, SIZE) {
        Ok(()) => Ok(()),
        Err(errno) => {
            // Half a reserve, or an empty file where the file system cannot put space by, is none.
            fs::remove_file(&path)?;
            match errno {
                rustix::io::Errno::OPNOTSUPP => Ok(()),
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
