//! One cgroup: a directory in one hierarchy.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use super::is_gone;
use super::system::Hierarchy;
use crate::error::RuntimeError;

/// How long the kernel may take to let go of dead processes.
const REMOVAL_LIMIT: Duration = Duration::from_secs(5);
/// Between two tries to remove a v1 cgroup, which does not tell when it is empty.
const RETRY: Duration = Duration::from_millis(1);

/// A cgroup.
#[derive(Debug)]
pub(super) struct Group {
    /// Its directory.
    pub(super) path: PathBuf,
    /// The same, opened.
    pub(super) dir: OwnedFd,
    /// The files of its hierarchy.
    unified: bool,
}

impl Group {
    /// Makes a v2 cgroup at `below` in the hierarchy mounted on `mount`, with those of
    /// `controllers` that can be had.
    pub(super) fn create_unified(
        mount: &Path,
        below: &Path,
        controllers: &[&str],
    ) -> Result<Self, RuntimeError> {
        Self::parents_unified(mount, below, controllers)?;
        Self::make(mount.join(below), true)
    }

    /// Makes what such a cgroup is to be in.
    pub(super) fn parents_unified(
        mount: &Path,
        below: &Path,
        controllers: &[&str],
    ) -> Result<(), RuntimeError> {
        let parent = below.parent().unwrap_or(Path::new(""));
        let mut at = mount.to_owned();
        delegate(&at, controllers);
        for name in parent {
            at.push(name);
            make_dir(&at, Exists::Fine)?;
            delegate(&at, controllers);
        }
        Ok(())
    }

    /// Makes a v1 cgroup at `below` in `hierarchy`.
    pub(super) fn create_legacy(hierarchy: &Hierarchy, below: &Path) -> Result<Self, RuntimeError> {
        Self::parents_legacy(hierarchy, below)?;
        let group = Self::make(hierarchy.mount.join(below), false)?;
        if has_cpusets(hierarchy) {
            inherit_cpuset(&group.path)?;
        }
        Ok(group)
    }

    /// Makes what such a cgroup is to be in.
    pub(super) fn parents_legacy(hierarchy: &Hierarchy, below: &Path) -> Result<(), RuntimeError> {
        let mut at = hierarchy.mount.clone();
        for name in below.parent().unwrap_or(Path::new("")) {
            at.push(name);
            make_dir(&at, Exists::Fine)?;
            if has_cpusets(hierarchy) {
                inherit_cpuset(&at)?;
            }
        }
        Ok(())
    }

    fn make(path: PathBuf, unified: bool) -> Result<Self, RuntimeError> {
        make_dir(&path, Exists::Error)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(CWD, &path, flags, Mode::empty())
            .map_err(|errno| error(&path, "open", errno.into()))?;
        Ok(Self { path, dir, unified })
    }

    /// Writes one of the cgroup's files.
    pub(super) fn write(&self, file: &str, value: &str) -> Result<(), RuntimeError> {
        write_file(&self.dir, file, value)
            .map_err(|source| error(&self.path.join(file), "write", source))
    }

