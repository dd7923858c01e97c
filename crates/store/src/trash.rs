use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

/// A directory within a tree that is deeper than this is emptied after the others, so that the
/// depth of a tree costs neither stack nor descriptors.
const MAX_DEPTH: usize = 64;

/// Where files go before they are deleted: taking them there is quick and atomic, deleting them
/// takes its time and may be interrupted.
pub(crate) struct Trash {
    directory: PathBuf,
    next: AtomicU64,
    emptying: Mutex<()>,
}

impl Trash {
    /// `first` is a number that no earlier process used.
    pub(crate) fn open(root: &Path, first: u64) -> io::Result<Self> {
        let directory = root.join("trash");
        fs::create_dir_all(&directory)?;
        Ok(Self {
            directory,
            next: AtomicU64::new(first),
            emptying: Mutex::new(()),
        })
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Takes a file or directory; whether there was one.
    pub(crate) fn take(&self, path: &Path) -> io::Result<bool> {
        match fs::rename(path, self.directory.join(self.unused_name())) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Deletes all that was taken.
    pub(crate) fn empty(&self) -> io::Result<()> {
        let _turn = self.emptying.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let directory = open_directory(rustix::fs::CWD, self.directory.as_os_str())?;
            let entries = list(&directory)?;
            if entries.is_empty() {
                return Ok(());
            }
            for (name, kind) in entries {
                self.delete(&directory, &name, kind)?;
            }
        }
    }

    fn unused_name(&self) -> String {
        let process = std::process::id();
        format!("{process}-{}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    fn delete(&self, trash: &OwnedFd, name: &[u8], kind: FileType) -> io::Result<()> {
        if kind != FileType::Directory {
            return unlink(trash, name);
        }
        let mut path = vec![Level::open(trash, name)?];
        while let Some(mut level) = path.pop() {
            match level.entries.pop() {
                Some((name, FileType::Directory)) if path.len() < MAX_DEPTH => {
                    let below = Level::open(&level.directory, &name)?;
                    path.extend([level, below]);
                }
                Some((name, kind)) => {
                    if kind == FileType::Directory {
                        let unused = self.unused_name();
                        rustix::fs::renameat(&level.directory, name.as_slice(), trash, unused)?;
                    } else {
                        unlink(&level.directory, &name)?;
                    }
                    path.push(level);
                }
                None => {
                    let parent = path.last().map_or(trash, |parent| &parent.directory);
                    rustix::fs::unlinkat(parent, level.name, AtFlags::REMOVEDIR)?;
                }
            }
        }
        Ok(())
    }
}

/// A directory on the way down.
struct Level {
    name: Vec<u8>,
    directory: OwnedFd,
    entries: Entries,
}

type Entries = Vec<(Vec<u8>, FileType)>;

impl Level {
    fn open(parent: &OwnedFd, name: &[u8]) -> io::Result<Self> {
        let directory = open_directory(parent, OsStr::from_bytes(name))?;
        Ok(Self {
            name: name.to_vec(),
            entries: list(&directory)?,
            directory,
        })
    }
}

fn open_directory(parent: impl AsFd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || rustix::fs::openat(&parent, name, flags, Mode::empty());
    match open() {
        // A directory that its owner may not read, to one who is not root.
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(&parent, name, Mode::RWXU, AtFlags::empty())?;
            Ok(open()?)
        }
        opened => Ok(opened?),
    }
}

fn list(directory: &OwnedFd) -> io::Result<Entries> {
    let mut entries = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => {
                let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode)
            }
            kind => kind,
        };
        entries.push((name.to_vec(), kind));
    }
    Ok(entries)
}

fn unlink(directory: &OwnedFd, name: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::unlinkat(directory, name, AtFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_of_any_depth_is_deleted() {
        let root = tempfile::tempdir().unwrap();
        let trash = Trash::open(root.path(), 1).unwrap();
        let tree = root.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let mut directory = open_directory(rustix::fs::CWD, tree.as_os_str()).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&directory, "d", Mode::RWXU).unwrap();
            let flags = OFlags::CREATE | OFlags::WRONLY;
            rustix::fs::openat(&directory, "f", flags, Mode::RUSR).unwrap();
            directory = open_directory(&directory, OsStr::new("d")).unwrap();
        }
        assert!(trash.take(&tree).unwrap());
        assert!(!trash.take(&tree).unwrap());
        trash.empty().unwrap();
        assert_eq!(fs::read_dir(root.path().join("trash")).unwrap().count(), 0);
    }

    #[test]
    fn what_a_symlink_points_to_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let trash = Trash::open(root.path(), 1).unwrap();
        fs::create_dir(root.path().join("kept")).unwrap();
        fs::write(root.path().join("kept/file"), "").unwrap();
        fs::create_dir(root.path().join("tree")).unwrap();
        std::os::unix::fs::symlink("../../kept", root.path().join("tree/link")).unwrap();
        trash.take(&root.path().join("tree")).unwrap();
        trash.empty().unwrap();
        assert!(root.path().join("kept/file").exists());
    }
}
