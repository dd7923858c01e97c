use super::*;

use crate::db::index::Index;

use proptest::prelude::*;
use redb::TableDefinition;

use crate::db::{Db, Opening};
use crate::lock::{Attempt, DirectoryLock};

const PAGES: u64 = 12;

#[derive(Clone, Debug)]
enum Step {
    /// Where, how long, with what.
    Write(usize, usize, u8),
    /// In pages.
    SetLen(u64),
    Sync,
    Checkpoint,
    /// The process ends.
    Kill,
    /// The process ends in order; whether its index is damaged since.
    Close(bool),
    /// The machine goes down: of the logs that were not synced this part is there, with a byte
    /// of it flipped or not.
    PowerLoss(Moment, u8, bool),
}

/// What of a checkpoint was done when the machine went down.
#[derive(Clone, Copy, Debug)]
enum Moment {
    Idle,
    Switched,
    Applied,
}

fn step() -> impl Strategy<Value = Step> {
    let moment = prop_oneof![
        Just(Moment::Idle),
        Just(Moment::Switched),
        Just(Moment::Applied)
    ];
    prop_oneof![
        8 => (0..PAGES as usize * PAGE, 1..3 * PAGE, any::<u8>())
            .prop_map(|(at, len, byte)| Step::Write(at, len, byte)),
        2 => (1..=PAGES).prop_map(Step::SetLen),
        4 => Just(Step::Sync),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::Kill),
        2 => prop::bool::weighted(0.2).prop_map(Step::Close),
        2 => (moment, any::<u8>(), any::<bool>())
            .prop_map(|(moment, part, flip)| Step::PowerLoss(moment, part, flip)),
    ]
}

/// The storage, and every content that it had since the one that must survive.
struct World {
    directory: tempfile::TempDir,
    storage: Backend,
    boot: u64,
    history: Vec<Vec<u8>>,
    /// Where in the history a kill, and where a power loss, may at most go back to.
    synced: usize,
    durable: usize,
    /// The log that was synced last, and how long it was then.
    synced_log: Option<(PathBuf, u64)>,
}

impl World {
    fn new() -> Self {
        // In memory, where there is such a place: here only the order of writes counts.
        let directory = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .unwrap();
        let storage = Backend(Arc::new(Storage::open(directory.path(), 1, false).unwrap()));
        Self {
            directory,
            storage,
            boot: 1,
            history: vec![Vec::new()],
            synced: 0,
            durable: 0,
            synced_log: None,
        }
    }

    fn content(&self) -> Vec<u8> {
        let mut content = vec![0xee; self.storage.len().unwrap() as usize];
        self.storage.read(0, &mut content).unwrap();
        content
    }

    fn changed(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        let mut content = self.history[self.history.len() - 1].clone();
        change(&mut content);
        self.history.push(content);
    }

    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::Write(at, len, byte) => {
                let end = self.history[self.history.len() - 1].len();
                let (at, end) = (at.min(end), (at + len).min(end));
                let data = vec![byte; end.saturating_sub(at)];
                self.storage.write(at as u64, &data).unwrap();
                self.changed(|content| content[at..at + data.len()].copy_from_slice(&data));
            }
            Step::SetLen(pages) => {
                let len = pages * PAGE as u64;
                self.storage.set_len(len).unwrap();
                self.changed(|content| content.resize(len as usize, 0));
            }
            Step::Sync => {
                self.storage.sync_data().unwrap();
                self.synced = self.history.len() - 1;
            }
            Step::Checkpoint => {
                self.storage.0.checkpoint().unwrap();
                self.synced = self.history.len() - 1;
                self.durable = self.synced;
                self.synced_log = None;
            }
            Step::Kill => self.reopen(self.synced)?,
            Step::Close(damage) => self.close(damage)?,
            Step::PowerLoss(moment, part, flip) => self.lose_power(moment, part, flip)?,
        }
        prop_assert!(self.content() == self.history[self.history.len() - 1]);
        Ok(())
    }

    fn close(&mut self, damage: bool) -> Result<(), TestCaseError> {
        let storage = &self.storage.0;
        storage.seal().unwrap();
        let state = storage.read_state();
        state.write_index(self.directory.path()).unwrap();
        drop(state);
        // As the database does when it is dropped.
        self.storage.set_len(0).unwrap();
        self.storage.write(0, b"too late").unwrap();
        self.storage.close().unwrap();
        if damage {
            let generation = storage.read_state().active.log.generation;
            let path = Index::path(&log_path(self.directory.path(), generation));
            let mut bytes = fs::read(&path).unwrap();
            let at = bytes.len() / 2;
            bytes[at] ^= 1;
            fs::write(&path, bytes).unwrap();
        }
        self.reopen(self.synced)
    }

    fn lose_power(&mut self, moment: Moment, part: u8, flip: bool) -> Result<(), TestCaseError> {
        let storage = &self.storage.0;
        if matches!(moment, Moment::Switched | Moment::Applied) {
            let left = storage.read_state().draining.is_some();
            if left {
                storage.drain().unwrap();
                self.synced_log = None;
            }
            storage.switch().unwrap();
            // So that there is something in the second log, too.
            let content = self.content();
            self.storage
                .write(0, &content[..content.len().min(100)])
                .unwrap();
            self.storage.sync_data().unwrap();
        }
        if matches!(moment, Moment::Applied) {
            let storage = &self.storage.0;
            let Applied { generation, .. } = storage.apply().unwrap();
            let path = log_path(self.directory.path(), generation);
            let len = fs::metadata(&path).unwrap().len();
            self.synced_log = Some((path, len));
            // The history at the switch, which is the last one.
            self.durable = self.history.len() - 1;
        }
        let state = self.storage.0.read_state();
        let unsynced: Vec<_> = [Some(&state.active), state.draining.as_ref()]
            .into_iter()
            .flatten()
            .filter(|layer| {
                let is_active = layer.log.generation == state.active.log.generation;
                is_active || !matches!(moment, Moment::Applied)
            })
            .map(|layer| log_path(self.directory.path(), layer.log.generation))
            .collect();
        drop(state);
        let damaged = &unsynced[usize::from(part) % unsynced.len()];
        let synced = self.synced_log.as_ref().filter(|(log, _)| log == damaged);
        damage(damaged, synced.map_or(0, |(_, len)| *len), part, flip);
        self.boot += 1;
        self.reopen(self.durable)
    }

    fn reopen(&mut self, oldest: usize) -> Result<(), TestCaseError> {
        let storage = Storage::open(self.directory.path(), self.boot, true).unwrap();
        self.storage = Backend(Arc::new(storage));
        let content = self.content();
        let found = self.history[oldest..]
            .iter()
            .rposition(|state| *state == content);
        let Some(found) = found else {
            return Err(TestCaseError::fail(format!(
                "{} bytes that it never had since {oldest} of {}",
                content.len(),
                self.history.len()
            )));
        };
        // What is there now is all that counts.
        self.history.truncate(oldest + found + 1);
        self.synced = oldest + found;
        Ok(())
    }
}

