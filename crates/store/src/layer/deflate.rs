//! Gzip of one member, compressed by many threads, the same whatever their number.
//!
//! Each piece of the archive is compressed on its own, with the end of the piece before as its
//! dictionary, and ends on a byte's border, so that the pieces follow each other in one stream.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::Scope;

use flate2::{Compress, FlushCompress};

use super::chunk::{Buffers, CHUNK, Chunk};

/// As far back as deflate refers.
const WINDOW: usize = 32 << 10;
/// The most bytes of one stored block.
const MAX_STORED: usize = 65_535;
/// Deflate, no name, no time, no particular system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// A last block with nothing in it.
const LAST_BLOCK: [u8; 2] = [3, 0];

/// A piece to compress and where its result is awaited.
struct Job {
    chunk: Chunk,
    before: Option<Chunk>,
    result: SyncSender<Deflated>,
}

/// A compressed piece.
struct Deflated {
    bytes: io::Result<Vec<u8>>,
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
    let (jobs, queue) = sync_channel::<Job>(workers);
    // As many pieces as keep the workers busy while the oldest is written.
    let (order, results) = sync_channel(2 * workers + 2);
    let queue = std::sync::Arc::new(Mutex::new(queue));
    let buffers = Buffers::default();
    for _ in 0..workers {
        let (queue, buffers) = (queue.clone(), buffers.clone());
        std::thread::Builder::new()
            .name("gzip".to_owned())
            .spawn_scoped(scope, move || work(&queue, level, &buffers))?;
    }
    std::thread::Builder::new()
        .name("gzip-order".to_owned())
        .spawn_scoped(scope, move || distribute(&chunks, &jobs, &order))?;
    Ok(GzipStream { results, buffers })
}

fn distribute(
    chunks: &Receiver<Chunk>,
    jobs: &SyncSender<Job>,
    order: &SyncSender<Receiver<Deflated>>,
) {
    let mut before = None;
    for chunk in chunks {
        let (result, awaited) = sync_channel(1);
        let job = Job {
            chunk: chunk.clone(),
            before: before.replace(chunk),
            result,
        };
        if order.send(awaited).is_err() || jobs.send(job).is_err() {
            return;
        }
    }
}

fn work(queue: &Mutex<Receiver<Job>>, level: u32, buffers: &Buffers) {
    let mut compress = Compress::new(flate2::Compression::new(level), false);
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else {
            return;
        };
        let mut crc = crc32fast::Hasher::new();
        crc.update(&job.chunk);
        let mut bytes = buffers.take();
        let before = job.before.as_deref().unwrap_or_default();
        let done = deflate(&mut compress, before, &job.chunk, &mut bytes);
        // Nobody waits any more when the writer failed.
        let _ = job.result.send(Deflated {
            bytes: done.map(|()| bytes),
            crc,
            length: job.chunk.len(),
        });
    }
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

/// Whether the bytes are spread so evenly that compressing them is in vain: random, encrypted or
/// compressed content, which would cost as much time as all else together.
///
/// Looks at a quarter of the piece. For random bytes the sum of the squared counts is about
/// n²/256 + n; what has any structure is well above it.
fn looks_random(chunk: &[u8]) -> bool {
    let mut counts = [[0u32; 256]; 4];
    let mut total = 0u64;
    for part in chunk.chunks(4096).step_by(4) {
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

/// The compressed pieces in their order.
pub(super) struct GzipStream {
    results: Receiver<Receiver<Deflated>>,
    buffers: Buffers,
}

impl GzipStream {
    /// Writes the whole stream.
    pub(super) fn write_to(self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(&HEADER)?;
        let mut crc = crc32fast::Hasher::new();
        let mut length = 0u32;
        for result in self.results {
            let deflated = result
                .recv()
                .map_err(|_| io::Error::other("a compression thread ended early"))?;
            let bytes = deflated.bytes?;
            out.write_all(&bytes)?;
            self.buffers.give_back(bytes);
            crc.combine(&deflated.crc);
            length = length.wrapping_add(deflated.length as u32);
        }
        out.write_all(&LAST_BLOCK)?;
        out.write_all(&crc.finalize().to_le_bytes())?;
        out.write_all(&length.to_le_bytes())
    }
}