    fn read(&self, file: &str) -> io::Result<String> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = openat(&self.dir, file, flags, Mode::empty())?;
        io::read_to_string(std::fs::File::from(fd))
    }

    pub(super) fn has_controller(&self, name: &str) -> bool {
        self.read("cgroup.controllers")
            .is_ok_and(|text| text.split_whitespace().any(|known| known == name))
    }

    pub(super) fn error(&self, action: &'static str) -> impl FnOnce(io::Error) -> RuntimeError {
        let path = self.path.clone();
        move |source| error(&path, action, source)
    }

    /// Whether a process in it was killed for lack of memory. No file, no kill.
    pub(super) fn oom_killed(&self) -> bool {
        let file = match self.unified {
            true => "memory.events",
            false => "memory.oom_control",
        };
        let count = |line: &str| line.strip_prefix("oom_kill ")?.trim().parse::<u64>().ok();
        self.read(file)
            .is_ok_and(|text| text.lines().filter_map(count).any(|count| count > 0))
    }

    /// Kills every process in it.
    pub(super) fn kill(&self) {
        if self.unified && write_file(&self.dir, "cgroup.kill", "1").is_ok() {
            return;
        }
        let processes = self.read("cgroup.procs").unwrap_or_default();
        let pids = processes.lines().filter_map(|line| line.parse().ok());
        for pid in pids.filter_map(Pid::from_raw) {
            // One that is gone already is what we want.
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// Removes it, once the kernel has let go of its dead processes.
    pub(super) fn remove(self) -> Result<(), RuntimeError> {
        let deadline = Instant::now() + REMOVAL_LIMIT;
        loop {
            match unlinkat(CWD, &self.path, AtFlags::REMOVEDIR) {
                Ok(()) => return Ok(()),
                Err(errno) if is_gone(errno) => return Ok(()),
                Err(Errno::BUSY) if Instant::now() < deadline => {
                    self.kill();
                    // An insecure step may have made cgroups in its own.
                    for child in children(&self.path) {
                        remove_tree(&child, self.unified)?;
                    }
                    self.wait_for_change();
                }
                Err(errno) => return Err(error(&self.path, "remove", errno.into())),
            }
        }
    }

    /// Waits until the cgroup may have become empty.
    fn wait_for_change(&self) {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let events = match self.unified {
            true => openat(&self.dir, "cgroup.events", flags, Mode::empty()).ok(),
            false => None,
        };
        match &events {
            Some(events) => {
                let limit = Timespec {
                    tv_sec: 0,
                    tv_nsec: 20_000_000,
                };
                let mut fds = [PollFd::new(events, PollFlags::PRI)];
                // After an error the removal is tried again, too.
                let _ = poll(&mut fds, Some(&limit));
            }
            None => std::thread::sleep(RETRY),
        }
    }
}

/// Whether a directory may be there already.
#[derive(Clone, Copy, PartialEq)]
enum Exists {
    Fine,
    Error,
}

fn make_dir(path: &Path, exists: Exists) -> Result<(), RuntimeError> {
    match mkdirat(CWD, path, Mode::from_raw_mode(0o755)) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) if exists == Exists::Fine => Ok(()),
        Err(errno) => Err(error(path, "create", errno.into())),
    }
}

/// Hands controllers on to the children of a v2 cgroup. Those that are not to be had are left out;
/// a limit that needs one fails later.
fn delegate(path: &Path, controllers: &[&str]) {
    let file = path.join("cgroup.subtree_control");
    let Ok(enabled) = std::fs::read_to_string(&file) else {
        return;
    };
    for controller in controllers {
        if !enabled.split_whitespace().any(|known| known == *controller) {
            let _ = std::fs::write(&file, format!("+{controller}"));
        }
    }
}

fn has_cpusets(hierarchy: &Hierarchy) -> bool {
    hierarchy.controllers.iter().any(|name| name == "cpuset")
}

/// A v1 cpuset has nothing at first; it gets what its parent has.
fn inherit_cpuset(path: &Path) -> Result<(), RuntimeError> {
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let (from, to) = (parent.join(file), path.join(file));
        let copy = || {
            if std::fs::read_to_string(&to)?.trim().is_empty() {
                std::fs::write(&to, std::fs::read_to_string(&from)?)?;
            }
            Ok(())
        };
        copy().map_err(|source| error(&to, "write", source))?;
    }
    Ok(())
}

fn write_file(dir: impl AsFd, file: &str, value: &str) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let fd = openat(dir, file, flags, Mode::empty())?;
    rustix::io::write(&fd, value.as_bytes())?;
    Ok(())
}

fn error(path: &Path, action: &'static str, source: io::Error) -> RuntimeError {
    RuntimeError::Cgroup {
        path: path.to_owned(),
        action,
        source,
    }
}

/// Kills and removes the cgroups in `dir`, except those named in `running`. Whether `dir` is there.
pub(super) fn clean(dir: &Path, running: &HashSet<String>) -> Result<bool, RuntimeError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(error(dir, "read", source)),
    };
    let unified = dir.join("cgroup.controllers").exists();
    for entry in entries {
        let entry = entry.map_err(|source| error(dir, "read", source))?;
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if !is_dir || running.contains(&*entry.file_name().to_string_lossy()) {
            continue;
        }
        remove_tree(&entry.path(), unified)?;
    }
    Ok(true)
}

/// The cgroups in a cgroup; none if it is gone.
pub(super) fn children(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Kills and removes a cgroup and those in it, which an insecure step may have made; inner first.
fn remove_tree(top: &Path, unified: bool) -> Result<(), RuntimeError> {
    let mut found = vec![top.to_owned()];
    let mut next = 0;
    while let Some(dir) = found.get(next).cloned() {
        next += 1;
        found.extend(children(&dir));
    }
    for path in found.into_iter().rev() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match openat(CWD, &path, flags, Mode::empty()) {
            Ok(dir) => {
                let group = Group { path, dir, unified };
                group.kill();
                group.remove()?;
            }
            Err(errno) if is_gone(errno) => {}
            Err(errno) => return Err(error(&path, "open", errno.into())),
        }
    }
    Ok(())
}
