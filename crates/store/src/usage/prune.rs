//! Removal of cached objects by policy.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::ops::ControlFlow;
use std::time::Duration;

use super::filter::{Filter, FilterError};
use super::freed::Freed;
use super::inventory::{Entry, Inventory, UsageInfo};
use super::links::{self, Sizes};
use super::{RecordType, USAGE, get, put};
use crate::clock;
use crate::collector::{CollectError, remove_error};
use crate::db::{DbError, Ticket};
use crate::gc::Removable;
use crate::object::Object;
use crate::reserve::Room;
use crate::store::Store;

/// How many objects are removed before the caller hears of them: several transactions, the next of which is prepared
/// while one is committed.
const STEP_LEN: usize = 16_384;

/// How many sizes one transaction takes that tells the database of them.
const NOTED_AT_ONCE: usize = 2048;

/// What to remove. Without sizes, everything that the other options mean; with sizes, what is worth
/// least until the sizes are kept.
#[derive(Clone, Debug, Default)]
pub struct PruneOptions {
    /// Also internal records, frontends, and what images that a user named need.
    pub all: bool,
    /// Which records, as [`Filter`] has it.
    pub filters: Vec<String>,
    /// Keep what was used within this time.
    pub keep_duration: Option<Duration>,
    /// Keep this many bytes at least (`--keep-storage`, `reservedSpace`).
    pub reserved: Option<u64>,
    /// Keep no more than this many bytes (`maxUsedSpace`).
    pub max_used: Option<u64>,
    /// Have this many bytes of the file system free (`minFreeSpace`).
    pub min_free: Option<u64>,
}

