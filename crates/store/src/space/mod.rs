//! Room in the state directory: asked for before something is written and while it grows, and made by
//! removing what is worth least.
//!
//! Two bounds hold: a *ceiling* that a user set, and what the disk has. How much the directory holds is
//! measured now and then; in between what the file system lost since counts as ours, also if others
//! wrote it, and what is known to be ours counts even if others freed as much. So the estimate errs to the
//! safe side, and before anything is removed it is measured anew.

mod error;
mod ledger;
mod measure;
mod watch;
mod writers;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::collector::CollectError;
use crate::db::DbError;
use crate::store::{self, Store};
use crate::usage::prune::UsageError;

pub use error::{NoRoom, SpaceError};
use ledger::{Disk, Ledger, Measured};
pub use writers::Writer;

/// What something that grows takes at once, in bytes.
const GROWTH: u64 = 8 << 20;
/// What is left free on a disk, so that records can be written: this part of it, at most so many bytes.
const FLOOR: (u64, u64) = (16, 16 << 20);
/// What a step finds free while it runs: this part of what there may be, at most so many bytes.
const HEADROOM: (u64, u64) = (32, 64 << 20);
/// What is removed beyond what is wanted, so that not everything that is written has to remove
/// something: this part of what there may be, at most so many bytes.
const BATCH: (u64, u64) = (64, 256 << 20);
/// How many objects are removed at once for their inodes.
const OBJECTS: usize = 8;
/// How long a transfer waits for others to end that have put space by.
const PATIENCE: Duration = Duration::from_secs(60);

/// A part of `whole`, at most so many bytes.
fn part(whole: u64, (divisor, most): (u64, u64)) -> u64 {
    (whole / divisor).min(most)
}

/// The room of a state directory. Cheap to clone.
#[derive(Clone)]
pub struct Space(Arc<Inner>);

struct Inner {
    root: PathBuf,
    /// How many bytes the state directory may hold.
    ceiling: Option<u64>,
    /// Whose objects can be removed; not before it is open.
    store: OnceLock<Weak<store::Inner>>,
    ledger: Mutex<Ledger>,
    /// Space that was put by is free again.
    released: Condvar,
    /// Bytes that were written by who put them by before.
    written: AtomicU64,
    /// Room is made by one at a time.
    making: Mutex<()>,
    /// Whether the last time it could not be, since there was no room for the records of what is removed.
    unrecorded: AtomicBool,
    /// Whether what earlier processes left was removed to make room.
    swept: AtomicBool,
    /// When something that was written past us was last stopped.
    stopped: Mutex<Option<Instant>>,
    /// What somebody else keeps in the state directory and gives up rather than have builds fail.
    last_resort: OnceLock<LastResort>,
    /// Who writes past us now.
    writers: Mutex<Vec<Arc<writers::Writing>>>,
}

/// Frees about so many bytes; tells how many.
type LastResort = Box<dyn Fn(u64) -> u64 + Send + Sync>;

impl std::fmt::Debug for Space {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Space({:?}, {:?})", self.0.root, self.0.ceiling)
    }
}

