use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use redb::{ReadTransaction, ReadableTable};
use weld_digest::Digest;

use crate::blobs::{BLOBS, BlobRecord};
use crate::db::{DbError, decode};
use crate::names::NAMES;
use crate::object::{Object, SnapshotId};
use crate::records::results::RESULTS;
use crate::refs::{HELD, HOLDERS, Reference};
use crate::snapshot::{ANNOTATION_HOME, LAYERS, LayerDescriptor, Record, SNAPSHOTS};
use crate::usage::USAGE;

/// What the database says that there is, at one moment.
pub(super) struct Rows {
    /// With their lengths in bytes.
    pub(super) blobs: HashMap<Digest, u64>,
    pub(super) snapshots: BTreeMap<SnapshotId, Record>,
    /// The blobs of snapshots' layers.
    pub(super) layers: HashMap<SnapshotId, Vec<Digest>>,
    pub(super) usage: HashSet<Object>,
    pub(super) results: Vec<u64>,
    pub(super) names: Vec<(String, Object)>,
    /// Both tables of references, as holder and object.
    pub(super) holders: BTreeSet<(Reference, Object)>,
    pub(super) held: BTreeSet<(Reference, Object)>,
}

fn object(what: &'static str, key: &[u8]) -> Result<Object, DbError> {
    Object::from_key(key).ok_or(DbError::MalformedKey { what })
}

fn reference(text: &str) -> Result<Reference, DbError> {
    let malformed = |_| DbError::MalformedKey {
        what: "a reference",
    };
    text.parse().map_err(malformed)
}

impl Rows {
    pub(super) fn read(tx: &ReadTransaction) -> Result<Self, DbError> {
        let mut rows = Self {
            blobs: HashMap::new(),
            snapshots: BTreeMap::new(),
            layers: HashMap::new(),
            usage: HashSet::new(),
            results: Vec::new(),
            names: Vec::new(),
            holders: BTreeSet::new(),
            held: BTreeSet::new(),
        };
        for row in tx.open_table(BLOBS)?.iter()? {
            let (digest, record) = row?;
            let malformed = |_| DbError::MalformedKey { what: "a blob" };
            let digest = digest.value().parse().map_err(malformed)?;
            let record: BlobRecord = decode("a blob", record.value())?;
            rows.blobs.insert(digest, record.size);
        }
        for row in tx.open_table(SNAPSHOTS)?.iter()? {
            let (id, record) = row?;
            let record = decode("a snapshot", record.value())?;
            rows.snapshots.insert(SnapshotId(id.value()), record);
        }
        for row in tx.open_table(LAYERS)?.iter()? {
            let (id, layer) = row?;
            let layer: LayerDescriptor = decode("a layer", layer.value())?;
            // One that is elsewhere, too, may have been given up for room.
            if layer.annotations.contains_key(ANNOTATION_HOME) {
                continue;
            }
            let layers = rows.layers.entry(SnapshotId(id.value().0)).or_default();
            layers.push(layer.digest);
        }
        for row in tx.open_table(USAGE)?.iter()? {
            rows.usage.insert(object("a usage record", row?.0.value())?);
        }
        for row in tx.open_table(RESULTS)?.iter()? {
            rows.results.push(row?.0.value());
        }
        for row in tx.open_table(NAMES)?.iter()? {
            let (name, key) = row?;
            let named = object("a named object", key.value())?;
            rows.names.push((name.value().to_owned(), named));
        }
        for row in tx.open_table(HOLDERS)?.iter()? {
            let (key, ()) = (row?.0, ());
            let (held, holder) = key.value();
            rows.holders
                .insert((reference(holder)?, object("a reference", held)?));
        }
        for row in tx.open_table(HELD)?.iter()? {
            let key = row?.0;
            let (holder, held) = key.value();
            rows.held
                .insert((reference(holder)?, object("a reference", held)?));
        }
        Ok(rows)
    }
}
