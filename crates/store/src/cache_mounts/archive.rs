//! The content of a cache mount as chunks, and back.
//!
//! The content is a tar archive in the order of the names, which depends on nothing but the files. It is cut where the
//! content says so: what changes in one place changes the chunks there and leaves the others what they were.

use std::io::{self, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;

use fastcdc::v2020::FastCDC;

use crate::layer::{
    ApplyOptions, Compression, DiffOptions, DiffSource, LayerError, Whiteouts, apply, open_root,
    write, write_diff,
};
use crate::space::{Reservation, SpaceError};

/// The shortest, the usual and the longest chunk, in bytes. Changing them has everything uploaded again.
const CHUNK: (usize, usize, usize) = (256 << 10, 1 << 20, 4 << 20);
/// The longest chunk, in bytes.
pub const MAX_CHUNK: usize = CHUNK.2;
/// How much is unpacked between two looks at the room for it, in bytes.
const PIECE: usize = 256 << 10;

/// Why the content of a cache mount cannot be carried away or taken.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It is larger than it may be.
    #[error("it is larger than {0} bytes")]
    TooLarge(u64),
    /// A file of it cannot be read or made.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// A chunk cannot be handed on or had.
    #[error(transparent)]
    Chunk(io::Error),
    /// There is no room for it.
    #[error(transparent)]
    Space(#[from] SpaceError),
}

/// Reads a directory as chunks, in their order; returns how many bytes they have together. Blocks.
///
/// # Errors
/// [`ArchiveError`], also if there are more than `most` bytes.
pub fn pack(
    directory: &Path,
    most: u64,
    each: impl FnMut(&[u8]) -> io::Result<()> + Send,
) -> Result<u64, ArchiveError> {
    let root = open_root(directory)?;
    let mut cutter = Cutter {
        waiting: Vec::with_capacity(2 * MAX_CHUNK),
        length: 0,
        most,
        each,
        failure: None,
    };
    let written = write(Compression::Uncompressed, &mut cutter, |writer| {
        let source = DiffSource::Trees {
            lower: None,
            upper: root.as_fd(),
        };
        write_diff(source, DiffOptions::default(), writer)
    })
    .map(drop);
    if let Some(failure) = cutter.failure.take() {
        return Err(failure);
    }
    written?;
    cutter.finish().map_err(ArchiveError::Chunk)?;
    Ok(cutter.length)
}

/// Cuts what is written to it.
struct Cutter<F> {
    waiting: Vec<u8>,
    length: u64,
    most: u64,
    each: F,
    /// Why it takes no more.
    failure: Option<ArchiveError>,
}

impl<F: FnMut(&[u8]) -> io::Result<()>> Cutter<F> {
    /// Cuts off all chunks but those that more content could still make longer.
    fn cut(&mut self, least: usize) -> io::Result<()> {
        let (shortest, usual, longest) = CHUNK;
        let mut at = 0;
        while self.waiting.len() - at > least {
            let rest = &self.waiting[at..];
            let (_, end) = FastCDC::new(rest, shortest, usual, longest).cut(0, rest.len());
            let end = end.clamp(1, rest.len());
            (self.each)(&rest[..end])?;
            at += end;
        }
        self.waiting.drain(..at);
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.cut(0)
    }
}

impl<F: FnMut(&[u8]) -> io::Result<()>> Write for Cutter<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.length.saturating_add(bytes.len() as u64);
        if taken > self.most {
            self.failure = Some(ArchiveError::TooLarge(self.most));
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.length = taken;
        self.waiting.extend_from_slice(bytes);
        if self.waiting.len() >= 2 * MAX_CHUNK
            && let Err(error) = self.cut(MAX_CHUNK)
        {
            let kind = error.kind();
            self.failure = Some(ArchiveError::Chunk(error));
            return Err(kind.into());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes the files of chunks that follow one another in a directory that has none. What is read is not trusted: nothing
/// outside of the directory is reached. Room is asked for as it grows. Blocks.
///
/// # Errors
/// [`ArchiveError`]; what was made until then is there.
pub(super) fn unpack(
    chunks: impl Read,
    directory: &Path,
    room: Reservation,
) -> Result<(), ArchiveError> {
    let root = open_root(directory)?;
    let mut reader = Roomy {
        chunks,
        room,
        shortage: None,
    };
    let options = ApplyOptions::new(Whiteouts::Literal);
    let applied = apply(
        BufReader::with_capacity(PIECE, &mut reader),
        root.as_fd(),
        &options,
    );
    match reader.shortage.take() {
        Some(shortage) => Err(shortage.into()),
        None => Ok(applied.map(drop)?),
    }
}

/// Reads no more than there is room for.
struct Roomy<R> {
    chunks: R,
    room: Reservation,
    shortage: Option<SpaceError>,
}

impl<R: Read> Read for Roomy<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if let Err(shortage) = self.room.take(out.len() as u64) {
            self.shortage = Some(shortage);
            return Err(io::ErrorKind::StorageFull.into());
        }
        let count = self.chunks.read(out)?;
        self.room.spend(count as u64);
        Ok(count)
    }
}
