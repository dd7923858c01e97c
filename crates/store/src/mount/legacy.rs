//! Overlay mounts on kernels before 6.5, whose overlayfs only takes one page of options from
//! mount(2), which in turn needs a mount point.
//!
//! The mount point is made in a mount namespace of a thread's own, from where the mount is
//! cloned into a descriptor; the namespace ends with the thread. Nothing appears on the host.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, OpenTreeFlags};
use rustix::thread::UnshareFlags;

use super::overlay::{open_directory, subject};
use super::{MountError, OverlaySource};

const ACTION: &str = "mount the overlay of";

/// The most lower directories whose descriptors' paths fit into mount(2)'s page of options.
pub(super) const MAX_LOWERS: usize = 170;

/// A directory that every Linux system has; only the thread's own namespace sees it covered.
const MOUNT_POINT: &str = "/proc";

pub(super) fn open(source: &OverlaySource, read_only: bool) -> Result<OwnedFd, MountError> {
    if source.lowers.len() > MAX_LOWERS {
        return Err(MountError::TooManyLayers {
            count: source.lowers.len(),
        });
    }
    let mut held = Vec::new();
    let mut by_descriptor = |path| {
        let directory = open_directory(path)?;
        let value = format!("/proc/self/fd/{}", directory.as_raw_fd());
        held.push(directory);
        Ok::<_, MountError>(value)
    };
    let lowers = source
        .lowers
        .iter()
        .map(|lower| by_descriptor(lower))
        .collect::<Result<Vec<_>, _>>()?;
    let mut options = format!("lowerdir={},index=off,metacopy=off", lowers.join(":"));
    if let Some(upper) = &source.upper {
        options.push_str(",volatile,upperdir=");
        options.push_str(&by_descriptor(&upper.upper)?);
        options.push_str(",workdir=");
        options.push_str(&by_descriptor(&upper.work)?);
    }
    options.push_str(if source.userxattr {
        ",userxattr"
    } else {
        ",redirect_dir=nofollow"
    });
    let error = |errno| MountError::new(ACTION, subject(source), errno);
    let options = CString::new(options).map_err(|_| error(Errno::INVAL))?;
    let mount = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("overlay-mount".to_owned())
            .spawn_scoped(scope, || mount_in_own_namespace(&options, read_only));
        match thread {
            Ok(thread) => thread.join().unwrap_or(Err(Errno::CANCELED)),
            Err(_) => Err(Errno::AGAIN),
        }
    });
    mount.map_err(error)
}

fn mount_in_own_namespace(options: &CString, read_only: bool) -> Result<OwnedFd, Errno> {
    // SAFETY: the thread is our own and ends after this call. Neither the namespace nor the
    // unshared working directory is ever seen by another thread; the descriptor table, whose
    // unsharing could surprise owners of descriptors, stays shared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS | UnshareFlags::NEWNS) }?;
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::REC | MountPropagationFlags::PRIVATE,
    )?;
    let mut flags = MountFlags::empty();
    if read_only {
        flags |= MountFlags::RDONLY;
    }
    rustix::mount::mount(
        "overlay",
        MOUNT_POINT,
        "overlay",
        flags,
        options.as_c_str(),
    )?;
    rustix::mount::open_tree(
        CWD,
        MOUNT_POINT,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )
}
