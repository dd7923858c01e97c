//! Results by id, with what they name.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::{ReadTransaction, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::db::{Db, DbError, decode, encode};
use crate::durability::Sequence;
use crate::object::Object;
use crate::pins::{Pin, Pins};
use crate::refs::{self, HELD, Reference};
use crate::usage::Uses;

/// A row for every result, by its id.
pub(crate) const RESULTS: TableDefinition<u64, &[u8]> = TableDefinition::new("results");

pub(crate) fn create_tables(tx: &WriteTransaction) -> Result<(), DbError> {
    tx.open_table(RESULTS)?;
    Ok(())
}

#[derive(Clone, Serialize, Deserialize)]
struct Row {
    /// Milliseconds since 1970.
    created: u64,
    payload: Vec<u8>,
}

/// A result as it was saved, with what it names pinned.
#[derive(Clone, Debug)]
pub struct SavedResult {
    /// Its id.
    pub id: u64,
    /// When it was saved, in milliseconds since 1970.
    pub created: u64,
    /// What its saver says of it, such as how its objects belong together.
    pub payload: Vec<u8>,
    /// What it names, in the order of their keys.
    pub objects: Vec<Pin>,
}

/// The results of a state directory. Cheap to clone.
#[derive(Clone)]
pub struct Results(Arc<Inner>);

struct Inner {
    db: Db,
    pins: Pins,
    uses: Uses,
    sequence: Arc<Sequence>,
    /// Changes that are queued and not yet committed.
    pending: Mutex<HashMap<u64, Change>>,
}

#[derive(Clone)]
enum Change {
    Saved(Row, Vec<Object>),
    Forgotten,
}

impl Inner {
    fn pending(&self) -> MutexGuard<'_, HashMap<u64, Change>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a change that is committed, unless a later one is queued.
    fn committed(&self, id: u64, forgotten: bool) {
        let mut pending = self.pending();
        let change = pending.get(&id);
        if change.is_some_and(|change| matches!(change, Change::Forgotten) == forgotten) {
            pending.remove(&id);
        }
    }
}

impl Results {
    pub(crate) fn new(db: &Db, pins: &Pins, uses: &Uses, sequence: &Arc<Sequence>) -> Self {
        Self(Arc::new(Inner {
            db: db.clone(),
            pins: pins.clone(),
            uses: uses.clone(),
            sequence: sequence.clone(),
            pending: Mutex::default(),
        }))
    }

    /// The number that none of the results has yet: those that are saved from now on have this one or greater ones.
    pub fn unused(&self) -> u64 {
        self.0.sequence.unused()
    }

    /// Saves a result that names `objects`, which the caller has pinned and made known by updates
    /// queued before. A load that starts after this returned finds it.
    pub fn save(&self, objects: Vec<Object>, payload: Vec<u8>) -> Result<u64, DbError> {
        let id = self.0.sequence.next()?;
        let row = Row {
            created: clock::nanoseconds() / 1_000_000,
            payload,
        };
        let encoded = encode(&row)?;
        let mut sorted = objects.clone();
        sorted.sort_by_key(Object::to_key);
        sorted.dedup();
        self.0.pending().insert(id, Change::Saved(row, sorted));
        let inner = self.0.clone();
        drop(self.0.db.update_then(
            move |tx| {
                tx.open_table(RESULTS)?.insert(id, encoded.as_slice())?;
                let holder = Reference::Result(id);
                objects
                    .iter()
                    .try_for_each(|object| refs::add(tx, &holder, object))
            },
            move |_| inner.committed(id, false),
        ));
        Ok(id)
    }

    /// Loads a result and counts it as a use of what it names; `None` if it is gone.
    pub fn load(&self, id: u64) -> Result<Option<SavedResult>, DbError> {
        let Some((_, objects)) = self.find(id)? else {
            return Ok(None);
        };
        let pins: Vec<_> = objects
            .into_iter()
            .map(|object| self.0.pins.pin(object))
            .collect();
        // Now that they cannot be removed: are they still what the result names?
        let Some((row, objects)) = self.find(id)? else {
            return Ok(None);
        };
        if !objects.iter().eq(pins.iter().map(Pin::object)) {
            return Ok(None);
        }
        for object in &objects {
            self.0.uses.add(object);
        }
        Ok(Some(SavedResult {
            id,
            created: row.created,
            payload: row.payload,
            objects: pins,
        }))
    }

    /// Drops a result; what only it named is collected. The keys that lead to it are the caller's.
    pub fn forget(&self, id: u64) {
        self.0.pending().insert(id, Change::Forgotten);
        let inner = self.0.clone();
        drop(self.0.db.update_then(
            move |tx| drop_result(tx, id),
            move |outcome| {
                inner.committed(id, true);
                for object in outcome.iter().flatten() {
                    inner.pins.release(object);
                }
            },
        ));
    }

    fn find(&self, id: u64) -> Result<Option<(Row, Vec<Object>)>, DbError> {
        match self.0.pending().get(&id) {
            Some(Change::Saved(row, objects)) => return Ok(Some((row.clone(), objects.clone()))),
            Some(Change::Forgotten) => return Ok(None),
            None => {}
        }
        self.0.db.read(|tx| read(tx, id))
    }
}

fn read(tx: &ReadTransaction, id: u64) -> Result<Option<(Row, Vec<Object>)>, DbError> {
    let Some(row) = tx.open_table(RESULTS)?.get(id)? else {
        return Ok(None);
    };
    let objects = refs::held(&tx.open_table(HELD)?, &Reference::Result(id))?;
    Ok(Some((decode("a result", row.value())?, objects)))
}

/// Removes a result; returns what it named.
fn drop_result(tx: &WriteTransaction, id: u64) -> Result<Vec<Object>, DbError> {
    tx.open_table(RESULTS)?.remove(id)?;
    refs::release(tx, &Reference::Result(id))
}
