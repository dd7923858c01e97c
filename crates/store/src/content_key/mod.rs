//! Content keys: digests of files and trees by which the cache finds results of equal inputs.
//!
//! The digests are those of BuildKit's content hash: a file's is that of a tar header without its
//! time and name, followed by its content; a directory's is that of the names and digests in it.
//! (One difference: the numbers of device files count here.) A tree's keys are found without
//! mounting it, from the directories of its layers: what a layer does not touch has the keys of
//! the layer below, and each file is read once. They are kept beside the snapshot.

pub(crate) mod cache;
mod error;
mod header;
mod node;
mod select;
mod tree;

pub use error::KeyError;
pub use header::FileHeader;
pub use tree::{KeyEntry, KeyEntryKind, KeyTree};

/// Which files a content key is of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyOptions {
    /// A symlink at the end of the path is followed.
    pub follow_links: bool,
    /// The path is a pattern, as of Go's `path.Match`.
    pub wildcard: bool,
    /// Only what matches these patterns, below the path.
    pub include: Vec<String>,
    /// Not what matches these patterns, below the path.
    pub exclude: Vec<String>,
    /// Paths of which something has to be there.
    pub required: Vec<String>,
}
