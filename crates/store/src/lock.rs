use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// At most this many bytes of a command line are remembered.
const MAX_COMMAND_LEN: usize = 300;

/// The process that has a state directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// Its command line; what follows a `=` is left out, as it may be a secret.
    pub command: String,
    /// When it took the directory, RFC 3339.
    pub since: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "process {} ({}) since {}",
            self.pid, self.command, self.since
        )
    }
}

/// The exclusive lock on a state directory; ends with the value or the process.
pub(crate) struct DirectoryLock {
    file: File,
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // A child process between its fork and its exec has the file, too: closing ours would not unlock.
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

/// What an attempt to lock came to.
pub(crate) enum Attempt {
    Locked(DirectoryLock),
    /// Another process has it; it may not have said who it is yet.
    Held(Option<Holder>),
}

impl DirectoryLock {
    pub(crate) fn attempt(path: &Path) -> io::Result<Attempt> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(Attempt::Held(read_holder(&mut file))),
            Err(error) => return Err(error.into()),
        }
        write_holder(&mut file)?;
        Ok(Attempt::Locked(Self { file }))
    }
}

fn write_holder(file: &mut File) -> io::Result<()> {
    let holder = Holder {
        pid: std::process::id(),
        command: own_command(),
        since: OffsetDateTime::now_utc()
            .replace_nanosecond(0)
            .unwrap_or(OffsetDateTime::UNIX_EPOCH)
            .format(&Rfc3339)
            .unwrap_or_default(),
    };
    let text = serde_json::to_vec(&holder)?;
    file.set_len(0)?;
    file.write_all(&text)
}

fn read_holder(file: &mut File) -> Option<Holder> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(64 * 1024).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

fn own_command() -> String {
    let mut command = String::new();
    for argument in std::env::args_os() {
        let argument = argument.to_string_lossy();
        if !command.is_empty() {
            command.push(' ');
        }
        match argument.split_once('=') {
            Some((name, _)) => {
                command.push_str(name);
                command.push_str("=…");
            }
            None => command.push_str(&argument),
        }
    }
    if command.len() > MAX_COMMAND_LEN {
        let end = command.floor_char_boundary(MAX_COMMAND_LEN);
        command.truncate(end);
        command.push('…');
    }
    command
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_lock_ends_with_its_value_though_a_child_has_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let Attempt::Locked(lock) = DirectoryLock::attempt(&path).unwrap() else {
            panic!("nobody has it");
        };
        // As a child process has it until its exec.
        let inherited = lock.file.try_clone().unwrap();
        assert!(matches!(
            DirectoryLock::attempt(&path).unwrap(),
            Attempt::Held(Some(_))
        ));
        drop(lock);
        assert!(matches!(
            DirectoryLock::attempt(&path).unwrap(),
            Attempt::Locked(_)
        ));
        drop(inherited);
    }
}
