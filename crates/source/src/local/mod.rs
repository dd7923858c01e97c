//! A tree of a client's files, kept in step with a copy.
//!
//! [`sync`] asks a [`TreeProvider`] what there is (the client's stats, in path order), compares
//! that with the [`TreeIndex`] of the last time, and has a [`TreeTarget`] make the differences:
//! files that changed are fetched, in parallel, and digested on the way. A tree that did not
//! change costs its stats and nothing else.
//!
//! [`HostDir`] provides a directory of this machine, [`DirTarget`] writes one. A client's session
//! is another provider.

mod codec;
mod diff;
mod dir_target;
mod ends;
mod host_dir;
mod index;
mod metadata_only;
mod mode;
mod stat;
mod store_tree;
mod sync;
mod watched;
pub mod wire;

pub use dir_target::DirTarget;
pub use ends::{ProviderError, TreeProvider, TreeTarget};
pub use host_dir::{HostDir, HostDirError};
pub use index::{DecodeIndexError, IndexEntry, TreeIndex};
pub use metadata_only::{LISTING, MetadataOnly};
pub use stat::{Change, Stat, StatError};
pub use store_tree::{Differ, StoreSyncError, StoredTree, sync_into_store};
pub use sync::{SyncError, Synced, sync};
