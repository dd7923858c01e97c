use std::io;
use std::path::PathBuf;

/// Why a layer could not be written, read or applied.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The archive's stream failed.
    #[error("read the archive: {0}")]
    Read(#[source] io::Error),
    /// Where the archive goes failed.
    #[error("write the archive: {0}")]
    Write(#[source] io::Error),
    /// The archive is no proper tar archive.
    #[error("malformed archive, at byte {offset}: {what}")]
    Malformed {
        /// Where in the uncompressed archive.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// The archive ends in the middle of something.
    #[error("archive cut short, at byte {offset}")]
    Truncated {
        /// Where in the uncompressed archive.
        offset: u64,
    },
    /// An entry cannot be taken.
    #[error("archive entry {path:?}: {what}")]
    Entry {
        /// The entry's path.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A file could not be handled.
    #[error("{action} {path:?}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file, below the snapshot's root.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file became shorter while it was read.
    #[error("read {path:?}: the file was changed meanwhile")]
    Changed {
        /// The file, below the snapshot's root.
        path: PathBuf,
    },
    /// A worker of the compression pipeline could not be started.
    #[error("start a compression thread: {0}")]
    Thread(#[source] io::Error),
    /// The parent snapshot's files are not to be had.
    #[error("mount the parent snapshot: {0}")]
    Mount(#[from] crate::mount::MountError),
}
