//! The file operation: copies, makes and removes paths of a tree, as BuildKit's LLB means it.
//!
//! A [`Destination`] is the tree that is changed: the layers of a mutable snapshot, its upper
//! directory first. A [`Source`] is a tree to copy from. Both are seen merged as overlayfs would
//! show them, but no mount is needed, so that an unchanged file of an immutable source becomes a
//! hard link instead of a copy. All paths are resolved with the tree's root as `/`; no symbolic
//! link in a tree leads out of it.

mod actions;
mod archive;
mod cache;
mod content;
mod copy;
mod destination;
mod error;
mod mode;
mod op;
mod owner;
mod resolve;
mod said;
mod sequence;
mod sharing;
mod unpack;
mod wildcard;

use std::sync::atomic::{AtomicBool, Ordering};

pub use actions::{MakeDir, MakeFile, MakeSymlink, Remove};
pub use archive::{decompressed, is_archive};
pub use cache::{ContentPath, FileCacheMap, InputContent, cache_map};
pub use copy::{Copy, Source};
pub use destination::{Destination, Owner};
pub use error::FileError;
pub use mode::{ModeChange, SymbolicMode};
pub(crate) use op::File;
pub use owner::{Identity, OwnerOption};
pub use sequence::{FailedSequence, SequenceError, Workshop, run};
pub use sharing::Sharing;

/// What surrounds an action.
#[derive(Clone, Copy, Debug)]
pub struct Context<'c> {
    /// Set by the caller to make the action end with [`FileError::Cancelled`].
    pub cancelled: &'c AtomicBool,
}

impl Context<'_> {
    fn check(&self) -> Result<(), FileError> {
        if self.cancelled.load(Ordering::Relaxed) {
            Err(FileError::Cancelled)
        } else {
            Ok(())
        }
    }
}
