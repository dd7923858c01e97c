use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Content that can be read while it comes in: what [`Ingest::follow`](super::Ingest::follow)
/// gives.
///
/// That it ended says nothing of how: whether the content is whole is for the one to tell who
/// ingests it.
#[must_use]
pub struct Growth {
    file: File,
    shared: Arc<Shared>,
}

/// The writer's side. The content has ended when it is dropped.
pub(super) struct Growing(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// How many bytes are there.
    length: u64,
    ended: bool,
    /// The length that is waited for; there is one reader.
    awaited: Option<u64>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Both sides of a file of so many bytes.
pub(super) fn of(path: &Path, length: u64) -> io::Result<(Growing, Growth)> {
    let shared = Arc::new(Shared::default());
    shared.state().length = length;
    let growth = Growth {
        // With a position of its own.
        file: File::open(path)?,
        shared: shared.clone(),
    };
    Ok((Growing(shared), growth))
}

impl Growing {
    pub(super) fn reached(&self, length: u64) {
        let mut state = self.0.state();
        state.length = length;
        if state.awaited.is_some_and(|awaited| awaited <= length) {
            self.0.changed.notify_one();
        }
    }
}

impl Drop for Growing {
    fn drop(&mut self) {
        self.0.state().ended = true;
        self.0.changed.notify_one();
    }
}

impl Growth {
    /// Waits until there are `length` bytes or no more come, and returns how many there are.
    pub fn wait_for(&self, length: u64) -> u64 {
        let mut state = self.shared.state();
        state.awaited = Some(length);
        while state.length < length && !state.ended {
            let woken = self.shared.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
        state.awaited = None;
        state.length
    }

    /// The content, from its beginning.
    pub fn file(&self) -> &File {
        &self.file
    }
}
