//! What a process must arrange about itself before its first step: a mount namespace of its own and,
//! as a normal user, a user namespace in which it is root.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::MountAttrFlags;
use rustix::process::{getegid, geteuid, getpid};
use rustix::thread::{UnshareFlags, set_thread_res_gid, set_thread_res_uid, unshare_unsafe};

use crate::mount::tree::{self, Scope};
use crate::user::{self, UserError};

/// What a process is after [`enter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// It was root, and still is.
    Root,
    /// Root of a user namespace with the ids that `/etc/subuid` and `/etc/subgid` give to its user.
    Mapped,
    /// Root of a user namespace without any other id: files belong to root, and steps can only be
    /// run as root.
    Single,
}

/// Why a process could not arrange itself.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// The kernel refused.
    #[error("cannot become root without being it: {action}: {source}")]
    Refused {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The process has threads already.
    #[error("privileges must be arranged before the first thread is started")]
    Threads,
    /// The user's name, for its subordinate ids, cannot be found out.
    #[error(transparent)]
    User(#[from] UserError),
}

fn refused(action: &'static str) -> impl FnOnce(io::Error) -> PrivilegeError {
    move |source| PrivilegeError::Refused { action, source }
}

/// Makes this process able to run steps. As root, it gets a mount namespace of its own; as a normal
/// user, it becomes root of a user namespace, with a range of ids where the system grants one.
///
/// To be called at the start of `main`, before any thread is started.
///
/// # Errors
/// When the process has threads or the kernel refuses, e.g. since user namespaces are switched off.
pub fn enter() -> Result<Privilege, PrivilegeError> {
    if geteuid().is_root() {
        own_mount_namespace()?;
        return Ok(Privilege::Root);
    }
    let uid = geteuid().as_raw();
    let gid = getegid().as_raw();
    let helper = Helper::start(uid, gid)?;
    unshare(UnshareFlags::NEWUSER).map_err(refused("make a user namespace"))?;
    let privilege = match helper.map_or(Ok(false), Helper::map)? {
        true => Privilege::Mapped,
        false => {
            map_single(uid, gid).map_err(refused("map the user"))?;
            Privilege::Single
        }
    };
    become_root().map_err(refused("become root of the user namespace"))?;
    own_mount_namespace()?;
    Ok(privilege)
}

/// Gives this process a mount namespace of its own, into which the host's mounts still come and out
/// of which none goes, so that no mount outlives the process.
///
/// To be called at the start of `main`, before any thread is started.
///
/// # Errors
/// When the process has threads or the kernel refuses.
pub fn own_mount_namespace() -> Result<(), PrivilegeError> {
    if threads().map_err(refused("count the threads"))? > 1 {
        return Err(PrivilegeError::Threads);
    }
    unshare(UnshareFlags::NEWNS).map_err(refused("make a mount namespace"))?;
    let make_slave = || {
        let root = openat(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let keep = MountAttrFlags::empty();
        tree::change(root.as_fd(), Scope::Recursive, keep, tree::SLAVE)
    };
    make_slave().map_err(refused("separate the mounts"))
}

fn threads() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: descriptors stay shared.
    unsafe { unshare_unsafe(flags) }.map_err(io::Error::from)
}

fn become_root() -> io::Result<()> {
    let gid = rustix::process::Gid::ROOT;
    set_thread_res_gid(gid, gid, gid)?;
    let uid = rustix::process::Uid::ROOT;
    set_thread_res_uid(uid, uid, uid).map_err(io::Error::from)
}

/// Maps root of the namespace to the user, and nothing else.
fn map_single(uid: u32, gid: u32) -> io::Result<()> {
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// A process outside of the namespace that maps ids for it with the system's set-user-ID programs,
/// once it is told to.
struct Helper(std::process::Child);

impl Helper {
    /// `None` if the system grants the user no ids or has no such programs.
    fn start(uid: u32, gid: u32) -> Result<Option<Self>, PrivilegeError> {
        let uids = granted("/etc/subuid", uid)?;
        let gids = granted("/etc/subgid", uid)?;
        let (Some(uids), Some(gids)) = (uids, gids) else {
            return Ok(None);
        };
        let pid = getpid().as_raw_nonzero();
        let script = format!(
            "read -r go && newuidmap {pid} 0 {uid} 1 1 {} {} && newgidmap {pid} 0 {gid} 1 1 {} {}",
            uids.start, uids.count, gids.start, gids.count
        );
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &script]);
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        command.stderr(Stdio::null());
        Ok(command.spawn().ok().map(Self))
    }

    /// Whether the ids were mapped.
    fn map(mut self) -> Result<bool, PrivilegeError> {
        let told = match self.0.stdin.take() {
            Some(mut stdin) => stdin.write_all(b"go\n"),
            None => Ok(()),
        };
        let status = self.0.wait().map_err(refused("wait for newuidmap"))?;
        if told.is_ok() && status.success() {
            return Ok(true);
        }
        // The first of the two maps can be there without the second one.
        let map = std::fs::read_to_string("/proc/self/uid_map");
        if map.map_err(refused("read the user map"))?.is_empty() {
            return Ok(false);
        }
        let message = "newgidmap failed after newuidmap had succeeded";
        Err(refused("map the groups")(io::Error::other(message)))
    }
}

/// A range of ids of the system.
#[derive(Debug, PartialEq, Eq)]
struct Range {
    start: u32,
    count: u32,
}

/// The largest range that `file` grants to the user, named by its name or number.
fn granted(file: &str, uid: u32) -> Result<Option<Range>, PrivilegeError> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(_) => return Ok(None),
    };
    let root = openat(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let root = root.map_err(|errno| refused("open /")(errno.into()))?;
    let name = user::name(root.as_fd(), uid)?;
    Ok(largest(&text, name.as_deref(), uid))
}

fn largest(text: &str, name: Option<&str>, uid: u32) -> Option<Range> {
    let uid = uid.to_string();
    let ranges = text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let user = fields.next()?;
        let start = fields.next()?.parse().ok()?;
        let count = fields.next()?.parse().ok()?;
        (Some(user) == name || user == uid).then_some(Range { start, count })
    });
    ranges.max_by_key(|range| range.count)
}

/// Whether this process is in a user namespace, and thus not root of the system.
pub(crate) fn in_user_namespace() -> io::Result<bool> {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    if let Some(answer) = ANSWER.get() {
        return Ok(*answer);
    }
    let map = match std::fs::read_to_string("/proc/self/uid_map") {
        Ok(map) => map,
        // A kernel without user namespaces.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let fields: Vec<&str> = map.split_whitespace().collect();
    Ok(*ANSWER.get_or_init(|| fields != ["0", "0", "4294967295"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_range_of_a_user() {
        let text = "other:1:9\napp:100000:65536\n1000:300000:100000\nbroken\napp:x:1\n";
        let range = |start, count| Some(Range { start, count });
        assert_eq!(largest(text, Some("app"), 1000), range(300_000, 100_000));
        assert_eq!(largest(text, Some("app"), 1), range(100_000, 65_536));
        assert_eq!(largest(text, None, 7), None);
    }
}
