//! The key store in memory.

mod changes;

use std::sync::{Mutex, MutexGuard, PoisonError};

use hashbrown::HashTable;
use smallvec::{SmallVec, smallvec};

use super::{
    Answer, BackLink, Hits, InputKey, InputKeys, KeyEntry, KeyMatches, KeyQuery, KeyStore,
    MatchedKey, Record, SaveKey,
    pool::{NONE, Pool},
};
use crate::{CacheSourceId, Digest, KeyId, RecordId, core::mix};

/// Keys in memory. Every query is answered at once; a query costs O(what it names + the shortest list of keys behind an input).
#[derive(Default)]
pub struct MemoryKeyStore {
    tables: Mutex<Tables>,
}

/// What a [`MemoryKeyStore`] holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUsage {
    /// Keys.
    pub keys: usize,
    /// Links.
    pub links: usize,
    /// Records, counted once per key.
    pub records: usize,
    /// Bytes allocated.
    pub bytes: usize,
}

struct Key {
    id: KeyId,
    op: Digest,
    output: u32,
    /// First of the links that lead here, chained by `next_to`.
    links: u32,
    /// The last of its records, which are a ring.
    records: u32,
    /// Links that start here.
    children: u32,
}

struct Link {
    from: u32,
    to: u32,
    input: u32,
    selector: Option<Box<Digest>>,
    /// Next link with the same name: same start, input, selector, operation and output.
    next: u32,
    previous: u32,
    next_to: u32,
}

struct Stored {
    id: RecordId,
    created: u64,
    priority: u8,
    key: u32,
    /// In the ring of the key's records; after the last one comes the first.
    next: u32,
    previous: u32,
}

/// What links with the same name have in common.
#[derive(Clone, Copy)]
struct Name<'a> {
    from: u32,
    input: u32,
    selector: Option<&'a Digest>,
    op: &'a Digest,
    output: u32,
}

/// A place in a pool, with the hash that it is found by: growing a table does not look at what it holds.
struct Entry {
    hash: u32,
    at: u32,
}

impl Entry {
    fn new(hash: u64, at: u32) -> Self {
        Self {
            hash: narrow(hash),
            at,
        }
    }

    fn wide(&self) -> u64 {
        widen(self.hash)
    }
}

fn narrow(hash: u64) -> u32 {
    (hash ^ (hash >> 32)) as u32
}

/// The tables' hash of what hashes to `hash`.
fn widen(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn find(table: &HashTable<Entry>, hash: u64, same: impl Fn(u32) -> bool) -> Option<u32> {
    let hash = narrow(hash);
    let entry = table.find(widen(hash), |entry| entry.hash == hash && same(entry.at));
    entry.map(|entry| entry.at)
}

fn add(table: &mut HashTable<Entry>, hash: u64, at: u32) {
    let entry = Entry::new(hash, at);
    table.insert_unique(entry.wide(), entry, Entry::wide);
}

/// The entry of `at`, for removal.
fn entry_of(
    table: &mut HashTable<Entry>,
    hash: u64,
    at: u32,
) -> Option<hashbrown::hash_table::OccupiedEntry<'_, Entry>> {
    let hash = widen(narrow(hash));
    table.find_entry(hash, |entry| entry.at == at).ok()
}

#[derive(Default)]
struct Tables {
    keys: Pool<Key>,
    links: Pool<Link>,
    records: Pool<Stored>,
    by_id: HashTable<Entry>,
    /// First link of each name.
    by_name: HashTable<Entry>,
    by_record: HashTable<u32>,
}

impl MemoryKeyStore {
    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An entry; `class` tells what the key of an operation and its output is of.
    pub(crate) fn entry_with(
        &self,
        key: KeyId,
        class: impl Fn(Digest, u32) -> Digest,
    ) -> Option<KeyEntry> {
        let tables = self.lock();
        tables.find(key).map(|key| tables.entry(key, class))
    }

    /// As [`KeyStore::save`], of a key whose links are all different, and that no link leads to yet.
    pub(crate) fn save_new(&self, entry: SaveKey) {
        self.lock().save(entry, true);
    }

