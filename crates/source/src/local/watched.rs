use std::io::{self, Read};

use weld_digest::Hasher;

/// Digests what is read, and keeps the reader's error apart from those of whom it is read into.
pub(super) struct Watched {
    inner: Box<dyn Read + Send>,
    pub(super) hasher: Hasher,
    pub(super) size: u64,
    pub(super) failed: Option<io::Error>,
}

impl Watched {
    pub(super) fn new(inner: Box<dyn Read + Send>, hasher: Hasher) -> Self {
        Self {
            inner,
            hasher,
            size: 0,
            failed: None,
        }
    }
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.inner.read(buffer) {
            Ok(count) => {
                self.hasher.update(buffer.get(..count).unwrap_or_default());
                self.size += count as u64;
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let told = io::Error::new(error.kind(), "the content is unreadable");
                self.failed = Some(error);
                Err(told)
            }
        }
    }
}
