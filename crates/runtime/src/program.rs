//! Finding the program of a step in its root file system.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, OFlags, fstat};

use crate::beneath;
use crate::error::RuntimeError;
use crate::mount::Root;

/// Where programs are looked up if the step has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The path to execute for `name`: itself if it has a slash, else the first executable file of that
/// name in the directories of `PATH`.
pub(crate) fn find(
    root: &Root<'_>,
    cwd: &Path,
    env: &[String],
    name: &str,
) -> Result<PathBuf, RuntimeError> {
    if name.contains('/') {
        let path = Path::new(name);
        return match check(root, &cwd.join(path)) {
            Check::Executable => Ok(path.to_owned()),
            Check::Missing => Err(RuntimeError::NoSuchProgram {
                program: name.to_owned(),
            }),
            Check::Directory => Err(not_executable(name, "is a directory")),
            Check::Forbidden => Err(not_executable(name, "permission denied")),
        };
    }
    let path = env
        .iter()
        .rev()
        .find_map(|entry| entry.strip_prefix("PATH="));
    let mut forbidden = false;
    for dir in path.unwrap_or(DEFAULT_PATH).split(':') {
        let candidate = cwd.join(OsStr::from_bytes(dir.as_bytes())).join(name);
        match check(root, &candidate) {
            Check::Executable => return Ok(candidate),
            Check::Forbidden => forbidden = true,
            Check::Missing | Check::Directory => {}
        }
    }
    if forbidden && !name.is_empty() {
        return Err(not_executable(name, "permission denied"));
    }
    Err(RuntimeError::NotInPath {
        program: name.to_owned(),
    })
}

fn not_executable(name: &str, reason: &str) -> RuntimeError {
    RuntimeError::NotExecutable {
        program: name.to_owned(),
        reason: reason.to_owned(),
    }
}

/// Why the kernel refused to execute `program`, which was there.
pub(crate) fn refused(program: &str, error: io::Error) -> RuntimeError {
    match error.raw_os_error() {
        // The file is there, so what is missing is what it needs: an interpreter or a loader.
        Some(libc::ENOENT) => RuntimeError::NoSuchProgram {
            program: program.to_owned(),
        },
        Some(libc::EACCES) => not_executable(program, "permission denied"),
        Some(libc::ENOEXEC) => not_executable(program, "exec format error"),
        Some(libc::E2BIG) => not_executable(program, "argument list too long"),
        _ => not_executable(program, &error.to_string()),
    }
}

enum Check {
    Executable,
    Missing,
    Directory,
    Forbidden,
}

fn check(root: &Root<'_>, path: &Path) -> Check {
    let opened = beneath::open(root, path, OFlags::PATH);
    let Ok(stat) = opened.and_then(fstat) else {
        return Check::Missing;
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Check::Directory,
        _ if stat.st_mode & 0o111 == 0 => Check::Forbidden,
        _ => Check::Executable,
    }
}
