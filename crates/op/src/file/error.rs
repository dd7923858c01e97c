//! What can go wrong in a file operation, in the words that users of BuildKit know.

use std::path::{Path, PathBuf};

use rustix::io::Errno;
use weld_fileset::{GlobError, SelectionError, WalkError};
use weld_store::layer::LayerError;

/// Why a file operation failed. Paths are as seen from the root of the tree in question.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A path that must be there is not.
    #[error("{}: no such file or directory", .path.display())]
    NotFound {
        /// The path.
        path: PathBuf,
    },
    /// A wildcard matches nothing and has to match something.
    #[error("{pattern:?}: no match found")]
    NoMatch {
        /// The wildcard path.
        pattern: String,
    },
    /// A directory of the source meets something else in the destination.
    #[error("cannot copy to non-directory: {}", .path.display())]
    CopyToNonDirectory {
        /// The path in the destination.
        path: PathBuf,
    },
    /// A file of the source meets a directory in the destination.
    #[error("cannot replace to directory {} with file", .path.display())]
    ReplaceDirectory {
        /// The path in the destination.
        path: PathBuf,
    },
    /// A path goes through, or must be a directory and is not one.
    #[error("{path:?}: not a directory")]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// A file is to be written where a directory is.
    #[error("{path:?}: is a directory")]
    IsADirectory {
        /// The path.
        path: PathBuf,
    },
    /// A symbolic link is to be made where something is already.
    #[error("{path:?}: file exists")]
    Exists {
        /// The path.
        path: PathBuf,
    },
    /// A removal names the root.
    #[error("cannot remove {path:?}: it is the root")]
    RemoveRoot {
        /// The path as given.
        path: String,
    },
    /// Symbolic links lead in a circle, or are too many.
    #[error("{path:?}: too many levels of symbolic links")]
    TooManyLinks {
        /// The path.
        path: PathBuf,
    },
    /// A wildcard has a syntax error.
    #[error("invalid pattern {pattern:?}: {error}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        error: GlobError,
    },
    /// Include or exclude patterns are refused.
    #[error(transparent)]
    Selection(#[from] SelectionError),
    /// A mode is refused.
    #[error("invalid mode {mode:?}: {reason}")]
    Mode {
        /// The mode as given.
        mode: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An owner by name has no tree to look the name up in.
    #[error("owner {name:?} is given by name, without an input that has its passwd or group file")]
    OwnerWithoutInput {
        /// The user's or group's name.
        name: String,
    },
    /// An owner is none that the user namespace has.
    #[error(
        "owner {uid}:{gid} cannot be set: this user namespace has no such id; give the user that builds more of them in /etc/subuid and /etc/subgid"
    )]
    UnmappedOwner {
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
    },
    /// A passwd or group file cannot be used.
    #[error("{path:?}: {reason}")]
    OwnerFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An archive is damaged or cannot be read.
    #[error("cannot unpack {path:?}: {error}")]
    Unpack {
        /// The archive in the source.
        path: PathBuf,
        /// What went wrong.
        error: LayerError,
    },
    /// An entry of an archive cannot be made.
    #[error("cannot unpack {archive:?}: entry {entry:?}: {reason}")]
    ArchiveEntry {
        /// The archive in the source.
        archive: PathBuf,
        /// The entry's path in it.
        entry: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The system refused something.
    #[error("cannot {action} {path:?}: {error}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// What the system said.
        error: Errno,
    },
    /// The build was cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl FileError {
    /// The error of `action` on `path`; what users know by a name of its own gets it.
    pub(crate) fn io(action: &'static str, path: &Path, error: Errno) -> Self {
        let path = rooted(path);
        match error {
            Errno::NOENT => Self::NotFound { path },
            Errno::NOTDIR => Self::NotADirectory { path },
            Errno::LOOP => Self::TooManyLinks { path },
            error => Self::Io {
                action,
                path,
                error,
            },
        }
    }
}

impl From<WalkError> for FileError {
    fn from(error: WalkError) -> Self {
        Self::io(error.action, &error.path, error.error)
    }
}

/// `path` with a slash in front, as users write it.
pub(crate) fn rooted(path: &Path) -> PathBuf {
    Path::new("/").join(path)
}
