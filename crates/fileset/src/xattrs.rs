//! Extended attributes of paths and of open files.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

use crate::entry::Xattr;

/// The kernel's limit on a list of names and on a value.
const MAX_XATTR: usize = 64 * 1024;

/// The extended attributes of `path` (of a link itself) by name; none where the file system has no
/// such thing.
pub fn read_xattrs(path: &Path) -> Result<Vec<Xattr>, Errno> {
    read(
        |buffer| rustix::fs::llistxattr(path, buffer),
        |name, buffer| rustix::fs::lgetxattr(path, name, buffer),
    )
}

/// The same of a path from an open directory.
pub fn read_xattrs_at(directory: BorrowedFd<'_>, path: &Path) -> Result<Vec<Xattr>, Errno> {
    // Most files have none, and are told of without the way through `/proc`, which takes longer
    // than all the rest.
    if is_without_xattrs(directory, path)? {
        return Ok(Vec::new());
    }
    let directory = format!("/proc/self/fd/{}", directory.as_raw_fd());
    read_xattrs(&Path::new(&directory).join(path))
}

/// The number of `listxattrat`, the same on all architectures that have it (Linux 6.13).
const LISTXATTRAT: libc::c_long = 465;

/// Whether the kernel says so; one that cannot tell says no.
fn is_without_xattrs(directory: BorrowedFd<'_>, path: &Path) -> Result<bool, Errno> {
    static MISSING: AtomicBool = AtomicBool::new(false);
    if MISSING.load(Ordering::Relaxed) {
        return Ok(false);
    }
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)?;
    // SAFETY: the path ends with a zero byte and lives as long as the call; without a buffer the
    // kernel writes nothing and returns the length.
    let length = unsafe {
        libc::syscall(
            LISTXATTRAT,
            directory.as_raw_fd(),
            path.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            std::ptr::null_mut::<libc::c_char>(),
            0_usize,
        )
    };
    if length >= 0 {
        return Ok(length == 0);
    }
    let error = std::io::Error::last_os_error();
    match Errno::from_io_error(&error).unwrap_or(Errno::NOSYS) {
        // Older, or forbidden by a filter that does not know it.
        Errno::NOSYS | Errno::PERM => {
            MISSING.store(true, Ordering::Relaxed);
            Ok(false)
        }
        Errno::NOTSUP => Ok(true),
        error => Err(error),
    }
}

/// The extended attributes of an open file by name.
pub fn read_xattrs_of(file: BorrowedFd<'_>) -> Result<Vec<Xattr>, Errno> {
    read(
        |buffer| rustix::fs::flistxattr(file, buffer),
        |name, buffer| rustix::fs::fgetxattr(file, name, buffer),
    )
}

fn read(
    list: impl Fn(&mut [u8]) -> Result<usize, Errno>,
    get: impl Fn(&OsStr, &mut [u8]) -> Result<usize, Errno>,
) -> Result<Vec<Xattr>, Errno> {
    let names = match with_room(list) {
        Ok(names) => names,
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut xattrs = Vec::new();
    for name in names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let name = OsStr::from_bytes(name);
        match with_room(|buffer| get(name, buffer)) {
            Ok(value) => xattrs.push((name.to_owned(), value)),
            // Gone meanwhile, or not for us to read.
            Err(Errno::NODATA | Errno::NOTSUP | Errno::ACCESS | Errno::PERM) => {}
            Err(error) => return Err(error),
        }
    }
    xattrs.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(xattrs)
}

/// What `fill` writes: first into a small buffer on the stack, since most files have next to
/// nothing, and then into one that holds whatever the kernel allows.
fn with_room(fill: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut small = [0; 256];
    match fill(&mut small) {
        Ok(len) => return Ok(small.get(..len).unwrap_or_default().to_vec()),
        Err(Errno::RANGE) => {}
        Err(error) => return Err(error),
    }
    let mut large = vec![0; MAX_XATTR];
    let len = fill(&mut large)?;
    large.truncate(len);
    Ok(large)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_path_from_a_directory_has_what_it_has_by_itself() {
        let root = tempfile::tempdir_in(".").unwrap();
        let inner = root.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        for name in ["with", "without"] {
            std::fs::write(inner.join(name), "").unwrap();
        }
        std::os::unix::fs::symlink("with", inner.join("link")).unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(inner.join("with"), "user.a", b"b", flags).unwrap();
        let directory = std::fs::File::open(root.path()).unwrap();
        let at = |path: &str| read_xattrs_at(directory.as_fd(), Path::new(path));
        assert_eq!(
            at("inner/with").unwrap(),
            [("user.a".into(), b"b".to_vec())]
        );
        assert_eq!(at("inner/without").unwrap(), []);
        assert_eq!(at("inner/link").unwrap(), []);
        assert_eq!(at("inner/missing").unwrap_err(), Errno::NOENT);
    }
}