/// Damages a log behind what of it was synced.
fn damage(log: &Path, synced: u64, part: u8, flip: bool) {
    let file = OpenOptions::new().read(true).write(true).open(log).unwrap();
    let len = file.metadata().unwrap().len();
    let at = synced + (len - synced) * u64::from(part) / 256;
    if flip && len > at {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
    } else {
        file.set_len(at).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn only_what_was_written_is_found_and_nothing_synced_is_lost(
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        let mut world = World::new();
        // What begins with zeros is no database.
        world.step(&Step::SetLen(4))?;
        world.step(&Step::Write(0, 8, 0xdb))?;
        world.step(&Step::Checkpoint)?;
        for step in &steps {
            world.step(step)?;
        }
    }
}

const TABLE: TableDefinition<u64, &[u8]> = TableDefinition::new("t");

fn open_db(root: &Path, boot: u64) -> Db {
    let Attempt::Locked(lock) = DirectoryLock::attempt(&root.join("lock")).unwrap() else {
        panic!("it is locked");
    };
    let opening = Opening {
        cache_bytes: 1 << 20,
        boot,
        mend: true,
        verify: false,
    };
    Db::open(&root.join("db"), &opening, Arc::new(lock)).unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.join("db")).unwrap();
    for entry in fs::read_dir(from.join("db")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join("db").join(entry.file_name())).unwrap();
    }
}

fn insert(db: &Db, number: u64) {
    db.update(move |tx| {
        // Values of many lengths, so that pages of many sizes come and go.
        let value = vec![number as u8; (number as usize * 977) % 20_000];
        let mut table = tx.open_table(TABLE)?;
        table.insert(number, value.as_slice())?;
        if let Some(older) = number.checked_sub(30) {
            table.remove(older)?;
        }
        Ok(())
    })
    .wait()
    .unwrap();
}

/// The number of the last update that is there, if exactly the ones before it are, too.
fn last(db: &Db) -> Option<u64> {
    db.read(|tx| {
        let Ok(table) = tx.open_table(TABLE) else {
            return Ok(None);
        };
        let mut numbers = Vec::new();
        for row in table.range(0..)? {
            let (number, value) = row?;
            let number = number.value();
            assert_eq!(value.value().len(), (number as usize * 977) % 20_000);
            assert!(value.value().iter().all(|byte| *byte == number as u8));
            numbers.push(number);
        }
        let Some(last) = numbers.last().copied() else {
            return Ok(None);
        };
        let expected: Vec<_> = ((last + 1).saturating_sub(30)..=last).collect();
        assert_eq!(numbers, expected);
        Ok(Some(last))
    })
    .unwrap()
}

#[test]
fn after_a_power_loss_the_database_is_as_after_some_commit() {
    let root = tempfile::tempdir().unwrap();
    let db = open_db(root.path(), 1);
    let mut checkpointed = None;
    for number in 0..120 {
        insert(&db, number);
        if number % 25 == 24 {
            db.checkpoint().unwrap();
            checkpointed = Some(number);
        }
        if number % 7 != 0 {
            continue;
        }
        let part = (number * 37 % 256) as u8;
        let copied = tempfile::tempdir().unwrap();
        copy(root.path(), copied.path());
        let log = log_path(&copied.path().join("db"), (number + 1) / 25 + 1);
        damage(&log, 0, part, number % 2 == 0);
        let recovered = open_db(copied.path(), 2);
        let found = last(&recovered);
        assert!(
            found >= checkpointed,
            "{found:?} is before {checkpointed:?}"
        );
        assert!(found <= Some(number));
        // And it goes on from there, twice.
        let next = found.map_or(0, |found| found + 1);
        insert(&recovered, next);
        recovered.checkpoint().unwrap();
        insert(&recovered, next + 1);
        recovered.close();
        drop(recovered);
        assert_eq!(last(&open_db(copied.path(), 3)), Some(next + 1));
    }
    db.close();
}

#[test]
fn a_kill_loses_no_commit() {
    let root = tempfile::tempdir().unwrap();
    let db = open_db(root.path(), 1);
    for number in 0..60 {
        insert(&db, number);
        if number == 40 {
            db.checkpoint().unwrap();
        }
        let copied = tempfile::tempdir().unwrap();
        copy(root.path(), copied.path());
        assert_eq!(last(&open_db(copied.path(), 1)), Some(number));
    }
    db.close();
}
