use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

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
#[derive(Clone, Copy, Debug)]
pub(crate) struct Use {
    pub(crate) count: u64,
    /// Nanoseconds since 1970.
    pub(crate) last: u64,
}

impl Uses {
    /// Counts a use of `object` now.
    pub fn add(&self, object: &Object) {
        let last = clock::nanoseconds();
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(object) {
            Some(known) => {
                known.count += 1;
                known.last = last;
            }
            None => {
                counts.insert(object.clone(), Use { count: 1, last });
            }
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
            put(tx, object, &row)?;
        }
    }
    Ok(())
}
