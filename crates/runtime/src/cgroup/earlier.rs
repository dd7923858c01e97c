//! Directories of earlier versions, which do not lock their own.
//!
//! Such a version has the state directory that a directory stands for, though: it holds a lock on the file `lock` in it, as versions do
//! that lock both. So nobody has a directory where no process of the machine that has locked a file has this one open.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;

/// How long a directory was not changed before it may be removed.
const AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// The inode of the initial namespace of processes, which is the same in all kernels: who is in it sees all processes.
const INITIAL: u64 = 0xEFFF_FFFC;

/// A state directory, by its file system and inode.
pub(super) type State = (u64, u64);

/// What a name of this form stands for: `device-inode`, in lowercase hexadecimal digits.
pub(super) fn state(name: &str) -> Option<State> {
    let number = |part: &str| {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        match part.bytes().all(is_digit) {
            true => u64::from_str_radix(part, 16).ok(),
            false => None,
        }
    };
    let (device, inode) = name.split_once('-')?;
    Some((number(device)?, number(inode)?))
}

/// Whether a directory that stands for a state directory is of nobody. Where that cannot be told, it is of somebody.
pub(super) fn is_left(directory: &Path, state: State) -> bool {
    let changed = std::fs::symlink_metadata(directory).and_then(|meta| meta.modified());
    let age = changed.ok().and_then(|changed| changed.elapsed().ok());
    age.is_some_and(|age| age >= AGE)
        && in_use().is_ok_and(|in_use| in_use.is_some_and(|in_use| !in_use.contains(&state)))
}

/// The directories of which a process that has locked something has the file `lock` open; `None` where not all processes can be seen.
fn in_use() -> io::Result<Option<HashSet<State>>> {
    if std::fs::metadata("/proc/self/ns/pid")?.ino() != INITIAL {
        return Ok(None);
    }
    let locks = std::fs::read_to_string("/proc/locks")?;
    let owners: HashSet<&str> = locks.lines().filter_map(owner).collect();
    let mut found = HashSet::new();
    for owner in owners {
        match locked_by(owner) {
            Ok(locked) => found.extend(locked),
            // It ended.
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Some(found))
}

/// The process that holds a lock on a whole file alone, of a line such as `1: FLOCK  ADVISORY  WRITE 42 fe:00:7 0 EOF`.
fn owner(line: &str) -> Option<&str> {
    let mut words = line.split_ascii_whitespace().skip(1);
    match (words.next(), words.nth(1), words.next()) {
        (Some("FLOCK"), Some("WRITE"), owner) => owner,
        _ => None,
    }
}

/// The directories of the files called `lock` that a process has open.
fn locked_by(process: &str) -> io::Result<Vec<State>> {
    let process = Path::new("/proc").join(process);
    let mut found = Vec::new();
    for file in std::fs::read_dir(process.join("fd"))? {
        let path = match std::fs::read_link(file?.path()) {
            Ok(path) => path,
            Err(error) if is_gone(&error) => continue,
            Err(error) => return Err(error),
        };
        if path.file_name() != Some(OsStr::new("lock")) {
            continue;
        }
        let seen: PathBuf = path
            .parent()
            .into_iter()
            .flat_map(Path::components)
            .skip(1)
            .collect();
        // As the process sees it, which may have mounts of its own.
        match std::fs::metadata(process.join("root").join(seen)) {
            Ok(meta) => found.push((meta.dev(), meta.ino())),
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || Errno::from_io_error(error) == Some(Errno::SRCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_for_state_directories() {
        assert_eq!(state("fe01-3a9"), Some((0xfe01, 937)));
        for other in ["", "-", "a-", "-1", "A-1", "a-1.locked", "x.slice", "+a-1"] {
            assert_eq!(state(other), None, "{other}");
        }
    }

    #[test]
    fn owners_of_locks_are_read() {
        let owners = |text: &'static str| text.lines().filter_map(owner).collect::<Vec<_>>();
        let text = "1: FLOCK  ADVISORY  WRITE 42 fe:00:7 0 EOF\n\
                    1: -> FLOCK  ADVISORY  WRITE 43 fe:00:7 0 EOF\n\
                    2: FLOCK  ADVISORY  READ 44 fe:00:8 0 EOF\n\
                    3: POSIX  ADVISORY  WRITE 45 fe:00:9 0 10\n";
        assert_eq!(owners(text), ["42"]);
        assert_eq!(owners(""), [""; 0]);
    }

    #[test]
    fn who_has_a_state_directory_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let meta = directory.path().metadata().unwrap();
        let state = (meta.dev(), meta.ino());
        let Some(before) = in_use().unwrap() else {
            return;
        };
        assert!(!before.contains(&state));
        let file = std::fs::File::create(directory.path().join("lock")).unwrap();
        file.lock().unwrap();
        assert!(in_use().unwrap().unwrap().contains(&state));
    }
}
