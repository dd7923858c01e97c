use std::collections::BTreeMap;
use std::collections::btree_map::Range;
use std::iter::Peekable;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use redb::{ReadOnlyTable, ReadTransaction, TableDefinition, WriteTransaction};

use crate::db::{Db, DbError};

/// Bytes under bytes; a module gives its keys a structure.
type Bytes = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// A table whose changes are seen at once: they are kept in memory until they are committed.
/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Front(Arc<Inner>);

struct Inner {
    db: Db,
    definition: Bytes,
    changes: RwLock<Changes>,
    /// What was committed and may be forgotten by the next edit. The committer must not wait for
    /// `changes`: who holds it may be waiting for the committer.
    committed: Mutex<Vec<Done>>,
}

/// The keys that an edit changed, and its number.
type Done = (Vec<Vec<u8>>, u64);

/// Rows that are not committed yet.
pub(super) type Changed = BTreeMap<Vec<u8>, Pending>;
/// Rows that are.
pub(super) type Committed = ReadOnlyTable<&'static [u8], &'static [u8]>;

#[derive(Default)]
struct Changes {
    pending: Changed,
    /// The number of the last edit.
    edits: u64,
}

pub(super) struct Pending {
    /// `None` if the row is removed.
    value: Option<Vec<u8>>,
    /// The edit that made this change last.
    edit: u64,
}

pub(super) fn create_table(tx: &WriteTransaction, definition: Bytes) -> Result<(), DbError> {
    tx.open_table(definition)?;
    Ok(())
}

impl Front {
    pub(super) fn new(db: &Db, definition: Bytes) -> Self {
        Self(Arc::new(Inner {
            db: db.clone(),
            definition,
            changes: RwLock::default(),
            committed: Mutex::default(),
        }))
    }

    /// Reads one state.
    pub(super) fn read<T>(
        &self,
        read: impl FnOnce(&View<'_>) -> Result<T, DbError>,
    ) -> Result<T, DbError> {
        // Held until the end: what is committed meanwhile stays among the changes.
        let changes = self
            .0
            .changes
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        self.0.db.read(|tx| {
            read(&View {
                pending: &changes.pending,
                table: self.table(tx)?,
            })
        })
    }

    /// Changes rows: seen by reads that start after the return, committed later.
    pub(super) fn edit(
        &self,
        edit: impl FnOnce(&mut Edit<'_>) -> Result<(), DbError>,
    ) -> Result<(), DbError> {
        let mut changes = self
            .0
            .changes
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        self.forget_committed(&mut changes);
        changes.edits += 1;
        let number = changes.edits;
        let (outcome, changed) = self.0.db.read(|tx| {
            let mut rows = Edit {
                pending: &mut changes.pending,
                table: self.table(tx)?,
                number,
                changed: Vec::new(),
            };
            let outcome = edit(&mut rows);
            Ok((outcome, rows.changed))
        })?;
        // Queued under the lock, so that edits are committed in their order. What an edit changed
        // before it failed is committed, too: it is what readers see.
        self.commit(changed, number);
        outcome
    }

    fn table(&self, tx: &ReadTransaction) -> Result<Committed, DbError> {
        Ok(tx.open_table(self.0.definition)?)
    }

    fn commit(&self, changed: Vec<(Vec<u8>, Option<Vec<u8>>)>, number: u64) {
        if changed.is_empty() {
            return;
        }
        let definition = self.0.definition;
        let keys: Vec<_> = changed.iter().map(|(key, _)| key.clone()).collect();
        let front = self.clone();
        drop(self.0.db.update_then(
            move |tx| {
                let mut table = tx.open_table(definition)?;
                for (key, value) in &changed {
                    match value {
                        Some(value) => table.insert(key.as_slice(), value.as_slice())?,
                        None => table.remove(key.as_slice())?,
                    };
                }
                Ok(())
            },
            move |_| front.committed().push((keys, number)),
        ));
    }

    fn committed(&self) -> MutexGuard<'_, Vec<Done>> {
        self.0
            .committed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn forget_committed(&self, changes: &mut Changes) {
        let committed = std::mem::take(&mut *self.committed());
        for (keys, number) in committed {
            for key in keys {
                let superseded = |pending: &Pending| pending.edit != number;
                if !changes.pending.get(&key).is_none_or(superseded) {
                    changes.pending.remove(&key);
                }
            }
        }
    }
}

/// The rows at one moment.
pub(super) struct View<'a> {
    pending: &'a Changed,
    table: Committed,
}

/// The rows while they are changed.
pub(super) struct Edit<'a> {
    pending: &'a mut Changed,
    table: Committed,
    number: u64,
    changed: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// A key and its value.
pub(super) type KeyValue = (Vec<u8>, Vec<u8>);

/// What can be asked of rows.
pub(super) trait Rows {
    /// The changes, and what is committed.
    fn parts(&self) -> (&Changed, &Committed);

    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DbError> {
        let (pending, table) = self.parts();
        match pending.get(key) {
            Some(pending) => Ok(pending.value.clone()),
            None => Ok(table.get(key)?.map(|value| value.value().to_vec())),
        }
    }

