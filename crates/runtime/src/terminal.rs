//! Terminals for steps that want one.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use tokio::io::unix::AsyncFd;

/// The engine's end of a terminal that a step has the other end of.
#[derive(Debug)]
pub struct Terminal(AsyncFd<OwnedFd>);

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

impl Terminal {
    /// A new terminal, and the step's end of it. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// If the system has no more of them.
    pub fn open() -> io::Result<(Self, OwnedFd)> {
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC | libc::O_NONBLOCK;
        // SAFETY: makes descriptors that only we know.
        let (near, far) = unsafe {
            let near = OwnedFd::from_raw_fd(checked(libc::posix_openpt(flags))?);
            checked(libc::grantpt(near.as_raw_fd()))?;
            checked(libc::unlockpt(near.as_raw_fd()))?;
            let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
            // By the descriptor, whatever is mounted on /dev/pts.
            let far = libc::ioctl(near.as_raw_fd(), libc::TIOCGPTPEER as _, flags);
            (near, OwnedFd::from_raw_fd(checked(far)?))
        };
        // SAFETY: the descriptor is owned by the terminal, which closes it after it is deregistered.
        let near = unsafe { AsyncFd::register(near)? };
        Ok((Self(near), far))
    }

    /// Tells the step how large its window is.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn resize(&self, rows: u16, columns: u16) -> io::Result<()> {
        let size = libc::winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: reads a structure of ours.
        checked(unsafe { libc::ioctl(self.0.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })?;
        Ok(())
    }

    /// Reads what the step writes; nothing once nobody has the step's end any more.
    ///
    /// # Errors
    /// If the system refuses.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            let read = ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut *buffer)?));
            match read {
                // What a terminal says when its other end is gone.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => return Ok(0),
                Ok(read) => return read,
                Err(_would_block) => {}
            }
        }
    }

    /// Writes all that the step is to read.
    ///
    /// # Errors
    /// If the system refuses.
    pub async fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.0.writable().await?;
            match ready.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), bytes)?)) {
                Ok(written) => bytes = bytes.get(written?..).unwrap_or_default(),
                Err(_would_block) => {}
            }
        }
        Ok(())
    }
}
