//! What the database keeps of snapshots.

use std::collections::BTreeMap;

use redb::{ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use weld_digest::Digest;

use crate::db::DbError;
use crate::object::SnapshotId;

/// What each snapshot is made of, by its number.
pub(crate) const SNAPSHOTS: TableDefinition<u64, &[u8]> = TableDefinition::new("snapshots");
/// The blobs of each snapshot's layer, by its number and a kind of compression.
pub(crate) const LAYERS: TableDefinition<(u64, u8), &[u8]> = TableDefinition::new("layers");

pub(crate) fn create_tables(tx: &WriteTransaction) -> Result<(), DbError> {
    tx.open_table(SNAPSHOTS)?;
    tx.open_table(LAYERS)?;
    Ok(())
}

/// Removes a snapshot's rows.
pub(crate) fn forget(tx: &WriteTransaction, ids: &[SnapshotId]) -> Result<(), DbError> {
    let mut snapshots = tx.open_table(SNAPSHOTS)?;
    let mut layers = tx.open_table(LAYERS)?;
    for id in ids {
        snapshots.remove(id.0)?;
        let all = (id.0, 0)..=(id.0, u8::MAX);
        // Most have none.
        if layers.range(all.clone())?.next().is_some() {
            layers.retain_in(all, |_, _| false)?;
        }
    }
    Ok(())
}

/// A committed snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) origin: Origin,
    /// The blob that it is made of and that is not unpacked yet.
    pub(crate) lazy: Option<LayerDescriptor>,
}

/// What a snapshot is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Origin {
    /// Changes over a parent, in its own directory.
    Layer {
        parent: Option<u64>,
        /// The directory may hold an overlay's marks though nothing is below it.
        marked: bool,
    },
    /// The layers of others, one after another.
    Merge {
        inputs: Vec<u64>,
        /// The layers after the first input's are combined in a directory of its own.
        combined: bool,
    },
    /// The layers of `upper` that come after those of `lower`, combined or not.
    Range {
        lower: u64,
        upper: u64,
        combined: bool,
    },
    /// What makes one tree into another that was not made from it, in a directory of its own.
    Difference { lower: u64, upper: u64 },
}

impl Origin {
    /// Whether it has a directory of its own.
    pub(crate) const fn has_files(&self) -> bool {
        match self {
            Self::Layer { .. } | Self::Difference { .. } => true,
            Self::Merge { combined, .. } | Self::Range { combined, .. } => *combined,
        }
    }

    /// The snapshots that it is made of.
    pub(crate) fn parents(&self) -> Vec<SnapshotId> {
        match self {
            Self::Layer { parent, .. } => parent.iter().copied().map(SnapshotId).collect(),
            Self::Merge { inputs, .. } => inputs.iter().copied().map(SnapshotId).collect(),
            Self::Range { lower, upper, .. } | Self::Difference { lower, upper } => {
                vec![SnapshotId(*lower), SnapshotId(*upper)]
            }
        }
    }
}

/// A layer as a blob: what a manifest and an image's config say of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerDescriptor {
    /// The digest of the uncompressed archive.
    pub diff_id: Digest,
    /// The media type, OCI's.
    pub media_type: String,
    /// The digest of the blob.
    pub digest: Digest,
    /// The length of the blob, in bytes.
    pub size: u64,
    /// Annotations of the descriptor.
    pub annotations: BTreeMap<String, String>,
}
