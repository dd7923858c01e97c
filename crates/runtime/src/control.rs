//! Ending a running step from outside of the thread that looks after it.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};

/// Ends a step, now or as soon as it starts.
#[derive(Debug, Default)]
pub(crate) struct Control {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    killed: bool,
    process: Option<OwnedFd>,
}

impl Control {
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
