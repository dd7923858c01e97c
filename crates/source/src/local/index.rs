use std::time::{SystemTime, UNIX_EPOCH};

use weld_digest::Digest;

use super::codec;
use super::stat::Stat;

/// What a tree was like when it was last synced, in path order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TreeIndex {
    pub(super) entries: Vec<IndexEntry>,
}

/// One path of a synced tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// What the provider said.
    pub stat: Stat,
    /// The digest of a file's content, begun as
    /// [`TreeTarget::hasher`](super::TreeTarget::hasher) says; a further name of a file has the
    /// first one's.
    pub digest: Option<Digest>,
    /// Whether the content cannot have changed without a change of its times. It can within the
    /// clock tick in which it was read: such a file is read again the next time.
    pub(super) settled: bool,
}

/// Why bytes are no index.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeIndexError {
    /// They are of another version, or of something else.
    #[error("not an index of this version")]
    Version,
    /// They end too early, or a field is out of its range.
    #[error("malformed index at byte {0}")]
    Malformed(usize),
    /// Their checksum is wrong.
    #[error("damaged index")]
    Damaged,
}

impl TreeIndex {
    /// An index of an empty tree: everything is new.
    pub fn empty() -> Self {
        Self::default()
    }

    /// The entries in path order.
    pub fn entries(&self) -> &[IndexEntry] {
        &self.entries
    }

    /// Has the next sync transfer again what was written after that time, where nothing but its time would tell of a change.
    pub(super) fn distrust_since(&mut self, time: SystemTime) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        let limit = (seconds, since.subsec_nanos());
        for IndexEntry { stat, .. } in &mut self.entries {
            let written = (stat.mtime.seconds, stat.mtime.nanoseconds);
            if stat.change.is_none() && stat.has_content() && written > limit {
                // No file has it.
                stat.mtime.seconds = i64::MIN;
            }
        }
    }

    /// The index with no file's content known: all of them are transferred anew.
    pub(super) fn without_contents(mut self) -> Self {
        for entry in &mut self.entries {
            entry.settled = false;
            if entry.stat.has_content() {
                entry.digest = None;
            }
        }
        self
    }

    /// The index as bytes, to be kept beside the tree.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(&self.entries)
    }

    /// Reads an index. One that cannot be read is best replaced by [`empty`](Self::empty), with
    /// an emptied target.
    ///
    /// # Errors
    /// [`DecodeIndexError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeIndexError> {
        codec::decode(bytes).map(|entries| Self { entries })
    }
}
