//! Extended attributes by path.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::Errno;

use crate::entry::Xattr;

/// The kernel's limit on a list of names and on a value.
const MAX_XATTR: usize = 64 * 1024;

/// The extended attributes of `path` (of a link itself) by name; none where the file system has no
/// such thing.
pub fn read_xattrs(path: &Path) -> Result<Vec<Xattr>, Errno> {
    // Most files have none: ask with a buffer on the stack first.
    let mut small = [0_u8; 256];
    let mut large = Vec::new();
    let names: &[u8] = match rustix::fs::llistxattr(path, &mut small[..]) {
        Ok(len) => small.get(..len).unwrap_or_default(),
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Err(Errno::RANGE) => {
            large.resize(MAX_XATTR, 0);
            let len = rustix::fs::llistxattr(path, &mut large[..])?;
            large.get(..len).unwrap_or_default()
        }
        Err(error) => return Err(error),
    };
    let mut xattrs = Vec::new();
    for name in names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let name = OsStr::from_bytes(name);
        match read_value(path, name) {
            Ok(value) => xattrs.push((name.to_owned(), value)),
            // Gone meanwhile, or not for us to read.
            Err(Errno::NODATA | Errno::NOTSUP | Errno::ACCESS | Errno::PERM) => {}
            Err(error) => return Err(error),
        }
    }
    xattrs.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(xattrs)
}

fn read_value(path: &Path, name: &OsStr) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0; 256];
    let len = match rustix::fs::lgetxattr(path, name, &mut value[..]) {
        Err(Errno::RANGE) => {
            value.resize(MAX_XATTR, 0);
            rustix::fs::lgetxattr(path, name, &mut value[..])?
        }
        result => result?,
    };
    value.truncate(len);
    Ok(value)
}
