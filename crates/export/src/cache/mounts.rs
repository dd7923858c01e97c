//! The content of cache mounts elsewhere: an image manifest whose layers are chunks, and whose config says which of them,
//! one after the other, are the archive of which mount.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};
use std::sync::Arc;

use futures_util::{FutureExt, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use weld_digest::Digest;
use weld_source::image::{Descriptor, Document, MAX_MANIFEST, Manifest, media_type};
use weld_source::progress::Progress;
use weld_store::cache_mounts::archive::{ArchiveError, MAX_CHUNK, pack};
use weld_store::{BlobInfo, CacheMount, RootMetadata, Store};

use super::upload::AT_ONCE;
use super::{CacheLayer, CacheManifest, CacheSink, CacheWriteError, LayerFetch};

/// The media type of the config.
const CONFIG: &str = "application/vnd.weldkit.cachemounts.config.v1+json";
/// The media type of a chunk: a Zstandard frame.
const CHUNK: &str = "application/vnd.weldkit.cachemounts.chunk.v1+zstd";
/// How hard chunks are compressed: much of what package caches hold is compressed already.
const LEVEL: i32 = 2;
/// The largest config that is read, in bytes.
pub const MAX_MOUNTS_CONFIG: u64 = 16 << 20;

/// Why what is there are no cache mounts.
#[derive(Debug, thiserror::Error)]
pub enum MountsReadError {
    /// It is something else.
    #[error("what is there holds no cache mounts")]
    Other,
    /// It is not JSON of the right shape.
    #[error("malformed config of cache mounts: {0}")]
    Json(#[from] serde_json::Error),
    /// It says of its chunks what cannot be.
    #[error("the config of cache mounts does not fit its manifest: {0}")]
    Chunks(&'static str),
}

/// Why a cache mount was not packed.
#[derive(Debug, thiserror::Error)]
pub enum MountPackError {
    /// Its content cannot be read, or there is too much of it.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// Its directory cannot be looked at.
    #[error("read its directory: {0}")]
    Directory(io::Error),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Config {
    mounts: BTreeMap<String, MountRow>,
    /// In the order of the manifest's layers.
    chunks: Vec<ChunkRow>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct MountRow {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: (i64, i64),
    /// Positions of its chunks, in their order.
    chunks: Vec<u32>,
}

/// A chunk as it is before compression.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ChunkRow {
    digest: Digest,
    length: u64,
}

/// A chunk of a mount's archive.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// The digest of what it is before compression.
    pub digest: Digest,
    /// Its length before compression, in bytes.
    pub length: u64,
    /// The blob.
    pub blob: Descriptor,
}

/// The content of a cache mount.
#[derive(Clone, Debug)]
pub struct MountContent {
    /// What is said of its directory.
    pub root: RootMetadata,
    /// Its archive.
    pub chunks: Vec<Chunk>,
}

impl MountContent {
    /// The length of its archive, in bytes.
    pub fn length(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.length).sum()
    }
}

/// Cache mounts by their ids.
pub type Mounts = BTreeMap<String, MountContent>;

/// The config of a manifest of cache mounts, and its layers.
///
/// # Errors
/// If it is no such manifest.
pub fn mounts_parts(document: Document) -> Result<(Descriptor, Vec<Descriptor>), MountsReadError> {
    match document {
        Document::Manifest(manifest) if manifest.config.media_type == CONFIG => {
            Ok((manifest.config, manifest.layers))
        }
        _ => Err(MountsReadError::Other),
    }
}

/// Reads the config of cache mounts.
///
/// # Errors
/// [`MountsReadError`].
pub fn read_mounts(config: &[u8], layers: &[Descriptor]) -> Result<Mounts, MountsReadError> {
    let config: Config = serde_json::from_slice(config)?;
    if config.chunks.len() != layers.len() {
        return Err(MountsReadError::Chunks("it has another number of chunks"));
    }
    let longest = |chunk: &ChunkRow| chunk.length <= MAX_CHUNK as u64;
    if !config.chunks.iter().all(longest) {
        return Err(MountsReadError::Chunks("a chunk is too long"));
    }
    let chunks: Vec<Chunk> = config
        .chunks
        .into_iter()
        .zip(layers)
        .map(chunk_of)
        .collect();
    let mounts = config.mounts.into_iter().map(|(id, row)| {
        let known = row
            .chunks
            .iter()
            .map(|at| chunks.get(*at as usize).cloned());
        let known: Option<Vec<Chunk>> = known.collect();
        let root = RootMetadata {
            mode: row.mode,
            uid: row.uid,
            gid: row.gid,
            mtime: row.mtime,
        };
        let chunks = known.ok_or(MountsReadError::Chunks(
            "a mount has a chunk that is not there",
        ))?;
        Ok((id, MountContent { root, chunks }))
    });
    mounts.collect()
}

fn chunk_of((row, blob): (ChunkRow, &Descriptor)) -> Chunk {
    Chunk {
        digest: row.digest,
        length: row.length,
        blob: blob.clone(),
    }
}

/// A cache mount that was read, with the blobs that were made of it.
pub struct PackedMount {
    /// What it holds.
    pub content: MountContent,
    /// Those of its chunks that were not known.
    pub new: Vec<CacheLayer>,
}

/// Reads a cache mount; chunks that are among the known ones are not made again. Blocks.
///
/// # Errors
/// [`MountPackError`], also if its archive is longer than `most` bytes.
pub fn pack_mount(
    store: &Store,
    mount: &CacheMount,
    most: u64,
    known: &HashMap<Digest, Chunk>,
) -> Result<PackedMount, MountPackError> {
    let directory = mount.path();
    let root = RootMetadata::of(&directory).map_err(MountPackError::Directory)?;
    let mut chunks = Vec::new();
    let mut made: HashMap<Digest, Chunk> = HashMap::new();
    let mut new = Vec::new();
    pack(&directory, most, |content| {
        let digest = Digest::sha256_of(content);
        if let Some(chunk) = known.get(&digest).or_else(|| made.get(&digest)) {
            chunks.push(chunk.clone());
            return Ok(());
        }
        let compressed = zstd::bulk::compress(content, LEVEL)?;
        let info = BlobInfo {
            media_type: Some(CHUNK.to_owned()),
            ..BlobInfo::default()
        };
        let kept = store.blobs().put(&compressed, info);
        let kept = kept.map_err(io::Error::other)?;
        let chunk = Chunk {
            digest: digest.clone(),
            length: content.len() as u64,
            blob: Descriptor::of(CHUNK, &compressed),
        };
        new.push(CacheLayer {
            descriptor: Arc::new(chunk.blob.clone()),
            blob: Some(kept),
            lazy: None,
            repositories: Vec::new(),
        });
        made.insert(digest, chunk.clone());
        chunks.push(chunk);
        Ok(())
    })?;
    Ok(PackedMount {
        content: MountContent { root, chunks },
        new,
    })
}

/// Undoes the compression of a chunk.
///
/// # Errors
/// If it is not what its config says.
pub fn unpack_chunk(chunk: &Chunk, blob: &[u8]) -> io::Result<Vec<u8>> {
    let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let length = usize::try_from(chunk.length).unwrap_or(usize::MAX);
    let mut content = Vec::with_capacity(length.min(MAX_CHUNK));
    zstd::stream::read::Decoder::new(blob)?
        .take(chunk.length + 1)
        .read_to_end(&mut content)?;
    if content.len() != length || Digest::sha256_of(&content) != chunk.digest {
        return Err(damaged(
            "a chunk of a cache mount is not what its config says",
        ));
    }
    Ok(content)
}

/// Writes cache mounts: the new chunks, the config, and last of all the manifest, unless it is `published`.
///
/// # Errors
/// [`CacheWriteError`]; then no manifest names what was written.
pub async fn write_mounts(
    store: &Store,
    sink: &CacheSink,
    mounts: &Mounts,
    new: &[CacheLayer],
    published: Option<&Digest>,
    progress: &Progress,
) -> Result<CacheManifest, CacheWriteError> {
    let manifest = manifest(mounts)?;
    if manifest.manifest.len() as u64 > MAX_MANIFEST {
        return Err(CacheWriteError::Merge {
            place: "a manifest".to_owned(),
            reason: "the cache mounts have too many chunks".to_owned(),
        });
    }
    let uploads = new.iter().map(|layer| {
        let upload = sink.layer(layer, &Nothing, progress);
        upload.boxed()
    });
    let uploads: Vec<_> = uploads.collect();
    let uploaded = futures_util::stream::iter(uploads).buffer_unordered(AT_ONCE);
    uploaded.try_collect::<Vec<bool>>().await?;
    if published != Some(&manifest.descriptor.digest) {
        sink.config(store, &manifest, progress).await?;
        sink.publish(store, &manifest, Default::default(), progress)
            .await?;
    }
    Ok(manifest)
}

/// All chunks are here.
struct Nothing;

#[async_trait::async_trait]
impl LayerFetch for Nothing {
    async fn fetch(
        &self,
        _: &weld_store::snapshot::LayerDescriptor,
        _: &Progress,
    ) -> Option<weld_store::BlobRef> {
        None
    }
}

fn manifest(mounts: &Mounts) -> Result<CacheManifest, serde_json::Error> {
    let mut config = Config::default();
    let mut layers: Vec<Descriptor> = Vec::new();
    let mut places: HashMap<Digest, u32> = HashMap::new();
    for (id, content) in mounts {
        let mut at = Vec::with_capacity(content.chunks.len());
        for chunk in &content.chunks {
            let next = layers.len() as u32;
            let place = *places.entry(chunk.digest.clone()).or_insert(next);
            if place == next {
                layers.push(chunk.blob.clone());
                config.chunks.push(ChunkRow {
                    digest: chunk.digest.clone(),
                    length: chunk.length,
                });
            }
            at.push(place);
        }
        let RootMetadata {
            mode,
            uid,
            gid,
            mtime,
        } = content.root;
        let row = MountRow {
            mode,
            uid,
            gid,
            mtime,
            chunks: at,
        };
        config.mounts.insert(id.clone(), row);
    }
    let config = serde_json::to_vec(&config)?;
    let config_descriptor = Descriptor::of(CONFIG, &config);
    let manifest = serde_json::to_vec(&Manifest {
        schema_version: 2,
        media_type: media_type::OCI_MANIFEST.to_owned(),
        artifact_type: None,
        config: config_descriptor.clone(),
        layers: layers.clone(),
        subject: None,
        annotations: BTreeMap::new(),
    })?;
    Ok(CacheManifest {
        descriptor: Descriptor::of(media_type::OCI_MANIFEST, &manifest),
        manifest,
        config_descriptor,
        config,
        layers,
    })
}
