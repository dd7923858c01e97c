//! What a state directory holds besides what is cached, so that all of its bytes are told of.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::filter::Filter;
use super::inventory::{Inventory, UsageInfo};
use super::prune::UsageError;
use super::{RecordType, on_disk};
use crate::clock;
use crate::object::Object;
use crate::store::Store;
use crate::store::aside;

/// What is directly in a state directory, and what a user reads of it.
const PARTS: &[(&str, &str)] = &[
    ("db", "state database with its logs"),
    ("ingest", "blobs that are coming in"),
    ("trash", "what is being deleted"),
    ("reserve", "space put by for a full disk"),
    ("traces", "traces of the solver"),
    ("snapshots", "snapshots that are being made or deleted"),
];
/// What an empty directory takes at most, in bytes.
const EMPTY: u64 = 4096;
/// What is too small to have a line of its own.
const REST: &str = "rest of the state directory";

/// Paths in a state directory that the inventory does not tell of, each with the name of its part.
pub(crate) fn beside(inventory: &Inventory, root: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let known: HashSet<_> = inventory
        .entries
        .iter()
        .filter_map(|entry| match &entry.object {
            Object::Snapshot(id) => Some(id.to_string()),
            Object::Blob(_) => None,
        })
        .collect();
    let mut others = Vec::new();
    for path in list(root)? {
        match path.file_name().and_then(OsStr::to_str) {
            // Told by the inventory.
            Some("content") => {}
            // What is being made, or taken away.
            Some(part @ "snapshots") => others.extend(
                list(&path)?
                    .into_iter()
                    .filter(|path| {
                        let name = path.file_name().and_then(OsStr::to_str);
                        name.is_none_or(|name| !known.contains(name))
                    })
                    .map(|path| (part.to_owned(), path)),
            ),
            Some(part) => others.push((part.to_owned(), path)),
            None => others.push((String::new(), path)),
        }
    }
    Ok(others)
}

fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

impl Store {
    /// What the state directory holds besides what is cached, as records of their own, if the filters mean them: none of it is
    /// removed but databases that were damaged.
    pub fn overhead(&self, filters: &[String]) -> Result<Vec<UsageInfo>, UsageError> {
        let filter = Filter::parse(filters)?;
        let inventory = Inventory::read(self.db(), self.pins(), self.uses())?;
        let others = beside(&inventory, self.root()).map_err(UsageError::List)?;
        let sizes = others.par_iter().map(|(_, path)| on_disk(path));
        let sizes = sizes
            .collect::<io::Result<Vec<_>>>()
            .map_err(UsageError::List)?;
        let of_part = |part: &str| {
            let parts = others.iter().zip(&sizes);
            let parts = parts.filter(|((name, _), _)| name == part);
            parts.map(|(_, size)| size).sum::<u64>()
        };
        let parts = PARTS
            .iter()
            .map(|(part, description)| overhead(part, description, of_part(part)));
        let mut infos: Vec<_> = parts.filter(|info| info.size > Some(EMPTY)).collect();
        infos.extend(self.asides()?);
        let told: u64 = infos.iter().filter_map(|info| info.size).sum();
        let rest = sizes.iter().sum::<u64>().saturating_sub(told);
        infos.push(overhead("rest", REST, rest));
        infos.retain(|info| info.size > Some(0) && filter.matches(info));
        Ok(infos)
    }

    /// Databases that were damaged and put aside.
    pub(super) fn asides(&self) -> Result<Vec<UsageInfo>, UsageError> {
        let asides = aside::all(self.root()).map_err(UsageError::List)?;
        let infos = asides.into_iter().map(|aside| {
            let size = on_disk(&aside.path)?;
            let mut info = overhead(&aside.name, "database that was damaged", size);
            info.created = aside.since.saturating_mul(1_000_000_000);
            (info.last_used, info.in_use) = (info.created, false);
            Ok(info)
        });
        infos.collect::<io::Result<_>>().map_err(UsageError::List)
    }
}

fn overhead(part: &str, description: &str, size: u64) -> UsageInfo {
    let now = clock::nanoseconds();
    UsageInfo {
        id: part.to_owned(),
        parents: Vec::new(),
        description: description.to_owned(),
        record_type: RecordType::Internal,
        created: now,
        last_used: now,
        usage_count: 0,
        size: Some(size),
        mutable: true,
        in_use: true,
        shared: false,
    }
}
