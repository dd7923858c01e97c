//! Sizes of snapshots that share files by links: each file counts once, for the oldest of them.
//!
//! What a snapshot has alone is known when it is measured. What it shares is another snapshot's when the one that it counted for is
//! deleted, so then all that share files are measured again; and so they are when there is a new one among them.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use rayon::prelude::*;

use super::inventory::Inventory;
use super::prune::UsageError;
use super::size::{self, Apart, Link};
use crate::collector::Collector;
use crate::durability::META_TEXT;
use crate::object::Object;
use crate::snapshot::{FILES, SHARED};
use crate::store::Store;

/// The snapshots that were measured together last, by their numbers.
const MEASURED: &str = "measured-together";
/// How many are looked through at once.
const AT_ONCE: usize = 16;

/// What was measured of some entries of an inventory.
pub(super) struct Sizes {
    /// By the entries' indices.
    pub(super) measured: Vec<(usize, u64)>,
    /// Those of them that are not there yet: a layer is fetched when it is first needed.
    pub(super) absent: HashSet<usize>,
    /// The snapshots that were measured together, if any were.
    pub(super) together: Option<BTreeSet<u64>>,
    /// Entries that have files in common with others.
    pub(super) sharing: HashSet<usize>,
}

impl Store {
    /// Measures these entries, and others whose sizes depend on theirs or on what is not there any more.
    pub(super) fn sizes(
        &self,
        inventory: &Inventory,
        unmeasured: Vec<usize>,
    ) -> Result<Sizes, UsageError> {
        let found = apart(self.collector(), inventory, unmeasured)?;
        let mut sizes = Sizes {
            measured: Vec::new(),
            absent: HashSet::new(),
            together: None,
            sharing: HashSet::new(),
        };
        let mut sharing = BTreeSet::new();
        for (index, apart) in found {
            if !apart.linked.is_empty() {
                sizes.sharing.insert(index);
            }
            let entry = &inventory.entries[index];
            match &entry.object {
                Object::Snapshot(id) if !apart.linked.is_empty() && !entry.row.mutable => {
                    sharing.insert((id.0, index));
                }
                object => {
                    if is_absent(self.collector(), object) {
                        sizes.absent.insert(index);
                    }
                    // What a kept directory shares belongs to what was made of it.
                    sizes.measured.push((index, apart.own));
                }
            }
        }
        let before = self.measured_together()?;
        if sharing.is_empty()
            && let Some(ids) = &before
            && let Some(same) = all_of(ids, inventory)
        {
            sizes.sharing.extend(same);
            return Ok(sizes);
        }
        sharing.extend(marked(self.collector(), inventory));
        sizes
            .sharing
            .extend(sharing.iter().map(|(_, index)| *index));
        sizes.together = Some(sharing.iter().map(|(id, _)| *id).collect());
        let sharing: Vec<_> = sharing.into_iter().map(|(_, index)| index).collect();
        let mut counted = HashSet::new();
        for some in sharing.chunks(AT_ONCE) {
            for (index, apart) in apart(self.collector(), inventory, some.to_vec())? {
                let new = |link: Link| counted.insert(link.inode).then_some(link.bytes);
                let linked: u64 = apart.linked.into_iter().filter_map(new).sum();
                sizes.measured.push((index, apart.own + linked));
            }
        }
        Ok(sizes)
    }

    /// The snapshots that were measured together last; `None` before the first time.
    fn measured_together(&self) -> Result<Option<BTreeSet<u64>>, UsageError> {
        let text = self.db().read(|tx| {
            let table = tx.open_table(META_TEXT)?;
            Ok(table.get(MEASURED)?.map(|text| text.value().to_owned()))
        })?;
        Ok(text.map(|text| {
            let ids = text.split(' ').filter_map(|id| id.parse().ok());
            ids.collect()
        }))
    }
}

/// Notes which snapshots were measured together.
pub(super) fn note(
    tx: &redb::WriteTransaction,
    together: &BTreeSet<u64>,
) -> Result<(), crate::db::DbError> {
    let ids: Vec<_> = together.iter().map(u64::to_string).collect();
    tx.open_table(META_TEXT)?
        .insert(MEASURED, ids.join(" ").as_str())?;
    Ok(())
}

fn is_absent(collector: &Collector, object: &Object) -> bool {
    matches!(object, Object::Snapshot(_)) && !collector.path(object).join(FILES).exists()
}

pub(super) fn apart(
    collector: &Collector,
    inventory: &Inventory,
    indices: Vec<usize>,
) -> Result<Vec<(usize, Apart)>, UsageError> {
    let found = indices.into_par_iter().with_min_len(8).map(|index| {
        let object = &inventory.entries[index].object;
        let apart = size::apart(&collector.path(object));
        let apart = apart.map_err(|source| UsageError::Measure {
            object: object.clone(),
            source,
        })?;
        Ok((index, apart))
    });
    found.collect()
}

/// The snapshots that may share files, as the marks beside their files say.
fn marked(collector: &Collector, inventory: &Inventory) -> Vec<(u64, usize)> {
    let indices = 0..inventory.entries.len();
    let marked = indices
        .into_par_iter()
        .with_min_len(64)
        .filter_map(|index| {
            let entry = &inventory.entries[index];
            let Object::Snapshot(id) = &entry.object else {
                return None;
            };
            let is_marked = || {
                let mark = collector.path(&entry.object).join(SHARED);
                Path::exists(&mark)
            };
            (!entry.row.mutable && is_marked()).then_some((id.0, index))
        });
    marked.collect()
}

/// The entries of these snapshots, if they are all there.
fn all_of(ids: &BTreeSet<u64>, inventory: &Inventory) -> Option<Vec<usize>> {
    let entries = inventory.entries.iter().enumerate();
    let there = entries.filter(|(_, entry)| match &entry.object {
        Object::Snapshot(id) => ids.contains(&id.0),
        Object::Blob(_) => false,
    });
    let there: Vec<_> = there.map(|(index, _)| index).collect();
    (there.len() == ids.len()).then_some(there)
}
