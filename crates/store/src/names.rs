//! Names by which modules find their objects again, such as a local source's or a cache mount's.

use redb::{ReadTransaction, TableDefinition, WriteTransaction};

use crate::db::DbError;
use crate::object::Object;
use crate::refs::{self, Reference};

/// The key of the object that has a name.
pub(crate) const NAMES: TableDefinition<&str, &[u8]> = TableDefinition::new("names");

pub(crate) fn create_tables(tx: &WriteTransaction) -> Result<(), DbError> {
    tx.open_table(NAMES)?;
    Ok(())
}

/// Gives `object` a name, which keeps it; one that had this name loses it.
pub fn set(tx: &WriteTransaction, name: &str, object: &Object) -> Result<(), DbError> {
    remove(tx, name)?;
    tx.open_table(NAMES)?
        .insert(name, object.to_key().as_slice())?;
    refs::add(tx, &Reference::Name(name.to_owned()), object)
}

/// Takes a name away.
pub fn remove(tx: &WriteTransaction, name: &str) -> Result<(), DbError> {
    tx.open_table(NAMES)?.remove(name)?;
    refs::release(tx, &Reference::Name(name.to_owned()))?;
    Ok(())
}

/// The object that has a name. It may be removed at any time unless it is pinned: pin it, then
/// ask again.
pub fn get(tx: &ReadTransaction, name: &str) -> Result<Option<Object>, DbError> {
    let row = tx.open_table(NAMES)?.get(name)?;
    row.map(|row| object(row.value())).transpose()
}

/// The objects whose names start with `prefix`, in the order of their names.
pub fn starting_with(tx: &ReadTransaction, prefix: &str) -> Result<Vec<(String, Object)>, DbError> {
    let mut found = Vec::new();
    for row in tx.open_table(NAMES)?.range(prefix..)? {
        let (name, key) = row?;
        if !name.value().starts_with(prefix) {
            break;
        }
        found.push((name.value().to_owned(), object(key.value())?));
    }
    Ok(found)
}

fn object(key: &[u8]) -> Result<Object, DbError> {
    Object::from_key(key).ok_or(DbError::MalformedKey {
        what: "a named object",
    })
}
