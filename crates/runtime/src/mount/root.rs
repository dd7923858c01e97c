//! The root file system of a step: paths are resolved beneath it, and what is created for mounts to
//! sit on is remembered.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timestamps, Uid, chownat, fstat, futimens, mkdirat,
    openat, readlinkat, statat, unlinkat,
};
use rustix::io::Errno;

use super::tree;
use crate::beneath;

/// How many symbolic links one path may lead through, as in the kernel.
const MAX_LINKS: usize = 40;

/// What is created where nothing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// An empty file, in new directories if need be.
    File,
    /// A directory and its parents.
    Directory {
        /// Who owns them.
        uid: u32,
        /// The group.
        gid: u32,
    },
}

impl Missing {
    /// A directory of root's.
    pub(crate) const DIRECTORY: Self = Self::Directory { uid: 0, gid: 0 };
}

/// The root directory of a step's file system, mounted in this thread's mount namespace.
pub(crate) struct Root<'a> {
    fd: OwnedFd,
    /// The device number, which tells it from other mounts.
    mount: u64,
    stubs: &'a mut Stubs,
}

impl<'a> Root<'a> {
    /// The root whose directory is `fd`. What is created for mounts goes to `stubs`.
    pub(crate) fn new(fd: OwnedFd, stubs: &'a mut Stubs) -> io::Result<Self> {
        let mount = fstat(&fd)?.st_dev;
        Ok(Self { fd, mount, stubs })
    }

    /// Opens `path`, which must be there, without following links out of the root.
    pub(crate) fn open(&self, path: &Path) -> io::Result<OwnedFd> {
        Ok(beneath::open(&self.fd, path, OFlags::PATH)?)
    }

    /// Opens `path` to mount on it. What is missing is created, and removed by the stubs' cleaning
    /// if it is still empty then.
    pub(crate) fn open_target(&mut self, path: &Path, missing: Missing) -> io::Result<OwnedFd> {
        match self.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let created = self.create(path, missing)?;
                // A mount point that is made and removed leaves no trace in its parent's times.
                futimens(&created.parent, &times(&created.before))?;
                self.note_stub(&created)?;
                Ok(created.fd)
            }
            other => other,
        }
    }

    /// Opens `path`, creating what is missing for good.
    pub(crate) fn open_or_create(&self, path: &Path, missing: Missing) -> io::Result<OwnedFd> {
        match self.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(self.create(path, missing)?.fd)
            }
            other => other,
        }
    }

    /// The root directory itself.
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Notes what somebody else will create for a mount on `path`.
    pub(crate) fn expect_stub(&mut self, path: &Path) -> io::Result<()> {
        let (mut at, rest) = match self.walk(path) {
            // Whoever mounts there tells that.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(()),
            other => other?,
        };
        let mut paths = Vec::new();
        for name in rest {
            at.push(name);
            paths.push(at.clone());
        }
        self.add_stubs(paths)
    }

    fn add_stubs(&mut self, mut paths: Vec<PathBuf>) -> io::Result<()> {
        if self.stubs.root.is_none() {
            self.stubs.root = Some(tree::clone_single(&self.fd)?);
        }
        if !self.stubs.with_parents {
            paths.drain(..paths.len().saturating_sub(1));
        }
        self.stubs.paths.extend(paths);
        Ok(())
    }

    fn note_stub(&mut self, created: &Created) -> io::Result<()> {
        // What lies in another mount, such as a cache, stays there as with other runtimes.
        if fstat(&created.parent)?.st_dev != self.mount {
            return Ok(());
        }
        self.add_stubs(created.paths.clone())
    }

    fn create(&self, path: &Path, missing: Missing) -> io::Result<Created> {
        let (mut at, mut rest) = self.walk(path)?;
        let parent = beneath::open(&self.fd, &at, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let before = fstat(&parent)?;
        let mut fd = self.open(&at)?;
        let mut paths = Vec::new();
        while let Some(name) = rest.pop_front() {
            at.push(&name);
            fd = match missing {
                Missing::File if rest.is_empty() => make_file(fd.as_fd(), &name)?,
                Missing::File => make_dir(fd.as_fd(), &name, 0, 0)?,
                Missing::Directory { uid, gid } => make_dir(fd.as_fd(), &name, uid, gid)?,
            };
            paths.push(at.clone());
        }
        Ok(Created {
            fd,
            paths,
            parent,
            before,
        })
    }

    /// Follows `path` as far as it exists: the existing part without links in it, and the names
    /// that are missing below. A link to nowhere leads to what is missing.
    fn walk(&self, path: &Path) -> io::Result<(PathBuf, VecDeque<OsString>)> {
        let mut at = PathBuf::from("/");
        let mut rest = names(path);
        let mut links = 0;
        while let Some(name) = rest.pop_front() {
            if name == ".." {
                at.pop();
                continue;
            }
            let next = at.join(&name);
            let fd = match beneath::open(&self.fd, &next, OFlags::PATH | OFlags::NOFOLLOW) {
                Ok(fd) => fd,
                Err(Errno::NOENT) => {
                    rest.push_front(name);
                    return Ok((at, without_dots(rest)));
                }
                Err(errno) => return Err(errno.into()),
            };
            if FileType::from_raw_mode(fstat(&fd)?.st_mode) != FileType::Symlink {
                at = next;
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(Errno::LOOP.into());
            }
            let link = readlinkat(&fd, "", Vec::new())?;
            let link = Path::new(OsStr::from_bytes(link.as_bytes()));
            if link.is_absolute() {
                at = PathBuf::from("/");
            }
            for name in names(link).into_iter().rev() {
                rest.push_front(name);
            }
        }
        // Created meanwhile by another step that shares the directory.
        Ok((at, VecDeque::new()))
    }
}

