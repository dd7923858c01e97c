//! Blobs whose files somebody deleted, all at once: a row that leads to nothing is not met by every build, and so would stay.

use std::collections::HashSet;
use std::fs;

use redb::{ReadableTable, WriteTransaction};
use weld_digest::Digest;

use super::{BLOBS, BlobRecord, Inner};
use crate::db::{Db, DbError, Ticket, decode};
use crate::durability::{self, META_TEXT};
use crate::gc::{self, Removal};
use crate::snapshot;

/// There while it is to be looked which blobs have lost their files.
const LOST: &str = "blobs-were-lost";

/// Has the next process look which blobs have lost their files.
pub(super) fn note(db: &Db) -> Ticket<()> {
    durability::set_text(db, LOST, "1".to_owned())
}

/// Whether it is to be looked.
pub(crate) fn are_noted(db: &Db) -> Result<bool, DbError> {
    Ok(durability::text(db, LOST)?.is_some())
}

/// The blobs that have no file, or one of another length.
pub(super) fn find(blobs: &Inner) -> Result<HashSet<Digest>, DbError> {
    blobs.db.read(|tx| {
        let mut lost = HashSet::new();
        for row in tx.open_table(BLOBS)?.iter()? {
            let (key, value) = row?;
            let Ok(digest) = key.value().parse::<Digest>() else {
                continue;
            };
            let record: BlobRecord = decode("a blob", value.value())?;
            let file = fs::metadata(blobs.path(&digest));
            if !file.is_ok_and(|file| file.is_file() && file.len() == record.size) {
                lost.insert(digest);
            }
        }
        Ok(lost)
    })
}

/// Forgets blobs, after the directory of all was lost.
pub(crate) fn forget(tx: &WriteTransaction, lost: &HashSet<Digest>) -> Result<Removal, DbError> {
    let removal = remove(tx, lost)?;
    tx.open_table(META_TEXT)?.remove(LOST)?;
    Ok(removal)
}

/// Removes blobs. Snapshots that were made of them stay: where else their layers are to be had is noted, and what has files needs none.
pub(crate) fn remove(tx: &WriteTransaction, lost: &HashSet<Digest>) -> Result<Removal, DbError> {
    snapshot::note_homes(tx, |blob| lost.contains(blob))?;
    gc::remove_blobs(tx, lost)
}
