use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock;
use crate::collector::{CollectError, Collector};
use crate::db::Db;
use crate::durability;
use crate::reserve;
use crate::usage::Uses;

/// Leaves the first moments of a process to its work.
const START_DELAY: Duration = Duration::from_millis(200);
const INTERVAL: Duration = Duration::from_secs(1);
/// How long files are deleted at a time: the end of a process waits for as long, as all else does that is done here.
const DELETING: Duration = Duration::from_millis(200);

/// The thread that sweeps, collects, writes uses and raises the durability mark.
pub(crate) struct Keeper {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    root: PathBuf,
    db: Db,
    uses: Uses,
    collector: Collector,
    sync_after: Duration,
    /// What earlier processes left is not swept yet.
    unswept: AtomicBool,
    stop: AtomicBool,
    asleep: Mutex<bool>,
    wake: Condvar,
}

impl Keeper {
    pub(crate) fn start(
        root: &Path,
        db: &Db,
        uses: &Uses,
        collector: &Collector,
        sync_after: Duration,
        unswept: bool,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            root: root.to_owned(),
            db: db.clone(),
            uses: uses.clone(),
            collector: collector.clone(),
            sync_after,
            unswept: AtomicBool::new(unswept),
            stop: AtomicBool::new(false),
            asleep: Mutex::default(),
            wake: Condvar::new(),
        });
        let thread = std::thread::Builder::new()
            .name("weld-keeper".into())
            .spawn({
                let shared = shared.clone();
                move || shared.run()
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Whether what earlier processes left is still to be swept.
    pub(crate) fn is_unswept(&self) -> bool {
        self.shared.unswept.load(Ordering::Relaxed)
    }

    /// Somebody else has swept.
    pub(crate) fn swept(&self) {
        self.shared.unswept.store(false, Ordering::Relaxed);
    }

    /// Ends the thread after what it is doing; whether nothing was left to be swept. One that sleeps does nothing
    /// any more, and is not waited for before this is dropped.
    pub(crate) fn stop(&mut self) -> bool {
        let asleep = self
            .shared
            .asleep
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.shared.stop.store(true, Ordering::Relaxed);
        let busy = !*asleep;
        drop(asleep);
        self.shared.wake.notify_all();
        if busy {
            self.join();
        }
        !self.is_unswept()
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop();
        self.join();
    }
}

impl Shared {
    fn run(&self) {
        let mut delay = START_DELAY;
        while self.sleep(delay) {
            if self.unswept.load(Ordering::Relaxed) {
                match self.collector.sweep(&self.stop) {
                    Ok(ended) => self.unswept.store(!ended, Ordering::Relaxed),
                    Err(error) => warn(&error),
                }
            }
            delay = match self.keep() {
                Ok(true) => INTERVAL,
                // More is to be deleted.
                Ok(false) => Duration::ZERO,
                Err(error) => {
                    warn(&error);
                    INTERVAL
                }
            };
        }
    }

    /// Whether to go on after the time.
    fn sleep(&self, time: Duration) -> bool {
        let mut asleep = self.asleep.lock().unwrap_or_else(PoisonError::into_inner);
        *asleep = true;
        let stopped = |_: &mut bool| !self.stop.load(Ordering::Relaxed);
        let (mut asleep, _) = self
            .wake
            .wait_timeout_while(asleep, time, stopped)
            .unwrap_or_else(PoisonError::into_inner);
        *asleep = false;
        !self.stop.load(Ordering::Relaxed)
    }

    /// Does all that is due; whether nothing is left to be deleted.
    fn keep(&self) -> Result<bool, CollectError> {
        if let Some(ticket) = self.uses.write(&self.db) {
            ticket.wait()?;
        }
        self.collector.collect_released()?;
        let settled = self.collector.settle_some(DELETING)?;
        if let Err(error) = reserve::make(&self.root) {
            tracing::warn!(%error, "cannot put space by for a full disk");
        }
        if self.db.wants_checkpoint() {
            self.db.checkpoint()?;
        }
        if let Some(unsynced) = durability::unsynced(&self.db)?
            && clock::seconds().saturating_sub(unsynced.oldest) >= self.sync_after.as_secs()
            && let Err(error) = durability::sync(&self.root, &self.db, unsynced)
        {
            tracing::warn!(%error, "cannot sync the state directory");
        }
        Ok(settled)
    }
}

fn warn(error: &CollectError) {
    tracing::warn!(%error, "cannot tidy the state directory");
}
