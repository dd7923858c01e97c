//! What removals leave to be done: files and cache keys of what no row names any more.
//!
//! A removal is over when its transaction is committed. What is left is done in the background, so that neither who
//! removes nor any build waits for it. It is kept in memory alone: a process that ends before it is done has not
//! closed the state directory cleanly, and the next one's sweep finds both by what is not there.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::gc::Removal;
use crate::object::{Object, SnapshotId};

#[derive(Default)]
pub(crate) struct Leftovers {
    waiting: Mutex<Waiting>,
    /// Held by who does it: whoever comes second and waits for this finds all done that was left before.
    turn: Mutex<()>,
}

#[derive(Default)]
struct Waiting {
    /// Results that cache keys still lead to.
    results: VecDeque<u64>,
    /// Snapshots whose files are there. No other snapshot ever gets their numbers.
    snapshots: VecDeque<SnapshotId>,
    /// Who wants the background to keep off.
    held: usize,
}

impl Leftovers {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, removal: &Removal) {
        let mut waiting = self.waiting();
        waiting.results.extend(&removal.results);
        let objects = removal.removed.iter().chain(&removal.unknown);
        waiting
            .snapshots
            .extend(objects.filter_map(|object| match object {
                Object::Snapshot(id) => Some(*id),
                Object::Blob(_) => None,
            }));
    }

    pub(crate) fn take_results(&self, most: usize) -> Vec<u64> {
        let results = &mut self.waiting().results;
        let count = results.len().min(most);
        results.drain(..count).collect()
    }

    pub(crate) fn take_snapshots(&self, most: usize) -> Vec<SnapshotId> {
        let snapshots = &mut self.waiting().snapshots;
        let count = snapshots.len().min(most);
        snapshots.drain(..count).collect()
    }

    /// Gives back what was taken and not done.
    pub(crate) fn return_snapshots(&self, ids: &[SnapshotId]) {
        let snapshots = &mut self.waiting().snapshots;
        ids.iter().rev().for_each(|id| snapshots.push_front(*id));
    }

    pub(crate) fn is_empty(&self) -> bool {
        let waiting = self.waiting();
        waiting.results.is_empty() && waiting.snapshots.is_empty()
    }

    /// Has the background leave it alone until the guard goes: it would take the processors from who removes more.
    pub(crate) fn hold(&self) -> Hold<'_> {
        self.waiting().held += 1;
        Hold(self)
    }

    pub(crate) fn is_held(&self) -> bool {
        self.waiting().held > 0
    }
}

pub(crate) struct Hold<'a>(&'a Leftovers);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.waiting().held -= 1;
    }
}
