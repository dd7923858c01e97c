//! What is remembered of steps that ran, so that it can be told why one runs again.
//!
//! What a step was made of is bytes here. It is found by the step's name, a digest, or by a slot: a digest of a place where steps
//! follow one another, such as "the second line of that Dockerfile". The oldest are forgotten. Rows, in one table, told apart by
//! their first byte; numbers are big-endian:
//!
//! | row | key | value |
//! |---|---|---|
//! | `v` | name | number, count of slots, slots, bytes |
//! | `s` | slot | names, the newest first |
//! | `o` | number | name |
//! | `t` | – | last number, steps, bytes of all |

use redb::TableDefinition;

use super::front::{Edit, Front, Rows, create_table};
use crate::db::{Db, DbError};

const STEPS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("steps");

/// Most steps that are remembered.
const STEP_LIMIT: u64 = 20_000;
/// Most bytes of all that is remembered.
const BYTE_LIMIT: u64 = 32 << 20;
/// Most bytes of one step; a larger one is not remembered.
const STEP_BYTES: usize = 256 << 10;
/// Most slots of one step.
const SLOTS: usize = 16;
/// Most steps that are found by one slot.
const VARIANTS: usize = 6;
/// Bytes of a name.
const NAME: usize = size_of::<StepName>();

/// The name of a step, or a slot.
pub type StepName = [u8; 32];

/// What is remembered of steps. Cheap to clone.
#[derive(Clone)]
pub struct Steps(Front);

impl Steps {
    /// The table was added to directories that are there already, so it is made where it is missing.
    pub(crate) fn open(db: &Db) -> Result<Self, DbError> {
        let there = db.read(|tx| match tx.open_table(STEPS) {
            Ok(_) => Ok(true),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(false),
            Err(error) => Err(error.into()),
        })?;
        if !there {
            db.update(|tx| create_table(tx, STEPS)).wait()?;
        }
        Ok(Self(Front::new(db, STEPS)))
    }

    /// What is remembered of a step.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn get(&self, name: &StepName) -> Result<Option<Vec<u8>>, DbError> {
        self.0.read(|rows| {
            let row = rows.get(&row(b'v', name))?;
            Ok(row.and_then(|row| Some(split(&row)?.2.to_vec())))
        })
    }

    /// The number of a step that is remembered: what was remembered later has a greater one.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn number(&self, name: &StepName) -> Result<Option<u64>, DbError> {
        self.0.read(|rows| {
            let row = rows.get(&row(b'v', name))?;
            Ok(row.and_then(|row| Some(u64::from_be_bytes(split(&row)?.0))))
        })
    }

    /// The name of the step that was remembered last with this slot.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn latest(&self, slot: &StepName) -> Result<Option<StepName>, DbError> {
        Ok(self.variants(slot)?.first().copied())
    }

    /// The names of the steps that were remembered with this slot, the last one first; of many, the last few.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn variants(&self, slot: &StepName) -> Result<Vec<StepName>, DbError> {
        self.0.read(|rows| {
            let names = rows.get(&row(b's', slot))?.unwrap_or_default();
            Ok(names.as_chunks::<NAME>().0.to_vec())
        })
    }

    /// What was remembered last with this slot, in one reading.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn newest(&self, slot: &StepName) -> Result<Option<Vec<u8>>, DbError> {
        self.0.read(|rows| {
            let names = rows.get(&row(b's', slot))?.unwrap_or_default();
            let Some(name) = names.first_chunk::<NAME>() else {
                return Ok(None);
            };
            let row = rows.get(&row(b'v', name))?;
            Ok(row.and_then(|row| Some(split(&row)?.2.to_vec())))
        })
    }

    /// What is remembered of a step, if it was remembered last with each of these slots; in one reading.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn if_newest(
        &self,
        name: &StepName,
        slots: &[StepName],
    ) -> Result<Option<Vec<u8>>, DbError> {
        self.0.read(|rows| {
            for slot in slots {
                let names = rows.get(&row(b's', slot))?;
                if names.is_none_or(|names| !names.starts_with(name)) {
                    return Ok(None);
                }
            }
            let row = rows.get(&row(b'v', name))?;
            Ok(row.and_then(|row| Some(split(&row)?.2.to_vec())))
        })
    }

    /// Remembers a step; what was remembered of it before is replaced. Does not wait for the disk.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn put(&self, name: &StepName, slots: &[StepName], value: &[u8]) -> Result<(), DbError> {
        if value.len() > STEP_BYTES {
            return Ok(());
        }
        let slots = &slots[..slots.len().min(SLOTS)];
        self.0.edit(|rows| {
            let mut totals = Totals::read(rows)?;
            forget(rows, name, &mut totals)?;
            totals.last += 1;
            let number = totals.last.to_be_bytes();
            let mut entry = number.to_vec();
            entry.push(slots.len() as u8);
            slots.iter().for_each(|slot| entry.extend_from_slice(slot));
            entry.extend_from_slice(value);
            totals.steps += 1;
            totals.bytes += entry.len() as u64;
            rows.put(row(b'v', name), entry);
            rows.put(row(b'o', &number), name.to_vec());
            for slot in slots {
                let slot = row(b's', slot);
                let mut names = rows.get(&slot)?.unwrap_or_default();
                names.splice(..0, *name);
                names.truncate(VARIANTS * NAME);
                rows.put(slot, names);
            }
            make_room(rows, &mut totals)?;
            rows.put(vec![b't'], totals.encode());
            Ok(())
        })
    }
}

