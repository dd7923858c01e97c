//! Sequence numbers: the order of all that was ever written.

use std::sync::{Mutex, PoisonError};

use redb::TableDefinition;

use crate::db::{Db, DbError, Ticket};

/// Single numbers about the state directory.
pub(crate) const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const NEXT: &str = "next-sequence";
/// How many numbers are taken from the database at once.
const RESERVE: u64 = 4096;

/// Gives out numbers that no process ever gets again.
pub(crate) struct Sequence {
    db: Db,
    state: Mutex<Range>,
}

struct Range {
    next: u64,
    end: u64,
    /// The commit after which the range belongs to this process, if nobody waited for it yet.
    reserved: Option<Ticket<()>>,
}

impl Sequence {
    pub(crate) fn new(db: &Db) -> Result<Self, DbError> {
        let next = db.read(|tx| {
            Ok(tx
                .open_table(META)?
                .get(NEXT)?
                .map_or(1, |next| next.value()))
        })?;
        Ok(Self {
            state: Mutex::new(reserve(db, next)),
            db: db.clone(),
        })
    }

    pub(crate) fn next(&self) -> Result<u64, DbError> {
        let mut range = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if range.next == range.end {
            *range = reserve(&self.db, range.end);
        }
        if let Some(ticket) = range.reserved.take() {
            ticket.wait()?;
        }
        range.next += 1;
        Ok(range.next - 1)
    }

    /// Gives back what was not used.
    pub(crate) fn close(&self) {
        let range = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        drop(set_next(&self.db, range.next));
    }
}

fn reserve(db: &Db, next: u64) -> Range {
    let end = next + RESERVE;
    Range {
        next,
        end,
        reserved: Some(set_next(db, end)),
    }
}

fn set_next(db: &Db, next: u64) -> Ticket<()> {
    db.update(move |tx| {
        tx.open_table(META)?.insert(NEXT, next)?;
        Ok(())
    })
}

pub(crate) fn create_tables(tx: &redb::WriteTransaction) -> Result<(), DbError> {
    tx.open_table(META)?;
    Ok(())
}
