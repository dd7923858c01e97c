//! Removing trees, however deep.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::node::{names, open_directory_at};

/// At this depth a directory is moved up to the top, so that descriptors do not run out.
const MAX_DEPTH: usize = 64;

/// Removes a name and all that is below it, not through symlinks. What is not there is removed
/// already, also where another thread takes it away meanwhile.
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
    let Some(top) = unless_gone(open_directory_at(directory, name))? else {
        return Ok(true);
    };
    if !empty(&top, left)? {
        return Ok(false);
    }
    drop(top);
    remove_empty(directory, name)?;
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
            remove_empty(&here.directory, &emptied.name)?;
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
            if let Some(below) = unless_gone(Level::open(&here.directory, &name))? {
                stack.push(std::mem::replace(&mut here, below));
            }
            continue;
        }
        let aside = loop {
            moved += 1;
            let aside = OsString::from(format!(".removed-{moved}"));
            let flags = rustix::fs::RenameFlags::NOREPLACE;
            match rustix::fs::renameat_with(&here.directory, &name, top, &aside, flags) {
                Ok(()) => break Some(aside),
                Err(Errno::EXIST) => {}
                Err(Errno::NOENT) => break None,
                Err(errno) => return Err(errno.into()),
            }
        };
        if let (Some(aside), Some(first)) = (aside, stack.first_mut()) {
            first.names.push(aside);
        }
    }
}

fn remove_empty(directory: impl AsFd, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Nothing for what is not there any more.
fn unless_gone<T>(opened: io::Result<T>) -> io::Result<Option<T>> {
    match opened {
        Ok(opened) => Ok(Some(opened)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
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
    fn several_threads_remove_the_same_trees() {
        let root = tempfile::tempdir().unwrap();
        for round in 0..20 {
            let tree = root.path().join("tree");
            for number in 0..40 {
                fs::create_dir_all(tree.join(format!("a{number}/b/c"))).unwrap();
                fs::write(tree.join(format!("a{number}/b/file")), "").unwrap();
            }
            std::thread::scope(|scope| {
                let remove = || {
                    let directory = fs::File::open(root.path()).unwrap();
                    remove_at(directory.as_fd(), OsStr::new("tree"))
                };
                let all: Vec<_> = (0..3).map(|_| scope.spawn(remove)).collect();
                for thread in all {
                    thread.join().unwrap().unwrap();
                }
            });
            assert!(!tree.exists(), "round {round}");
        }
    }

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
