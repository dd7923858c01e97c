use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use weld_fileset::{Timestamp, open_beneath, read_xattrs};

use super::ends::TreeTarget;
use super::stat::Stat;

/// How much of a file is copied at a time.
const BUFFER: usize = 256 << 10;
/// The same for a file that is said to be smaller.
const SMALL_BUFFER: usize = 4 << 10;

/// From how many zeros on, in bytes, a file has a hole in their place: the block size of most file systems.
const HOLE: usize = 4 << 10;

/// Keeps the copy in a directory of this machine; nothing is done outside of it, whatever is in
/// it. A file that changes is made anew, never written in place: it may have other names.
#[derive(Debug)]
pub struct DirTarget {
    root: OwnedFd,
    uid: u32,
    gid: u32,
}

impl DirTarget {
    /// Keeps the copy in the directory at `path`.
    ///
    /// # Errors
    /// What opening meets.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self::at(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// Keeps the copy in an open directory.
    pub fn at(root: OwnedFd) -> Self {
        Self {
            root,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        }
    }

    /// The directory of a path, and its name there.
    fn parent<'p>(&self, path: &'p Path) -> io::Result<(OwnedFd, &'p OsStr)> {
        let parent = path.parent().unwrap_or(Path::new(""));
        let name = path
            .file_name()
            .ok_or_else(|| io::Error::other("the path has no name"))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        Ok((open_beneath(self.root.as_fd(), parent, flags)?, name))
    }

    fn create(&self, stat: &Stat) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        match open_beneath(self.root.as_fd(), &stat.path, flags) {
            Err(Errno::EXIST) => {
                self.remove(stat)?;
                Ok(open_beneath(self.root.as_fd(), &stat.path, flags)?.into())
            }
            other => Ok(other?.into()),
        }
    }

    /// Owner, then permissions, which a change of owner may clear, then attributes, then times.
    fn set_on_fd(&self, fd: BorrowedFd<'_>, stat: &Stat, is_new: bool) -> io::Result<()> {
        if !(is_new && stat.uid == self.uid && stat.gid == self.gid) {
            let (uid, gid) = (Uid::from_raw(stat.uid), Gid::from_raw(stat.gid));
            rustix::fs::fchown(fd, Some(uid), Some(gid))?;
        }
        rustix::fs::fchmod(fd, Mode::from_raw_mode(stat.permissions()))?;
        for (name, value) in &stat.xattrs {
            rustix::fs::fsetxattr(fd, name.as_os_str(), value, XattrFlags::empty())?;
        }
        rustix::fs::futimens(fd, &times(stat.mtime))?;
        Ok(())
    }

    /// What has no descriptor of its own: a symbolic link, a device, a pipe.
    fn set_at(&self, dir: BorrowedFd<'_>, name: &OsStr, stat: &Stat) -> io::Result<()> {
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        let (uid, gid) = (Uid::from_raw(stat.uid), Gid::from_raw(stat.gid));
        rustix::fs::chownat(dir, name, Some(uid), Some(gid), nofollow)?;
        if stat.file_type() != FileType::Symlink {
            let mode = Mode::from_raw_mode(stat.permissions());
            rustix::fs::chmodat(dir, name, mode, AtFlags::empty())?;
        }
        let path = in_directory(dir, name);
        for (name, value) in &stat.xattrs {
            rustix::fs::lsetxattr(&path, name.as_os_str(), value, XattrFlags::empty())?;
        }
        rustix::fs::utimensat(dir, name, &times(stat.mtime), nofollow)?;
        Ok(())
    }
}

