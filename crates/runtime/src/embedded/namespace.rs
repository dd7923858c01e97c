//! The namespaces of a step, entered by the thread that looks after it.
//!
//! A thread of its own enters all of them, so that the sandbox is built by ordinary code: only what
//! a process must do itself is left for the step's child. The thread keeps the mount namespace until
//! the child has ended and then leaves it, which unmounts everything before the step is reported as
//! ended; were the last process of a namespace its last user, the kernel would unmount some time
//! later.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::mount::tree::{self, Scope};
use crate::spec::Network;

/// The calling thread is in namespaces of its own until this is dropped.
pub(crate) struct Entered {
    /// The mount namespace of the process.
    home: OwnedFd,
}

impl Entered {
    /// Moves the calling thread into new namespaces. A process that it starts is the first of a new
    /// PID namespace.
    pub(super) fn new(network: Network) -> io::Result<Self> {
        let mut flags = UnshareFlags::NEWIPC | UnshareFlags::NEWUTS | UnshareFlags::NEWPID;
        if network == Network::None {
            flags |= UnshareFlags::NEWNET;
        }
        Self::unshare(flags)
    }

    /// Moves the calling thread into a new mount namespace only.
    pub(crate) fn mounts_only() -> io::Result<Self> {
        Self::unshare(UnshareFlags::empty())
    }

    fn unshare(others: UnshareFlags) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let home = openat(CWD, "/proc/thread-self/ns/mnt", flags, Mode::empty())?;
        let flags = UnshareFlags::FS | UnshareFlags::NEWNS | others;
        // SAFETY: descriptors stay shared with the other threads.
        unsafe { unshare_unsafe(flags)? };
        let entered = Self { home };
        // What is mounted here must not show up outside.
        let root = openat(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let keep = rustix::mount::MountAttrFlags::empty();
        tree::change(root.as_fd(), Scope::Recursive, keep, tree::SLAVE)?;
        // Modes of what is created are meant as they are given.
        rustix::process::umask(Mode::empty());
        Ok(entered)
    }

    /// Moves the thread back to the process's mounts; those of the step are unmounted when this
    /// returns.
    pub(crate) fn leave(self) {
        drop(self);
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let kind = Some(LinkNameSpaceType::Mount);
        if let Err(errno) = move_into_link_name_space(self.home.as_fd(), kind) {
            // The namespace goes with the thread, which ends soon.
            tracing::warn!("a thread cannot return to the mount namespace: {errno}");
        }
    }
}

/// Brings up the loopback interface of the calling thread's network namespace.
pub(super) fn loopback_up() -> io::Result<()> {
    // SAFETY: makes a descriptor that only we know.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: a structure of plain numbers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed() as libc::c_char;
    }
    let up = libc::IFF_UP | libc::IFF_RUNNING;
    request.ifr_ifru.ifru_flags = i16::try_from(up).unwrap_or(libc::c_short::MAX);
    // SAFETY: the request lives through the call, which reads it.
    let result = unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as _,
            &raw const request,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
