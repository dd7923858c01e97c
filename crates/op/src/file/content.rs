//! The content of a file into another one, as cheaply as the file systems allow.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::SeekFrom;
use rustix::io::Errno;
use weld_fileset::Metadata;

/// How much is copied between two looks at whether the build was cancelled.
const STEP: u64 = 8 << 20;

const BUFFER: usize = 256 * 1024;

/// Copies contents; remembers what the file systems at hand cannot do.
#[derive(Debug, Default)]
pub(crate) struct ContentCopier {
    no_clone: AtomicBool,
    no_kernel_copy: AtomicBool,
}

/// Why a content could not be copied.
#[derive(Debug)]
pub(crate) enum ContentError {
    Read(Errno),
    Write(Errno),
    Cancelled,
}

impl ContentCopier {
    /// Fills the empty file `to` with what `from`, of this metadata, holds. Holes stay holes.
    pub(crate) fn copy(
        &self,
        from: BorrowedFd<'_>,
        metadata: &Metadata,
        to: BorrowedFd<'_>,
        cancelled: &AtomicBool,
    ) -> Result<(), ContentError> {
        if metadata.size == 0 {
            return Ok(());
        }
        if !self.no_clone.load(Ordering::Relaxed) {
            match rustix::fs::ioctl_ficlone(to, from) {
                Ok(()) => return Ok(()),
                // Whatever the reason, copying will tell if it matters.
                Err(_) => self.no_clone.store(true, Ordering::Relaxed),
            }
        }
        if metadata.blocks.saturating_mul(512) >= metadata.size {
            return self.copy_range(from, to, 0, metadata.size, cancelled);
        }
        self.copy_data(from, to, metadata.size, cancelled)
    }

    /// Copies only the ranges that are no holes.
    fn copy_data(
        &self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        size: u64,
        cancelled: &AtomicBool,
    ) -> Result<(), ContentError> {
        let mut at = 0;
        while at < size {
            let data = match rustix::fs::seek(from, SeekFrom::Data(at)) {
                Ok(data) => data,
                // Only a hole is left.
                Err(Errno::NXIO) => break,
                Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
                Err(error) => return Err(ContentError::Read(error)),
            };
            let end = match rustix::fs::seek(from, SeekFrom::Hole(data)) {
                Ok(end) => end.min(size),
                Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NXIO) => size,
                Err(error) => return Err(ContentError::Read(error)),
            };
            self.copy_range(from, to, data, end, cancelled)?;
            at = end.max(data + 1);
        }
        rustix::fs::ftruncate(to, size).map_err(ContentError::Write)
    }

    fn copy_range(
        &self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        start: u64,
        end: u64,
        cancelled: &AtomicBool,
    ) -> Result<(), ContentError> {
        let mut at = start;
        while at < end && !self.no_kernel_copy.load(Ordering::Relaxed) {
            check(cancelled)?;
            let len = (end - at).min(STEP) as usize;
            let (mut from_at, mut to_at) = (at, at);
            match rustix::fs::copy_file_range(from, Some(&mut from_at), to, Some(&mut to_at), len) {
                // The file has become shorter, or is one of those that the call cannot read.
                Ok(0) => break,
                Ok(copied) => at += copied as u64,
                Err(Errno::INTR) => {}
                Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => {
                    return Err(ContentError::Write(error));
                }
                Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {
                    self.no_kernel_copy.store(true, Ordering::Relaxed);
                }
                // Between some file systems the call fails where reading and writing works.
                Err(_) => break,
            }
        }
        copy_by_buffer(from, to, at, end, cancelled)
    }
}

fn copy_by_buffer(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    start: u64,
    end: u64,
    cancelled: &AtomicBool,
) -> Result<(), ContentError> {
    if start >= end {
        return Ok(());
    }
    let room = usize::try_from(end - start).unwrap_or(BUFFER).min(BUFFER);
    let mut buffer = vec![0; room];
    let mut at = start;
    while at < end {
        check(cancelled)?;
        let want = usize::try_from(end - at).unwrap_or(room).min(room);
        let len = match rustix::io::pread(from, &mut buffer[..want], at) {
            Ok(0) => break,
            Ok(len) => len,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(ContentError::Read(error)),
        };
        write_all_at(to, &buffer[..len], at).map_err(ContentError::Write)?;
        at += len as u64;
    }
    Ok(())
}

/// Writes all of `bytes` at an offset.
pub(crate) fn write_all_at(to: impl AsFd, bytes: &[u8], start: u64) -> Result<(), Errno> {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match rustix::io::pwrite(&to, rest, start + written as u64) {
            Ok(0) => return Err(Errno::IO),
            Ok(len) => written += len,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn check(cancelled: &AtomicBool) -> Result<(), ContentError> {
    if cancelled.load(Ordering::Relaxed) {
        Err(ContentError::Cancelled)
    } else {
        Ok(())
    }
}
