use std::io;
use std::sync::{Mutex, PoisonError};

use tokio_util::sync::CancellationToken;
use weld_source::progress::{Progress, Transfer};

use crate::ExportError;

/// Reports on work that blocks, and stops it.
pub(crate) struct Watch {
    transfer: Mutex<Option<Transfer>>,
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
            transfer: Mutex::new(Some(progress.start(name, name, total))),
            stop: stop.clone(),
        }
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
