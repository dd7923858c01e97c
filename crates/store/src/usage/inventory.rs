use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use redb::ReadableTable;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{RecordType, Row, USAGE, Uses, Worth};
use crate::db::{Db, DbError};
use crate::object::Object;
use crate::pins::Pins;
use crate::refs::{HELD, Reference};

/// What is known of a cached object, as `du` and `prune` tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageInfo {
    /// A snapshot's number or a blob's digest.
    pub id: String,
    /// The ids of what it is made of.
    pub parents: Vec<String>,
    /// What a user reads of it.
    pub description: String,
    /// What it is for.
    pub record_type: RecordType,
    /// When it was made, in nanoseconds since 1970.
    pub created: u64,
    /// When it was last used, in nanoseconds since 1970.
    pub last_used: u64,
    /// How often it was used after it was made.
    pub usage_count: u64,
    /// Its bytes on disk with the layer blobs made of it, if they were measured.
    pub size: Option<u64>,
    /// Whether it is changed in place.
    pub mutable: bool,
    /// Whether it, or something made of it, is in use now.
    pub in_use: bool,
    /// Whether an image that a user named needs it.
    pub shared: bool,
}

impl UsageInfo {
    /// When it was made.
    pub fn created_at(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_nanos(self.created)
    }

    /// When it was last used.
    pub fn last_used_at(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_nanos(self.last_used)
    }

    pub(crate) fn created_rfc3339(&self) -> String {
        rfc3339(self.created)
    }

    pub(crate) fn last_used_rfc3339(&self) -> String {
        rfc3339(self.last_used)
    }
}

fn rfc3339(nanoseconds: u64) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(nanoseconds))
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_default()
}

/// A cached object among the others.
pub(crate) struct Entry {
    pub(crate) object: Object,
    pub(crate) row: Row,
    /// Entries that it is made of.
    pub(crate) parents: Vec<usize>,
    /// How many entries are made of it.
    pub(crate) children: usize,
    pub(crate) in_use: bool,
    pub(crate) shared: bool,
    /// Something keeps it that `prune` does not remove.
    pub(crate) leased: bool,
    /// A blob that belongs to the size of a snapshot and is not told of by itself.
    pub(crate) layer: bool,
    /// Bytes of the layer blobs made of it that no entry before it counts.
    pub(crate) layer_size: u64,
}

impl Entry {
    /// Its bytes on disk, as far as they were measured.
    pub(crate) fn size(&self) -> u64 {
        self.row.size.unwrap_or(0) + self.layer_size
    }

    pub(crate) fn worth(&self, now: u64) -> Worth {
        Worth {
            cost: self.row.cost,
            size: self.size(),
            uses: self.row.usage_count,
            idle: now.saturating_sub(self.row.last_used),
        }
    }
}

/// All cached objects at one moment, with how they hang together.
pub(crate) struct Inventory {
    pub(crate) entries: Vec<Entry>,
    /// Those that have files in common with others, as far as they were measured.
    pub(crate) sharing: HashSet<usize>,
}

impl Inventory {
    pub(crate) fn read(db: &Db, pins: &Pins, uses: &Uses) -> Result<Self, DbError> {
        let mut inventory = db.read(|tx| {
            let usage = tx.open_table(USAGE)?;
            let mut reader = Reader::default();
            for row in usage.iter()? {
                let (key, row) = row?;
                reader.entry(key.value(), Row::decode(row.value())?)?;
            }
            for row in tx.open_table(HELD)?.iter()? {
                let (key, _) = row?;
                let (holder, object) = key.value();
                reader.reference(holder, object)?;
            }
            Ok(reader.finish())
        })?;
        inventory.apply_uses(uses);
        inventory.mark_in_use(pins);
        Ok(inventory)
    }

    fn apply_uses(&mut self, uses: &Uses) {
        let counts = uses.snapshot();
        if counts.is_empty() {
            return;
        }
        for entry in &mut self.entries {
            if let Some(used) = counts.get(&entry.object) {
                entry.row.usage_count += used.count;
                entry.row.last_used = entry.row.last_used.max(used.last);
                entry.row.cost = entry.row.cost.max(used.cost);
            }
        }
    }

    fn mark_in_use(&mut self, pins: &Pins) {
        let pinned = (0..self.entries.len())
            .filter(|index| pins.is_pinned(&self.entries[*index].object))
            .collect();
        self.mark_with_parents(pinned, |entry| &mut entry.in_use);
    }

