//! What survives a power loss, and the order of all that was ever written.
//!
//! Content is written without syncing it: after the end of a process, in whatever way, the kernel
//! still has it; after the end of the kernel it may be torn or gone, though the database names it,
//! which may have been written by then. So the transaction that makes an object known adds a row to
//! [`UNSYNCED`], and a background `syncfs` removes the rows that were committed before it began.
//! The first open after a boot drops what still has a row, with all that was made of it.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use redb::{ReadableTable, TableDefinition, WriteTransaction};

use crate::clock;
use crate::db::{Db, DbError, Ticket};
use crate::object::Object;

/// Single numbers about the state directory.
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// Single texts about the state directory.
pub(crate) const META_TEXT: TableDefinition<&str, &str> = TableDefinition::new("meta-text");
/// In order of commit: the key of an object whose content may not be on the medium yet, and when
/// it was committed, in seconds since 1970.
const UNSYNCED: TableDefinition<u64, (&[u8], u64)> = TableDefinition::new("unsynced");

const NEXT: &str = "next-sequence";
const CLEAN: &str = "clean";
const BOOT: &str = "boot";

/// How many sequence numbers are taken from the database at once.
const RESERVE: u64 = 1 << 16;

pub(crate) fn create_tables(tx: &WriteTransaction) -> Result<(), DbError> {
    tx.open_table(META)?;
    tx.open_table(META_TEXT)?;
    tx.open_table(UNSYNCED)?;
    Ok(())
}

/// Notes that an object's content was written or changed, in the transaction that says so: it
/// counts as lost if the power fails before the next background sync. [`crate::usage::record`]
/// does this for what is new; for an object that is changed in place it is due after each change.
pub fn written(tx: &WriteTransaction, object: &Object) -> Result<(), DbError> {
    let mut table = tx.open_table(UNSYNCED)?;
    let next = table.last()?.map_or(1, |(last, _)| last.value() + 1);
    table.insert(next, (object.to_key().as_slice(), clock::seconds()))?;
    Ok(())
}

/// The rows that a sync which starts now will have made durable.
#[derive(Clone, Copy)]
pub(crate) struct Unsynced {
    last: u64,
    /// When the oldest was committed, in seconds since 1970.
    pub(crate) oldest: u64,
}

pub(crate) fn unsynced(db: &Db) -> Result<Option<Unsynced>, DbError> {
    db.read(|tx| {
        let table = tx.open_table(UNSYNCED)?;
        let Some((_, first)) = table.first()? else {
            return Ok(None);
        };
        let oldest = first.value().1;
        Ok(table.last()?.map(|(last, _)| Unsynced {
            last: last.value(),
            oldest,
        }))
    })
}

/// Writes everything of the file system to its medium, then forgets the rows that this covers.
pub(crate) fn sync(root: &Path, db: &Db, covered: Unsynced) -> Result<(), SyncError> {
    let directory = File::open(root).map_err(SyncError::Sync)?;
    rustix::fs::syncfs(&directory).map_err(|errno| SyncError::Sync(errno.into()))?;
    db.update(move |tx| {
        tx.open_table(UNSYNCED)?
            .retain_in(..=covered.last, |_, _| false)?;
        Ok(())
    })
    .wait()?;
    Ok(())
}

/// Why the mark was not raised.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The file system could not be synced.
    #[error("sync the file system of the state directory: {0}")]
    Sync(io::Error),
    /// The database failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// All objects that a power loss now would take, oldest first.
pub(crate) fn take_unsynced(tx: &WriteTransaction) -> Result<Vec<Object>, DbError> {
    let mut table = tx.open_table(UNSYNCED)?;
    let mut objects = Vec::new();
    while let Some((_, row)) = table.pop_first()? {
        let object = Object::from_key(row.value().0).ok_or(DbError::MalformedKey {
            what: "an unsynced object",
        })?;
        objects.push(object);
    }
    Ok(objects)
}

/// A text about the state directory.
pub(crate) fn text(db: &Db, name: &str) -> Result<Option<String>, DbError> {
    db.read(|tx| {
        let text = tx.open_table(META_TEXT)?.get(name)?;
        Ok(text.map(|text| text.value().to_owned()))
    })
}

/// Sets a text about the state directory.
pub(crate) fn set_text(db: &Db, name: &'static str, text: String) -> Ticket<()> {
    db.update(move |tx| {
        tx.open_table(META_TEXT)?.insert(name, text.as_str())?;
        Ok(())
    })
}

/// How the last process that had the directory left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LastRun {
    /// It closed the store.
    pub(crate) clean: bool,
    /// It ran on another boot of the machine.
    pub(crate) other_boot: bool,
}

pub(crate) fn last_run(db: &Db, boot: &str) -> Result<LastRun, DbError> {
    db.read(|tx| {
        let clean = tx.open_table(META)?.get(CLEAN)?.map(|clean| clean.value());
        let last_boot = tx.open_table(META_TEXT)?.get(BOOT)?;
        Ok(LastRun {
            clean: clean == Some(1),
            other_boot: last_boot.is_some_and(|last| last.value() != boot),
        })
    })
}

/// Notes how the process leaves the directory: the sequence numbers that it did not use, and
/// whether there is nothing to be swept.
pub(crate) fn mark_closed(tx: &WriteTransaction, unused: u64, clean: bool) -> Result<(), DbError> {
    let mut table = tx.open_table(META)?;
    table.insert(NEXT, unused)?;
    table.insert(CLEAN, u64::from(clean))?;
    Ok(())
}

/// The identity of this boot of the machine.
pub(crate) fn boot_id() -> io::Result<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned())
}

/// A number for it.
pub(crate) fn boot_number(id: &str) -> u64 {
    let digest = weld_digest::Digest::sha256_of(id);
    digest
        .bytes()
        .first_chunk()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Gives out numbers that no process ever gets again.
pub(crate) struct Sequence {
    db: Db,
    first: u64,
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
        let first = db.read(|tx| {
            let next = tx.open_table(META)?.get(NEXT)?;
            Ok(next.map_or(1, |next| next.value()))
        })?;
        let nothing = Range {
            next: first,
            end: first,
            reserved: None,
        };
        Ok(Self {
            first,
            state: Mutex::new(nothing),
            db: db.clone(),
        })
    }

    /// Gives no number before this one, which may be in use though the database does not know of it. Before any is given.
    pub(crate) fn skip_to(&mut self, unused: u64) {
        let range = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.first = self.first.max(unused);
        (range.next, range.end) = (self.first, self.first);
    }

    /// Notes that a process of this boot has the directory, and takes the first numbers for it.
    pub(crate) fn mark_running(&self, boot: String) {
        let mut range = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let end = range.next + RESERVE;
        range.end = end;
        range.reserved = Some(self.db.update(move |tx| {
            let mut table = tx.open_table(META)?;
            table.insert(CLEAN, 0)?;
            table.insert(NEXT, end)?;
            tx.open_table(META_TEXT)?.insert(BOOT, boot.as_str())?;
            Ok(())
        }));
    }

    /// Numbers below are from earlier processes.
    pub(crate) fn first(&self) -> u64 {
        self.first
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

    /// What no process got yet.
    pub(crate) fn unused(&self) -> u64 {
        let range = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        range.next
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
