//! Layers on their way out: written, digested and compressed at once.

use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{Builder, Scope, ScopedJoinHandle};

use serde::{Deserialize, Serialize};
use weld_digest::{Digest, Hasher};

use super::chunk::{Chunk, ChunkWriter};
use super::{LayerError, TarWriter, deflate, zstandard};

/// How many pieces wait before each stage.
const QUEUE: usize = 4;
/// More threads than this do not make one layer faster.
const MAX_WORKERS: usize = 16;

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Compression {
    /// As it is.
    Uncompressed,
    /// With gzip, level 1 to 9; 6 unless told.
    Gzip(Option<u8>),
    /// With Zstandard, level 1 to 22; unless told, between 2 and 3.
    Zstd(Option<u8>),
}

/// A text that names no compression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown compression {0:?} (known: uncompressed, gzip, zstd)")]
pub struct ParseCompressionError(String);

impl FromStr for Compression {
    type Err = ParseCompressionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "uncompressed" => Ok(Self::Uncompressed),
            "gzip" => Ok(Self::Gzip(None)),
            "zstd" => Ok(Self::Zstd(None)),
            _ => Err(ParseCompressionError(text.to_owned())),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uncompressed => "uncompressed",
            Self::Gzip(_) => "gzip",
            Self::Zstd(_) => "zstd",
        })
    }
}

impl Compression {
    /// The same kind at a level; `None` if the kind has no such level. Gzip's -1 and zstd's 0 are
    /// the levels that there are unless told, and gzip's 0, which only stores, is made 1.
    pub fn at_level(self, level: i64) -> Option<Self> {
        let within = |max: u8| u8::try_from(level).ok().filter(|level| *level <= max);
        match self {
            Self::Uncompressed => Some(self),
            Self::Gzip(_) if level == -1 => Some(Self::Gzip(None)),
            Self::Gzip(_) => Some(Self::Gzip(Some(within(9)?.max(1)))),
            Self::Zstd(_) => Some(Self::Zstd(Some(within(22)?).filter(|level| *level > 0))),
        }
    }

    /// The media type of a layer compressed like this, OCI's or docker's.
    pub fn media_type(self, oci: bool) -> &'static str {
        match (self, oci) {
            (Self::Uncompressed, true) => "application/vnd.oci.image.layer.v1.tar",
            (Self::Gzip(_), true) => "application/vnd.oci.image.layer.v1.tar+gzip",
            (Self::Zstd(_), true) => "application/vnd.oci.image.layer.v1.tar+zstd",
            (Self::Uncompressed, false) => "application/vnd.docker.image.rootfs.diff.tar",
            (Self::Gzip(_), false) => "application/vnd.docker.image.rootfs.diff.tar.gzip",
            (Self::Zstd(_), false) => "application/vnd.docker.image.rootfs.diff.tar.zstd",
        }
    }

    /// The kind that a layer's media type states, if it states one.
    pub fn of_media_type(media_type: &str) -> Option<Self> {
        // Nondistributable layers and encrypted ones carry more after these.
        let (_, form) = media_type.rsplit_once("tar")?;
        match form.trim_start_matches(['+', '.']) {
            "" => Some(Self::Uncompressed),
            "gzip" => Some(Self::Gzip(None)),
            "zstd" => Some(Self::Zstd(None)),
            _ => None,
        }
    }

    /// Whether both are of one kind, at whatever level.
    pub fn is_same_kind(self, other: Self) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }
}

/// What a layer came to, uncompressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The digest of the archive before compression.
    pub diff_id: Digest,
    /// The length of the archive before compression.
    pub size: u64,
}

/// An archive whose content is digested and compressed while it is written.
pub struct LayerWriter {
    pub(super) tar: TarWriter<ChunkWriter>,
}

/// Has `produce` write an archive, which goes to `out` compressed, and is digested before that.
/// What is written depends on the archive and the compression alone.
pub fn write<W: Write + Send>(
    compression: Compression,
    mut out: W,
    produce: impl FnOnce(&mut LayerWriter) -> Result<(), LayerError>,
) -> Result<(W, Written), LayerError> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = workers.min(MAX_WORKERS);
    std::thread::scope(|scope| {
        let (to_hash, hashed) = sync_channel::<Chunk>(QUEUE);
        let (to_compress, compressed) = sync_channel::<Chunk>(QUEUE);
        let hash = spawn(scope, "layer-digest", move || digest(&hashed))?;
        let compress = compressor(scope, compression, compressed, workers, &mut out)?;
        let mut writer = LayerWriter {
            tar: TarWriter::new(ChunkWriter::new(vec![to_hash, to_compress])),
        };
        let produced = produce(&mut writer).and_then(|()| {
            let chunks = writer.tar.finish().map_err(LayerError::Write)?;
            chunks.finish().map_err(LayerError::Write)
        });
        let diff_id = joined(hash);
        // When writing failed, producing failed for no other reason than that.
        joined(compress).map_err(LayerError::Write)?;
        let size = produced?;
        Ok::<_, LayerError>(Written { diff_id, size })
    })
    .map(|written| (out, written))
}

/// Starts what takes the pieces to `out`.
fn compressor<'scope, 'env, W: Write + Send>(
    scope: &'scope Scope<'scope, 'env>,
    compression: Compression,
    chunks: Receiver<Chunk>,
    workers: usize,
    out: &'env mut W,
) -> Result<ScopedJoinHandle<'scope, io::Result<()>>, LayerError> {
    match compression {
        Compression::Uncompressed => spawn(scope, "layer-write", move || {
            chunks.iter().try_for_each(|chunk| out.write_all(&chunk))
        }),
        Compression::Gzip(level) => {
            let level = u32::from(level.unwrap_or(6));
            let stream =
                deflate::start(scope, chunks, level, workers).map_err(LayerError::Thread)?;
            spawn(scope, "layer-write", move || stream.write_to(out))
        }
        Compression::Zstd(level) => {
            let stream =
                zstandard::start(scope, chunks, level, workers).map_err(LayerError::Thread)?;
            spawn(scope, "layer-write", move || stream.write_to(out))
        }
    }
}

pub(super) fn digest(chunks: &Receiver<Chunk>) -> Digest {
    let mut hasher = Hasher::sha256();
    for chunk in chunks {
        hasher.update(&chunk);
    }
    hasher.finish()
}

pub(super) fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>, LayerError> {
    Builder::new()
        .name(name.to_owned())
        .spawn_scoped(scope, work)
        .map_err(LayerError::Thread)
}

/// What a thread came to; its panic goes on here.
pub(super) fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