    /// Sets a flag of the entries and of all that they are made of.
    fn mark_with_parents(&mut self, mut waiting: Vec<usize>, flag: fn(&mut Entry) -> &mut bool) {
        while let Some(index) = waiting.pop() {
            let entry = &mut self.entries[index];
            if !std::mem::replace(flag(entry), true) {
                waiting.extend_from_slice(&entry.parents);
            }
        }
    }

    pub(crate) fn info(&self, index: usize) -> UsageInfo {
        let entry = &self.entries[index];
        let parents = entry.parents.iter().map(|parent| &self.entries[*parent]);
        UsageInfo {
            id: id(&entry.object),
            parents: parents
                .filter(|parent| !parent.layer)
                .map(|parent| id(&parent.object))
                .collect(),
            description: entry.row.description.clone(),
            record_type: entry.row.record_type,
            created: entry.row.created,
            last_used: entry.row.last_used,
            usage_count: entry.row.usage_count,
            size: entry.row.size.map(|size| size + entry.layer_size),
            mutable: entry.row.mutable,
            in_use: entry.in_use,
            shared: entry.shared,
        }
    }
}

fn id(object: &Object) -> String {
    match object {
        Object::Blob(digest) => digest.to_string(),
        Object::Snapshot(id) => id.to_string(),
    }
}

#[derive(Default)]
struct Reader {
    entries: Vec<Entry>,
    index: HashMap<Object, usize>,
    /// Entries that an image holds.
    images: Vec<usize>,
}

impl Reader {
    fn entry(&mut self, key: &[u8], row: Row) -> Result<(), DbError> {
        let object = Object::from_key(key).ok_or(DbError::MalformedKey {
            what: "a usage record",
        })?;
        self.index.insert(object.clone(), self.entries.len());
        self.entries.push(Entry {
            object,
            row,
            parents: Vec::new(),
            children: 0,
            in_use: false,
            shared: false,
            leased: false,
            layer: false,
            layer_size: 0,
        });
        Ok(())
    }

    fn reference(&mut self, holder: &str, object: &[u8]) -> Result<(), DbError> {
        let malformed = DbError::MalformedKey {
            what: "a reference",
        };
        let holder: Reference = holder.parse().map_err(|_| malformed.clone())?;
        let object = Object::from_key(object).ok_or(malformed)?;
        let Some(&held) = self.index.get(&object) else {
            return Ok(());
        };
        match holder {
            Reference::Snapshot(id) => {
                self.part(&Object::Snapshot(id), held);
                let entry = &mut self.entries[held];
                entry.layer |= matches!(entry.object, Object::Blob(_));
            }
            Reference::Blob(digest) => self.part(&Object::Blob(digest), held),
            Reference::Image(_) => self.images.push(held),
            Reference::Lease(_) => self.entries[held].leased = true,
            Reference::Result(_) | Reference::Name(_) => {}
        }
        Ok(())
    }

    fn part(&mut self, whole: &Object, part: usize) {
        if let Some(&whole) = self.index.get(whole) {
            self.entries[whole].parents.push(part);
            self.entries[part].children += 1;
        }
    }

    fn finish(mut self) -> Inventory {
        let shared = self.needed_by_images();
        self.count_layers();
        let mut inventory = Inventory {
            entries: self.entries,
            sharing: HashSet::new(),
        };
        inventory.mark_with_parents(shared, |entry| &mut entry.shared);
        inventory
    }

    /// What images hold: by a manifest the layer blobs, and by these the snapshots that they were
    /// made of.
    fn needed_by_images(&self) -> Vec<usize> {
        let mut needed = self.images.clone();
        let mut blobs: Vec<_> = self.images.clone();
        let mut seen = vec![false; self.entries.len()];
        while let Some(index) = blobs.pop() {
            if !std::mem::replace(&mut seen[index], true) {
                blobs.extend_from_slice(&self.entries[index].parents);
            }
        }
        for (index, entry) in self.entries.iter().enumerate() {
            let is_layer = |part: &usize| self.entries[*part].layer && seen[*part];
            if entry.parents.iter().any(is_layer) {
                needed.push(index);
            }
        }
        needed
    }

    /// Adds each layer blob's size to the first snapshot that it was made of.
    fn count_layers(&mut self) {
        let mut counted = vec![false; self.entries.len()];
        for index in 0..self.entries.len() {
            let mut size = 0;
            for &part in &self.entries[index].parents {
                if self.entries[part].layer && !std::mem::replace(&mut counted[part], true) {
                    size += self.entries[part].row.size.unwrap_or(0);
                }
            }
            self.entries[index].layer_size = size;
        }
    }
}
