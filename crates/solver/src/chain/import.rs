//! Chains as a key store.

use hashbrown::{HashMap, HashSet};

use super::CacheChains;
use crate::{
    CacheSourceId, Digest, KeyId, KeyMatches, KeyQuery, KeyStore, MemoryKeyStore, Record, RecordId,
    SaveKey,
    core::FixedState,
    digest::KeyHasher,
    keystore::{Alternatives, Answer, InputKey, InputKeys, KeyEntry},
};

/// Most items, links and results of chains that are imported: a bound on what a stranger's cache can make us hold.
const LIMIT: usize = 10_000_000;

/// Why chains cannot be imported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// An item uses one that does not come before it.
    #[error("item {item} of the cache uses item {uses}, which does not come before it")]
    Order {
        /// The item.
        item: usize,
        /// What it uses.
        uses: u32,
    },
    /// An input of an item has nothing that could stand there.
    #[error("input {input} of item {item} of the cache is empty")]
    EmptyInput {
        /// The item.
        item: usize,
        /// The input.
        input: usize,
    },
    /// There is too much.
    #[error("the cache has over {LIMIT} items, links and results")]
    TooLarge,
}

/// The keys of chains that were imported. They cannot be changed, but for records that turn out to be gone.
pub struct ImportedKeys(MemoryKeyStore);

/// Makes a key store of chains, and hands out the results: each is recorded under its position in the list.
///
/// # Errors
/// [`ImportError`] for items that are not in order.
pub fn import<R>(chains: CacheChains<R>) -> Result<(ImportedKeys, Vec<R>), ImportError> {
    let results = chains.items.iter().map(|item| item.results.len());
    if chains.items.len() + chains.links() + results.sum::<usize>() > LIMIT {
        return Err(ImportError::TooLarge);
    }
    let mut ids: Vec<KeyId> = Vec::with_capacity(chains.items.len());
    let mut results = Vec::new();
    // Equal items are one key, with all that can stand for its inputs and all its results.
    let mut merged: Vec<Merged> = Vec::with_capacity(chains.items.len());
    let mut places: HashMap<KeyId, usize, FixedState> = HashMap::default();
    for (at, item) in chains.items.into_iter().enumerate() {
        let mut inputs = Vec::with_capacity(item.inputs.len());
        for (input, links) in item.inputs.iter().enumerate() {
            let mut names = Alternatives::with_capacity(links.len());
            for link in links {
                let key = *ids.get(link.item as usize).ok_or(ImportError::Order {
                    item: at,
                    uses: link.item,
                })?;
                names.push(InputKey {
                    key,
                    selector: link.selector,
                });
            }
            if names.is_empty() {
                return Err(ImportError::EmptyInput { item: at, input });
            }
            inputs.push(names);
        }
        let id = id_of(item.class, &inputs);
        ids.push(id);
        let place = *places.entry(id).or_insert(merged.len());
        match merged.get_mut(place) {
            Some(same) => {
                for (names, more) in same.inputs.iter_mut().zip(inputs) {
                    names.extend(more);
                }
            }
            None => merged.push(Merged {
                id,
                class: item.class,
                inputs,
                records: Vec::new(),
            }),
        }
        for result in item.results {
            let record = Record {
                id: RecordId(results.len() as u64),
                created: result.created,
                priority: 0,
                source: CacheSourceId::LOCAL,
            };
            results.push(result.value);
            merged[place].records.push(record);
        }
    }
    let keys = MemoryKeyStore::default();
    for key in merged {
        key.save(&keys);
    }
    Ok((ImportedKeys(keys), results))
}

/// A key, of all items that are equal.
struct Merged {
    id: KeyId,
    class: Digest,
    /// Per input, what can stand there; the same may come again.
    inputs: Vec<Alternatives>,
    records: Vec<Record>,
}

impl Merged {
    fn save(self, keys: &MemoryKeyStore) {
        let inputs = (0..).zip(self.inputs).map(|(input, mut names)| {
            if names.len() > 1 {
                let mut seen: HashSet<InputKey, FixedState> = HashSet::default();
                names.retain(|name| seen.insert(*name));
            }
            InputKeys { input, keys: names }
        });
        let mut records = self.records.into_iter();
        let entry = SaveKey {
            key: self.id,
            op: self.class,
            output: 0,
            inputs: inputs.collect(),
            record: records.next(),
        };
        let (op, key) = (entry.op, entry.key);
        keys.save_new(entry);
        for record in records {
            keys.save(SaveKey {
                key,
                op,
                output: 0,
                inputs: Vec::new(),
                record: Some(record),
            });
        }
    }
}

/// The id of an item: that of the key where it has no inputs, otherwise one that is the same for equal chains.
fn id_of(class: Digest, inputs: &[Alternatives]) -> KeyId {
    if inputs.is_empty() {
        return KeyId(class);
    }
    let mut hash = KeyHasher::new(class, u32::MAX);
    for key in inputs.iter().filter_map(|names| names.first()) {
        hash.input(key.key, key.selector);
    }
    hash.finish()
}

impl KeyStore for ImportedKeys {
    fn query(&self, query: KeyQuery) -> Answer<KeyMatches> {
        let class = |op, output| KeyId::root(op, output).0;
        self.0.query(match query {
            root @ KeyQuery::Root { .. } => root,
            KeyQuery::Probe { op, output, input } => KeyQuery::Probe {
                op: class(op, output),
                output: 0,
                input,
            },
            KeyQuery::Match { op, output, inputs } => KeyQuery::Match {
                op: class(op, output),
                output: 0,
                inputs,
            },
        })
    }

    fn save(&self, _: SaveKey) {}

    fn drop_record(&self, record: RecordId) {
        self.0.drop_record(record);
    }

    fn entry(&self, key: KeyId) -> Answer<Option<KeyEntry>> {
        // What it holds as operations are classes already.
        Answer::Ready(self.0.entry_with(key, |op, _| op))
    }

    fn keys_of(&self, record: RecordId) -> Answer<Vec<KeyId>> {
        self.0.keys_of(record)
    }
}
