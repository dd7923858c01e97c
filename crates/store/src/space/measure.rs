//! How much a state directory holds.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::io;

use rayon::prelude::*;

use super::MakeError;
use crate::object::Object;
use crate::reserve;
use crate::store::Store;
use crate::usage::on_disk;

/// Bytes that a file takes at least in steps of.
const BLOCK: u64 = 4096;

/// Bytes on disk of all that is beneath the state directory. What was measured and does not change is not
/// measured again.
pub(super) fn state_directory(store: &Store) -> Result<u64, MakeError> {
    let inventory = store.measured_inventory()?;
    let mut known = HashSet::new();
    let mut total = 0;
    for entry in &inventory.entries {
        let size = entry.row.size.unwrap_or(0);
        match &entry.object {
            Object::Snapshot(id) => {
                known.insert(id.to_string());
                total += size;
            }
            Object::Blob(_) => total += size.next_multiple_of(BLOCK),
        }
    }
    let mut others = Vec::new();
    for entry in list(store.root())? {
        match entry.file_name().and_then(OsStr::to_str) {
            // Told by the inventory.
            Some("content") => {}
            // What is being made, or taken away.
            Some("snapshots") => others.extend(list(&entry)?.into_iter().filter(|path| {
                let name = path.file_name().and_then(OsStr::to_str);
                name.is_none_or(|name| !known.contains(name))
            })),
            _ => others.push(entry),
        }
    }
    let sizes = others.into_par_iter().map(|path| on_disk(&path));
    // What is put by for a full disk is made soon, and without a question.
    Ok(total + reserve::missing(store.root()) + sizes.sum::<io::Result<u64>>()?)
}

/// Bytes of what builds use now.
pub(super) fn in_use(store: &Store) -> Result<u64, MakeError> {
    let inventory = store.measured_inventory()?;
    let used = inventory.entries.iter().filter(|entry| entry.in_use);
    Ok(used.map(|entry| entry.row.size.unwrap_or(0)).sum())
}

fn list(directory: &std::path::Path) -> io::Result<Vec<std::path::PathBuf>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
