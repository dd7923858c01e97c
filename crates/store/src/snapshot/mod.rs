//! Snapshots: file trees, each the changes over its parent.

pub(crate) mod changes;
pub(crate) mod copy;
pub(crate) mod node;
pub(crate) mod remove;

pub use node::FileTime;