fn row(kind: u8, key: &[u8]) -> Vec<u8> {
    [&[kind], key].concat()
}

/// The number, the slots and the bytes of a step's row.
fn split(row: &[u8]) -> Option<([u8; 8], &[u8], &[u8])> {
    let (number, rest) = row.split_first_chunk::<8>()?;
    let (count, rest) = rest.split_first()?;
    let (slots, value) = rest.split_at_checked(usize::from(*count) * NAME)?;
    Some((*number, slots, value))
}

fn forget(rows: &mut Edit<'_>, name: &StepName, totals: &mut Totals) -> Result<(), DbError> {
    let Some(entry) = rows.get(&row(b'v', name))? else {
        return Ok(());
    };
    rows.remove(row(b'v', name));
    totals.steps = totals.steps.saturating_sub(1);
    totals.bytes = totals.bytes.saturating_sub(entry.len() as u64);
    let Some((number, slots, _)) = split(&entry) else {
        return Ok(());
    };
    rows.remove(row(b'o', &number));
    for slot in slots.chunks(NAME) {
        let slot = row(b's', slot);
        let names = rows.get(&slot)?.unwrap_or_default();
        let others = names.as_chunks::<NAME>().0.iter();
        let others: Vec<u8> = others
            .filter(|other| *other != name)
            .flatten()
            .copied()
            .collect();
        match (others.is_empty(), others.len() == names.len()) {
            (true, _) => rows.remove(slot),
            (false, false) => rows.put(slot, others),
            (false, true) => {}
        }
    }
    Ok(())
}

/// Forgets the oldest while there is too much.
fn make_room(rows: &mut Edit<'_>, totals: &mut Totals) -> Result<(), DbError> {
    while totals.steps > STEP_LIMIT || totals.bytes > BYTE_LIMIT {
        let oldest = rows.scan(b"o")?.next().transpose()?;
        let Some((key, name)) = oldest else {
            return Ok(());
        };
        match StepName::try_from(name) {
            Ok(name) => forget(rows, &name, totals)?,
            Err(_) => rows.remove(key),
        }
    }
    Ok(())
}

#[derive(Default)]
struct Totals {
    last: u64,
    steps: u64,
    bytes: u64,
}

impl Totals {
    fn read(rows: &Edit<'_>) -> Result<Self, DbError> {
        let row = rows.get(b"t")?.unwrap_or_default();
        let number = |at: usize| {
            let bytes = row
                .get(at * 8..at * 8 + 8)
                .and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u64::from_be_bytes)
        };
        Ok(Self {
            last: number(0),
            steps: number(1),
            bytes: number(2),
        })
    }

    fn encode(&self) -> Vec<u8> {
        [self.last, self.steps, self.bytes]
            .iter()
            .flat_map(|number| number.to_be_bytes())
            .collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "helpers may fail their test")]
mod tests {
    use crate::{Store, StoreOptions};

    #[test]
    fn steps_are_found_by_name_and_slot_and_the_oldest_are_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let name = |number: u64| {
            let mut name = [0; 32];
            name[..8].copy_from_slice(&number.to_be_bytes());
            name
        };
        let slot = [9; 32];
        let large = vec![1; 200 << 10];
        {
            let store = Store::open(directory.path(), StoreOptions::default()).unwrap();
            let steps = store.steps();
            assert_eq!(steps.latest(&slot).unwrap(), None);
            for number in 0..300 {
                steps.put(&name(number), &[slot], &large).unwrap();
            }
            steps.put(&name(1000), &[], &vec![0; 300 << 10]).unwrap();
            assert_eq!(steps.get(&name(1000)).unwrap(), None, "too large");
            steps.put(&name(7), &[slot], b"seven").unwrap();
            store.db().flush().unwrap();
        }
        let store = Store::open(directory.path(), StoreOptions::default()).unwrap();
        let steps = store.steps();
        assert_eq!(steps.latest(&slot).unwrap(), Some(name(7)));
        assert_eq!(steps.get(&name(7)).unwrap().unwrap(), b"seven");
        assert_eq!(steps.newest(&slot).unwrap().unwrap(), b"seven");
        let variants = [7, 299, 298, 297, 296, 295].map(name);
        assert_eq!(steps.variants(&slot).unwrap(), variants);
        assert_eq!(steps.newest(&[8; 32]).unwrap(), None);
        let newest = |number, slots: &[_]| steps.if_newest(&name(number), slots).unwrap();
        assert_eq!(newest(7, &[slot]).unwrap(), b"seven");
        assert_eq!(newest(299, &[slot]), None);
        assert_eq!(newest(7, &[slot, [8; 32]]), None);
        assert_eq!(steps.get(&name(0)).unwrap(), None, "the oldest is gone");
        assert_eq!(steps.get(&name(299)).unwrap().unwrap(), large);
        let kept = (0..300).filter(|number| steps.get(&name(*number)).unwrap().is_some());
        assert!((150..165).contains(&kept.count()));
    }
}
