//! Taking a directory out of a checkout.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use weld_fileset::{open_beneath, read_dir};

/// Moves what is in `subdir` of `from` to `to`. No component of `subdir` may be a symbolic link.
pub(super) fn move_up(from: &Path, subdir: &str, to: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let open = |path: &Path| -> io::Result<OwnedFd> {
        Ok(rustix::fs::open(
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
        )?)
    };
    let (from, to) = (open(from)?, open(to)?);
    let source =
        open_beneath(from.as_fd(), Path::new(subdir), flags).map_err(|error| match error {
            Errno::LOOP => io::Error::other("a component of it is a symbolic link"),
            other => other.into(),
        })?;
    for (name, _) in read_dir(source.as_fd())? {
        rustix::fs::renameat(&source, name.as_os_str(), &to, name.as_os_str())?;
    }
    let metadata = rustix::fs::fstat(&source)?;
    rustix::fs::fchmod(&to, Mode::from_raw_mode(metadata.st_mode))?;
    Ok(())
}

/// Removes the `.git` files that submodules have in a work tree whose repository goes away.
pub(super) fn remove_git_files(root: &Path) -> io::Result<()> {
    let mut due = vec![root.to_owned()];
    while let Some(directory) = due.pop() {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                due.push(entry.path());
            } else if kind.is_file() && entry.file_name() == ".git" {
                fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

/// Sets the times of all that is beneath `root`, and of itself, to `seconds` since 1970.
pub(super) fn set_times(root: &Path, seconds: i64) -> io::Result<()> {
    let time = rustix::fs::Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    let times = rustix::fs::Timestamps {
        last_access: time,
        last_modification: time,
    };
    let set = |path: &Path| {
        let nofollow = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(rustix::fs::CWD, path, &times, nofollow)
    };
    let mut due = vec![root.to_owned()];
    // Setting a child's times does not change its directory's.
    while let Some(path) = due.pop() {
        if fs::symlink_metadata(&path)?.is_dir() {
            for entry in fs::read_dir(&path)? {
                due.push(entry?.path());
            }
        }
        set(&path)?;
    }
    Ok(())
}
