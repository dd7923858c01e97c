//! Ending a running step from outside of the thread that looks after it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};

/// Ends a step, now or as soon as it starts.
#[derive(Debug)]
pub(crate) struct Control {
    state: Mutex<State>,
    /// Readable once the step was killed.
    wake: OwnedFd,
}

#[derive(Debug, Default)]
struct State {
    killed: bool,
    process: Option<OwnedFd>,
}

impl Control {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self {
            state: Mutex::default(),
            wake: eventfd(0, EventfdFlags::CLOEXEC)?,
        })
    }

    /// A descriptor that becomes readable when the step is killed, for those that have no process
    /// to be told of.
    pub(crate) fn wake(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills the step's first process, and with it all others of its PID namespace.
    pub(crate) fn kill(&self) {
        let mut state = self.state();
        state.killed = true;
        if let Some(process) = &state.process {
            send_kill(process);
        }
        // The counter cannot overflow in the life of a step.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Whether the step was killed.
    pub(crate) fn is_killed(&self) -> bool {
        self.state().killed
    }

    /// Tells of the step's first process, which is killed at once if the step was.
    pub(crate) fn started(&self, process: OwnedFd) {
        let mut state = self.state();
        if state.killed {
            send_kill(&process);
        }
        state.process = Some(process);
    }
}

fn send_kill(process: &OwnedFd) {
    match pidfd_send_signal(process, Signal::KILL) {
        // It has ended already.
        Ok(()) | Err(Errno::SRCH) => {}
        Err(errno) => tracing::warn!("a step cannot be killed: {errno}"),
    }
}

/// Kills the step when dropped.
#[derive(Debug)]
pub(crate) struct KillOnDrop(pub(crate) std::sync::Arc<Control>);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.0.kill();
    }
}
