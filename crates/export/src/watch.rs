use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;
use weld_source::index_lock::LockWait;
use weld_source::progress::{Progress, Transfer};

use crate::ExportError;

/// Reports on work that blocks, and stops it.
pub(crate) struct Watch {
    progress: Progress,
    transfer: Mutex<Option<Transfer>>,
    /// The report on a lock that somebody else has.
    waiting: Mutex<Option<Transfer>>,
    stop: CancellationToken,
}

impl Watch {
    /// Starts the report on `name`.
    pub(crate) fn start(
        progress: &Progress,
        name: &str,
        total: Option<u64>,
        stop: &CancellationToken,
    ) -> Self {
        Self {
            progress: progress.clone(),
            transfer: Mutex::new(Some(progress.start(name, name, total))),
            waiting: Mutex::default(),
            stop: stop.clone(),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Option<Transfer>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports `amount` more.
    ///
    /// # Errors
    /// If the work should end; [`Watch::judge`] tells that from other errors.
    pub(crate) fn advance(&self, amount: u64) -> io::Result<()> {
        self.check()?;
        let mut transfer = self.transfer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(transfer) = transfer.as_mut() {
            transfer.advance(amount);
        }
        Ok(())
    }

    /// Says how much it is in all, once that is known.
    pub(crate) fn set_total(&self, total: u64) {
        let mut transfer = self.transfer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(transfer) = transfer.as_mut() {
            transfer.set_total(total);
        }
    }

    /// Whether the work should go on.
    pub(crate) fn check(&self) -> io::Result<()> {
        if self.stop.is_cancelled() {
            return Err(io::Error::other("stopped"));
        }
        Ok(())
    }

    /// Tells of something that whoever gets the result should know.
    pub(crate) fn warn(&self, text: &str) {
        self.progress.log("warning", &format!("WARNING: {text}\n"));
    }

    /// Ends the report.
    pub(crate) fn complete(&self) {
        let mut transfer = self.transfer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(transfer) = transfer.take() {
            transfer.complete();
        }
    }

    /// Ends the report: what failed after it was stopped failed for that reason.
    pub(crate) fn judge<T>(&self, done: Result<T, ExportError>) -> Result<T, ExportError> {
        match done {
            Ok(done) => {
                self.complete();
                Ok(done)
            }
            Err(_) if self.stop.is_cancelled() => Err(ExportError::Cancelled),
            Err(error) => Err(error),
        }
    }
}

impl LockWait for Watch {
    fn begins(&self, lock: &Path) {
        let lock = lock.display();
        let text = format!("waiting for {lock}, which another process has locked");
        let waiting = self.progress.start(text.clone(), text, None);
        *self.waiting() = Some(waiting);
    }

    fn ends(&self) {
        if let Some(waiting) = self.waiting().take() {
            waiting.complete();
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }
}
