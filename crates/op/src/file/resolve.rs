//! Paths of a tree whose symbolic links are resolved as if the tree's root were `/`.
//!
//! Every step opens a single name relative to a directory that is held open and follows nothing,
//! so that no link, whatever it says, leads out of the tree.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use rustix::io::Errno;
use weld_fileset::{Layers, MergedDir};

use super::FileError;

/// Links that one path may go through.
const MAX_LINKS: usize = 255;

/// What happens to a symbolic link at the end of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LastLink {
    Follow,
    Keep,
}

/// `path` as it really is in `tree`: relative, without links, `.` and `..`. From the first
/// component on that does not exist the rest is taken by its text.
pub(crate) fn resolve(
    tree: &Layers,
    path: impl AsRef<Path>,
    last: LastLink,
) -> Result<PathBuf, FileError> {
    let root = tree
        .root()
        .map_err(|error| FileError::io("open", path.as_ref(), error))?;
    resolve_in(&root, path, last)
}

/// The same with the directory `root` of a tree as `/`.
pub(crate) fn resolve_in(
    root: &MergedDir,
    path: impl AsRef<Path>,
    last: LastLink,
) -> Result<PathBuf, FileError> {
    let path = path.as_ref();
    let fail = |error| FileError::io("resolve", path, error);
    let mut pending: VecDeque<OsString> = split(path.as_os_str().as_bytes()).collect();
    // The directories from the root down to where we are; `real` has one name for each but the
    // first, and then those that do not exist.
    let mut dirs: Vec<MergedDir> = vec![root.clone()];
    let mut real: Vec<OsString> = Vec::new();
    let mut links = 0;
    while let Some(name) = pending.pop_front() {
        if name == ".." {
            real.pop();
            dirs.truncate(real.len() + 1);
            continue;
        }
        // Beneath what is missing nothing can exist.
        let dir = dirs.get(real.len());
        let child = match dir {
            Some(dir) => dir.child(&name).map_err(fail)?,
            None => None,
        };
        let (Some(dir), Some(child)) = (dir, child) else {
            real.push(name);
            continue;
        };
        match child.metadata.file_type() {
            FileType::Symlink if !pending.is_empty() || last == LastLink::Follow => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(fail(Errno::LOOP));
                }
                let target = dir.read_link(&name, child.layer).map_err(fail)?;
                if target.starts_with(b"/") {
                    real.clear();
                    dirs.truncate(1);
                }
                for part in split(&target).collect::<Vec<_>>().into_iter().rev() {
                    pending.push_front(part);
                }
            }
            FileType::Directory => {
                let next = dir.open_dir(&name).map_err(fail)?;
                real.push(name);
                dirs.push(next);
            }
            _ => {
                if pending.iter().any(|part| part != "..") {
                    return Err(fail(Errno::NOTDIR));
                }
                real.push(name);
            }
        }
    }
    Ok(real.iter().collect())
}

fn split(path: &[u8]) -> impl Iterator<Item = OsString> + '_ {
    path.split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(|part| OsString::from_vec(part.to_vec()))
}

/// The directory that a real path is in, and its name there; `None` for the root.
pub(crate) fn split_last(real: &Path) -> Option<(&Path, &OsStr)> {
    Some((real.parent()?, real.file_name()?))
}

/// `path` with `/` in front and cleaned as Go's `filepath.Join("/", path)` does, keeping a closing
/// `/` or `/.`, which say that the path is meant as a directory.
pub(crate) fn clean_keeping_end(path: &str) -> String {
    let mut cleaned = weld_fileset::clean(&format!("/{path}"));
    if path.ends_with("/.") {
        if cleaned != "/" {
            cleaned.push('/');
        }
        cleaned.push('.');
    } else if path.ends_with('/') && cleaned != "/" {
        cleaned.push('/');
    }
    cleaned
}

/// The last component of a path as Go's `filepath.Base` has it: closing slashes do not count, a
/// closing `.` does, and the root's is empty here.
pub(crate) fn base_name(path: &Path) -> &OsStr {
    let bytes = path.as_os_str().as_bytes();
    let end = bytes
        .iter()
        .rposition(|byte| *byte != b'/')
        .map_or(0, |last| last + 1);
    let base = bytes
        .get(..end)
        .unwrap_or_default()
        .rsplit(|byte| *byte == b'/')
        .next();
    OsStr::from_bytes(base.unwrap_or_default())
}
