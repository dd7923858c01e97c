//! Mounts as file descriptors: made detached, changed, cloned, and attached where they belong.
//! A detached mount has no path and ends with its last descriptor.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

/// An option of a file system: a name, and a value if it takes one.
pub(crate) type FsOption<'a> = (&'a str, Option<&'a str>);

/// A new instance of the file system `kind`, detached.
pub(crate) fn new_fs(
    kind: &str,
    options: &[FsOption<'_>],
    attributes: MountAttrFlags,
) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    name_source(&context, kind)?;
    set_options(&context, options)?;
    create(&context, attributes)
}

/// Has lists of mounts name the kind as the source, as everybody's do: programs such as `df` show it.
pub(crate) fn name_source(context: &OwnedFd, kind: &str) -> io::Result<()> {
    fsconfig_set_string(context, "source", kind).map_err(|errno| explain(context, errno))
}

pub(crate) fn set_options(context: &OwnedFd, options: &[FsOption<'_>]) -> io::Result<()> {
    for (name, value) in options {
        match value {
            Some(value) => fsconfig_set_string(context, *name, *value),
            None => fsconfig_set_flag(context, *name),
        }
        .map_err(|errno| explain(context, errno))?;
    }
    Ok(())
}

/// The mount that a file system context configures.
pub(crate) fn create(context: &OwnedFd, attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    fsconfig_create(context).map_err(|errno| explain(context, errno))?;
    Ok(fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// `errno` with the message that the kernel left in the file system context, if it left one.
pub(crate) fn explain(context: &OwnedFd, errno: Errno) -> io::Error {
    let mut message = [0_u8; 512];
    let error = io::Error::from(errno);
    match rustix::io::read(context, &mut message) {
        Ok(len) if len > 2 => {
            let text = String::from_utf8_lossy(message.get(2..len).unwrap_or_default());
            io::Error::new(error.kind(), format!("{error} ({})", text.trim_end()))
        }
        _ => error,
    }
}

/// A detached copy of the tree at `path`, with the mounts in it.
pub(crate) fn clone_path(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    Ok(open_tree(CWD, path, flags)?)
}

/// A detached copy of the tree at the file or directory `at`, with the mounts in it.
pub(crate) fn clone_fd(at: impl AsFd) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    Ok(open_tree(at, "", flags)?)
}

/// A detached copy of one mount, without what is mounted in it.
pub(crate) fn clone_single(at: impl AsFd) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(at, "", flags)?)
}

/// Attaches a detached mount on the file or directory `target`.
pub(crate) fn attach(mount: impl AsFd, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", target, "", flags)?)
}

/// Attaches a detached mount on `path` of this thread's mount namespace.
pub(crate) fn attach_path(mount: impl AsFd, path: &Path) -> io::Result<()> {
    Ok(move_mount(
        mount,
        "",
        CWD,
        path,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?)
}

/// How mounts of a tree are changed.
#[derive(Clone, Copy)]
pub(crate) enum Scope {
    /// This mount only.
    Single,
    /// This mount and all below it.
    Recursive,
}

/// `MS_PRIVATE`: no mount event goes in or out.
pub(crate) const PRIVATE: u64 = libc::MS_PRIVATE;
/// `MS_SLAVE`: mount events come in from the host and none goes out.
pub(crate) const SLAVE: u64 = libc::MS_SLAVE;
/// The propagation stays as it is.
pub(crate) const KEEP: u64 = 0;

/// The kernel's `struct mount_attr`.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Sets attributes and propagation of the mount that `mount` is the root of (`mount_setattr`, 5.12).
pub(crate) fn change(
    mount: BorrowedFd<'_>,
    scope: Scope,
    set: MountAttrFlags,
    propagation: u64,
) -> io::Result<()> {
    let attr = MountAttr {
        set: u64::from(set.bits()),
        clear: 0,
        propagation,
        userns_fd: 0,
    };
    let recursive = match scope {
        Scope::Single => 0,
        Scope::Recursive => libc::AT_RECURSIVE,
    };
    // SAFETY: the path is a NUL-terminated literal, `attr` lives through the call and its size is
    // the one given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
