//! What is cached, what it is for, and when it was last used.

mod filter;
mod freed;
mod inventory;
mod links;
pub(crate) mod overhead;
pub mod prune;
mod size;
pub(crate) mod uses;
mod value;

use std::fmt;
use std::str::FromStr;

use redb::{ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::db::{DbError, decode, encode};
use crate::durability;
use crate::object::Object;

pub use filter::{Filter, FilterError};
pub use inventory::UsageInfo;
pub(crate) use size::{changed_on_disk, on_disk};
pub use uses::Uses;
pub use value::Worth;

/// A row for every cached object, by its key.
pub(crate) const USAGE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("usage");

pub(crate) fn create_tables(tx: &WriteTransaction) -> Result<(), DbError> {
    tx.open_table(USAGE)?;
    Ok(())
}

/// What a cached object is for, under BuildKit's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RecordType {
    /// A step's result or an image's layer.
    Regular,
    /// What the engine keeps for itself.
    Internal,
    /// A frontend's image.
    Frontend,
    /// A copy of a client's directory.
    LocalSource,
    /// A checked-out git repository.
    GitCheckout,
    /// A cache mount.
    CacheMount,
}

impl RecordType {
    const ALL: [Self; 6] = [
        Self::Regular,
        Self::Internal,
        Self::Frontend,
        Self::LocalSource,
        Self::GitCheckout,
        Self::CacheMount,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Regular => "regular",
            Self::Internal => "internal",
            Self::Frontend => "frontend",
            Self::LocalSource => "source.local",
            Self::GitCheckout => "source.git.checkout",
            Self::CacheMount => "exec.cachemount",
        }
    }
}

impl fmt::Display for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no record type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown record type {0:?}")]
pub struct UnknownRecordType(String);

impl FromStr for RecordType {
    type Err = UnknownRecordType;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| UnknownRecordType(text.to_owned()))
    }
}

/// What is said of an object when it is first cached.
#[derive(Clone, Debug)]
pub struct NewUsage {
    /// What it is for.
    pub record_type: RecordType,
    /// What a user reads of it, such as the step that made it.
    pub description: String,
    /// Whether it is changed in place.
    pub mutable: bool,
    /// Its bytes on disk if they are known; they are measured when first asked for.
    pub size: Option<u64>,
}

/// A row of [`USAGE`]; times are nanoseconds since 1970.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) record_type: RecordType,
    pub(crate) description: String,
    pub(crate) mutable: bool,
    pub(crate) size: Option<u64>,
    pub(crate) created: u64,
    pub(crate) last_used: u64,
    pub(crate) usage_count: u64,
    /// How long it took to make or to fetch, in nanoseconds.
    pub(crate) cost: Option<u64>,
}

/// A row as it was written before costs were measured.
#[derive(Deserialize)]
#[cfg_attr(test, derive(Serialize))]
struct RowWithoutCost {
    record_type: RecordType,
    description: String,
    mutable: bool,
    size: Option<u64>,
    created: u64,
    last_used: u64,
    usage_count: u64,
}

impl Row {
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DbError> {
        const WHAT: &str = "a usage record";
        // Older versions read the new form: what follows the fields that they know, they leave alone.
        decode(WHAT, bytes).or_else(|error| {
            let old: RowWithoutCost = decode(WHAT, bytes).map_err(|_| error)?;
            Ok(Self {
                record_type: old.record_type,
                description: old.description,
                mutable: old.mutable,
                size: old.size,
                created: old.created,
                last_used: old.last_used,
                usage_count: old.usage_count,
                cost: None,
            })
        })
    }
}

/// Records that `object` is cached, in the transaction that makes it known.
pub fn record(tx: &WriteTransaction, object: &Object, new: &NewUsage) -> Result<(), DbError> {
    let now = clock::nanoseconds();
    let row = Row {
        record_type: new.record_type,
        description: new.description.clone(),
        mutable: new.mutable,
        size: new.size,
        created: now,
        last_used: now,
        usage_count: 0,
        cost: None,
    };
    put(tx, object, &row)?;
    durability::written(tx, object)
}

/// Changes what is said of a cached object; does nothing if it is not cached.
pub fn describe(
    tx: &WriteTransaction,
    object: &Object,
    record_type: RecordType,
    description: &str,
) -> Result<(), DbError> {
    let Some(mut row) = get(&tx.open_table(USAGE)?, object)? else {
        return Ok(());
    };
    row.record_type = record_type;
    row.description = description.to_owned();
    put(tx, object, &row)
}

pub(crate) fn put(tx: &WriteTransaction, object: &Object, row: &Row) -> Result<(), DbError> {
    tx.open_table(USAGE)?
        .insert(object.to_key().as_slice(), encode(row)?.as_slice())?;
    Ok(())
}

pub(crate) fn get(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    object: &Object,
) -> Result<Option<Row>, DbError> {
    table
        .get(object.to_key().as_slice())?
        .map(|row| Row::decode(row.value()))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_by_versions_before_and_after_costs() {
        let old = RowWithoutCost {
            record_type: RecordType::CacheMount,
            description: "step".into(),
            mutable: true,
            size: Some(300),
            created: 1,
            last_used: 2,
            usage_count: 3,
        };
        let row = Row::decode(&encode(&old).unwrap()).unwrap();
        assert_eq!((row.size, row.usage_count, row.cost), (Some(300), 3, None));
        let new = Row {
            cost: Some(1 << 40),
            ..row
        };
        let encoded = encode(&new).unwrap();
        assert_eq!(Row::decode(&encoded).unwrap().cost, Some(1 << 40));
        let read: RowWithoutCost = decode("a usage record", &encoded).unwrap();
        assert_eq!((read.description.as_str(), read.last_used), ("step", 2));
    }
}
