//! Paths resolved beneath a root directory: links and `..` do not lead out of it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::{Errno, Result};

const CONTAINED: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// How often a lookup is repeated that the kernel broke off.
const RETRIES: usize = 10_000;

/// Opens `path` as if `root` were the root directory.
pub(crate) fn open(root: impl AsFd, path: &Path, flags: OFlags) -> Result<OwnedFd> {
    retry(|| {
        openat2(
            &root,
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            CONTAINED,
        )
    })
}

/// The same for a path that must have no links in it.
pub(crate) fn open_plain(root: impl AsFd, path: &Path, flags: OFlags) -> Result<OwnedFd> {
    let resolve = CONTAINED | ResolveFlags::NO_SYMLINKS;
    retry(|| openat2(&root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve))
}

/// The kernel breaks off a lookup through `..` when something anywhere was mounted or renamed
/// meanwhile, since it cannot tell then whether the path led out.
fn retry(mut open: impl FnMut() -> Result<OwnedFd>) -> Result<OwnedFd> {
    for _ in 0..RETRIES {
        match open() {
            Err(Errno::AGAIN) => std::thread::yield_now(),
            other => return other,
        }
    }
    open()
}
