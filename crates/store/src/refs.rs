//! Which record names which object: what nothing names and nothing pins is garbage.

use std::fmt;
use std::str::FromStr;

use redb::{ReadableTable, Table, TableDefinition, WriteTransaction};
use weld_digest::Digest;

use crate::db::DbError;
use crate::object::{Object, SnapshotId};

/// Rows (object, holder): who names an object.
pub(crate) const HOLDERS: TableDefinition<(&[u8], &str), ()> = TableDefinition::new("holders");
/// Rows (holder, object): what somebody names.
pub(crate) const HELD: TableDefinition<(&str, &[u8]), ()> = TableDefinition::new("held");

pub(crate) fn create_tables(tx: &WriteTransaction) -> Result<(), DbError> {
    tx.open_table(HOLDERS)?;
    tx.open_table(HELD)?;
    Ok(())
}

/// What names objects.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reference {
    /// A solver's result, by its id.
    Result(u64),
    /// A snapshot: its parents and the layer blobs made of it.
    Snapshot(SnapshotId),
    /// A blob: what a manifest or index lists.
    Blob(Digest),
    /// A name that a module finds its object by, such as a local source's or a cache mount's.
    Name(String),
    /// An image that a user named: what it holds counts as shared.
    Image(String),
    /// A lease, such as of the build history.
    Lease(String),
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Result(id) => write!(f, "result/{id}"),
            Self::Snapshot(id) => write!(f, "snapshot/{id}"),
            Self::Blob(digest) => write!(f, "blob/{digest}"),
            Self::Name(name) => write!(f, "name/{name}"),
            Self::Image(name) => write!(f, "image/{name}"),
            Self::Lease(name) => write!(f, "lease/{name}"),
        }
    }
}

/// A text that is no reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a reference")]
pub struct ParseReferenceError(String);

impl FromStr for Reference {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseReferenceError(text.to_owned());
        let (kind, rest) = text.split_once('/').ok_or_else(error)?;
        Ok(match kind {
            "result" => Self::Result(rest.parse().map_err(|_| error())?),
            "snapshot" => Self::Snapshot(SnapshotId(rest.parse().map_err(|_| error())?)),
            "blob" => Self::Blob(rest.parse().map_err(|_| error())?),
            "name" => Self::Name(rest.to_owned()),
            "image" => Self::Image(rest.to_owned()),
            "lease" => Self::Lease(rest.to_owned()),
            _ => return Err(error()),
        })
    }
}

/// Has `holder` name `object`, in the transaction that makes the holder.
pub fn add(tx: &WriteTransaction, holder: &Reference, object: &Object) -> Result<(), DbError> {
    Edges::open(tx)?.add(holder, object)
}

/// Has `holder` no longer name `object`.
pub fn remove(tx: &WriteTransaction, holder: &Reference, object: &Object) -> Result<(), DbError> {
    Edges::open(tx)?.remove(holder, object)
}

/// Has `holder` name nothing any more, in the transaction that removes the holder; returns what
/// it named.
pub fn release(tx: &WriteTransaction, holder: &Reference) -> Result<Vec<Object>, DbError> {
    Edges::open(tx)?.release(holder)
}

/// Both tables, open to be changed.
pub(crate) struct Edges<'tx> {
    holders: Table<'tx, (&'static [u8], &'static str), ()>,
    held: Table<'tx, (&'static str, &'static [u8]), ()>,
}

impl<'tx> Edges<'tx> {
    pub(crate) fn open(tx: &'tx WriteTransaction) -> Result<Self, DbError> {
        Ok(Self {
            holders: tx.open_table(HOLDERS)?,
            held: tx.open_table(HELD)?,
        })
    }

    pub(crate) fn holders(&self, object: &Object) -> Result<Vec<Reference>, DbError> {
        holders(&self.holders, object)
    }

    fn add(&mut self, holder: &Reference, object: &Object) -> Result<(), DbError> {
        let (holder, object) = (holder.to_string(), object.to_key());
        self.holders
            .insert((object.as_slice(), holder.as_str()), ())?;
        self.held.insert((holder.as_str(), object.as_slice()), ())?;
        Ok(())
    }

    pub(crate) fn remove(&mut self, holder: &Reference, object: &Object) -> Result<(), DbError> {
        let (holder, object) = (holder.to_string(), object.to_key());
        self.holders.remove((object.as_slice(), holder.as_str()))?;
        self.held.remove((holder.as_str(), object.as_slice()))?;
        Ok(())
    }

    pub(crate) fn release(&mut self, holder: &Reference) -> Result<Vec<Object>, DbError> {
        let objects = held(&self.held, holder)?;
        for object in &objects {
            self.remove(holder, object)?;
        }
        Ok(objects)
    }
}

/// What `holder` names.
pub(crate) fn held(
    table: &impl ReadableTable<(&'static str, &'static [u8]), ()>,
    holder: &Reference,
) -> Result<Vec<Object>, DbError> {
    let holder = holder.to_string();
    let mut objects = Vec::new();
    for row in table.range((holder.as_str(), [].as_slice())..)? {
        let (key, _) = row?;
        let (name, object) = key.value();
        if name != holder {
            break;
        }
        objects.push(Object::from_key(object).ok_or(MALFORMED)?);
    }
    Ok(objects)
}

/// Who names `object`.
pub(crate) fn holders(
    table: &impl ReadableTable<(&'static [u8], &'static str), ()>,
    object: &Object,
) -> Result<Vec<Reference>, DbError> {
    let object = object.to_key();
    let mut holders = Vec::new();
    for row in table.range((object.as_slice(), "")..)? {
        let (key, _) = row?;
        let (found, holder) = key.value();
        if found != object {
            break;
        }
        holders.push(holder.parse().map_err(|_| MALFORMED)?);
    }
    Ok(holders)
}

const MALFORMED: DbError = DbError::MalformedKey {
    what: "a reference",
};