/// Why `du` or `prune` failed.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// A filter is malformed.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// A removal failed.
    #[error(transparent)]
    Collect(#[from] CollectError),
    /// The database failed.
    #[error(transparent)]
    Db(#[from] DbError),
    /// An object's files cannot be measured.
    #[error("measure {object}: {source}")]
    Measure {
        /// Which.
        object: Object,
        /// What the system said.
        source: std::io::Error,
    },
    /// What is in the state directory cannot be listed or measured.
    #[error("list the state directory: {0}")]
    List(std::io::Error),
    /// The free space cannot be asked for.
    #[error("ask for the free space of the state directory: {0}")]
    FreeSpace(std::io::Error),
}

impl Store {
    /// What is cached and meant by the filters, measured, in the order in which it was made.
    pub fn disk_usage(&self, filters: &[String]) -> Result<Vec<UsageInfo>, UsageError> {
        let filter = Filter::parse(filters)?;
        let mut inventory = self.inventory()?;
        if filter.needs_size() {
            self.measure(&mut inventory, |_| true)?;
        } else {
            self.measure(&mut inventory, |info| filter.matches(info))?;
        }
        let told = (0..inventory.entries.len()).filter(|index| !inventory.entries[*index].layer);
        let mut infos: Vec<_> = told
            .map(|index| inventory.info(index))
            .filter(|info| filter.matches(info))
            .collect();
        infos.sort_by_key(|info| info.created);
        Ok(infos)
    }

    /// Removes what the options mean and nobody uses, what is made of others before the others;
    /// then deletes its files, and waits for that. Returns what was removed.
    ///
    /// Builds go on meanwhile: what they begin to use is left alone.
    pub fn prune(&self, options: &PruneOptions) -> Result<Vec<UsageInfo>, UsageError> {
        // A process that does nothing else ends before that is done in the background.
        self.sweep_once()?;
        let mut removed = Vec::new();
        self.prune_with(options, |info| {
            removed.push(info);
            ControlFlow::Continue(())
        })?;
        self.settle()?;
        Ok(removed)
    }

    /// As [`Store::prune`], telling of what is removed as it goes, until told to stop. The files are deleted in the
    /// background; see [`Store::settle`].
    pub fn prune_with(
        &self,
        options: &PruneOptions,
        mut tell: impl FnMut(UsageInfo) -> ControlFlow<()>,
    ) -> Result<(), UsageError> {
        let policy = Policy::new(options)?;
        let root = self.root();
        let mut room = None;
        if policy.internals && self.drop_asides(&policy, &mut tell)?.is_break() {
            return Ok(());
        }
        let held = self.collector().hold_leftovers();
        let mut stopped = false;
        let mut freed = Freed::default();
        loop {
            let mut inventory = self.inventory()?;
            let plan = self.plan(&policy, &mut inventory)?;
            let mut progress = false;
            // Not where there is nothing to remove, nor where builds make room for themselves: a step that writes would take what is
            // given back.
            if room.is_none() && !plan.is_empty() {
                room = Some(Room::make(root).map_err(remove_error(root))?);
            }
            for step in plan.chunks(STEP_LEN) {
                let by_object: HashMap<_, _> = step
                    .iter()
                    .map(|index| (&inventory.entries[*index].object, *index))
                    .collect();
                let objects = step
                    .iter()
                    .map(|index| inventory.entries[*index].object.clone());
                freed.prepare(self.collector(), &inventory, step)?;
                let removed = self.collector().remove(objects, policy.removable)?;
                progress |= !removed.is_empty();
                let told = removed.iter().filter_map(|object| by_object.get(object));
                let told: Vec<_> = told.copied().collect();
                let bytes = freed.by(&inventory, &removed, &told);
                for (index, bytes) in told.into_iter().zip(bytes) {
                    let info = UsageInfo {
                        size: Some(bytes),
                        ..inventory.info(index)
                    };
                    stopped |= tell(info).is_break();
                }
                if stopped {
                    break;
                }
            }
            // With sizes to keep, what was taken into use meanwhile has to be made up for.
            if stopped || !progress || !policy.keeps_sizes() {
                break;
            }
        }
        drop(held);
        if room.as_ref().is_some_and(Room::is_spent) {
            // Nothing can be written before.
            self.settle()?;
        }
        Ok(())
    }

    /// Removes databases that were damaged and put aside; whether there were any.
    pub(crate) fn remove_asides(&self) -> Result<bool, UsageError> {
        let asides = self.asides()?;
        for info in &asides {
            self.collector().take_away(&self.root().join(&info.id))?;
        }
        Ok(!asides.is_empty())
    }

    /// Removes those of them that a policy means.
    fn drop_asides(
        &self,
        policy: &Policy,
        tell: &mut impl FnMut(UsageInfo) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, UsageError> {
        for info in self.asides()? {
            let is_meant = policy.filter.matches(&info)
                && policy.used_before.is_none_or(|time| info.last_used < time);
            if is_meant {
                self.collector().take_away(&self.root().join(&info.id))?;
                if tell(info).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Removes what is worth least and nobody uses, until about so many bytes are freed or `most` objects are gone: what results
    /// lead to, or also what is kept for internal purposes, but no images that a user named. Returns how many objects
    /// and bytes that were.
    pub(crate) fn evict(
        &self,
        bytes: u64,
        most: usize,
        internals: bool,
    ) -> Result<(usize, u64), UsageError> {
        let policy = Policy {
            internals,
            ..Policy::default()
        };
        let inventory = self.measured_inventory()?;
        let mut plan = policy.plan(&inventory, Some(bytes));
        plan.truncate(most);
        let objects = plan
            .iter()
            .map(|index| inventory.entries[*index].object.clone());
        let removed = self.collector().remove(objects, policy.removable)?;
        self.settle()?;
        let removed: HashSet<_> = removed.iter().collect();
        let freed = plan.iter().map(|index| &inventory.entries[*index]);
        let freed = freed.filter(|entry| removed.contains(&entry.object));
        let freed = freed.map(|entry| entry.size());
        Ok((removed.len(), freed.sum()))
    }

    /// Removes the blobs of layers that are unpacked and to be had elsewhere, also of those in use; returns how many there were.
    pub(crate) fn let_spare_blobs_go(&self) -> Result<usize, UsageError> {
        let released = self.db().update(crate::snapshot::release_spare_blobs);
        let released = released.wait()?;
        let removed = self.collector().remove(released, Removable::Unnamed)?;
        self.settle()?;
        Ok(removed.len())
    }

    pub(crate) fn measured_inventory(&self) -> Result<Inventory, UsageError> {
        let mut inventory = self.inventory()?;
        self.measure(&mut inventory, |_| true)?;
        Ok(inventory)
    }

    fn inventory(&self) -> Result<Inventory, DbError> {
        // What was made a moment ago counts.
        self.db().flush()?;
        Inventory::read(self.db(), self.pins(), self.uses())
    }

    /// Measures what was not measured before and is `wanted`, and has the database know it.
    fn measure(
        &self,
        inventory: &mut Inventory,
        wanted: impl Fn(&UsageInfo) -> bool,
    ) -> Result<(), UsageError> {
        let unmeasured: Vec<_> = (0..inventory.entries.len())
            .filter(|index| inventory.entries[*index].row.size.is_none())
            .filter(|index| wanted(&inventory.info(*index)))
            .collect();
        let Sizes {
            measured: sizes,
            absent,
            together,
            sharing,
        } = self.sizes(inventory, unmeasured)?;
        inventory.sharing.extend(sharing);
        let mut measured = Vec::new();
        for (index, size) in sizes {
            let entry = &mut inventory.entries[index];
            let is_news = entry.row.size.replace(size) != Some(size);
            // What changes in place, maybe now, is measured anew each time; and what is not there yet.
            if is_news && !entry.row.mutable && !absent.contains(&index) {
                measured.push((entry.object.clone(), size));
            }
        }
        // A few at a time, and no more before those are committed: what builds write comes in between.
        let mut before: Option<Ticket<()>> = None;
        while !measured.is_empty() {
            let rest = measured.split_off(measured.len().min(NOTED_AT_ONCE));
            let noted = std::mem::replace(&mut measured, rest);
            if let Some(before) = before {
                before.wait()?;
            }
            before = Some(self.db().update(move |tx| {
                for (object, size) in &noted {
                    let row = get(&tx.open_table(USAGE)?, object)?;
                    if let Some(mut row) = row {
                        row.size = Some(*size);
                        put(tx, object, &row)?;
                    }
                }
                Ok(())
            }));
        }
        // After the sizes: without it they are measured again.
        if let Some(together) = together {
            before = Some(self.db().update(move |tx| links::note(tx, &together)));
        }
        // Nobody waits for the last ones.
        drop(before);
        Ok(())
    }

    /// What to remove, in order.
    fn plan(&self, policy: &Policy, inventory: &mut Inventory) -> Result<Vec<usize>, UsageError> {
        let mut budget = None;
        if policy.keeps_sizes() || policy.filter.needs_size() {
            self.measure(inventory, |_| true)?;
        }
        if policy.keeps_sizes() {
            let used = total(inventory);
            budget = Some(used.saturating_sub(policy.keep(used, || self.free_space())?));
        }
        let plan = policy.plan(inventory, budget);
        let ids: HashSet<_> = plan.iter().map(|index| inventory.info(*index).id).collect();
        self.measure(inventory, |info| ids.contains(&info.id))?;
        Ok(plan)
    }

    fn free_space(&self) -> Result<u64, UsageError> {
        let stat = rustix::fs::statvfs(self.root())
            .map_err(|errno| UsageError::FreeSpace(errno.into()))?;
        Ok(stat.f_bavail * stat.f_frsize)
    }
}

/// The bytes that are there for the cache alone: what is leased is no cache, and could not be removed.
fn total(inventory: &Inventory) -> u64 {
    inventory
        .entries
        .iter()
        .filter(|entry| !entry.shared && !entry.layer && !entry.leased)
        .map(Entry::size)
        .sum()
}

struct Policy {
    filter: Filter,
    removable: Removable,
    /// Also internal records and frontends.
    internals: bool,
    /// What was used after this is kept; nanoseconds since 1970.
    used_before: Option<u64>,
    reserved: Option<u64>,
    max_used: Option<u64>,
    min_free: Option<u64>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            filter: Filter::default(),
            removable: Removable::Cached,
            internals: false,
            used_before: None,
            reserved: None,
            max_used: None,
            min_free: None,
        }
    }
}

impl Policy {
    fn new(options: &PruneOptions) -> Result<Self, FilterError> {
        let keep = |duration: Duration| {
            let duration = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
            clock::nanoseconds().saturating_sub(duration)
        };
        Ok(Self {
            filter: Filter::parse(&options.filters)?,
            removable: if options.all {
                Removable::Shared
            } else {
                Removable::Cached
            },
            internals: options.all,
            used_before: options.keep_duration.map(keep),
            // Zero is how clients say that they have no wish.
            reserved: options.reserved.filter(|size| *size > 0),
            max_used: options.max_used.filter(|size| *size > 0),
            min_free: options.min_free.filter(|size| *size > 0),
        })
    }

    fn keeps_sizes(&self) -> bool {
        self.reserved.is_some() || self.max_used.is_some() || self.min_free.is_some()
    }

    /// How many of the `used` bytes to keep.
    fn keep(
        &self,
        used: u64,
        free: impl FnOnce() -> Result<u64, UsageError>,
    ) -> Result<u64, UsageError> {
        let mut keep = self.max_used;
        if let Some(min_free) = self.min_free {
            let excess = min_free.saturating_sub(free()?);
            let with_free = used.saturating_sub(excess);
            keep = Some(keep.map_or(with_free, |keep| keep.min(with_free)));
        }
        Ok(keep.unwrap_or(0).max(self.reserved.unwrap_or(0)))
    }

    fn means(&self, inventory: &Inventory, index: usize) -> bool {
        let entry = &inventory.entries[index];
        if entry.in_use || entry.leased || entry.layer {
            return false;
        }
        let kept_type = matches!(
            entry.row.record_type,
            RecordType::Internal | RecordType::Frontend
        );
        if (kept_type && !self.internals) || (entry.shared && self.removable == Removable::Cached) {
            return false;
        }
        if self
            .used_before
            .is_some_and(|before| entry.row.last_used > before)
        {
            return false;
        }
        self.filter.matches(&inventory.info(index))
    }

    /// What to remove until `budget` bytes are freed, or all: what is worth least first, but what is
    /// made of others before the others.
    fn plan(&self, inventory: &Inventory, mut budget: Option<u64>) -> Vec<usize> {
        let entries = &inventory.entries;
        let mut children: Vec<_> = entries.iter().map(|entry| entry.children).collect();
        let now = clock::nanoseconds();
        let mut leaves = BinaryHeap::new();
        let offer = |leaves: &mut BinaryHeap<_>, index: usize| {
            if self.means(inventory, index) {
                let entry = &entries[index];
                // Of positive numbers the bits are in the order of the numbers.
                let value = entry.worth(now).value().to_bits();
                leaves.push(Reverse((value, entry.row.last_used, index)));
            }
        };
        for (index, entry) in entries.iter().enumerate() {
            if entry.children == 0 {
                offer(&mut leaves, index);
            }
        }
        let mut plan = Vec::new();
        while budget != Some(0)
            && let Some(Reverse((.., index))) = leaves.pop()
        {
            let entry = &entries[index];
            plan.push(index);
            let size = entry.size();
            budget = budget.map(|budget| budget.saturating_sub(size));
            for &parent in &entry.parents {
                children[parent] -= 1;
                if children[parent] == 0 {
                    offer(&mut leaves, parent);
                }
            }
        }
        plan
    }
}
