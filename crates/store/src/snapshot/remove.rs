//! Removing trees, however deep.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::node::{names, open_directory_at};

/// At this depth a directory is moved up to the top, so that descriptors do not run out.
const MAX_DEPTH: usize = 64;

/// Removes a name and all that is below it, not through symlinks. A name that is not there is
/// removed already.
pub(crate) fn remove_at(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    remove_some_at(directory, name, &mut { usize::MAX }).map(drop)
}

/// As [`remove_at`], but gives up after `left` names, which it counts down; whether all is gone.
pub(crate) fn remove_some_at(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    left: &mut usize,
) -> io::Result<bool> {
    if !take_one(left) {
        return Ok(false);
    }
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let top = open_directory_at(directory, name)?;
    if !empty(&top, left)? {
        return Ok(false);
    }
    drop(top);
    rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR)?;
    Ok(true)
}

/// Removes all that is in a directory, up to `left` names; whether all is gone.
fn empty(top: &OwnedFd, left: &mut usize) -> io::Result<bool> {
    let mut stack: Vec<Level> = Vec::new();
    let mut here = Level::open(top, OsStr::new("."))?;
    let mut moved = 0u64;
    loop {
        let Some(name) = here.names.pop() else {
            let Some(above) = stack.pop() else {
                return Ok(true);
            };
            let emptied = std::mem::replace(&mut here, above);
            rustix::fs::unlinkat(&here.directory, &emptied.name, AtFlags::REMOVEDIR)?;
            continue;
        };
        if !take_one(left) {
            return Ok(false);
        }
        match rustix::fs::unlinkat(&here.directory, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(errno) => return Err(errno.into()),
        }
        match rustix::fs::unlinkat(&here.directory, &name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        if stack.len() < MAX_DEPTH {
            let below = Level::open(&here.directory, &name)?;
            stack.push(std::mem::replace(&mut here, below));
            continue;
        }
        let aside = loop {
            moved += 1;
            let aside = OsString::from(format!(".removed-{moved}"));
            let flags = rustix::fs::RenameFlags::NOREPLACE;
            match rustix::fs::renameat_with(&here.directory, &name, top, &aside, flags) {
                Ok(()) => break aside,
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        };
        if let Some(first) = stack.first_mut() {
            first.names.push(aside);
        }
    }
}

fn take_one(left: &mut usize) -> bool {
    let taken = left.checked_sub(1);
    *left = taken.unwrap_or(0);
    taken.is_some()
}

/// A directory whose names are being removed.
struct Level {
    name: OsString,
    directory: OwnedFd,
    names: Vec<OsString>,
}

impl Level {
    fn open(parent: impl AsFd, name: &OsStr) -> io::Result<Self> {
        let directory = open_directory_at(parent, name)?;
        Ok(Self {
            name: name.to_owned(),
            names: names(&directory)?,
            directory,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, Mode};
    use std::fs;

    #[test]
    fn deep_and_wide_trees_go_and_what_symlinks_name_stays() {
        let root = tempfile::tempdir().unwrap();
        let kept = root.path().join("kept");
        fs::create_dir_all(kept.join("inner")).unwrap();
        let tree = root.path().join("tree");
        fs::create_dir(&tree).unwrap();
        std::os::unix::fs::symlink(&kept, tree.join("link")).unwrap();
        for index in 0..50 {
            fs::create_dir_all(tree.join(format!("wide/{index}/x"))).unwrap();
            fs::write(tree.join(format!("wide/{index}/file")), "x").unwrap();
        }
        // Deeper than descriptors go and than a path can say.
        let mut here = open_directory_at(CWD, tree.as_os_str()).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&here, "deep", Mode::RWXU).unwrap();
            rustix::fs::symlinkat(&kept, &here, "link-too").ok();
            here = open_directory_at(&here, OsStr::new("deep")).unwrap();
        }
        let parent = open_directory_at(CWD, root.path().as_os_str()).unwrap();
        remove_at(parent.as_fd(), OsStr::new("tree")).unwrap();
        remove_at(parent.as_fd(), OsStr::new("tree")).unwrap();
        assert!(!tree.exists());
        assert!(kept.join("inner").exists());
    }
}
