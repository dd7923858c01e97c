use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::snapshot::remove::{remove_at, remove_some_at};

/// Deleting waits for the medium where blocks are discarded at once: threads wait together.
const MAX_THREADS: usize = 8;
/// Below so many entries for each, more threads are not worth starting.
const PER_THREAD: usize = 16;

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
        // Something else in its place is not worth more than what is in it.
        if fs::symlink_metadata(&directory).is_ok() && !directory.is_dir() {
            tracing::warn!(path = %directory.display(), "it is no directory, and is deleted");
            fs::remove_file(&directory)?;
        }
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

    /// Deletes all that was taken, but begins with nothing more after a moment; whether it came to its end.
    pub(crate) fn empty(&self, until: Option<Instant>) -> io::Result<bool> {
        let _turn = self.emptying.lock().unwrap_or_else(PoisonError::into_inner);
        let names = fs::read_dir(&self.directory)?
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<io::Result<Vec<_>>>()?;
        Ok(delete(&self.directory, &names, until)? == names.len())
    }

    /// Deletes what was taken, but at most so many files.
    pub(crate) fn empty_some(&self, mut files: usize) -> io::Result<()> {
        let _turn = self.emptying.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = File::open(&self.directory)?;
        for entry in fs::read_dir(&self.directory)? {
            if !remove_some_at(directory.as_fd(), &entry?.file_name(), &mut files)? {
                break;
            }
        }
        Ok(())
    }

    fn unused_name(&self) -> String {
        let process = std::process::id();
        format!("{process}-{}", self.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// Deletes files and trees of a directory on several threads, beginning with none after a moment; how many of
/// the names, from the first one on, are gone.
pub(crate) fn delete(
    directory: &Path,
    names: &[OsString],
    until: Option<Instant>,
) -> io::Result<usize> {
    if names.is_empty() {
        return Ok(0);
    }
    let directory = match File::open(directory) {
        Ok(directory) => directory,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(names.len()),
        Err(error) => return Err(error),
    };
    let threads = (names.len() / PER_THREAD).clamp(1, MAX_THREADS);
    let next = AtomicUsize::new(0);
    let remove = || -> io::Result<()> {
        while until.is_none_or(|until| Instant::now() < until)
            && let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed))
        {
            remove_at(directory.as_fd(), name)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(remove)).collect();
        let own = remove();
        let joined = others.into_iter().map(|thread| match thread.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        std::iter::once(own)
            .chain(joined)
            .collect::<io::Result<()>>()
    })?;
    Ok(next.into_inner().min(names.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_is_deleted_and_the_rest_is_left_for_later() {
        let root = tempfile::tempdir().unwrap();
        let trash = Trash::open(root.path(), 1).unwrap();
        for number in 0..10 {
            let tree = root.path().join("tree");
            fs::create_dir(&tree).unwrap();
            fs::write(tree.join(number.to_string()), "").unwrap();
            trash.take(&tree).unwrap();
        }
        let left = || fs::read_dir(trash.directory()).unwrap().count();
        trash.empty_some(7).unwrap();
        assert_eq!(left(), 7);
        trash.empty_some(100).unwrap();
        assert_eq!(left(), 0);
    }

    #[test]
    fn what_is_no_directory_in_its_place_goes() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("trash");
        fs::write(root.path().join("kept"), "kept").unwrap();
        fs::write(&path, "odd").unwrap();
        assert!(Trash::open(root.path(), 1).unwrap().empty(None).unwrap());
        fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink("kept", &path).unwrap();
        assert!(Trash::open(root.path(), 1).unwrap().empty(None).unwrap());
        assert!(path.is_dir() && root.path().join("kept").exists());
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
        assert!(trash.empty(None).unwrap());
        assert!(root.path().join("kept/file").exists());
    }
}