    /// The rows whose keys start with `prefix`, in the order of their keys.
    fn scan<'a>(&'a self, prefix: &'a [u8]) -> Result<Scan<'a>, DbError> {
        let (pending, table) = self.parts();
        Ok(Scan {
            prefix,
            pending: pending.range(prefix.to_vec()..).peekable(),
            committed: table.range(prefix..)?.peekable(),
        })
    }

    /// Whether any key starts with `prefix`.
    fn any(&self, prefix: &[u8]) -> Result<bool, DbError> {
        Ok(self.scan(prefix)?.next().transpose()?.is_some())
    }
}

impl Rows for View<'_> {
    fn parts(&self) -> (&Changed, &Committed) {
        (self.pending, &self.table)
    }
}

impl Rows for Edit<'_> {
    fn parts(&self) -> (&Changed, &Committed) {
        (self.pending, &self.table)
    }
}

impl Edit<'_> {
    pub(super) fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.change(key, Some(value));
    }

    pub(super) fn remove(&mut self, key: Vec<u8>) {
        self.change(key, None);
    }

    fn change(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        let edit = self.number;
        self.changed.push((key.clone(), value.clone()));
        self.pending.insert(key, Pending { value, edit });
    }
}

/// Rows in the order of their keys, changes in front of what is committed.
pub(super) struct Scan<'a> {
    prefix: &'a [u8],
    pending: Peekable<Range<'a, Vec<u8>, Pending>>,
    committed: Peekable<redb::Range<'a, &'static [u8], &'static [u8]>>,
}

impl Scan<'_> {
    fn next_committed(&mut self) -> Result<Option<KeyValue>, DbError> {
        match self.committed.next() {
            Some(Ok((key, value))) => Ok(Some((key.value().to_vec(), value.value().to_vec()))),
            Some(Err(error)) => Err(error.into()),
            None => Ok(None),
        }
    }

    fn step(&mut self) -> Result<Option<KeyValue>, DbError> {
        loop {
            let prefix = self.prefix;
            let changed = self
                .pending
                .peek()
                .map(|(key, _)| key.as_slice())
                .filter(|key| key.starts_with(prefix));
            let committed = match self.committed.peek() {
                Some(Ok((key, _))) => Some(key.value()).filter(|key| key.starts_with(prefix)),
                Some(Err(_)) => return self.next_committed(),
                None => None,
            };
            match (changed, committed) {
                (None, None) => return Ok(None),
                (None, Some(_)) => return self.next_committed(),
                (Some(changed), Some(committed)) if committed < changed => {
                    return self.next_committed();
                }
                (Some(changed), committed) => {
                    if committed == Some(changed) {
                        self.committed.next();
                    }
                    if let Some((key, Pending { value, .. })) = self.pending.next()
                        && let Some(value) = value
                    {
                        return Ok(Some((key.clone(), value.clone())));
                    }
                }
            }
        }
    }
}

impl Iterator for Scan<'_> {
    type Item = Result<KeyValue, DbError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}
