//! The rows of the history: the name of a build, and its record as it goes over the wire. The
//! blobs of a record are held by a lease of its name.

use std::collections::HashMap;

use prost::Message;
use redb::{ReadableTable, TableDefinition};
use weld_digest::Digest;
use weld_proto::control::BuildHistoryRecord;
use weld_store::{Db, DbError, Object, Reference, Ticket, refs};

use super::HistoryError;

const HISTORY: TableDefinition<&str, &[u8]> = TableDefinition::new("history");

/// Rows (build, digest): the blobs that records name.
const BLOBS: TableDefinition<(&str, &str), ()> = TableDefinition::new("history-blobs");

pub(super) fn create(db: &Db) -> Result<(), HistoryError> {
    let created = db.update(|tx| {
        tx.open_table(HISTORY)?;
        tx.open_table(BLOBS)?;
        Ok(())
    });
    Ok(created.wait()?)
}

fn lease(reference: &str) -> Reference {
    Reference::Lease(format!("history/{reference}"))
}

/// Writes a record, which names `blobs` besides those that it named before.
pub(super) fn put(db: &Db, record: &BuildHistoryRecord, blobs: Vec<Digest>) -> Ticket<()> {
    let (reference, row) = (record.reference.clone(), record.encode_to_vec());
    db.update(move |tx| {
        let lease = lease(&reference);
        {
            let mut named = tx.open_table(BLOBS)?;
            for digest in &blobs {
                named.insert((reference.as_str(), digest.to_string().as_str()), ())?;
            }
        }
        for digest in &blobs {
            refs::add(tx, &lease, &Object::Blob(digest.clone()))?;
        }
        let mut table = tx.open_table(HISTORY)?;
        table.insert(reference.as_str(), row.as_slice())?;
        Ok(())
    })
}

pub(super) fn delete(db: &Db, references: &[String]) -> Result<(), HistoryError> {
    let references = references.to_vec();
    let deleted = db.update(move |tx| {
        for reference in &references {
            tx.open_table(HISTORY)?.remove(reference.as_str())?;
            let mut named = tx.open_table(BLOBS)?;
            let digests = named_by(&named, reference)?;
            for digest in digests {
                named.remove((reference.as_str(), digest.as_str()))?;
            }
            drop(named);
            refs::release(tx, &lease(reference))?;
        }
        Ok(())
    });
    Ok(deleted.wait()?)
}

fn named_by(
    table: &impl ReadableTable<(&'static str, &'static str), ()>,
    reference: &str,
) -> Result<Vec<String>, DbError> {
    let mut digests = Vec::new();
    for row in table.range((reference, "")..)? {
        let (key, _) = row?;
        let (holder, digest) = key.value();
        if holder != reference {
            break;
        }
        digests.push(digest.to_owned());
    }
    Ok(digests)
}

pub(super) fn get(db: &Db, reference: &str) -> Result<Option<BuildHistoryRecord>, HistoryError> {
    let row = db.read(|tx| {
        let table = tx.open_table(HISTORY)?;
        Ok(table.get(reference)?.map(|row| row.value().to_vec()))
    })?;
    row.map(|row| decode(reference, &row)).transpose()
}

pub(super) fn all(db: &Db) -> Result<Vec<BuildHistoryRecord>, HistoryError> {
    let mut records = Vec::new();
    visit(db, |record| records.push(record))?;
    Ok(records)
}

/// Shows all records, one after another: thousands of them at once are much memory.
pub(super) fn visit(
    db: &Db,
    mut visit: impl FnMut(BuildHistoryRecord),
) -> Result<(), HistoryError> {
    db.read(|tx| {
        for row in tx.open_table(HISTORY)?.iter()? {
            let (key, row) = row?;
            match decode(key.value(), row.value()) {
                Ok(record) => visit(record),
                Err(damaged) => return Ok(Err(damaged)),
            }
        }
        Ok(Ok(()))
    })?
}

/// The blobs that each record names.
pub(super) fn named(db: &Db) -> Result<HashMap<String, Vec<Digest>>, HistoryError> {
    Ok(db.read(|tx| {
        let mut named = HashMap::<_, Vec<_>>::new();
        for row in tx.open_table(BLOBS)?.iter()? {
            let (key, _) = row?;
            let (reference, digest) = key.value();
            if let Ok(digest) = digest.parse() {
                named.entry(reference.to_owned()).or_default().push(digest);
            }
        }
        Ok(named)
    })?)
}

fn decode(reference: &str, row: &[u8]) -> Result<BuildHistoryRecord, HistoryError> {
    BuildHistoryRecord::decode(row).map_err(|source| HistoryError::Record {
        reference: reference.to_owned(),
        source,
    })
}