    /// How much is held.
    pub fn usage(&self) -> MemoryUsage {
        let tables = self.lock();
        let table_bytes = tables.by_id.allocation_size()
            + tables.by_name.allocation_size()
            + tables.by_record.allocation_size();
        MemoryUsage {
            keys: tables.keys.len(),
            links: tables.links.len(),
            records: tables.records.len(),
            bytes: tables.keys.bytes()
                + tables.links.bytes()
                + tables.records.bytes()
                + table_bytes,
        }
    }
}

impl KeyStore for MemoryKeyStore {
    fn query(&self, query: KeyQuery) -> Answer<KeyMatches> {
        let tables = self.lock();
        Answer::Ready(match query {
            KeyQuery::Root { op, output } => {
                let found = tables.find(KeyId::root(op, output));
                KeyMatches {
                    hits: Hits::new(),
                    keys: found.map(|key| tables.matched(key)).into_iter().collect(),
                }
            }
            KeyQuery::Probe { op, output, input } => KeyMatches {
                hits: smallvec![!tables.heads(&op, output, &input).is_empty()],
                keys: Vec::new(),
            },
            KeyQuery::Match { op, output, inputs } => tables.find_matches(&op, output, &inputs),
        })
    }

    fn save(&self, entry: SaveKey) {
        self.lock().save(entry, false);
    }

    fn drop_record(&self, record: RecordId) {
        self.lock().drop_record(record);
    }

    fn entry(&self, key: KeyId) -> Answer<Option<KeyEntry>> {
        Answer::Ready(self.entry_with(key, |op, output| KeyId::root(op, output).0))
    }

    fn keys_of(&self, record: RecordId) -> Answer<Vec<KeyId>> {
        let tables = self.lock();
        let mut keys: Vec<_> = tables
            .stored(record)
            .into_iter()
            .map(|at| tables.keys[tables.records[at].key].id)
            .collect();
        keys.sort_unstable();
        Answer::Ready(keys)
    }
}

impl Tables {
    fn find(&self, id: KeyId) -> Option<u32> {
        find(&self.by_id, id.0.short(), |key| self.keys[key].id == id)
    }

    fn find_or_insert(&mut self, id: KeyId, op: Digest, output: u32) -> u32 {
        if let Some(key) = self.find(id) {
            return key;
        }
        let key = self.keys.insert(Key {
            id,
            op,
            output,
            links: NONE,
            records: NONE,
            children: 0,
        });
        add(&mut self.by_id, id.0.short(), key);
        key
    }

    fn name<'a>(&'a self, link: &'a Link) -> Name<'a> {
        let to = &self.keys[link.to];
        Name {
            from: link.from,
            input: link.input,
            selector: link.selector.as_deref(),
            op: &to.op,
            output: to.output,
        }
    }

    fn head(&self, hash: u64, name: Name<'_>) -> Option<u32> {
        find(&self.by_name, hash, |link| {
            self.name(&self.links[link]) == name
        })
    }

    /// First links of the names that an input can have.
    fn heads(&self, op: &Digest, output: u32, input: &InputKeys) -> SmallVec<[u32; 2]> {
        let head = |key: &InputKey| {
            let from = self.find(key.key)?;
            let name = Name {
                from,
                input: input.input,
                selector: key.selector.as_ref(),
                op,
                output,
            };
            self.head(name.hash(), name)
        };
        input.keys.iter().filter_map(head).collect()
    }

    /// The keys behind chains of links, one after the other.
    fn behind<'a>(&'a self, heads: &'a [u32]) -> impl Iterator<Item = u32> + 'a {
        heads.iter().flat_map(move |head| {
            std::iter::successors(Some(*head), move |link| {
                Some(self.links[*link].next).filter(|next| *next != NONE)
            })
            .map(move |link| self.links[link].to)
        })
    }

