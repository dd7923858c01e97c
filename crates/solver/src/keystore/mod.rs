//! Where cache keys, the links between them and the records they lead to are kept.
//!
//! A key is an operation digest, an output index and, for every input, the keys that the input can have. It is stored as *links*: a
//! link (input key, selector, input index, operation digest, output) leads to every key that has this input key in that place. A key
//! matches when it is reached by a link from every input.

mod memory;
mod pool;

use std::{future::Future, pin::Pin};

pub use memory::{MemoryKeyStore, MemoryUsage};
use smallvec::SmallVec;

use crate::{CacheSourceId, Digest, KeyId, RecordId, StoreError};

/// The answer to a query: at once, or later.
pub enum Answer<T> {
    /// Known now.
    Ready(T),
    /// Known when the future ends. It is polled on a task of its own and delays nothing but the edge that waits for it.
    Later(Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send>>),
}

/// One key that an input can have, as seen by the operation that uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InputKey {
    /// The key.
    pub key: KeyId,
    /// The selector of the operation's cache map; `None` for content keys.
    pub selector: Option<Digest>,
}

/// The keys that one input can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputKeys {
    /// Index of the input.
    pub input: u32,
    /// Alternatives: any of them may lead to a match.
    pub keys: Alternatives,
}

/// Alternative keys of one input; there is hardly ever more than one.
pub type Alternatives = SmallVec<[InputKey; 1]>;

/// By input, whether anything was found.
pub type Hits = SmallVec<[bool; 16]>;

/// What is asked of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyQuery {
    /// The key of an operation without inputs.
    Root {
        /// Digest of the operation.
        op: Digest,
        /// Output index.
        output: u32,
    },
    /// Whether any key has one of these keys as this input.
    Probe {
        /// Digest of the operation.
        op: Digest,
        /// Output index.
        output: u32,
        /// The input.
        input: InputKeys,
    },
    /// The keys that match in every input.
    Match {
        /// Digest of the operation.
        op: Digest,
        /// Output index.
        output: u32,
        /// All inputs, in order.
        inputs: Vec<InputKeys>,
    },
}

/// A record that a key leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Name of the result in its result store.
    pub id: RecordId,
    /// When it was saved, in milliseconds since the Unix epoch.
    pub created: u64,
    /// Lower is preferred.
    pub priority: u8,
    /// The source it came from; set by the solver.
    pub source: CacheSourceId,
}

/// Records of further sources are preferred less than own ones.
const FOREIGN_PRIORITY: u8 = 1;

impl Record {
    /// Marks it as a record of a source.
    pub(crate) fn come_from(&mut self, source: CacheSourceId) {
        self.source = source;
        if source != CacheSourceId::LOCAL {
            self.priority = self.priority.saturating_add(FOREIGN_PRIORITY);
        }
    }
}

/// A key that matches a query, with its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatchedKey {
    /// The key.
    pub key: KeyId,
    /// Its records; may be empty.
    pub records: Vec<Record>,
}

/// The answer to a [`KeyQuery`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyMatches {
    /// For a probe, whether anything was found. For a match, per input in order. For a root, empty.
    pub hits: Hits,
    /// The matching keys, in the order in which they were saved; empty for a probe.
    pub keys: Vec<MatchedKey>,
}

/// A key to save, with all that leads to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaveKey {
    /// The key.
    pub key: KeyId,
    /// Digest of the operation.
    pub op: Digest,
    /// Output index.
    pub output: u32,
    /// Links from the keys of the inputs; those that exist already are left as they are.
    pub inputs: Vec<InputKeys>,
    /// A record of the result, if one was saved.
    pub record: Option<Record>,
}

/// A link into a key, as seen from the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackLink {
    /// Index of the input.
    pub input: u32,
    /// The key of the input.
    pub key: KeyId,
    /// The selector.
    pub selector: Option<Digest>,
}

/// All that a store knows of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyEntry {
    /// What the key is of, whatever its inputs are: [`KeyId::root`] of the operation and the output. A key that no link leads to is of
    /// itself.
    pub class: Digest,
    /// The links that lead to it, sorted.
    pub inputs: Vec<BackLink>,
    /// Its records, in the order in which they were saved.
    pub records: Vec<Record>,
}

/// Storage of keys. Queries may take their time; writes must not block, and a query that starts after a write returned sees it.
pub trait KeyStore: Send + Sync + 'static {
    /// Looks keys up.
    fn query(&self, query: KeyQuery) -> Answer<KeyMatches>;

    /// Adds a key, links and a record to it. What exists already stays. An input key that is not stored yet comes into being.
    fn save(&self, entry: SaveKey);

    /// Removes a record from every key. A key without records, that leads to no other key, goes too, and so do the keys that only
    /// led to it.
    fn drop_record(&self, record: RecordId);

    /// Reads one key, for export.
    fn entry(&self, key: KeyId) -> Answer<Option<KeyEntry>>;

    /// Every key that leads to this record, sorted.
    fn keys_of(&self, record: RecordId) -> Answer<Vec<KeyId>>;
}
