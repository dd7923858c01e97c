//! How much of the disk trees take.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::Path;

use super::SnapshotError;
use super::node::{Node, names, open_directory_at};
use super::store::open;
use crate::object::SnapshotId;

/// The bytes on disk of all that is in a directory; a file with several names counts once.
pub(super) fn of_tree(id: SnapshotId, path: &Path) -> Result<u64, SnapshotError> {
    let fault = |action| SnapshotError::file(id, action, path);
    let mut seen = HashSet::new();
    let mut total = 0;
    let mut ahead: Vec<OwnedFd> = vec![open(id, path)?];
    while let Some(directory) = ahead.pop() {
        for name in names(&directory).map_err(fault("list"))? {
            let node = match Node::at(&directory, &name) {
                Ok(node) => node,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(fault("read")(error)),
            };
            if node.links < 2 || node.is_directory() || seen.insert(node.inode) {
                total += node.allocated;
            }
            if node.is_directory() {
                ahead
                    .push(open_directory_at(&directory, OsStr::new(&name)).map_err(fault("open"))?);
            }
        }
    }
    Ok(total)
}
