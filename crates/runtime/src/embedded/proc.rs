//! `/proc` of a step.
//!
//! A `/proc` shows the PID namespace of the process that makes it, and the supervising thread stays
//! in the host's. So the step's process makes it itself, from what the thread prepared: the mounts
//! that hide files are ready, and each takes one system call.

use std::ffi::{CStr, CString, c_char, c_int};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// What the step's process mounts.
pub(super) struct ProcMount {
    /// The directory that it is mounted on.
    pub(super) target: OwnedFd,
    /// Detached mounts and the names in `/proc` that they hide.
    pub(super) masks: Vec<(OwnedFd, CString)>,
    /// Names in `/proc` that become read-only.
    pub(super) read_only: Vec<CString>,
}

impl ProcMount {
    /// One on `target` that hides nothing.
    pub(super) fn new(target: OwnedFd) -> Self {
        Self {
            target,
            masks: Vec::new(),
            read_only: Vec::new(),
        }
    }

    /// The same as a process reads it that must not allocate; valid as long as this.
    pub(super) fn plan(&self) -> ProcPlan {
        let masks = self.masks.iter();
        let names = self.read_only.iter();
        ProcPlan {
            target: self.target.as_raw_fd(),
            masks: masks
                .map(|(fd, name)| (fd.as_raw_fd(), name.as_ptr()))
                .collect(),
            read_only: names.map(|name| name.as_ptr()).collect(),
        }
    }
}

/// A name in `/proc`, without a slash in front.
pub(super) fn name(path: &str) -> io::Result<Option<CString>> {
    match path.strip_prefix("/proc/") {
        Some(name) => Ok(Some(CString::new(name)?)),
        None => Ok(None),
    }
}

/// What [`mount`] reads.
pub(super) struct ProcPlan {
    target: RawFd,
    masks: Vec<(RawFd, *const c_char)>,
    read_only: Vec<*const c_char>,
}

const CLOEXEC: c_int = 1;
const CONFIG_STRING: c_int = 1;
const CONFIG_CREATE: c_int = 6;
const READ_ONLY: u64 = 1;
const NO_SUID: c_int = 2;
const NO_DEV: c_int = 4;
const NO_EXEC: c_int = 8;
const FROM_EMPTY: c_int = 0x4;
const TO_EMPTY: c_int = 0x40;
const TREE_CLONE: c_int = 1;

/// The kernel's `struct mount_attr`.
#[repr(C)]
struct Attributes {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

const EMPTY: &CStr = c"";

/// A descriptor or the error that is left in `errno`.
fn descriptor(result: i64) -> Option<RawFd> {
    RawFd::try_from(result).ok().filter(|fd| *fd >= 0)
}

/// Makes and mounts `/proc`. Only system calls; `None` if one failed, with the error in `errno`.
///
/// # Safety
/// `plan` must come from a [`ProcMount`] that is alive.
pub(super) unsafe fn mount(plan: &ProcPlan) -> Option<()> {
    let none = std::ptr::null::<c_char>();
    let empty = EMPTY.as_ptr();
    // SAFETY: strings that are alive, and descriptors of this process.
    unsafe {
        let kind = c"proc".as_ptr();
        let context = descriptor(libc::syscall(libc::SYS_fsopen, kind, CLOEXEC))?;
        let name = c"source".as_ptr();
        let named = libc::syscall(libc::SYS_fsconfig, context, CONFIG_STRING, name, kind, 0);
        descriptor(named)?;
        let created = libc::syscall(libc::SYS_fsconfig, context, CONFIG_CREATE, none, none, 0);
        descriptor(created)?;
        let confined = NO_SUID | NO_DEV | NO_EXEC;
        let proc = descriptor(libc::syscall(libc::SYS_fsmount, context, CLOEXEC, confined))?;
        let flags = FROM_EMPTY | TO_EMPTY;
        let moved = libc::syscall(libc::SYS_move_mount, proc, empty, plan.target, empty, flags);
        descriptor(moved)?;
        for (fd, name) in &plan.masks {
            let moved = libc::syscall(libc::SYS_move_mount, *fd, empty, proc, *name, FROM_EMPTY);
            descriptor(moved)?;
        }
        for name in &plan.read_only {
            protect(proc, *name)?;
        }
    }
    Some(())
}

/// Mounts a read-only copy of `name` on itself.
///
/// # Safety
/// `name` must be a string that is alive.
unsafe fn protect(proc: RawFd, name: *const c_char) -> Option<()> {
    let empty = EMPTY.as_ptr();
    let attributes = Attributes {
        set: READ_ONLY,
        clear: 0,
        propagation: 0,
        userns: 0,
    };
    // SAFETY: strings and a structure that are alive, and descriptors of this process.
    unsafe {
        let flags = TREE_CLONE | libc::O_CLOEXEC | libc::AT_RECURSIVE;
        let copy = descriptor(libc::syscall(libc::SYS_open_tree, proc, name, flags))?;
        descriptor(libc::syscall(
            libc::SYS_mount_setattr,
            copy,
            empty,
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<Attributes>(),
        ))?;
        let moved = libc::syscall(libc::SYS_move_mount, copy, empty, proc, name, FROM_EMPTY);
        descriptor(moved)?;
    }
    Some(())
}
