//! Overlay mounts on kernels before 6.5, whose overlayfs only takes one page of options from
//! mount(2), which in turn needs a mount point.
//!
//! The mount point is made in a mount namespace of a thread's own, from where the mount is
//! cloned into a descriptor; the namespace ends with the thread. Nothing appears on the host.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

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
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("overlay-mount".to_owned())
            .spawn_scoped(scope, || mount_in_own_namespace(source, read_only))
            .map_err(|_| MountError::new(ACTION, subject(source), Errno::AGAIN))?
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn mount_in_own_namespace(source: &OverlaySource, read_only: bool) -> Result<OwnedFd, MountError> {
    let error = |errno| MountError::new(ACTION, subject(source), errno);
    // SAFETY: the thread is our own and ends after this call. Neither the namespace nor the
    // unshared working directory is ever seen by another thread; the descriptor table, whose
    // unsharing could surprise owners of descriptors, stays shared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS | UnshareFlags::NEWNS) }
        .map_err(error)?;
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::REC | MountPropagationFlags::PRIVATE,
    )
    .map_err(error)?;
    // The directories are opened in the namespace whose mounts the kernel will clone.
    let options = Options::of(source)?;
    let flags = if read_only {
        MountFlags::RDONLY
    } else {
        MountFlags::empty()
    };
    let text = CString::new(options.text).map_err(|_| error(Errno::INVAL))?;
    rustix::mount::mount("overlay", MOUNT_POINT, "overlay", flags, text.as_c_str())
        .map_err(error)?;
    rustix::mount::open_tree(
        CWD,
        MOUNT_POINT,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )
    .map_err(error)
}

/// The options of mount(2), with directories by the short paths of their descriptors.
struct Options {
    text: String,
    held: Vec<OwnedFd>,
}

impl Options {
    fn of(source: &OverlaySource) -> Result<Self, MountError> {
        let mut options = Self {
            text: "index=off,metacopy=off".to_owned(),
            held: Vec::new(),
        };
        options.text.push_str(if source.userxattr {
            ",userxattr"
        } else {
            ",redirect_dir=nofollow"
        });
        for (index, lower) in source.lowers.iter().enumerate() {
            options.directory(if index == 0 { ",lowerdir=" } else { ":" }, lower)?;
        }
        if let Some(upper) = &source.upper {
            options.directory(",volatile,upperdir=", &upper.upper)?;
            options.directory(",workdir=", &upper.work)?;
        }
        Ok(options)
    }

    fn directory(&mut self, before: &str, path: &Path) -> Result<(), MountError> {
        let directory = open_directory(path)?;
        self.text.push_str(before);
        self.text
            .push_str(&format!("/proc/self/fd/{}", directory.as_raw_fd()));
        self.held.push(directory);
        Ok(())
    }
}
