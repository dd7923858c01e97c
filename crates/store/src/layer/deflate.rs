//! Gzip of one member, compressed by many threads, the same whatever their number.
//!
//! Each piece of the archive is compressed on its own, with the end of the piece before as its
//! dictionary, and ends on a byte's border, so that the pieces follow each other in one stream.

use std::io::{self, Write};
use std::sync::mpsc::Receiver;
use std::thread::Scope;

use flate2::{Compress, FlushCompress};

use super::chunk::{Buffers, CHUNK, Chunk, looks_random};
use super::parallel::{Crew, Ordered, ordered};

/// As far back as deflate refers.
const WINDOW: usize = 32 << 10;
/// The most bytes of one stored block.
const MAX_STORED: usize = 65_535;
/// Deflate, no name, no time, no particular system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// A last block with nothing in it.
const LAST_BLOCK: [u8; 2] = [3, 0];

/// A piece to compress, and the one before it.
struct Piece {
    chunk: Chunk,
    before: Option<Chunk>,
}

/// A compressed piece.
struct Deflated {
    bytes: Vec<u8>,
    crc: crc32fast::Hasher,
    length: usize,
}

/// Starts `workers` threads that compress pieces, and returns what writes their results.
pub(super) fn start<'scope>(
    scope: &'scope Scope<'scope, '_>,
    chunks: Receiver<Chunk>,
    level: u32,
    workers: usize,
) -> io::Result<GzipStream> {
    let buffers = Buffers::default();
    let crew = Crew {
        name: "gzip",
        workers,
        // As many pieces as keep the workers busy while the oldest is written.
        in_flight: 2 * workers + 2,
    };
    let mut before = None;
    let pieces = chunks.into_iter().map(move |chunk| Piece {
        before: before.replace(chunk.clone()),
        chunk,
    });
    let results = ordered(scope, crew, pieces, || {
        let mut compress = Compress::new(flate2::Compression::new(level), false);
        let buffers = buffers.clone();
        Ok(move |piece| work(&mut compress, &piece, buffers.take()))
    })?;
    Ok(GzipStream { results, buffers })
}

fn work(compress: &mut Compress, piece: &Piece, mut bytes: Vec<u8>) -> io::Result<Deflated> {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&piece.chunk);
    let before = piece.before.as_deref().unwrap_or_default();
    deflate(compress, before, &piece.chunk, &mut bytes)?;
    Ok(Deflated {
        bytes,
        crc,
        length: piece.chunk.len(),
    })
}

fn deflate(
    compress: &mut Compress,
    before: &[u8],
    chunk: &[u8],
    to: &mut Vec<u8>,
) -> io::Result<()> {
    if looks_random(chunk) {
        store(chunk, to);
        return Ok(());
    }
    compress.reset();
    let window = &before[before.len().saturating_sub(WINDOW)..];
    if !window.is_empty() {
        compress.set_dictionary(window).map_err(io::Error::other)?;
    }
    loop {
        let taken = usize::try_from(compress.total_in()).unwrap_or(usize::MAX);
        to.reserve(CHUNK / 4);
        compress
            .compress_vec(&chunk[taken.min(chunk.len())..], to, FlushCompress::Sync)
            .map_err(io::Error::other)?;
        // A flush is whole when it leaves room.
        if compress.total_in() == chunk.len() as u64 && to.len() < to.capacity() {
            return Ok(());
        }
    }
}

fn store(chunk: &[u8], to: &mut Vec<u8>) {
    for block in chunk.chunks(MAX_STORED) {
        let length = block.len() as u16;
        to.push(0);
        to.extend_from_slice(&length.to_le_bytes());
        to.extend_from_slice(&(!length).to_le_bytes());
        to.extend_from_slice(block);
    }
}

/// The compressed pieces in their order.
pub(super) struct GzipStream {
    results: Ordered<io::Result<Deflated>>,
    buffers: Buffers,
}

impl GzipStream {
    /// Writes the whole stream.
    pub(super) fn write_to(self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(&HEADER)?;
        let mut crc = crc32fast::Hasher::new();
        let mut length = 0u32;
        for result in self.results {
            let deflated = result??;
            out.write_all(&deflated.bytes)?;
            self.buffers.give_back(deflated.bytes);
            crc.combine(&deflated.crc);
            length = length.wrapping_add(deflated.length as u32);
        }
        out.write_all(&LAST_BLOCK)?;
        out.write_all(&crc.finalize().to_le_bytes())?;
        out.write_all(&length.to_le_bytes())
    }
}
