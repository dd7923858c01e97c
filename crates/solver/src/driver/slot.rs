//! The execution slot of an operation: taken while it executes, given back while it waits for builds of its own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::slots::{Holder, Slot, Slots};

/// See the module.
pub(super) struct ExecSlot {
    slots: Option<Arc<Slots>>,
    holder: Holder,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: Option<Slot>,
    /// Builds that the operation waits for. While there are any it holds no slot: one of them may need it.
    waiting: u32,
    /// Somebody is about to take the slot.
    taking: bool,
}

/// The operation waits for a build until this is dropped.
pub(super) struct Waiting<'a>(&'a ExecSlot);

/// Somebody is about to take the slot, until this is dropped.
struct Taking<'a>(&'a ExecSlot);

impl ExecSlot {
    pub(super) fn new(slots: Option<Arc<Slots>>, holder: Holder) -> Self {
        Self {
            slots,
            holder,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the slot when it is free, unless the operation waits for a build by then: whoever waits for the last one takes it.
    pub(super) async fn take(&self) {
        let Some(slots) = &self.slots else {
            return;
        };
        let Some(taking) = self.begin_to_take() else {
            return;
        };
        let mut slot = Some(slots.take(self.holder).await);
        let mut state = self.state();
        state.taking = false;
        if state.waiting == 0 {
            state.held = slot.take();
        }
        drop(state);
        // It says the same, and somebody else may be about to take the slot by now.
        std::mem::forget(taking);
    }

    fn begin_to_take(&self) -> Option<Taking<'_>> {
        let mut state = self.state();
        if state.waiting > 0 || state.taking || state.held.is_some() {
            return None;
        }
        state.taking = true;
        Some(Taking(self))
    }

    /// Gives the slot back while the operation waits for a build.
    pub(super) fn wait(&self) -> Waiting<'_> {
        let mut state = self.state();
        state.waiting += 1;
        let held = state.held.take();
        drop(state);
        drop(held);
        Waiting(self)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state().waiting -= 1;
    }
}

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        self.0.state().taking = false;
    }
}
