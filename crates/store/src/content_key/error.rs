use std::io;
use std::path::PathBuf;

use weld_fileset::{GlobError, PatternError};

/// Why there is no content key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// There is no file of this path.
    #[error("{path:?}: not found")]
    NotFound {
        /// The path, from the tree's root.
        path: PathBuf,
    },
    /// The path leads through too many symlinks.
    #[error("{path:?}: too many levels of symbolic links")]
    TooManyLinks {
        /// The path, from the tree's root.
        path: PathBuf,
    },
    /// A path with wildcards is malformed.
    #[error("malformed pattern {pattern:?}: {source}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        source: GlobError,
    },
    /// An include or exclude pattern is malformed.
    #[error(transparent)]
    Patterns(#[from] PatternError),
    /// A file cannot be read.
    #[error("{action} {path:?}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file, from the tree's root.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}
