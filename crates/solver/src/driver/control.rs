//! What the pump and a running task share.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, AtomicU8, Ordering, fence},
};

use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use crate::{WaitReason, progress::Reports};

/// See the module.
///
/// The pump raises a flag and looks for something to tell it to; the task makes that something and looks for the flag. A fence between
/// the two steps on either side makes one of them see the other.
#[derive(Default)]
pub(super) struct TaskControl {
    cancelled: AtomicBool,
    /// What the task waits for while it executes, as [`wait_for`](Self::wait_for) numbers it.
    waits: AtomicU8,
    /// Made when an operation asks for it.
    token: OnceLock<CancellationToken>,
    pub(super) reports: Reports,
    /// Nobody will look after the task any more: it is to be dropped.
    abandoned: AtomicBool,
    /// Set when the task did not end at once.
    abort: OnceLock<AbortHandle>,
    /// Ends the task some time after its cancellation; of no use once the task has ended.
    grace: OnceLock<AbortHandle>,
}

impl TaskControl {
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if let Some(token) = self.token.get() {
            token.cancel();
        }
    }

    /// The task waits for this from now on, or no more.
    pub(super) fn wait_for(&self, reason: Option<WaitReason>) {
        let number = match reason {
            None => 0,
            Some(WaitReason::Slot) => 1,
            Some(WaitReason::Lock) => 2,
        };
        self.waits.store(number, Ordering::Relaxed);
    }

    pub(super) fn waits_for(&self) -> Option<WaitReason> {
        match self.waits.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(WaitReason::Slot),
            _ => Some(WaitReason::Lock),
        }
    }

    /// The task runs on a tokio task of its own from now on.
    pub(super) fn runs_on(&self, handle: AbortHandle) {
        // Set once: a task is started once.
        let handle = self.abort.get_or_init(|| handle);
        fence(Ordering::SeqCst);
        if self.abandoned.load(Ordering::Relaxed) {
            handle.abort();
        }
    }

    /// A timer that ends the task if that does not end by itself.
    pub(super) fn watched_by(&self, timer: AbortHandle) {
        // A task is cancelled once.
        let _ = self.grace.set(timer);
    }

    /// Drops the task's future, if it has not ended.
    pub(super) fn abort(&self) {
        if let Some(handle) = self.abort.get() {
            handle.abort();
        }
    }

    /// The task has ended.
    pub(super) fn end(&self) {
        if let Some(grace) = self.grace.get() {
            grace.abort();
        }
    }

    /// Ends the task, now or as soon as it is on a tokio task of its own.
    pub(super) fn abandon(&self) {
        self.cancel();
        self.end();
        self.abandoned.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.abort();
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    pub(super) fn token(&self) -> &CancellationToken {
        let token = self.token.get_or_init(CancellationToken::new);
        fence(Ordering::SeqCst);
        if self.is_cancelled() {
            token.cancel();
        }
        token
    }
}

#[cfg(test)]
mod tests {
    use loom::{
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering, fence},
        },
        thread,
    };

    /// A flag that is raised by one side while the other makes what it is told to, in the steps of [`super::TaskControl`].
    #[derive(Default)]
    struct Model {
        raised: AtomicBool,
        made: AtomicBool,
        told: AtomicBool,
    }

    impl Model {
        fn raise(&self) {
            self.raised.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            if self.made.load(Ordering::Acquire) {
                self.told.store(true, Ordering::Relaxed);
            }
        }

        fn make(&self) {
            self.made.store(true, Ordering::Release);
            fence(Ordering::SeqCst);
            if self.raised.load(Ordering::Relaxed) {
                self.told.store(true, Ordering::Relaxed);
            }
        }
    }

    /// In every interleaving, and with every value that the memory model lets a load see.
    #[test]
    fn what_is_made_while_a_task_is_cancelled_is_told() {
        loom::model(|| {
            let model = Arc::new(Model::default());
            let task = Arc::clone(&model);
            let task = thread::spawn(move || task.make());
            model.raise();
            task.join().unwrap();
            assert!(model.told.load(Ordering::Relaxed));
        });
    }
}
