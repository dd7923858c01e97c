//! Extended attributes of paths and of open files.

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

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
