//! Reading files of a tree, with every path resolved beneath its root.

use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use weld_fileset::{PatternMatcher, Timestamp};
pub use weld_source::local::Stat;

/// The most that is read of a file at once, in bytes: what fits in a message.
pub(crate) const MAX_READ: u64 = 16 << 20;

/// How many entries of a directory are listed.
const MAX_ENTRIES: usize = 1 << 20;

/// Why a file of a result cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// The system refuses.
    #[error("{action} {path}: {}", .errno.text())]
    System {
        /// What was tried.
        action: &'static str,
        /// The path as it was asked for.
        path: String,
        /// Why it failed.
        errno: SystemError,
    },
    /// It is no file with content.
    #[error("{0} is not a regular file")]
    NotRegular(String),
    /// It is larger than what is read at once.
    #[error("{path} has {size} bytes: no more than {MAX_READ} are read at once, ask for a range")]
    TooLarge {
        /// The path as it was asked for.
        path: String,
        /// How much was asked for.
        size: u64,
    },
    /// A pattern is malformed.
    #[error("pattern {pattern:?}: {reason}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The directory has more entries than are listed.
    #[error("{0} has too many entries")]
    TooManyEntries(String),
}

/// An error number of the system's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemError(i32);

impl SystemError {
    /// Its text as clients of BuildKit know it: without a number, in lower case.
    fn text(self) -> String {
        let text = std::io::Error::from_raw_os_error(self.0).to_string();
        let text = text.split(" (os error").next().unwrap_or_default();
        text.to_lowercase()
    }

    /// Whether there is no such file.
    pub const fn is_not_found(self) -> bool {
        self.0 == Errno::NOENT.raw_os_error()
    }
}

fn system<'a>(action: &'static str, path: &'a str) -> impl Fn(Errno) -> FileError + 'a {
    move |errno| FileError::System {
        action,
        path: path.to_owned(),
        errno: SystemError(errno.raw_os_error()),
    }
}

/// A part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileRange {
    /// Its first byte.
    pub offset: u64,
    /// How many bytes, if the file has so many.
    pub length: u64,
}

fn open(root: &impl AsFd, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = match path.trim_start_matches('/') {
        "" => ".",
        path => path,
    };
    openat2(
        root,
        path,
        flags | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
}

/// Reads a file.
pub(crate) fn read_file(
    root: &impl AsFd,
    path: &str,
    range: Option<FileRange>,
) -> Result<Bytes, FileError> {
    // Without blocking, should it be a pipe.
    let opened = open(root, path, OFlags::RDONLY | OFlags::NONBLOCK);
    let file = std::fs::File::from(opened.map_err(system("open", path))?);
    let io = |error: std::io::Error| system("read", path)(errno_of(&error));
    let metadata = file.metadata().map_err(io)?;
    if !metadata.is_file() {
        return Err(FileError::NotRegular(path.to_owned()));
    }
    let (offset, length) = match range {
        Some(range) => {
            let left = metadata.len().saturating_sub(range.offset);
            (range.offset, range.length.min(left))
        }
        None => (0, metadata.len()),
    };
    if length > MAX_READ {
        return Err(FileError::TooLarge {
            path: path.to_owned(),
            size: length,
        });
    }
    let mut bytes = Vec::new();
    Section { file, offset }
        .take(length)
        .read_to_end(&mut bytes)
        .map_err(io)?;
    Ok(Bytes::from(bytes))
}

/// A file from an offset on.
struct Section {
    file: std::fs::File,
    offset: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset = self.offset.saturating_add(read as u64);
        Ok(read)
    }
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// What is known of a file; links are followed.
pub(crate) fn stat_file(root: &impl AsFd, path: &str) -> Result<Stat, FileError> {
    let opened = open(root, path, OFlags::PATH).map_err(system("lstat", path))?;
    let name = Path::new(path).file_name().unwrap_or(OsStr::new("/"));
    stat(&opened, name).map_err(system("lstat", path))
}

/// The entries of a directory whose names match, in their order.
pub(crate) fn read_dir(
    root: &impl AsFd,
    path: &str,
    include: Option<&str>,
) -> Result<Vec<Stat>, FileError> {
    let matcher = include.map(matcher).transpose()?;
    let opened = open(root, path, OFlags::RDONLY | OFlags::DIRECTORY);
    let directory = opened.map_err(system("open", path))?;
    let failed = system("readdir", path);
    let mut names = Vec::new();
    for entry in Dir::read_from(&directory).map_err(&failed)? {
        let entry = entry.map_err(&failed)?;
        let name = entry.file_name().to_bytes();
        let wanted = match &matcher {
            Some(matcher) => matcher.matches_or_parent_matches(Path::new(OsStr::from_bytes(name))),
            None => true,
        };
        if !matches!(name, b"." | b"..") && wanted {
            names.push(OsStr::from_bytes(name).to_owned());
        }
        if names.len() > MAX_ENTRIES {
            return Err(FileError::TooManyEntries(path.to_owned()));
        }
    }
    names.sort();
    let mut stats = Vec::with_capacity(names.len());
    for name in names {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&directory, &name, flags, Mode::empty()) {
            Ok(entry) => stats.push(stat(&entry, &name).map_err(&failed)?),
            // It went away since.
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
    Ok(stats)
}

fn matcher(pattern: &str) -> Result<PatternMatcher, FileError> {
    PatternMatcher::new(&[pattern.to_owned()]).map_err(|error| FileError::Pattern {
        pattern: pattern.to_owned(),
        reason: error.to_string(),
    })
}

/// What is known of an open file.
fn stat(file: &OwnedFd, name: &OsStr) -> Result<Stat, Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    let found = rustix::fs::statat(file, "", flags)?;
    let kind = FileType::from_raw_mode(found.st_mode);
    let link_target = match kind {
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(file, "", Vec::new())?;
            Some(PathBuf::from(OsStr::from_bytes(target.to_bytes())))
        }
        _ => None,
    };
    let device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
    Ok(Stat {
        path: PathBuf::from(name),
        mode: found.st_mode,
        uid: found.st_uid,
        gid: found.st_gid,
        size: match kind {
            FileType::Directory => 0,
            _ => u64::try_from(found.st_size).unwrap_or(0),
        },
        mtime: Timestamp {
            seconds: found.st_mtime,
            nanoseconds: u32::try_from(found.st_mtime_nsec).unwrap_or(0),
        },
        link_target,
        hard_link: None,
        rdev: match device {
            true => (
                rustix::fs::major(found.st_rdev),
                rustix::fs::minor(found.st_rdev),
            ),
            false => (0, 0),
        },
        xattrs: Vec::new(),
        change: None,
    })
}
