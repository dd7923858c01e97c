//! The lock on a runtime's state directory.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::RuntimeError;

/// How long what another process left may keep the lock: one that was killed has children that die with it, and one that ends may let go
/// of its state a moment after of what told others to stay away.
const REMAINS: Duration = Duration::from_secs(2);
/// How often it is looked whether they have.
const AGAIN: Duration = Duration::from_millis(5);

/// The directory is this process's as long as this lives.
#[derive(Debug)]
pub(crate) struct StateLock(File);

impl StateLock {
    /// Takes the directory. Blocks for a moment where somebody else has it.
    ///
    /// # Errors
    /// [`RuntimeError::StateInUse`] if they keep it, or what making the file meets.
    pub(crate) fn take(dir: &Path) -> Result<Self, RuntimeError> {
        let path = dir.join("lock");
        let state = |action| {
            let path = path.clone();
            move |source| RuntimeError::State {
                path,
                action,
                source,
            }
        };
        let mut options = OpenOptions::new();
        let options = options.create(true).truncate(false).write(true);
        let file = options.open(&path).map_err(state("open"))?;
        let began = Instant::now();
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self(file)),
                Err(Errno::WOULDBLOCK) if began.elapsed() < REMAINS => std::thread::sleep(AGAIN),
                Err(Errno::WOULDBLOCK) => {
                    return Err(RuntimeError::StateInUse {
                        path: dir.to_owned(),
                    });
                }
                Err(errno) => return Err(state("lock")(io::Error::from(errno))),
            }
        }
    }
}

impl Drop for StateLock {
    fn drop(&mut self) {
        // A child process between its fork and its exec has the file, too: closing ours would not unlock.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}
