//! A running process of a step, as others see it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};

use crate::cgroup::Seat;

/// A running process of a step: it can be sent signals, and others can join it in its sandbox.
/// Cheap to clone; harmless once the process has ended.
#[derive(Clone, Debug)]
pub struct StepProcess {
    pidfd: Arc<OwnedFd>,
    seat: Arc<Seat>,
}

impl StepProcess {
    pub(crate) fn new(pidfd: &OwnedFd, seat: Seat) -> io::Result<Self> {
        Ok(Self {
            pidfd: Arc::new(pidfd.try_clone()?),
            seat: Arc::new(seat),
        })
    }

    /// Another process of the same step.
    pub(crate) fn sibling(&self, pidfd: &OwnedFd) -> io::Result<Self> {
        Ok(Self {
            pidfd: Arc::new(pidfd.try_clone()?),
            seat: Arc::clone(&self.seat),
        })
    }

    /// Whether it is known to have ended.
    pub(crate) fn has_ended(&self) -> bool {
        let mut wanted = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let now = Timespec::default();
        matches!(poll(&mut wanted, Some(&now)), Ok(1..))
    }

    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    pub(crate) fn seat(&self) -> &Seat {
        &self.seat
    }

    /// Sends a signal by its number. One to a process that has ended is lost.
    ///
    /// # Errors
    /// If there is no such signal.
    pub fn signal(&self, number: i32) -> io::Result<()> {
        let signal = Signal::from_named_raw(number).ok_or(Errno::INVAL)?;
        match pidfd_send_signal(&*self.pidfd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}