impl TreeTarget for DirTarget {
    fn begin(&self) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, stat: &Stat) -> io::Result<()> {
        let (dir, name) = match self.parent(&stat.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let removed = match rustix::fs::unlinkat(&dir, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR),
            other => other,
        };
        match removed {
            Err(Errno::NOENT) => Ok(()),
            other => Ok(other?),
        }
    }

    fn make_dir(&self, stat: &Stat) -> io::Result<()> {
        let (dir, name) = self.parent(&stat.path)?;
        match rustix::fs::mkdirat(&dir, name, Mode::RWXU) {
            Err(Errno::EXIST) => {
                // It must be a directory, not something that leads elsewhere.
                open_beneath(
                    self.root.as_fd(),
                    &stat.path,
                    OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW,
                )?;
                Ok(())
            }
            other => Ok(other?),
        }
    }

    fn make_file(&self, stat: &Stat, content: &mut dyn Read) -> io::Result<()> {
        let mut file = self.create(stat)?;
        // Most files are small: no more is allocated than they need, and one byte to see the end.
        // But a file may have grown since, and should not come byte by byte then.
        let wanted = usize::try_from(stat.size)
            .unwrap_or(BUFFER)
            .saturating_add(1);
        let mut buffer = vec![0; wanted.clamp(SMALL_BUFFER, BUFFER)];
        let mut ends_in_hole = false;
        loop {
            match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    let chunk = buffer.get(..count).unwrap_or_default();
                    ends_in_hole = is_hole(chunk);
                    match ends_in_hole {
                        true => file.seek_relative(i64::try_from(count).unwrap_or(0))?,
                        false => file.write_all(chunk)?,
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if ends_in_hole {
            let length = file.stream_position()?;
            file.set_len(length)?;
        }
        self.set_on_fd(file.as_fd(), stat, true)
    }

    fn make_node(&self, stat: &Stat) -> io::Result<()> {
        let (dir, name) = self.parent(&stat.path)?;
        let make = || match (&stat.link_target, stat.file_type()) {
            (Some(target), FileType::Symlink) => rustix::fs::symlinkat(target, &dir, name),
            (_, kind) => {
                let device = rustix::fs::makedev(stat.rdev.0, stat.rdev.1);
                let mode = Mode::from_raw_mode(stat.permissions());
                rustix::fs::mknodat(&dir, name, kind, mode, device)
            }
        };
        match make() {
            Err(Errno::EXIST) => {
                self.remove(stat)?;
                make()?;
            }
            other => other?,
        }
        self.set_at(dir.as_fd(), name, stat)
    }

    fn hard_link(&self, stat: &Stat, first: &Path) -> io::Result<()> {
        let (from, first) = self.parent(first)?;
        let (dir, name) = self.parent(&stat.path)?;
        let link = || rustix::fs::linkat(&from, first, &dir, name, AtFlags::empty());
        match link() {
            Err(Errno::EXIST) => {
                self.remove(stat)?;
                Ok(link()?)
            }
            other => Ok(other?),
        }
    }

    fn set_metadata(&self, stat: &Stat) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let fd = open_beneath(self.root.as_fd(), &stat.path, flags)?;
        remove_stale_xattrs(&fd, stat)?;
        self.set_on_fd(fd.as_fd(), stat, false)
    }
}

/// Whether bytes of a file need no space: many, and all zero.
fn is_hole(chunk: &[u8]) -> bool {
    chunk.len() >= HOLE && !chunk.iter().any(|byte| *byte != 0)
}

fn remove_stale_xattrs(fd: &OwnedFd, stat: &Stat) -> io::Result<()> {
    // By its own path there is none that leads elsewhere.
    let path = PathBuf::from(format!("/proc/self/fd/{}/.", fd.as_raw_fd()));
    for (name, _) in read_xattrs(&path)? {
        // Labels are the system's, not the tree's.
        let is_wanted = stat.xattrs.iter().any(|(wanted, _)| *wanted == name);
        if !is_wanted && name != "security.selinux" {
            rustix::fs::fremovexattr(fd, name.as_os_str())?;
        }
    }
    Ok(())
}

/// A path to `name` in an open directory, for calls that take no descriptor.
fn in_directory(dir: BorrowedFd<'_>, name: &OsStr) -> PathBuf {
    Path::new(&format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name)
}

fn times(mtime: Timestamp) -> Timestamps {
    let time = Timespec {
        tv_sec: mtime.seconds,
        tv_nsec: mtime.nanoseconds.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
