//! Copying files with all their metadata, sharing blocks where the file system can.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, SeekFrom, Uid};
use rustix::io::Errno;

use super::node::{Node, Xattrs, is_overlay_attribute, set_xattr_at, xattrs_at, xattrs_of};

/// Copies the file of a path descriptor (not a directory) to a new name with all its metadata.
pub(crate) fn copy_node(
    file: BorrowedFd<'_>,
    node: &Node,
    directory: BorrowedFd<'_>,
    name: &OsStr,
) -> io::Result<()> {
    let place = format!("/proc/self/fd/{}", file.as_raw_fd());
    let mut xattrs = Xattrs::new();
    match node.kind {
        FileType::RegularFile => {
            let source =
                rustix::fs::openat(CWD, &place, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            xattrs = xattrs_of(&source)?;
            let target = create(directory, name)?;
            copy_content(&source, &target, node.size)?;
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(file, "", Vec::new())?;
            rustix::fs::symlinkat(target.as_c_str(), directory, name)?;
        }
        kind => make_special(directory, name, kind, node.device)?,
    }
    set_metadata(directory, name, node, &xattrs)
}

/// Copies a name of a directory (not a directory itself) to a new name with all its metadata.
pub(crate) fn copy_at(
    from: BorrowedFd<'_>,
    from_name: &OsStr,
    node: &Node,
    to: BorrowedFd<'_>,
    to_name: &OsStr,
) -> io::Result<()> {
    let xattrs = xattrs_at(from, from_name)?;
    match node.kind {
        FileType::RegularFile => {
            let source = super::node::open_file_at(from, from_name)?;
            let target = create(to, to_name)?;
            copy_content(&source, &target, node.size)?;
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from, from_name, Vec::new())?;
            rustix::fs::symlinkat(target.as_c_str(), to, to_name)?;
        }
        kind => make_special(to, to_name, kind, node.device)?,
    }
    set_metadata(to, to_name, node, &xattrs)
}

fn create(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(
        directory,
        name,
        OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::RUSR | Mode::WUSR,
    )?)
}

fn make_special(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    kind: FileType,
    (major, minor): (u32, u32),
) -> io::Result<()> {
    let device = rustix::fs::makedev(major, minor);
    let mode = Mode::RUSR | Mode::WUSR;
    Ok(rustix::fs::mknodat(directory, name, kind, mode, device)?)
}

/// Gives a name the metadata of a node, its overlay marks excepted.
pub(crate) fn set_metadata(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    node: &Node,
    xattrs: &Xattrs,
) -> io::Result<()> {
    set_ownership(directory, name, node, xattrs)?;
    let times = node.mtime.timestamps();
    Ok(rustix::fs::utimensat(
        directory,
        name,
        &times,
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

/// Gives a name the metadata of a node but for its times.
pub(crate) fn set_ownership(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    node: &Node,
    xattrs: &Xattrs,
) -> io::Result<()> {
    let owner = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
    rustix::fs::chownat(
        directory,
        name,
        Some(owner.0),
        Some(owner.1),
        AtFlags::SYMLINK_NOFOLLOW,
    )?;
    // Changing the owner drops capabilities and set-id bits, so they come after it.
    for (attribute, value) in xattrs {
        if is_overlay_attribute(attribute) {
            continue;
        }
        match set_xattr_at(directory, name, attribute, value) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            // Labels of the security system in force are set by it, not by us.
            Err(Errno::PERM | Errno::ACCESS) if attribute != b"security.capability" => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    if !node.is_symlink() {
        let mode = Mode::from_raw_mode(node.mode);
        rustix::fs::chmodat(directory, name, mode, AtFlags::empty())?;
    }
    Ok(())
}

/// Copies the content of a file to an empty one: by sharing its blocks, or else in the kernel,
/// keeping holes.
pub(crate) fn copy_content(from: &OwnedFd, to: &OwnedFd, size: u64) -> io::Result<()> {
    if size == 0 || rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let mut at = 0;
    while at < size {
        let (start, end) = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => (start, rustix::fs::seek(from, SeekFrom::Hole(start))?),
            Err(Errno::NXIO) => break,
            // The file system knows no holes.
            Err(Errno::INVAL) => (at, size),
            Err(errno) => return Err(errno.into()),
        };
        if start >= size {
            break;
        }
        copy_range(from, to, start, end.min(size))?;
        at = end;
    }
    rustix::fs::ftruncate(to, size)?;
    Ok(())
}

fn copy_range(from: &OwnedFd, to: &OwnedFd, start: u64, end: u64) -> io::Result<()> {
    let (mut read, mut written) = (start, start);
    while written < end {
        let length = usize::try_from(end - written).unwrap_or(usize::MAX);
        match rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut written), length) {
            // The file became shorter.
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::NOSYS | Errno::INVAL | Errno::OPNOTSUPP) => {
                return copy_by_hand(from.as_fd(), to.as_fd(), written, end);
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn copy_by_hand(from: BorrowedFd<'_>, to: BorrowedFd<'_>, mut at: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    while at < end {
        let room = buffer
            .len()
            .min(usize::try_from(end - at).unwrap_or(usize::MAX));
        let count = rustix::io::retry_on_intr(|| rustix::io::pread(from, &mut buffer[..room], at))?;
        if count == 0 {
            return Ok(());
        }
        let mut piece = &buffer[..count];
        while !piece.is_empty() {
            let count = rustix::io::retry_on_intr(|| rustix::io::pwrite(to, piece, at))?;
            piece = &piece[count..];
            at += count as u64;
        }
    }
    Ok(())
}
