//! Blobs that are here only to save a transfer: those of layers that are unpacked and that are elsewhere too.

use redb::{ReadableTable, WriteTransaction};
use weld_digest::Digest;

use super::layers::ORIGINAL;
use super::record::{LAYERS, LayerDescriptor, Record, SNAPSHOTS};
use crate::blobs::{BLOBS, BlobRecord};
use crate::db::{DbError, decode, encode};
use crate::object::{Object, SnapshotId};
use crate::refs::{Edges, Reference};

/// The annotation of a layer that says where else its blob is to be had.
pub const ANNOTATION_HOME: &str = "weld.home";
/// The label of a blob that says which repository of a registry it came from.
pub const LABEL_SOURCE: &str = "weld.source";

/// Has snapshots no longer name blobs that can be had again; returns these. It is noted where that is.
pub(crate) fn release(tx: &WriteTransaction) -> Result<Vec<Object>, DbError> {
    note_homes(tx, |_| true)
}

/// The same, of some blobs.
pub(crate) fn note_homes(
    tx: &WriteTransaction,
    is_meant: impl Fn(&Digest) -> bool,
) -> Result<Vec<Object>, DbError> {
    let mut layers = tx.open_table(LAYERS)?;
    let mut spare = Vec::new();
    {
        let (snapshots, blobs) = (tx.open_table(SNAPSHOTS)?, tx.open_table(BLOBS)?);
        for row in layers.iter()? {
            let (key, value) = row?;
            let (id, kind) = key.value();
            if kind != ORIGINAL {
                continue;
            }
            let mut layer: LayerDescriptor = decode("a layer", value.value())?;
            if !is_meant(&layer.digest) {
                continue;
            }
            let Some(blob) = blobs.get(layer.digest.to_string().as_str())? else {
                continue;
            };
            let record = snapshots.get(id)?;
            let record: Option<Record> = record
                .map(|row| decode("a snapshot", row.value()))
                .transpose()?;
            if record.is_none_or(|record| record.lazy.is_some()) {
                continue;
            }
            if !layer.annotations.contains_key(ANNOTATION_HOME) {
                let blob: BlobRecord = decode("a blob", blob.value())?;
                let Some(source) = blob.info.labels.get(LABEL_SOURCE) else {
                    continue;
                };
                let home = format!("registry:{source}");
                layer.annotations.insert(ANNOTATION_HOME.to_owned(), home);
            }
            spare.push((id, layer));
        }
    }
    let mut edges = Edges::open(tx)?;
    let mut released = Vec::with_capacity(spare.len());
    for (id, layer) in spare {
        let blob = Object::Blob(layer.digest.clone());
        layers.insert((id, ORIGINAL), encode(&layer)?.as_slice())?;
        edges.remove(&Reference::Snapshot(SnapshotId(id)), &blob)?;
        released.push(blob);
    }
    Ok(released)
}
