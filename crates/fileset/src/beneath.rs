//! Opening what lies beneath a directory, through no symbolic link.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;

use crate::entry::Metadata;

/// The kernel takes paths of less than 4,096 bytes with their end; longer ones go in pieces.
const MAX_PIECE: usize = 4000;

/// Opens `path` beneath `root` with `flags` (plus close-on-exec). No component may be a symbolic
/// link or lead out of the root. The empty path and `.` are the root itself.
pub fn open_beneath(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut rest = path.as_os_str().as_bytes();
    let mut dir: Option<OwnedFd> = None;
    while rest.len() > MAX_PIECE {
        let Some(cut) = rest[..MAX_PIECE].iter().rposition(|byte| *byte == b'/') else {
            return Err(Errno::NAMETOOLONG);
        };
        let from = dir.as_ref().map_or(root, AsFd::as_fd);
        let next = open_piece(from, &rest[..cut], OFlags::PATH | OFlags::DIRECTORY)?;
        dir = Some(next);
        rest = &rest[cut + 1..];
    }
    open_piece(dir.as_ref().map_or(root, AsFd::as_fd), rest, flags)
}

fn open_piece(dir: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::CLOEXEC;
    loop {
        match rustix::fs::openat2(dir, OsStr::from_bytes(path), flags, Mode::empty(), resolve) {
            // A concurrent rename somewhere made the lookup uncertain; the kernel asks to retry.
            Err(Errno::AGAIN) => {}
            result => return result,
        }
    }
}

/// The metadata of `name` in the directory `dir`, of a symbolic link itself.
pub fn metadata_at(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Metadata, Errno> {
    // Without this flag a network file system would be asked anew for each file.
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC;
    let stat = rustix::fs::statx(dir, name, flags, StatxFlags::BASIC_STATS)?;
    Ok(Metadata::from(&stat))
}
