//! Places to attach mounts on while a step's tree is being built. They vanish with the host's tree.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;

use super::tree;

/// Numbered empty directories and files, each used once per step. Steps share them but not what is
/// mounted on them, since each has a mount namespace of its own.
pub(crate) struct Scratch {
    base: PathBuf,
    next: usize,
}

impl Scratch {
    /// Directories in `base`.
    pub(crate) fn new(base: PathBuf) -> Self {
        Self { base, next: 0 }
    }

    /// An unused directory.
    pub(crate) fn place(&mut self) -> io::Result<PathBuf> {
        let path = self.base.join(self.next.to_string());
        let make = || match mkdirat(CWD, &path, Mode::from_raw_mode(0o700)) {
            Err(Errno::EXIST) => Ok(()),
            made => made,
        };
        self.in_base(make)?;
        self.next += 1;
        Ok(path)
    }

    /// An unused file.
    pub(crate) fn file_place(&mut self) -> io::Result<PathBuf> {
        let path = self.base.join(format!("{}-file", self.next));
        let flags = OFlags::CREATE | OFlags::RDONLY | OFlags::CLOEXEC;
        self.in_base(|| openat(CWD, &path, flags, Mode::from_raw_mode(0o600)))?;
        self.next += 1;
        Ok(path)
    }

    /// Makes something in the base, and that first where somebody deleted it.
    fn in_base<T>(&self, make: impl Fn() -> Result<T, Errno>) -> io::Result<T> {
        match make() {
            Err(Errno::NOENT) => {
                std::fs::create_dir_all(&self.base)?;
                Ok(make()?)
            }
            made => Ok(made?),
        }
    }

    /// Attaches a detached mount, since only attached ones can be cloned before Linux 6.15.
    pub(crate) fn attach(&mut self, mount: impl AsFd) -> io::Result<()> {
        tree::attach_path(mount, &self.place()?)
    }
}