/// Why room could not be made.
#[derive(Debug, thiserror::Error)]
enum MakeError {
    #[error(transparent)]
    Usage(#[from] UsageError),
    #[error(transparent)]
    Collect(#[from] CollectError),
    #[error(transparent)]
    Db(#[from] DbError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl Space {
    pub(crate) fn new(root: &Path, ceiling: Option<u64>) -> Self {
        Self(Arc::new(Inner {
            root: root.to_owned(),
            ceiling,
            store: OnceLock::new(),
            ledger: Mutex::default(),
            released: Condvar::new(),
            written: AtomicU64::new(0),
            making: Mutex::default(),
            unrecorded: AtomicBool::new(false),
            swept: AtomicBool::new(false),
            stopped: Mutex::default(),
            last_resort: OnceLock::new(),
            writers: Mutex::default(),
        }))
    }

    /// From now on objects of this store may be removed.
    pub(crate) fn attach(&self, store: Weak<store::Inner>) {
        drop(self.0.store.set(store));
    }

    /// Has this free bytes where nothing of the store's can be removed any more; once.
    pub fn set_last_resort(&self, free: impl Fn(u64) -> u64 + Send + Sync + 'static) {
        drop(self.0.last_resort.set(Box::new(free)));
    }

    /// How many bytes the state directory may hold, if that is limited.
    pub fn ceiling(&self) -> Option<u64> {
        self.0.ceiling
    }

    /// Puts bytes by for a transfer whose length is known, removing what is worth least if there are not
    /// as many, and waiting for other transfers that put some by. Blocks.
    ///
    /// # Errors
    /// [`SpaceError`] if there cannot be as many.
    pub fn reserve(&self, bytes: u64) -> Result<Reservation, SpaceError> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(reservation) = self.try_reserve(bytes)? {
                return Ok(reservation);
            }
            if self.make(bytes)? {
                continue;
            }
            // Not while they are written on: what they have taken since is gone.
            let ledger = self.ledger();
            let left = until.saturating_duration_since(Instant::now());
            if ledger.reserved == 0 || left.is_zero() {
                drop(ledger);
                return Err(self.full(bytes));
            }
            let waited = self.0.released.wait_timeout(ledger, left);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// The same for more of what is being written: nobody is waited for, who may wait in turn.
    fn reserve_more(&self, bytes: u64) -> Result<Reservation, SpaceError> {
        loop {
            if let Some(reservation) = self.try_reserve(bytes)? {
                return Ok(reservation);
            }
            // What was made another one may take first.
            if !self.make(bytes)? {
                return Err(self.full(bytes));
            }
        }
    }

    /// A reservation of nothing yet, for what nobody knows the length of.
    pub fn growing(&self) -> Reservation {
        Reservation {
            space: self.clone(),
            left: 0,
        }
    }

    /// Has so many bytes be there now, without putting them by. Blocks.
    ///
    /// # Errors
    /// [`SpaceError`] if there cannot be as many.
    pub fn ensure(&self, bytes: u64) -> Result<(), SpaceError> {
        if self.room()? >= bytes || self.make(bytes)? {
            return Ok(());
        }
        Err(self.full(bytes))
    }

    /// What a step should find free when it starts and while it runs, in bytes.
    pub fn headroom(&self) -> u64 {
        part(self.whole(), HEADROOM)
    }

    /// How much there may be at all.
    fn whole(&self) -> u64 {
        let disk = Disk::of(&self.0.root).map_or(0, |disk| disk.total);
        self.0.ceiling.map_or(disk, |ceiling| ceiling.min(disk))
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.0.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_reserve(&self, bytes: u64) -> Result<Option<Reservation>, SpaceError> {
        self.measure_if_stale();
        let disk = self.disk()?;
        let mut ledger = self.ledger();
        if self.room_on(&disk, &ledger) < bytes {
            return Ok(None);
        }
        ledger.reserved += bytes;
        Ok(Some(Reservation {
            space: self.clone(),
            left: bytes,
        }))
    }

    /// The bytes that may still be written by who has put none by.
    fn room(&self) -> Result<u64, SpaceError> {
        self.measure_if_stale();
        let disk = self.disk()?;
        Ok(self.room_on(&disk, &self.ledger()))
    }

    fn room_on(&self, disk: &Disk, ledger: &Ledger) -> u64 {
        let below_ceiling = match (self.0.ceiling, &ledger.measured) {
            (Some(ceiling), Some(measured)) => {
                ceiling.saturating_sub(measured.estimate(disk, self.written()))
            }
            _ => u64::MAX,
        };
        below_ceiling
            .min(disk.usable())
            .saturating_sub(ledger.reserved)
    }

    fn written(&self) -> u64 {
        self.0.written.load(Ordering::Relaxed)
    }

    fn disk(&self) -> Result<Disk, SpaceError> {
        Disk::of(&self.0.root).map_err(|source| SpaceError::Ask {
            root: self.0.root.clone(),
            source,
        })
    }

    fn store(&self) -> Option<Store> {
        Some(Store::of(self.0.store.get()?.upgrade()?))
    }

    /// The room by what was measured last; `None` if the disk does not tell.
    fn last_known_room(&self) -> Option<u64> {
        let disk = self.disk().ok()?;
        Some(self.room_on(&disk, &self.ledger()))
    }

    fn is_stale(&self) -> bool {
        let measured = |ledger: &Ledger| {
            let measured = ledger.measured.as_ref();
            measured.is_some_and(|measured| !measured.is_stale())
        };
        self.0.ceiling.is_some() && !measured(&self.ledger())
    }

    fn measure_if_stale(&self) {
        if self.is_stale()
            && let Some(store) = self.store()
            && let Err(error) = self.measure(&store)
        {
            tracing::warn!(%error, "cannot measure the state directory");
        }
    }

    /// Measures what the state directory holds.
    fn measure(&self, store: &Store) -> Result<(), MakeError> {
        let began = Instant::now();
        // What is written meanwhile counts twice rather than not at all.
        let (disk, written) = (Disk::of(&self.0.root)?, self.written());
        let bytes = measure::state_directory(store)?;
        self.ledger().measured = Some(Measured::new(bytes, &disk, written, began));
        Ok(())
    }

    /// Makes room for so many bytes, as far as that can be; whether there is as much. What is in use is not
    /// touched.
    fn make(&self, bytes: u64) -> Result<bool, SpaceError> {
        let Some(store) = self.store() else {
            return Ok(false);
        };
        let _turn = self.0.making.lock().unwrap_or_else(PoisonError::into_inner);
        match self.make_with(&store, bytes) {
            Ok(made) => {
                self.0.unrecorded.store(false, Ordering::Relaxed);
                Ok(made)
            }
            Err(error) => {
                let is_full = NoRoom::in_error(&error) == Some(NoRoom::Met);
                self.0.unrecorded.store(is_full, Ordering::Relaxed);
                // The caller is told that there is no room; this is why none was made.
                tracing::warn!(%error, "cannot make room in the state directory");
                Ok(self.room()? >= bytes)
            }
        }
    }

    fn make_with(&self, store: &Store, bytes: u64) -> Result<bool, MakeError> {
        // Another one may have made it meanwhile, others may have removed something, and what is
        // deleted but not gone yet is no reason to delete more.
        if self.room_is(bytes)? {
            return Ok(true);
        }
        store.collect_garbage()?;
        // Once: what processes before this one left unfinished.
        if !self.0.swept.swap(true, Ordering::Relaxed) {
            store.sweep()?;
        }
        if store.remove_asides()? {
            store.settle()?;
        }
        // It needs a little room itself; without, what is removed next makes some.
        if let Err(error) = store.db().fold() {
            tracing::warn!(%error, "the database's log cannot be applied to make room");
        }
        self.remeasure(store)?;
        for internals in [false, true] {
            loop {
                let short = bytes.saturating_sub(self.room_now()?);
                if short == 0 {
                    return Ok(true);
                }
                let wanted = short + part(self.whole(), BATCH);
                let (count, freed) = store.evict(wanted, self.at_once()?, internals)?;
                if count == 0 {
                    break;
                }
                tracing::info!(count, freed, "deleted what was worth least, to make room");
                self.remeasure(store)?;
            }
        }
        // All else is in use; of that, what is here twice.
        let count = store.let_spare_blobs_go()?;
        if count > 0 {
            tracing::info!(count, "deleted blobs of unpacked layers, to make room");
            self.remeasure(store)?;
        }
        while let Some(free) = self.0.last_resort.get() {
            let short = bytes.saturating_sub(self.room_now()?);
            if short == 0 {
                return Ok(true);
            }
            if free(short) == 0 {
                break;
            }
            store.collect_garbage()?;
            self.remeasure(store)?;
        }
        self.room_is(bytes)
    }

    /// How many objects are removed before it is looked again: of inodes their sizes tell nothing.
    fn at_once(&self) -> Result<usize, MakeError> {
        Ok(match Disk::of(&self.0.root)?.lacks_inodes() {
            true => OBJECTS,
            false => usize::MAX,
        })
    }

    /// Makes a batch of inodes free beyond those that there are when what nobody needs is gone. Blocks.
    fn make_inodes(&self) -> Result<bool, MakeError> {
        let Some(store) = self.store() else {
            return Ok(false);
        };
        let _turn = self.0.making.lock().unwrap_or_else(PoisonError::into_inner);
        store.collect_garbage()?;
        // What the one that failed had made does not count for what is made.
        store.settle()?;
        let Some((before, batch)) = Disk::of(&self.0.root)?.inodes() else {
            return Ok(true);
        };
        for internals in [false, true] {
            loop {
                let free = Disk::of(&self.0.root)?.inodes().map(|(free, _)| free);
                if free.is_none_or(|free| free >= before + batch) {
                    return Ok(true);
                }
                if store.evict(u64::MAX, OBJECTS, internals)?.0 == 0 {
                    break;
                }
                store.settle()?;
            }
        }
        let free = Disk::of(&self.0.root)?.inodes().map(|(free, _)| free);
        Ok(free > Some(before))
    }

    fn remeasure(&self, store: &Store) -> Result<(), MakeError> {
        match self.0.ceiling {
            Some(_) => self.measure(store),
            None => Ok(()),
        }
    }

    fn room_now(&self) -> Result<u64, MakeError> {
        let disk = Disk::of(&self.0.root)?;
        Ok(self.room_on(&disk, &self.ledger()))
    }

    fn room_is(&self, bytes: u64) -> Result<bool, MakeError> {
        Ok(self.room_now()? >= bytes)
    }

    /// The error that says why there is no room for so many bytes.
    fn full(&self, bytes: u64) -> SpaceError {
        let disk = match self.disk() {
            Ok(disk) => disk,
            Err(error) => return error,
        };
        let in_use = self
            .store()
            .and_then(|store| measure::in_use(&store).ok())
            .unwrap_or(0);
        let ledger = self.ledger();
        let used = ledger
            .measured
            .as_ref()
            .map(|measured| measured.estimate(&disk, self.written()));
        let reserved = ledger.reserved;
        drop(ledger);
        let root = self.0.root.clone();
        match (self.0.ceiling, used) {
            (Some(ceiling), Some(used)) if ceiling.saturating_sub(used) <= disk.usable() => {
                SpaceError::Ceiling {
                    root,
                    ceiling,
                    used,
                    in_use,
                    reserved,
                    wanted: bytes,
                }
            }
            _ if disk.lacks_inodes() => SpaceError::Inodes { root },
            _ => SpaceError::Disk {
                root,
                free: disk.usable(),
                in_use,
                reserved,
                wanted: bytes,
            },
        }
    }
}

/// Bytes that are put by for what is being written; what of them is not written is free again when this
/// goes.
#[derive(Debug)]
pub struct Reservation {
    space: Space,
    left: u64,
}

impl Reservation {
    /// Takes bytes of it for what is to be written next; more are put by if there are not as many.
    /// Blocks.
    ///
    /// # Errors
    /// [`SpaceError`] if there cannot be as many.
    pub(crate) fn take(&mut self, bytes: u64) -> Result<(), SpaceError> {
        if self.left < bytes {
            let missing = bytes - self.left;
            // Rather a little than nothing.
            let more = self
                .space
                .reserve_more(missing.max(GROWTH))
                .or_else(|_| self.space.reserve_more(missing))?;
            self.left += more.keep();
        }
        Ok(())
    }

    /// So many of the bytes are on disk now.
    pub(crate) fn spend(&mut self, bytes: u64) {
        let spent = bytes.min(self.left);
        self.left -= spent;
        self.space.0.written.fetch_add(bytes, Ordering::Relaxed);
        self.space.ledger().reserved -= spent;
    }

    fn keep(mut self) -> u64 {
        std::mem::take(&mut self.left)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.left > 0 {
            self.space.ledger().reserved -= self.left;
        }
        self.space.0.released.notify_all();
    }
}
