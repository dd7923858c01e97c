use std::borrow::Cow;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// How long what a killed process left may keep the lock: its children are killed with it, and it takes them a moment to end. Also how
/// long a process that has just taken it may leave unsaid who it is.
const REMAINS: Duration = Duration::from_secs(5);
/// How often it is looked whether they have.
const AGAIN: Duration = Duration::from_millis(5);
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
    /// The namespace that its process id is of, as the kernel calls it; empty if that is not known.
    #[serde(default)]
    pub namespace: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "process {}{} ({}) since {}",
            self.pid,
            if self.is_elsewhere() {
                " of another container"
            } else {
                ""
            },
            self.command,
            self.since
        )
    }
}

impl Holder {
    /// Whether its process id says nothing here.
    fn is_elsewhere(&self) -> bool {
        !self.namespace.is_empty() && self.namespace != pid_namespace()
    }

    /// Whether it is known to be there.
    fn is_there(&self) -> bool {
        !self.is_elsewhere() && !is_gone(self.pid)
    }
}

/// The exclusive lock on a state directory; ends with the value or the process.
pub(crate) struct DirectoryLock {
    file: File,
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // A child process between its fork and its exec has the file, too: closing ours would not unlock.
        // Who comes next must not be taken for this process before it has said who it is.
        let _ = write_over(&mut self.file, b"");
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

/// What an attempt to lock came to.
pub(crate) enum Attempt {
    Locked(DirectoryLock),
    /// Another process has it, which nearly always has said who it is.
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
        let began = Instant::now();
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) => {}
                Err(error) => return Err(error.into()),
            }
            let holder = read_holder(&mut file);
            let is_told = holder.as_ref().is_some_and(Holder::is_there);
            if is_told || began.elapsed() > REMAINS {
                return Ok(Attempt::Held(holder));
            }
            std::thread::sleep(AGAIN);
        }
        write_holder(&mut file)?;
        Ok(Attempt::Locked(Self { file }))
    }
}

fn pid_namespace() -> String {
    let link = std::fs::read_link("/proc/self/ns/pid");
    link.map_or_else(|_| String::new(), |link| link.display().to_string())
}

/// Whether there is no such process any more. One that was killed may have left children that have its files for a moment longer.
fn is_gone(pid: u32) -> bool {
    let status = format!("/proc/{pid}/stat");
    match std::fs::read_to_string(status) {
        // What follows the name is the state: ended, and not waited for by its parent.
        Ok(text) => text
            .rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with(['Z', 'X'])),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
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
        namespace: pid_namespace(),
    };
    let text = serde_json::to_vec(&holder)?;
    match write_over(file, &text) {
        // Then nobody knows who it is; with the directory something can still be done.
        Err(error) if error.kind() == io::ErrorKind::StorageFull => Ok(()),
        written => written,
    }
}

/// Replaces what the file says. Its space is kept: there may be none to be had later.
fn write_over(file: &mut File, text: &[u8]) -> io::Result<()> {
    let len = usize::try_from(file.metadata()?.len()).unwrap_or_default();
    let mut padded = text.to_vec();
    padded.resize(text.len().max(len), b' ');
    file.rewind()?;
    file.write_all(&padded)
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
            None => command.push_str(&without_user(&argument)),
        }
    }
    if command.len() > MAX_COMMAND_LEN {
        let end = command.floor_char_boundary(MAX_COMMAND_LEN);
        command.truncate(end);
        command.push('…');
    }
    command
}

/// An argument that is a URL, without user and password.
fn without_user(argument: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = argument.split_once("://") else {
        return Cow::Borrowed(argument);
    };
    let authority = rest.find(['/', '?', '#']).map_or(rest, |end| &rest[..end]);
    match authority.rfind('@') {
        Some(at) => Cow::Owned(format!("{scheme}://…{}", &rest[at..])),
        None => Cow::Borrowed(argument),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn urls_of_a_command_line_have_no_credentials() {
        for (given, shown) in [
            ("https://u:p@host/x@y", "https://…@host/x@y"),
            ("https://host/x@y", "https://host/x@y"),
            ("u@host", "u@host"),
            ("ssh://git@host", "ssh://…@host"),
        ] {
            assert_eq!(without_user(given), shown);
        }
    }

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

    #[test]
    fn the_second_waits_until_the_first_has_said_who_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let Attempt::Locked(mut lock) = DirectoryLock::attempt(&path).unwrap() else {
            panic!("nobody has it");
        };
        // As in the moment between the two.
        write_over(&mut lock.file, b"").unwrap();
        let second = std::thread::spawn({
            let path = path.clone();
            move || DirectoryLock::attempt(&path).unwrap()
        });
        std::thread::sleep(AGAIN * 4);
        write_holder(&mut lock.file).unwrap();
        let Attempt::Held(Some(holder)) = second.join().unwrap() else {
            panic!("it is held, and said by whom");
        };
        assert_eq!(holder.pid, std::process::id());
        drop(lock);
        // Who had it says nothing of who has it next.
        assert!(read_holder(&mut File::open(&path).unwrap()).is_none());
    }

    #[test]
    fn what_a_killed_process_left_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let Attempt::Locked(mut lock) = DirectoryLock::attempt(&path).unwrap() else {
            panic!("nobody has it");
        };
        // As if a process that has ended had it, and its child not let go of it.
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        ended.wait().unwrap();
        let mut holder = read_holder(&mut lock.file).unwrap();
        holder.pid = ended.id();
        write_over(&mut lock.file, &serde_json::to_vec(&holder).unwrap()).unwrap();
        let child = std::thread::spawn(move || {
            std::thread::sleep(AGAIN * 4);
            drop(lock);
        });
        assert!(matches!(
            DirectoryLock::attempt(&path).unwrap(),
            Attempt::Locked(_)
        ));
        child.join().unwrap();
    }

    #[test]
    fn a_process_of_another_container_is_waited_for_whatever_has_its_number_here() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let Attempt::Locked(mut lock) = DirectoryLock::attempt(&path).unwrap() else {
            panic!("nobody has it");
        };
        let mut holder = read_holder(&mut lock.file).unwrap();
        holder.namespace = "pid:[1]".to_owned();
        assert!(holder.to_string().contains("of another container"));
        write_over(&mut lock.file, &serde_json::to_vec(&holder).unwrap()).unwrap();
        let first = std::thread::spawn(move || {
            std::thread::sleep(AGAIN * 4);
            drop(lock);
        });
        assert!(matches!(
            DirectoryLock::attempt(&path).unwrap(),
            Attempt::Locked(_)
        ));
        first.join().unwrap();
    }
}