    fn find_matches(&self, op: &Digest, output: u32, inputs: &[InputKeys]) -> KeyMatches {
        let heads: SmallVec<[_; 4]> = inputs
            .iter()
            .map(|input| self.heads(op, output, input))
            .collect();
        let hits: Hits = heads.iter().map(|heads| !heads.is_empty()).collect();
        if hits.contains(&false) {
            return KeyMatches {
                hits,
                keys: Vec::new(),
            };
        }
        let mut matching: Vec<u32> = self
            .shortest(&heads)
            .into_iter()
            .filter(|key| inputs.iter().all(|input| self.leads(input, *key)))
            .collect();
        matching.sort_unstable();
        matching.dedup();
        KeyMatches {
            hits,
            keys: matching.into_iter().map(|key| self.matched(key)).collect(),
        }
    }

    /// The keys behind the input that has the fewest. All inputs are followed in step, so a long list costs nothing.
    fn shortest(&self, heads: &[SmallVec<[u32; 2]>]) -> Vec<u32> {
        let mut lists: Vec<_> = heads
            .iter()
            .map(|heads| (self.behind(heads), Vec::new()))
            .collect();
        loop {
            for (rest, seen) in &mut lists {
                match rest.next() {
                    Some(key) => seen.push(key),
                    None => return std::mem::take(seen),
                }
            }
            if lists.is_empty() {
                return Vec::new();
            }
        }
    }

    /// Whether any name of the input leads to the key.
    fn leads(&self, input: &InputKeys, key: u32) -> bool {
        self.links_to(key).any(|link| {
            let link = &self.links[link];
            let from = self.keys[link.from].id;
            let named = |name: &InputKey| {
                name.key == from && name.selector.as_ref() == link.selector.as_deref()
            };
            link.input == input.input && input.keys.iter().any(named)
        })
    }

    fn links_to(&self, key: u32) -> impl Iterator<Item = u32> + '_ {
        let first = Some(self.keys[key].links).filter(|link| *link != NONE);
        std::iter::successors(first, |link| {
            Some(self.links[*link].next_to).filter(|next| *next != NONE)
        })
    }

    /// The records of a key, in the order in which they were saved.
    fn records_of(&self, key: u32) -> impl Iterator<Item = u32> + '_ {
        let last = self.keys[key].records;
        let first = (last != NONE).then(|| self.records[last].next);
        std::iter::successors(first, move |record| {
            (*record != last).then(|| self.records[*record].next)
        })
    }

    fn matched(&self, key: u32) -> MatchedKey {
        MatchedKey {
            key: self.keys[key].id,
            records: self
                .records_of(key)
                .map(|record| self.record(record))
                .collect(),
        }
    }

    fn record(&self, at: u32) -> Record {
        let stored = &self.records[at];
        Record {
            id: stored.id,
            created: stored.created,
            priority: stored.priority,
            source: CacheSourceId::LOCAL,
        }
    }

    fn entry(&self, key: u32, class: impl Fn(Digest, u32) -> Digest) -> KeyEntry {
        let back = |link: u32| {
            let link = &self.links[link];
            BackLink {
                input: link.input,
                key: self.keys[link.from].id,
                selector: link.selector.as_deref().copied(),
            }
        };
        let mut inputs: Vec<_> = self.links_to(key).map(back).collect();
        inputs.sort_unstable();
        let Key { id, op, output, .. } = &self.keys[key];
        KeyEntry {
            class: if inputs.is_empty() {
                id.0
            } else {
                class(*op, *output)
            },
            inputs,
            records: self.matched(key).records,
        }
    }
}

impl Name<'_> {
    fn hash(&self) -> u64 {
        let selector = self.selector.map_or(0, Digest::short);
        [
            u64::from(self.from) << 32 | u64::from(self.input),
            u64::from(self.output),
            selector,
        ]
        .into_iter()
        .fold(self.op.short(), mix)
    }
}

impl PartialEq for Name<'_> {
    fn eq(&self, other: &Self) -> bool {
        let same_place =
            (self.from, self.input, self.output) == (other.from, other.input, other.output);
        same_place && self.selector == other.selector && self.op == other.op
    }
}

fn hash_record(id: RecordId) -> u64 {
    mix(id.0, 0x5bd1_e995)
}
