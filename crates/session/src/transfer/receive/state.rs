//! What of the other end's tree has come and waits to be read, and its readers.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::{Buf, Bytes};
use tokio::sync::Notify;

use super::{TransferError, WINDOW};

pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    /// The transfer is done or failed.
    pub(super) ended: Condvar,
    /// A reader made room.
    pub(super) room: Notify,
}

pub(super) struct State {
    pub(super) files: HashMap<u32, File>,
    /// Bytes that wait in files that nobody reads yet.
    pub(super) ahead: u64,
    pub(super) failure: Option<TransferError>,
    /// The last stat was there.
    pub(super) listed: bool,
    pub(super) finishing: bool,
    pub(super) done: bool,
    /// Since when it has been the other end's turn.
    pub(super) since: Instant,
}

pub(super) struct File {
    pub(super) pieces: VecDeque<Bytes>,
    pub(super) waiting: usize,
    pub(super) received: u64,
    pub(super) size: u64,
    pub(super) opened: bool,
    pub(super) complete: bool,
    /// Nobody reads it any more: what comes is thrown away.
    pub(super) abandoned: bool,
    pub(super) arrived: Arc<Condvar>,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(super) fn failure(&self) -> TransferError {
        let failure = self.lock().failure.clone();
        failure.unwrap_or(TransferError::Truncated)
    }

    /// Has everybody who waits fail, unless all is done.
    pub(super) fn fail(&self, error: TransferError) {
        let mut state = self.lock();
        if state.done {
            return;
        }
        state.failure.get_or_insert(error);
        for file in state.files.values() {
            file.arrived.notify_all();
        }
        self.ended.notify_all();
        self.room.notify_waiters();
    }
}

impl State {
    pub(super) fn alive(&self) -> Result<(), TransferError> {
        match &self.failure {
            Some(failure) => Err(failure.clone()),
            None => Ok(()),
        }
    }

    /// Whether the other end is to send something.
    pub(super) fn expects(&self) -> bool {
        let incomplete = |file: &File| !file.complete && file.waiting <= WINDOW;
        !self.listed || self.finishing || self.files.values().any(incomplete)
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads one file.
pub(super) struct FileReader {
    pub(super) shared: Arc<Shared>,
    pub(super) id: u32,
    pub(super) piece: Bytes,
    pub(super) ended: bool,
}

impl Read for FileReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() && !self.ended {
            match self.next()? {
                Some(piece) => self.piece = piece,
                None => self.ended = true,
            }
        }
        let count = self.piece.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), self.piece.get(..count)) {
            to.copy_from_slice(from);
        }
        self.piece.advance(count);
        Ok(count)
    }
}

impl FileReader {
    fn next(&self) -> io::Result<Option<Bytes>> {
        let mut state = self.shared.lock();
        loop {
            let Some(file) = state.files.get_mut(&self.id) else {
                return Ok(None);
            };
            if let Some(piece) = file.pieces.pop_front() {
                file.waiting -= piece.len();
                self.shared.room.notify_waiters();
                return Ok(Some(piece));
            }
            if file.complete {
                state.files.remove(&self.id);
                return Ok(None);
            }
            let arrived = Arc::clone(&file.arrived);
            state.alive()?;
            let waited = arrived.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for FileReader {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // Nobody reads the rest: it must not hold the others up.
        let mut state = self.shared.lock();
        if let Some(file) = state.files.get_mut(&self.id) {
            match file.complete {
                true => drop(state.files.remove(&self.id)),
                false => {
                    file.pieces.clear();
                    file.waiting = 0;
                    file.abandoned = true;
                }
            }
        }
        self.shared.room.notify_waiters();
    }
}
