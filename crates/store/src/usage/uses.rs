use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redb::WriteTransaction;

use super::{USAGE, get, put};
use crate::clock;
use crate::db::{Db, DbError, Ticket};
use crate::object::Object;

/// Uses of cached objects that the database does not know of yet: they are counted here and
/// written now and then, so that a use costs next to nothing. Cheap to clone.
#[derive(Clone, Default)]
pub struct Uses(Arc<Mutex<Counts>>);

pub(crate) type Counts = HashMap<Object, Use>;

/// Uses of one object.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Use {
    pub(crate) count: u64,
    /// Nanoseconds since 1970; 0 if it was not used.
    pub(crate) last: u64,
    /// How long it took to make or to fetch, in nanoseconds.
    pub(crate) cost: Option<u64>,
}

impl Uses {
    /// Counts a use of `object` now.
    pub fn add(&self, object: &Object) {
        let last = clock::nanoseconds();
        self.change(object, |known| {
            known.count += 1;
            known.last = last;
        });
    }

    /// Notes how long `object` took to make or to fetch. Of several times the longest counts: what was found
    /// already there says nothing.
    pub fn took(&self, object: &Object, time: Duration) {
        let cost = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.change(object, |known| known.cost = known.cost.max(Some(cost)));
    }

    fn change(&self, object: &Object, change: impl FnOnce(&mut Use)) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(object) {
            Some(known) => change(known),
            None => change(counts.entry(object.clone()).or_default()),
        }
    }

    pub(crate) fn snapshot(&self) -> Counts {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Queues what was counted to be written.
    pub(crate) fn write(&self, db: &Db) -> Option<Ticket<()>> {
        let counts = self.take();
        (!counts.is_empty()).then(|| db.update(move |tx| write(tx, &counts)))
    }

    /// What was counted, to be [written](write).
    pub(crate) fn take(&self) -> Counts {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Adds what was counted to what the database knows.
pub(crate) fn write(tx: &WriteTransaction, counts: &Counts) -> Result<(), DbError> {
    for (object, used) in counts {
        let row = get(&tx.open_table(USAGE)?, object)?;
        if let Some(mut row) = row {
            row.usage_count += used.count;
            row.last_used = row.last_used.max(used.last);
            row.cost = row.cost.max(used.cost);
            put(tx, object, &row)?;
        }
    }
    Ok(())
}
