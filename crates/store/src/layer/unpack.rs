//! Layers on their way in: decompressed, digested and applied at once.

use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::BorrowedFd;
use std::sync::mpsc::sync_channel;

use weld_digest::Digest;

use super::LayerError;
use super::apply::{Applied, ApplyOptions, apply};
use super::chunk::{Chunk, ChunkReader, pump};
use super::compress::{Compression, digest, joined, spawn};

/// How many pieces wait before each stage.
const QUEUE: usize = 4;
/// The largest window that a stream may ask for, as a power of two: what `zstd` itself takes
/// unless told otherwise.
const MAX_ZSTD_WINDOW: u32 = 27;

/// What the first bytes of a stream say of its compression.
pub fn detect(start: &[u8]) -> Option<Compression> {
    match start {
        [0x1f, 0x8b, 8, ..] => Some(Compression::Gzip(None)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Compression::Zstd(None)),
        // A skippable frame, as seekable archives start with.
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Compression::Zstd(None)),
        _ => None,
    }
}

/// Undoes the compression that a stream's first bytes show, or passes it as it is.
pub fn decompress<'a, R: BufRead + Send + 'a>(
    mut stream: R,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    Ok(match detect(stream.fill_buf()?) {
        Some(Compression::Gzip(_)) => Box::new(flate2::bufread::MultiGzDecoder::new(stream)),
        Some(Compression::Zstd(_)) => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(stream)?;
            decoder.window_log_max(MAX_ZSTD_WINDOW)?;
            Box::new(decoder)
        }
        Some(Compression::Uncompressed) | None => Box::new(stream),
    })
}

/// What was unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// The digest of the uncompressed archive.
    pub diff_id: Digest,
    /// What was applied.
    pub applied: Applied,
}

/// Applies a layer, compressed or not, to the tree at `root`.
pub fn unpack<R: Read + Send>(
    blob: R,
    root: BorrowedFd<'_>,
    options: &ApplyOptions<'_>,
) -> Result<Unpacked, LayerError> {
    std::thread::scope(|scope| {
        let (to_apply, archive) = sync_channel(QUEUE);
        let (to_hash, hashed) = sync_channel::<Chunk>(QUEUE);
        let hash = spawn(scope, "layer-digest", move || digest(&hashed))?;
        spawn(scope, "layer-read", move || {
            let blob = BufReader::with_capacity(256 << 10, blob);
            match decompress(blob) {
                Ok(archive) => pump(archive, |chunk| {
                    // Once applying failed, nobody takes the pieces any more.
                    let hashing = match &chunk {
                        Ok(chunk) => to_hash.send(chunk.clone()).is_ok(),
                        Err(_) => true,
                    };
                    hashing && to_apply.send(chunk).is_ok()
                }),
                Err(error) => drop(to_apply.send(Err(error))),
            }
        })?;
        let applied = apply(ChunkReader::new(archive), root, options)?;
        Ok(Unpacked {
            diff_id: joined(hash),
            applied,
        })
    })
}
