//! Standard input that a signal ends: whoever types at it must not have to close it first.

use std::io::{self, Read};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

/// How long it waits before it looks whether the command was cancelled.
const LOOK: Duration = Duration::from_millis(100);

/// Standard input until a command is cancelled, which makes reading fail.
#[derive(Clone, Debug)]
pub(crate) struct Input(CancellationToken);

impl Input {
    pub(crate) const fn new(cancel: CancellationToken) -> Self {
        Self(cancel)
    }

    fn wait(&self) -> io::Result<()> {
        let stdin = io::stdin();
        let look = Timespec::try_from(LOOK).map_err(io::Error::other)?;
        while !self.0.is_cancelled() {
            let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
            match poll(&mut fds, Some(&look)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(io::Error::other("interrupted"))
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.wait()?;
        // Not buffered: what a buffer has is not seen by waiting.
        Ok(rustix::io::read(io::stdin(), buffer)?)
    }
}