impl AsFd for Root<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

struct Created {
    fd: OwnedFd,
    /// What was created, outermost first, without links in the paths.
    paths: Vec<PathBuf>,
    /// The directory that it was created in.
    parent: OwnedFd,
    /// That directory before.
    before: Stat,
}

fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

/// Removes `..` from a path of which nothing exists.
fn without_dots(names: VecDeque<OsString>) -> VecDeque<OsString> {
    let mut clean = VecDeque::new();
    for name in names {
        if name == ".." {
            clean.pop_back();
        } else {
            clean.push_back(name);
        }
    }
    clean
}

fn make_dir(parent: BorrowedFd<'_>, name: &OsStr, uid: u32, gid: u32) -> io::Result<OwnedFd> {
    match mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) if uid != 0 || gid != 0 => {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            chownat(
                parent,
                name,
                Some(uid),
                Some(gid),
                AtFlags::SYMLINK_NOFOLLOW,
            )?;
        }
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(parent, name, flags, Mode::empty())?)
}

fn make_file(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::CREATE | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY;
    openat(parent, name, flags, Mode::from_raw_mode(0o644))?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(parent, name, flags, Mode::empty())?)
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds: i64, nanoseconds: u64| rustix::fs::Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or(0),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Files and directories that were created for mounts to sit on.
#[derive(Default)]
pub(crate) struct Stubs {
    /// A copy of the root mount that nothing is mounted in.
    root: Option<OwnedFd>,
    /// Without links in them, in the order of creation.
    paths: Vec<PathBuf>,
    /// Whether directories made above a mount point are removed like the mount point itself.
    with_parents: bool,
}

impl Stubs {
    pub(crate) fn new(with_parents: bool) -> Self {
        Self {
            with_parents,
            ..Self::default()
        }
    }

    /// Removes what is still empty. Must be called from outside of the step's mount namespace, for
    /// in it nothing can be removed that a mount sits on.
    pub(crate) fn remove_empty(self) -> io::Result<()> {
        let Some(root) = self.root else { return Ok(()) };
        let mut first_error = Ok(());
        for path in self.paths.iter().rev() {
            if let Err(error) = remove_empty(&root, path) {
                first_error = first_error.and(Err(error));
            }
        }
        first_error
    }
}

fn remove_empty(root: &OwnedFd, path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    let dir = match beneath::open_plain(root, parent, OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(dir) => dir,
        // The step removed or replaced what the mount point was in.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    let before = fstat(&dir)?;
    let Ok(stub) = statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) else {
        return Ok(());
    };
    match FileType::from_raw_mode(stub.st_mode) {
        FileType::RegularFile if stub.st_size == 0 => unlinkat(&dir, name, AtFlags::empty())?,
        FileType::Directory => match unlinkat(&dir, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(()),
            other => other?,
        },
        _ => return Ok(()),
    }
    Ok(futimens(&dir, &times(&before))?)
}
