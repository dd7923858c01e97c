//! How much a state directory holds.

use std::io;

use rayon::prelude::*;

use super::MakeError;
use crate::object::Object;
use crate::reserve;
use crate::store::Store;
use crate::usage::{on_disk, overhead};

/// Bytes that a file takes at least in steps of.
const BLOCK: u64 = 4096;

/// Bytes on disk of all that is beneath the state directory. What was measured and does not change is not
/// measured again.
pub(super) fn state_directory(store: &Store) -> Result<u64, MakeError> {
    let inventory = store.measured_inventory()?;
    let mut total = 0;
    for entry in &inventory.entries {
        let size = entry.row.size.unwrap_or(0);
        total += match &entry.object {
            Object::Snapshot(_) => size,
            Object::Blob(_) => size.next_multiple_of(BLOCK),
        };
    }
    let others = overhead::beside(&inventory, store.root())?;
    let sizes = others.into_par_iter().map(|(_, path)| on_disk(&path));
    // What is put by for a full disk is made soon, and without a question.
    Ok(total + reserve::missing(store.root()) + sizes.sum::<io::Result<u64>>()?)
}

/// Bytes of what builds use now.
pub(super) fn in_use(store: &Store) -> Result<u64, MakeError> {
    let inventory = store.measured_inventory()?;
    let used = inventory.entries.iter().filter(|entry| entry.in_use);
    Ok(used.map(|entry| entry.row.size.unwrap_or(0)).sum())
}
