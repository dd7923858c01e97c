//! Mounts of snapshots: as data for a step's own mount namespace, or detached.
//!
//! A [`MountSpec`] says what to mount; the sandbox mounts it inside its own namespace. The store
//! itself uses [`Mounted`], a mount that is never attached to a file tree: it lives as long as
//! its file descriptor, so it cannot be seen by other programs, cannot be left behind by a
//! killed process, and needs no mount point. Files below it are reached relative to the
//! descriptor or through `/proc/self/fd/N`.

mod error;
mod legacy;
mod overlay;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::OpenTreeFlags;

pub use error::MountError;

/// The most lower directories that one overlay mount takes (the kernel's `OVL_MAX_STACK`).
pub const MAX_OVERLAY_LOWERS: usize = 500;

/// What to mount as a root file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountSpec {
    /// Where the files are.
    pub source: MountSource,
    /// Whether writing is refused by the mount.
    pub read_only: bool,
}

/// Where the files of a mount are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountSource {
    /// One directory as it is.
    Bind(PathBuf),
    /// An overlay of directories.
    Overlay(OverlaySource),
}

/// The directories of an overlay mount and how it keeps its own marks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverlaySource {
    /// The read-only directories, uppermost first; at least one, or two where there is no upper.
    pub lowers: Vec<PathBuf>,
    /// Where changes go; without it the mount cannot be written.
    pub upper: Option<OverlayUpper>,
    /// Marks are kept as `user.overlay.*` attributes, as unprivileged mounts must.
    pub userxattr: bool,
}

/// The writable part of an overlay mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverlayUpper {
    /// The directory that receives the changes.
    pub upper: PathBuf,
    /// An empty directory on the same file system, for the kernel's own use. One that was used
    /// by a volatile mount is refused by the kernel, so every mount gets a fresh one.
    pub work: PathBuf,
}

impl MountSpec {
    /// A directory as it is.
    pub fn bind(path: impl Into<PathBuf>, read_only: bool) -> Self {
        Self {
            source: MountSource::Bind(path.into()),
            read_only,
        }
    }

    /// The least mount that shows `lowers` (uppermost first) with changes going to `upper`.
    ///
    /// One directory alone needs no overlay.
    pub fn layered(lowers: Vec<PathBuf>, upper: Option<OverlayUpper>, userxattr: bool) -> Self {
        match (lowers.as_slice(), upper) {
            ([], Some(upper)) => Self::bind(upper.upper, false),
            ([only], None) => Self::bind(only.clone(), true),
            (_, upper) => Self {
                read_only: upper.is_none(),
                source: MountSource::Overlay(OverlaySource {
                    lowers,
                    upper,
                    userxattr,
                }),
            },
        }
    }

    /// The same files, not to be written.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }
}

/// A mount that is attached nowhere and ends with this value.
#[derive(Debug)]
pub struct Mounted {
    fd: OwnedFd,
}

impl Mounted {
    /// Mounts `spec`.
    ///
    /// [`MountError::is_unavailable`] tells that this machine or user cannot mount such a thing
    /// at all, as opposed to a fault of this mount.
    pub fn open(spec: &MountSpec) -> Result<Self, MountError> {
        let fd = match &spec.source {
            MountSource::Bind(path) => bind(path, spec.read_only)?,
            MountSource::Overlay(source) => overlay::open(source, spec.read_only)?,
        };
        Ok(Self { fd })
    }

    /// A path to the root of the mount, good within this process while the value lives.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))
    }

    /// The descriptor of the mount, for `move_mount` or to keep.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

impl AsFd for Mounted {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether the kernel takes as many lower directories as [`MAX_OVERLAY_LOWERS`]; it does since 6.5.
pub(crate) fn takes_many_lowers() -> bool {
    overlay::takes_many_lowers()
}

fn bind(path: &Path, read_only: bool) -> Result<OwnedFd, MountError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    let fd = rustix::mount::open_tree(CWD, path, flags)
        .map_err(|errno| MountError::new("clone the mount of", path, errno))?;
    if read_only {
        set_read_only(fd.as_fd())
            .map_err(|errno| MountError::new("make read-only the mount of", path, errno))?;
    }
    Ok(fd)
}

fn set_read_only(mount: BorrowedFd<'_>) -> Result<(), rustix::io::Errno> {
    let attr = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the path is a NUL-terminated empty string, `attr` is a valid mount_attr whose size
    // is passed along and that outlives the call, and the descriptor is borrowed for the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            std::ptr::from_ref(&attr),
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 {
        return Ok(());
    }
    Err(
        rustix::io::Errno::from_io_error(&std::io::Error::last_os_error())
            .unwrap_or(rustix::io::Errno::INVAL),
    )
}

#[cfg(test)]
mod tests;
