use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use weld_digest::Digest;

use crate::checked::Check;
use crate::watch::Watch;

/// Small writes are gathered up to this many bytes.
const BUFFER: usize = 1 << 20;
/// A file is copied in pieces of this many bytes, between which progress is told.
const PIECE: u64 = 16 << 20;

/// Writes to a file: small pieces gathered, other files' content copied by the kernel.
pub(crate) struct Stream<'a> {
    file: &'a File,
    gathered: Vec<u8>,
    watch: &'a Watch,
}

impl<'a> Stream<'a> {
    pub(crate) fn new(file: &'a File, watch: &'a Watch) -> Self {
        Self {
            file,
            gathered: Vec::with_capacity(BUFFER),
            watch,
        }
    }

    /// Writes the first `size` bytes of a file, which is read from where it stands.
    pub(crate) fn copy_file(&mut self, from: &File, size: u64) -> io::Result<()> {
        if size <= (BUFFER - self.gathered.len()) as u64 {
            let count = from.take(size).read_to_end(&mut self.gathered)?;
            return complete(count as u64, size);
        }
        self.send()?;
        let mut copied = 0;
        while copied < size {
            let piece = (size - copied).min(PIECE);
            let count = io::copy(&mut from.take(piece), &mut self.file)?;
            self.watch.advance(count)?;
            copied += count;
            if count < piece {
                break;
            }
        }
        complete(copied, size)
    }

    /// Writes a blob, of which `from` is the file and stands at its start.
    pub(crate) fn copy_blob(&mut self, from: &File, size: u64, digest: &Digest) -> io::Result<()> {
        let check = Check::begin(from, size, digest)?;
        self.copy_file(from, size)?;
        check.finish()
    }

    /// How many bytes of the file there are, all written now.
    pub(crate) fn position(&mut self) -> io::Result<u64> {
        self.send()?;
        self.file.stream_position()
    }

    /// Writes over what is there.
    pub(crate) fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, position)
    }

    /// Takes back what was written after this place.
    pub(crate) fn truncate(&mut self, position: u64) -> io::Result<()> {
        self.send()?;
        self.file.set_len(position)?;
        self.file.seek(SeekFrom::Start(position)).map(|_| ())
    }

    fn send(&mut self) -> io::Result<()> {
        self.file.write_all(&self.gathered)?;
        self.watch.advance(self.gathered.len() as u64)?;
        self.gathered.clear();
        Ok(())
    }
}

fn complete(copied: u64, size: u64) -> io::Result<()> {
    if copied == size {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::UnexpectedEof,
        format!("it ends after {copied} of {size} bytes"),
    ))
}

impl Write for Stream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.gathered.len() + bytes.len() > BUFFER {
            self.send()?;
        }
        if bytes.len() >= BUFFER {
            self.file.write_all(bytes)?;
            self.watch.advance(bytes.len() as u64)?;
        } else {
            self.gathered.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}
