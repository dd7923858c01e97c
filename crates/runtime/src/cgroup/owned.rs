//! Which process has steps in the cgroups of a state directory.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, flock, openat, unlinkat};
use rustix::io::Errno;

use super::earlier::{self, State};
use super::group::children;
use crate::error::RuntimeError;

/// How often a directory is made while others remove it, since it is empty.
const TRIES: usize = 10;

/// How often, and how long after one another, it is looked whether a directory can be locked: to remove one takes no longer.
const LOOKS: u32 = 20;
const LOOK: Duration = Duration::from_millis(10);

/// How many cgroups of earlier versions are looked at in one hierarchy at a time: there may be thousands, and a build waits for it.
const EARLIER_LOOKS: u32 = 2;

/// The directories that this process has cgroups of steps in, each with a shared lock on it: it ends with the process, however that
/// ends, and holds from one container to the other.
#[derive(Debug, Default)]
pub(super) struct Owned(Mutex<HashMap<PathBuf, File>>);

impl Owned {
    /// Sees to it that a directory, which `make` makes, is ours as long as this process lives.
    pub(super) fn claim(
        &self,
        directory: &Path,
        make: impl Fn() -> Result<(), RuntimeError>,
    ) -> Result<(), RuntimeError> {
        for _ in 0..TRIES {
            match self.hold(directory) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(source) => {
                    return Err(RuntimeError::Cgroup {
                        path: directory.to_owned(),
                        action: "lock",
                        source,
                    });
                }
            }
            match make() {
                Err(error) if !is_absent(&error) => return Err(error),
                _ => {}
            }
        }
        // Whoever makes a cgroup in it says why that cannot be.
        Ok(())
    }

    /// Locks a directory; whether it is there still.
    fn hold(&self, directory: &Path) -> io::Result<bool> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = held.get(directory)
            && is_same(file, directory)
        {
            return Ok(true);
        }
        let file = match open(directory) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        };
        // Who has it alone removes it, or is somebody who means no good: then it is used as it is.
        let is_locked = locked(&file)?;
        if !is_same(&file, directory) {
            return Ok(false);
        }
        if is_locked {
            held.insert(directory.to_owned(), file);
        }
        Ok(true)
    }
}

/// Tries for a moment to lock a directory together with others; whether that could be.
fn locked(file: &File) -> io::Result<bool> {
    for _ in 0..LOOKS {
        match flock(file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) => std::thread::sleep(LOOK),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(false)
}

fn is_absent(error: &RuntimeError) -> bool {
    match error {
        RuntimeError::Cgroup { source, .. } => source.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}

fn open(directory: &Path) -> Result<File, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(CWD, directory, flags, Mode::empty()).map(File::from)
}

fn is_same(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

/// Removes what is left, beside the cgroups of one state directory, of others whose processes are gone: what is empty, and has a name
/// of ours. What cannot be removed stays.
pub(super) fn remove_left(own: &Path) {
    let (Some(all), Some(tag)) = (own.parent(), own.file_name()) else {
        return;
    };
    let mut earlier_looks = 0;
    let mut directories: Vec<_> = children(all).into_iter().collect();
    // Each time others come first, so that none waits behind those that stay.
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let first = since.map_or(0, |since| since.subsec_micros() as usize) % directories.len().max(1);
    directories.rotate_left(first);
    for directory in directories {
        let name = directory.file_name().unwrap_or_default();
        let Some(name) = name.to_str().filter(|_| name != tag) else {
            continue;
        };
        // The lock is held until it is removed.
        let mut lock = None;
        let is_left = match state_of(name) {
            Some(_) => {
                lock = open(&directory).ok();
                let alone = |file| flock(file, FlockOperation::NonBlockingLockExclusive).is_ok();
                lock.as_ref().is_some_and(alone)
            }
            None if earlier_looks == EARLIER_LOOKS => false,
            None => earlier::state(name).is_some_and(|state| {
                earlier_looks += 1;
                earlier::is_left(&directory, state)
            }),
        };
        if !is_left {
            continue;
        }
        // Inner ones, too, which an insecure step may have made. Those with processes are busy, and stay.
        let mut found = vec![directory];
        let mut next = 0;
        while let Some(one) = found.get(next).cloned() {
            next += 1;
            found.extend(children(&one));
        }
        for one in found.iter().rev() {
            if unlinkat(CWD, one, AtFlags::REMOVEDIR).is_err() {
                break;
            }
        }
        drop(lock);
    }
}

/// What the name of a directory ends with that its owner has locked: an earlier version does not lock its own.
const LOCKED: &str = ".locked";

/// What stands for a state directory, by its file system and inode.
pub(crate) fn tag(device: u64, inode: u64) -> String {
    format!("{device:x}-{inode:x}{LOCKED}")
}

/// What a name stands for, if it is one that [`tag`] gives.
fn state_of(name: &str) -> Option<State> {
    earlier::state(name.strip_suffix(LOCKED)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_others_are_none_of_ours() {
        assert_eq!(state_of(&tag(0xfe01, 937)), Some((0xfe01, 937)));
        for other in [
            "",
            "a-1",
            "-.locked",
            "a-.locked",
            "-1.locked",
            "A-1.locked",
            "x.slice",
        ] {
            assert_eq!(state_of(other), None, "{other}");
        }
    }
}
