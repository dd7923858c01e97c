//! Layers that mean the same over whatever they are mounted.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::changes::Change;
use super::node::{Node, names, opaque_attribute, open_directory_at, xattr_at};
use super::record::Origin;
use super::store::open;
use super::{SnapshotError, SnapshotRef};

/// Whether an overlay's layer removes nothing, and has nothing that it did not change: what was
/// only copied up would hide what others have there. An overlay marks each new directory as hiding all
/// that is below it, also where nothing is; such marks are taken away here, since they mean
/// nothing where they are and would mean something elsewhere.
pub(super) fn is_simple(layer: &SnapshotRef) -> Result<bool, SnapshotError> {
    if matches!(layer.record().origin, Origin::Difference { .. }) {
        return Ok(false);
    }
    let id = layer.id();
    let attribute = opaque_attribute(layer.userxattr());
    let below = layer.parents().first().map(SnapshotRef::root).transpose()?;
    let files = layer.files();
    let mut ahead = vec![(open(id, &files)?, Vec::new())];
    let mut entries = 0_usize;
    while let Some((directory, path)) = ahead.pop() {
        let fault = |action| SnapshotError::file(id, action, OsStr::from_bytes(&path));
        for name in names(&directory).map_err(fault("list"))? {
            let node = Node::at(&directory, &name).map_err(fault("read"))?;
            if node.is_whiteout() {
                return Ok(false);
            }
            entries += 1;
            if !node.is_directory() {
                continue;
            }
            let mut child = path.clone();
            if !child.is_empty() {
                child.push(b'/');
            }
            child.extend_from_slice(name.as_bytes());
            let opened = open_directory_at(&directory, &name).map_err(fault("open"))?;
            let opaque = xattr_at(&directory, &name, attribute).map_err(fault("read"))?;
            if opaque.is_some() {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
                let hidden = below.as_ref().map(|below| {
                    let path = OsStr::from_bytes(&child);
                    rustix::fs::openat2(below, path, flags, Mode::empty(), resolve)
                });
                match hidden {
                    None | Some(Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) => {}
                    Some(Ok(_)) => return Ok(false),
                    Some(Err(errno)) => return Err(fault("open")(errno.into())),
                }
                rustix::fs::fremovexattr(&opened, attribute)
                    .map_err(|errno| fault("change an attribute of")(errno.into()))?;
            }
            ahead.push((opened, child));
        }
    }
    if below.is_none() {
        return Ok(true);
    }
    let mut put = 0_usize;
    layer.changes(|change| {
        put += usize::from(matches!(change, Change::Put(_)));
        Ok(())
    })?;
    Ok(put == entries)
}
