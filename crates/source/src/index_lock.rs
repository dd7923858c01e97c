//! The lock of a layout's index. Other writers of it, BuildKit's client among them, hold the same one.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

/// How long others may have the lock: who has it writes an index, or merges one cache into another.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks whether it is free.
const LOOK: Duration = Duration::from_millis(50);

/// Whoever waits for a lock that somebody else has.
pub trait LockWait {
    /// How long at most.
    fn patience(&self) -> Duration {
        PATIENCE
    }

    /// It begins to wait.
    fn begins(&self, lock: &Path);

    /// It has the lock now, after it waited.
    fn ends(&self) {}

    /// Whether it need not go on.
    fn is_stopped(&self) -> bool;
}

/// Why the index of a layout is not ours to write.
#[derive(Debug, thiserror::Error)]
enum LockError {
    #[error(
        "{path} is locked by {holder} since {} s, which writes the index beside it: wait for it to end, or end it, and build again",
        waited.as_secs(), path = path.display()
    )]
    Held {
        path: PathBuf,
        holder: String,
        waited: Duration,
    },
    #[error("stopped while {} was locked by somebody else", .0.display())]
    Stopped(PathBuf),
    #[error("{} is no file, which writers of the index beside it lock: remove it", .0.display())]
    Odd(PathBuf),
}

/// The lock, held as long as this lives. Its file goes with it.
#[derive(Debug)]
pub struct IndexLock {
    file: File,
    path: PathBuf,
}

impl IndexLock {
    /// Waits for the lock of the layout in a directory, which is there. Blocks.
    ///
    /// # Errors
    /// What opening it meets; if others have it for too long ([`io::ErrorKind::TimedOut`]), or if it need not go on
    /// ([`io::ErrorKind::Interrupted`]).
    pub fn take(layout: &Path, wait: &dyn LockWait) -> io::Result<Self> {
        let path = layout.join("index.json.lock");
        let mut began = None;
        loop {
            let file = open(&path)?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // Some remove the file when they are done: then it is another one that the next writer locks.
                Ok(()) if is_still(&file, &path) => {
                    if began.is_some() {
                        wait.ends();
                    }
                    return Ok(Self { file, path });
                }
                Ok(()) => continue,
                Err(Errno::WOULDBLOCK) => {}
                Err(Errno::INTR) => continue,
                // A file system without locks: others have none either.
                Err(Errno::NOSYS | Errno::OPNOTSUPP) => return Ok(Self { file, path }),
                Err(errno) => return Err(at("lock", &path)(errno.into())),
            }
            let began = *began.get_or_insert_with(|| {
                wait.begins(&path);
                Instant::now()
            });
            if wait.is_stopped() {
                return Err(io::Error::new(
                    io::ErrorKind::Interrupted,
                    LockError::Stopped(path),
                ));
            }
            if began.elapsed() >= wait.patience() {
                let held = LockError::Held {
                    holder: holder(&file),
                    waited: wait.patience(),
                    path,
                };
                return Err(io::Error::new(io::ErrorKind::TimedOut, held));
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for IndexLock {
    fn drop(&mut self) {
        // A layout is given to others. Where it cannot be removed, they find an empty file more.
        if is_still(&self.file, &self.path) {
            drop(fs::remove_file(&self.path));
        }
    }
}

/// Opens the file, which is made if it is not there. Something else does not make it wait, as a pipe would.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let odd = || io::Error::other(LockError::Odd(path.to_owned()));
    match rustix::fs::open(path, flags, Mode::from_raw_mode(0o666)) {
        Ok(file) => {
            let file = File::from(file);
            match file.metadata().map_err(at("look at", path))?.is_file() {
                true => Ok(file),
                false => Err(odd()),
            }
        }
        Err(Errno::ISDIR | Errno::NXIO) => Err(odd()),
        Err(errno) => Err(at("open", path)(errno.into())),
    }
}

fn is_still(file: &File, path: &Path) -> bool {
    let same = |one: &fs::Metadata, other: &fs::Metadata| {
        (one.dev(), one.ino()) == (other.dev(), other.ino())
    };
    match (file.metadata(), fs::metadata(path)) {
        (Ok(file), Ok(there)) => same(&file, &there),
        _ => false,
    }
}

/// Who has a file locked, as far as the kernel tells.
fn holder(file: &File) -> String {
    let number = || {
        let inode = format!(":{}", file.metadata().ok()?.ino());
        let locks = fs::read_to_string("/proc/locks").ok()?;
        let line = locks.lines().find(|line| {
            let mut fields = line.split_whitespace();
            fields.any(|field| field == "FLOCK") && fields.any(|field| field.ends_with(&inode))
        })?;
        let number: u32 = line.split_whitespace().nth(4)?.parse().ok()?;
        // One of another container has none here.
        (number > 0).then_some(number)
    };
    number().map_or_else(
        || "another process".to_owned(),
        |number| format!("process {number}"),
    )
}

/// For `map_err`: says what was tried on which path.
pub(crate) fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    let path = path.to_owned();
    move |error| {
        let text = format!("{action} {}: {error}", path.display());
        io::Error::new(error.kind(), text)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Default)]
    struct Waits {
        begun: AtomicUsize,
        stopped: bool,
    }

    impl LockWait for Waits {
        fn patience(&self) -> Duration {
            Duration::from_millis(200)
        }

        fn begins(&self, _: &Path) {
            self.begun.fetch_add(1, Ordering::Relaxed);
        }

        fn is_stopped(&self) -> bool {
            self.stopped
        }
    }

    #[test]
    fn one_that_is_held_for_long_is_an_error_that_tells_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let waits = Waits::default();
        let held = IndexLock::take(directory.path(), &waits).unwrap();
        assert_eq!(waits.begun.load(Ordering::Relaxed), 0);
        let error = IndexLock::take(directory.path(), &waits).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let own = format!("locked by process {}", std::process::id());
        let text = error.to_string();
        for part in ["index.json.lock", "build again", &own] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(waits.begun.load(Ordering::Relaxed), 1);
        let stopped = Waits {
            stopped: true,
            ..Waits::default()
        };
        let error = IndexLock::take(directory.path(), &stopped).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
        // Somebody removes the file while it is held, and another one locks his own.
        let path = directory.path().join("index.json.lock");
        fs::remove_file(&path).unwrap();
        let other = IndexLock::take(directory.path(), &waits).unwrap();
        drop(held);
        assert!(path.exists());
        drop(other);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_file_is_an_error_and_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("index.json.lock");
        let waits = Waits::default();
        fs::create_dir(&path).unwrap();
        let told = || {
            let error = IndexLock::take(directory.path(), &waits).unwrap_err();
            error.to_string()
        };
        assert!(told().contains("remove it"));
        fs::remove_dir(&path).unwrap();
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert!(told().contains("remove it"));
    }
}
