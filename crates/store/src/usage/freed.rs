//! What removals free: of what is shared, by links or as a layer's blob, nothing before the last one that has it is gone.

use std::collections::{HashMap, HashSet};

use super::inventory::Inventory;
use super::links;
use super::prune::UsageError;
use super::size::Apart;
use crate::collector::Collector;
use crate::object::Object;

/// What was removed so far of what is shared.
#[derive(Default)]
pub(super) struct Freed {
    /// By file system and inode: how many names of a file are gone.
    names: HashMap<(u64, u64), u64>,
    /// Of what is about to be removed and shares files: what it takes apart from others.
    apart: HashMap<usize, Apart>,
}

impl Freed {
    /// Looks at what may be removed next, while its files are there.
    pub(super) fn prepare(
        &mut self,
        collector: &Collector,
        inventory: &Inventory,
        next: &[usize],
    ) -> Result<(), UsageError> {
        let sharing = next.iter().copied();
        let sharing = sharing.filter(|index| inventory.sharing.contains(index));
        let apart = links::apart(collector, inventory, sharing.collect())?;
        self.apart = apart.into_iter().collect();
        Ok(())
    }

    /// How many bytes were freed with each entry, of all objects that were removed at once, in their order.
    pub(super) fn by(
        &mut self,
        inventory: &Inventory,
        removed: &[Object],
        entries: &[usize],
    ) -> Vec<u64> {
        let mut gone: HashSet<_> = removed.iter().collect();
        let mut bytes = Vec::with_capacity(entries.len());
        for index in entries {
            let entry = &inventory.entries[*index];
            let own = match self.apart.remove(index) {
                Some(apart) => apart.own + self.links(apart),
                None => entry.row.size.unwrap_or(0),
            };
            let parts = entry.parents.iter().map(|part| &inventory.entries[*part]);
            let layers = parts.filter(|part| part.layer && gone.remove(&part.object));
            let layers = layers.map(|part| part.row.size.unwrap_or(0));
            bytes.push(own + layers.sum::<u64>());
        }
        bytes
    }

    fn links(&mut self, apart: Apart) -> u64 {
        let mut freed = 0;
        for link in apart.linked {
            let names = self.names.entry(link.inode).or_default();
            *names += link.met;
            if *names >= link.names {
                freed += link.bytes;
            }
        }
        freed
    }
}
