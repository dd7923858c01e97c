//! Places to attach mounts on while a step's tree is being built. They vanish with the host's tree.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use rustix::fs::{CWD, Mode, mkdirat};
use rustix::io::Errno;

use super::tree;

/// Numbered empty directories, each used once per step. Steps share the directories but not what is
/// mounted on them, since each has a mount namespace of its own.
pub(super) struct Scratch {
    base: PathBuf,
    next: usize,
}

impl Scratch {
    /// Directories in `base`.
    pub(super) fn new(base: PathBuf) -> Self {
        Self { base, next: 0 }
    }

    /// An unused directory.
    pub(super) fn place(&mut self) -> io::Result<PathBuf> {
        let path = self.base.join(self.next.to_string());
        match mkdirat(CWD, &path, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        self.next += 1;
        Ok(path)
    }

    /// Attaches a detached mount, since only attached ones can be cloned before Linux 6.15.
    pub(super) fn attach(&mut self, mount: impl AsFd) -> io::Result<()> {
        tree::attach_path(mount, &self.place()?)
    }
}
