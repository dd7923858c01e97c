//! Removal of objects from the tables: what goes with them, and what becomes garbage by it.
//!
//! What a module that makes snapshots has to do, all in the one transaction that commits a
//! snapshot: [`usage::record`](crate::usage::record) it, and [`refs::add`](crate::refs::add) what
//! it is made of (its parents and its layer blobs, held by
//! [`Reference::Snapshot`](crate::Reference::Snapshot)). A snapshot stays while somebody refers to
//! it or it is pinned; an update that adds a reference is to be queued while the object is pinned.
//! The files are removed by the collector; rows in other tables by the module's function in
//! [`FORGET_SNAPSHOTS`], in the transaction that removes the snapshot.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use redb::{Table, WriteTransaction};
use weld_digest::Digest;

use crate::blobs::BLOBS;
use crate::db::DbError;
use crate::durability;
use crate::names::NAMES;
use crate::object::{Object, SnapshotId};
use crate::records::results::RESULTS;
use crate::refs::{Edges, Reference};
use crate::usage::USAGE;

/// Removes a module's rows about snapshots: of all that a transaction removes at once, since
/// opening a table costs more than removing a row.
type ForgetSnapshots = fn(&WriteTransaction, &[SnapshotId]) -> Result<(), DbError>;

/// What every module has to remove from its tables with snapshots.
const FORGET_SNAPSHOTS: &[ForgetSnapshots] = &[crate::snapshot::forget];

/// Where a snapshot's files are: all of them are beneath this directory, named by its number, so
/// that the collector finds what no record names.
pub(crate) fn snapshot_dir(root: &Path, id: SnapshotId) -> PathBuf {
    root.join("snapshots").join(id.to_string())
}

/// Which objects may be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removable {
    /// Those that nothing names.
    Unnamed,
    /// Also those that results and names lead to, which go with them.
    Cached,
    /// Also those of images that a user named.
    Shared,
}

impl Removable {
    fn allows(self, holders: &[Reference]) -> bool {
        holders.iter().all(|holder| match holder {
            // What is made of an object goes before it.
            Reference::Snapshot(_) | Reference::Blob(_) | Reference::Lease(_) => false,
            Reference::Result(_) | Reference::Name(_) => self != Self::Unnamed,
            Reference::Image(_) => self == Self::Shared,
        })
    }
}

/// What a removal came to.
#[derive(Debug, Default)]
pub(crate) struct Removal {
    /// What has no row any more; its files are to be removed.
    pub(crate) removed: Vec<Object>,
    /// What had no row before, such as a snapshot that was never committed; files that it may
    /// have are to be removed, too.
    pub(crate) unknown: Vec<Object>,
    /// Results that went with them; the keys that lead to these are to be dropped.
    pub(crate) results: Vec<u64>,
    /// What may have lost its last reference.
    pub(crate) released: Vec<Object>,
}

impl Removal {
    pub(crate) fn append(&mut self, other: Self) {
        self.removed.extend(other.removed);
        self.unknown.extend(other.unknown);
        self.results.extend(other.results);
        self.released.extend(other.released);
    }
}

/// Removes those of the objects that may be, in their order.
pub(crate) fn remove(
    tx: &WriteTransaction,
    objects: &[Object],
    removable: Removable,
) -> Result<Removal, DbError> {
    let mut tables = Tables::open(tx)?;
    let mut removal = Removal::default();
    for object in objects {
        let holders = tables.edges.holders(object)?;
        if removable.allows(&holders) {
            tables.remove(object, holders, &mut removal)?;
        }
    }
    drop(tables);
    forget(tx, &removal)?;
    Ok(removal)
}

/// Has all modules forget the snapshots that are removed.
fn forget(tx: &WriteTransaction, removal: &Removal) -> Result<(), DbError> {
    let objects = removal.removed.iter().chain(&removal.unknown);
    let snapshots: Vec<_> = objects
        .filter_map(|object| match object {
            Object::Snapshot(id) => Some(*id),
            Object::Blob(_) => None,
        })
        .collect();
    let mut modules = FORGET_SNAPSHOTS.iter();
    modules.try_for_each(|forget| forget(tx, &snapshots))
}

/// Removes all that a power loss may have damaged, with what was made of it.
pub(crate) fn remove_lost(tx: &WriteTransaction) -> Result<Removal, DbError> {
    let lost = durability::take_unsynced(tx)?;
    remove_damaged(tx, lost)
}

/// Removes objects, whoever names them, with what was made of them.
pub(crate) fn remove_damaged(
    tx: &WriteTransaction,
    mut lost: Vec<Object>,
) -> Result<Removal, DbError> {
    let mut removal = Removal::default();
    let mut tables = Tables::open(tx)?;
    let mut seen = HashSet::new();
    while let Some(object) = lost.pop() {
        if !seen.insert(object.clone()) {
            continue;
        }
        let holders = tables.edges.holders(&object)?;
        lost.extend(holders.iter().filter_map(|holder| match holder {
            Reference::Snapshot(child) => Some(Object::Snapshot(*child)),
            Reference::Blob(index) => Some(Object::Blob(index.clone())),
            _ => None,
        }));
        tables.remove(&object, holders, &mut removal)?;
    }
    drop(tables);
    forget(tx, &removal)?;
    Ok(removal)
}

/// Removes blobs, whoever names them. Snapshots that were made of them stay.
pub(crate) fn remove_blobs(
    tx: &WriteTransaction,
    blobs: &HashSet<Digest>,
) -> Result<Removal, DbError> {
    let mut removal = Removal::default();
    let mut tables = Tables::open(tx)?;
    for blob in blobs {
        let object = Object::Blob(blob.clone());
        let holders = tables.edges.holders(&object)?;
        tables.remove(&object, holders, &mut removal)?;
    }
    Ok(removal)
}

/// The tables that name objects, open for as long as many are removed.
struct Tables<'tx> {
    edges: Edges<'tx>,
    usage: Table<'tx, &'static [u8], &'static [u8]>,
    blobs: Table<'tx, &'static str, &'static [u8]>,
    names: Table<'tx, &'static str, &'static [u8]>,
    results: Table<'tx, u64, &'static [u8]>,
}

impl<'tx> Tables<'tx> {
    fn open(tx: &'tx WriteTransaction) -> Result<Self, DbError> {
        Ok(Self {
            edges: Edges::open(tx)?,
            usage: tx.open_table(USAGE)?,
            blobs: tx.open_table(BLOBS)?,
            names: tx.open_table(NAMES)?,
            results: tx.open_table(RESULTS)?,
        })
    }

    fn remove(
        &mut self,
        object: &Object,
        holders: Vec<Reference>,
        removal: &mut Removal,
    ) -> Result<(), DbError> {
        for holder in holders {
            match &holder {
                Reference::Result(id) => {
                    self.results.remove(id)?;
                    removal.results.push(*id);
                    removal.released.extend(self.edges.release(&holder)?);
                }
                Reference::Name(name) => {
                    self.names.remove(name.as_str())?;
                    self.edges.remove(&holder, object)?;
                }
                _ => self.edges.remove(&holder, object)?,
            }
        }
        let known = self.usage.remove(object.to_key().as_slice())?.is_some();
        let made_of = match object {
            Object::Blob(digest) => {
                self.blobs.remove(digest.to_string().as_str())?;
                Reference::Blob(digest.clone())
            }
            Object::Snapshot(id) => Reference::Snapshot(*id),
        };
        removal.released.extend(self.edges.release(&made_of)?);
        let list = if known {
            &mut removal.removed
        } else {
            &mut removal.unknown
        };
        list.push(object.clone());
        Ok(())
    }
}
