//! Pieces of an archive on their way between threads, and the buffers that they use in turn.

use std::io::{self, BufRead, Read, Write};
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::buffer::spare_capacity;

/// How long a piece is. Compression depends on it, so that changing it changes digests.
pub(super) const CHUNK: usize = 256 << 10;

/// Buffers that are not in use.
#[derive(Clone, Default)]
pub(super) struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl Buffers {
    pub(super) fn take(&self) -> Vec<u8> {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        free.pop().unwrap_or_else(|| Vec::with_capacity(CHUNK))
    }

    pub(super) fn give_back(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        free.push(buffer);
    }
}

/// A piece of an archive, shared by those who hash and those who compress it.
#[derive(Clone)]
pub(super) struct Chunk(Arc<Filled>);

struct Filled {
    bytes: Vec<u8>,
    buffers: Buffers,
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        self.buffers.give_back(std::mem::take(&mut self.bytes));
    }
}

/// How many bytes next to each other are looked at.
const SAMPLE: usize = 1024;

/// Whether the bytes are spread so evenly that compressing them is in vain: random, encrypted or
/// compressed content, which would cost as much time as all else together.
///
/// Looks at a sixteenth of the piece, spread over all of it. For random bytes the sum of the squared counts is about
/// n²/256 + n; what has any structure is well above it.
pub(super) fn looks_random(chunk: &[u8]) -> bool {
    let mut counts = [[0u32; 256]; 4];
    let mut total = 0u64;
    for part in chunk.chunks(SAMPLE).step_by(16) {
        for four in part.as_chunks::<4>().0 {
            for (counts, &byte) in counts.iter_mut().zip(four) {
                counts[usize::from(byte)] += 1;
            }
            total += 4;
        }
    }
    if total < 4096 {
        return false;
    }
    let squares: u64 = (0..256)
        .map(|byte| u64::from(counts.iter().map(|counts| counts[byte]).sum::<u32>()).pow(2))
        .sum();
    squares * 256 * 100 < total * total * 103
}

/// Cuts what is written into pieces and sends each to all takers.
pub(super) struct ChunkWriter {
    buffers: Buffers,
    filling: Vec<u8>,
    takers: Vec<SyncSender<Chunk>>,
    length: u64,
}

impl ChunkWriter {
    pub(super) fn new(takers: Vec<SyncSender<Chunk>>) -> Self {
        let buffers = Buffers::default();
        Self {
            filling: buffers.take(),
            buffers,
            takers,
            length: 0,
        }
    }

    /// Sends what is left; the takers see the end when this value goes.
    pub(super) fn finish(mut self) -> io::Result<u64> {
        if !self.filling.is_empty() {
            self.send()?;
        }
        Ok(self.length)
    }

    /// Takes `size` bytes of a file at `offset`, straight into the pieces.
    pub(super) fn take_file(
        &mut self,
        file: &OwnedFd,
        mut offset: u64,
        mut size: u64,
    ) -> io::Result<()> {
        while size > 0 {
            let start = self.filling.len();
            let room = (CHUNK - start).min(usize::try_from(size).unwrap_or(usize::MAX));
            // Where the file has more, or the buffer more room, what was read too far is dropped.
            let read = rustix::io::retry_on_intr(|| {
                rustix::io::pread(file, spare_capacity(&mut self.filling), offset)
            })?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let count = read.min(room);
            self.filling.truncate(start + count);
            self.length += count as u64;
            offset += count as u64;
            size -= count as u64;
            if self.filling.len() == CHUNK {
                self.send()?;
            }
        }
        Ok(())
    }

    fn send(&mut self) -> io::Result<()> {
        let bytes = std::mem::replace(&mut self.filling, self.buffers.take());
        let chunk = Chunk(Arc::new(Filled {
            bytes,
            buffers: self.buffers.clone(),
        }));
        for taker in &self.takers {
            taker
                .send(chunk.clone())
                .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        }
        Ok(())
    }
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(CHUNK - self.filling.len());
        self.filling.extend_from_slice(&bytes[..count]);
        self.length += count as u64;
        if self.filling.len() == CHUNK {
            self.send()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads the pieces that another thread sends.
pub(super) struct ChunkReader {
    source: Receiver<io::Result<Chunk>>,
    current: Option<(Chunk, usize)>,
}

impl ChunkReader {
    pub(super) fn new(source: Receiver<io::Result<Chunk>>) -> Self {
        Self {
            source,
            current: None,
        }
    }
}

impl BufRead for ChunkReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let spent = match &self.current {
            Some((chunk, at)) => *at == chunk.len(),
            None => true,
        };
        if spent {
            self.current = match self.source.recv() {
                Ok(chunk) => Some((chunk?, 0)),
                Err(_) => None,
            };
        }
        Ok(match &self.current {
            Some((chunk, at)) => &chunk[*at..],
            None => &[],
        })
    }

    fn consume(&mut self, count: usize) {
        if let Some((_, at)) = &mut self.current {
            *at += count;
        }
    }
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut available = self.fill_buf()?;
        let count = available.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

/// Reads a stream to its end in pieces; `send` says whether to go on.
pub(super) fn pump(mut stream: impl Read, mut send: impl FnMut(io::Result<Chunk>) -> bool) {
    let buffers = Buffers::default();
    loop {
        let mut bytes = buffers.take();
        bytes.resize(CHUNK, 0);
        let mut length = 0;
        let fault = loop {
            match stream.read(&mut bytes[length..]) {
                Ok(0) => break None,
                Ok(count) => {
                    length += count;
                    if length == CHUNK {
                        break None;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Some(error),
            }
        };
        let ended = length < CHUNK;
        bytes.truncate(length);
        let chunk = Chunk(Arc::new(Filled {
            bytes,
            buffers: buffers.clone(),
        }));
        if length > 0 && !send(Ok(chunk)) {
            return;
        }
        if let Some(error) = fault {
            send(Err(error));
            return;
        }
        if ended {
            return;
        }
    }
}
