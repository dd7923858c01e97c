//! Files that exist in memory and inside a step's sandbox only: secrets, `/etc/hosts`, sockets.

use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;

use rustix::fs::{Gid, Mode, OFlags, Uid, chmodat, chownat, fchmod, fchown, openat};
use rustix::mount::MountAttrFlags;

use super::scratch::Scratch;
use super::tree::{self, Scope};

/// A file system in memory that holds the files; each is mounted where it belongs.
pub(crate) struct Assets {
    dir: OwnedFd,
    count: usize,
}

/// Who may do what with a file.
#[derive(Clone, Copy)]
pub(crate) struct Access {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Access {
    /// A file of root's that everybody may read.
    pub(crate) const PUBLIC: Self = Self {
        mode: 0o644,
        uid: 0,
        gid: 0,
    };
}

const CONFINED: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);

impl Assets {
    /// An empty one.
    pub(crate) fn new(scratch: &mut Scratch) -> io::Result<Self> {
        let dir = tree::new_fs("tmpfs", &[("mode", Some("0700"))], CONFINED)?;
        scratch.attach(&dir)?;
        Ok(Self { dir, count: 0 })
    }

    /// A read-only file with this content, as a detached mount.
    pub(crate) fn file(&mut self, content: &[u8], access: Access) -> io::Result<OwnedFd> {
        let name = self.next_name();
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let fd = openat(&self.dir, &name, flags, Mode::from_raw_mode(0o600))?;
        let mut file = std::fs::File::from(fd);
        file.write_all(content)?;
        fchown(
            &file,
            Some(Uid::from_raw(access.uid)),
            Some(Gid::from_raw(access.gid)),
        )?;
        fchmod(&file, Mode::from_raw_mode(access.mode & 0o777))?;
        let mut attributes = CONFINED | MountAttrFlags::MOUNT_ATTR_RDONLY;
        if access.mode & 0o111 == 0 {
            attributes |= MountAttrFlags::MOUNT_ATTR_NOEXEC;
        }
        self.detach(&name, attributes)
    }

    /// A listening socket and its file as a detached mount.
    pub(crate) fn socket(&mut self, access: Access) -> io::Result<(UnixListener, OwnedFd)> {
        let name = self.next_name();
        let path = format!("/proc/thread-self/fd/{}/{name}", self.dir.as_raw_fd());
        let listener = UnixListener::bind(path)?;
        chownat(
            &self.dir,
            &name,
            Some(Uid::from_raw(access.uid)),
            Some(Gid::from_raw(access.gid)),
            rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
        )?;
        let mode = Mode::from_raw_mode(access.mode & 0o777);
        chmodat(&self.dir, &name, mode, rustix::fs::AtFlags::empty())?;
        let mount = self.detach(&name, CONFINED | MountAttrFlags::MOUNT_ATTR_NOEXEC)?;
        Ok((listener, mount))
    }

    fn next_name(&mut self) -> String {
        self.count += 1;
        self.count.to_string()
    }

    fn detach(&self, name: &str, attributes: MountAttrFlags) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.dir, name, flags, Mode::empty())?;
        let mount = tree::clone_fd(&file)?;
        tree::change(mount.as_fd(), Scope::Single, attributes, tree::PRIVATE)?;
        Ok(mount)
    }
}
