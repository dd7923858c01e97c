use std::fmt;

use weld_digest::Digest;

/// The number of a snapshot: also its place in the order of all that was ever written here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SnapshotId(pub u64);

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A thing with bytes on disk that can be pinned, referred to and collected.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Object {
    /// A blob.
    Blob(Digest),
    /// A snapshot, committed or mutable.
    Snapshot(SnapshotId),
}

impl Object {
    /// The key under which tables have the object: a kind, then what identifies it in the kind.
    /// Snapshots sort by their number.
    pub fn to_key(&self) -> Vec<u8> {
        match self {
            Self::Blob(digest) => [b"b".as_slice(), digest.to_string().as_bytes()].concat(),
            Self::Snapshot(id) => [b"s".as_slice(), &id.0.to_be_bytes()].concat(),
        }
    }

    /// The object of a key, if it is one.
    pub fn from_key(key: &[u8]) -> Option<Self> {
        let (kind, rest) = key.split_first()?;
        match kind {
            b'b' => {
                let digest = std::str::from_utf8(rest).ok()?.parse().ok()?;
                Some(Self::Blob(digest))
            }
            b's' => Some(Self::Snapshot(SnapshotId(u64::from_be_bytes(
                rest.try_into().ok()?,
            )))),
            _ => None,
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blob(digest) => write!(f, "blob {digest}"),
            Self::Snapshot(id) => write!(f, "snapshot {id}"),
        }
    }
}
