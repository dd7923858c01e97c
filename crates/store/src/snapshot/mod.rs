//! Snapshots: file trees, each the changes over its parent.
//!
//! A [`MutableSnapshot`] is mounted and changed, then committed to a [`SnapshotRef`], which never
//! changes again and from which others are made. On overlays a snapshot keeps its changes only,
//! and a mount shows them over those of its parents; where overlay mounts are not to be had, it
//! keeps all its files. A snapshot's layer is the archive of its changes, as a blob.

pub(crate) mod changes;
mod combine;
pub(crate) mod copy;
mod driver;
mod error;
mod farm;
mod handle;
mod keys;
mod layers;
mod local_tree;
mod made_with;
pub(crate) mod node;
mod record;
pub(crate) mod remove;
mod roomy;
mod shared;
mod simple;
mod spare;
mod store;
mod unpack;

pub use error::SnapshotError;
pub use handle::{MutableSnapshot, SnapshotRef};
pub use layers::{LayerBlob, LayerOptions};
pub use local_tree::{LocalTree, LocalTreeChange};
pub use made_with::MadeWith;
pub use node::FileTime;
pub use record::LayerDescriptor;
pub use shared::SharedFiles;
pub use spare::{ANNOTATION_HOME, LABEL_SOURCE};
pub use store::{Made, Snapshots};

pub(crate) use record::{LAYERS, Record, SNAPSHOTS, create_tables, forget};
pub(crate) use shared::SHARED;
pub(crate) use spare::{note_homes, release as release_spare_blobs};
pub(crate) use store::FILES;
