//! Blobs: content by digest, in an OCI image layout under `content/`.
//!
//! A blob comes in through an [`Ingest`], which verifies what is written and renames it into
//! place; what is known of it (media type, source, diff id) is in the database. A [`BlobRef`]
//! keeps the blob while it lives.

mod error;
mod feed;
pub(crate) mod found;
mod growth;
mod ingest;
pub(crate) mod lost;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use redb::{ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use weld_digest::{Digest, Hasher};

use crate::db::{Db, DbError, decode, encode};
use crate::durability::Sequence;
use crate::object::Object;
use crate::pins::{Pin, Pins};
use crate::space::Space;

pub use error::BlobError;
pub use feed::Feed;
pub use growth::Growth;
pub use ingest::{Expected, Ingest, Started};

/// What is known of each blob, by the text of its digest.
pub(crate) const BLOBS: TableDefinition<&str, &[u8]> = TableDefinition::new("blobs");

/// What the file names of ingests without a reference start with; a sequence number follows.
pub(crate) const ANONYMOUS: &str = "anonymous-";

pub(crate) fn create_tables(tx: &WriteTransaction) -> Result<(), DbError> {
    tx.open_table(BLOBS)?;
    Ok(())
}

/// File systems give files whole blocks, in bytes; nearly all have blocks of this size.
const BLOCK: u64 = 4096;

/// What a file of so many bytes takes on disk.
const fn on_disk(size: u64) -> u64 {
    size.next_multiple_of(BLOCK)
}

/// What is known of a blob besides its content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobInfo {
    /// Its media type.
    pub media_type: Option<String>,
    /// Labels, such as where it was pulled from.
    pub labels: BTreeMap<String, String>,
    /// The digest of a layer before compression.
    pub diff_id: Option<Digest>,
}

/// A blob's row.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct BlobRecord {
    pub(crate) size: u64,
    pub(crate) sequence: u64,
    /// Seconds since 1970.
    pub(crate) created: u64,
    pub(crate) info: BlobInfo,
}

/// The blobs of a state directory. Cheap to clone.
#[derive(Clone)]
pub struct Blobs(Arc<Inner>);

pub(crate) struct Inner {
    layout: PathBuf,
    ingests: PathBuf,
    db: Db,
    pins: Pins,
    sequence: Arc<Sequence>,
    space: Space,
    /// Rows that are queued and not yet committed.
    pending: Mutex<HashMap<Digest, BlobRecord>>,
    /// One lock per file that is being ingested into.
    busy: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl Blobs {
    pub(crate) fn open(
        root: &Path,
        db: &Db,
        pins: &Pins,
        sequence: &Arc<Sequence>,
        space: &Space,
    ) -> io::Result<Self> {
        let layout = root.join("content");
        let ingests = root.join("ingest");
        let marker = layout.join("oci-layout");
        let is_new = !marker.exists() || !layout.join(FIRST).is_dir();
        if is_new {
            create_layout(&layout, &marker)?;
        }
        fs::create_dir_all(&ingests)?;
        let blobs = Self(Arc::new(Inner {
            layout,
            ingests,
            db: db.clone(),
            pins: pins.clone(),
            sequence: sequence.clone(),
            space: space.clone(),
            pending: Mutex::default(),
            busy: Mutex::default(),
        }));
        if is_new && blobs.has_any().map_err(io::Error::other)? {
            lost::note(db).wait().map_err(io::Error::other)?;
        }
        Ok(blobs)
    }

    fn has_any(&self) -> Result<bool, DbError> {
        let db = &self.0.db;
        db.read(|tx| Ok(!tx.open_table(BLOBS)?.is_empty()?))
    }

    /// The blobs whose files are gone.
    pub(crate) fn lost(&self) -> Result<HashSet<Digest>, DbError> {
        lost::find(&self.0)
    }

    /// The directory of the OCI image layout.
    pub fn layout(&self) -> &Path {
        &self.0.layout
    }

    /// The blob of a digest, pinned, or `None`. One whose file is gone or cut off counts as not
    /// there.
    pub fn get(&self, digest: &Digest) -> Result<Option<BlobRef>, BlobError> {
        let pin = self.0.pins.pin(Object::Blob(digest.clone()));
        let Some(record) = self.0.record(digest)? else {
            return Ok(None);
        };
        let file = fs::metadata(self.0.path(digest));
        if !file.is_ok_and(|file| file.len() == record.size) {
            // It may have been removed while it was looked for: its row is gone then, too.
            if self.0.record(digest)?.is_some() {
                tracing::warn!(%digest, "the file of a blob is damaged");
            }
            return Ok(None);
        }
        Ok(Some(BlobRef {
            digest: digest.clone(),
            record: Arc::new(record),
            pin,
            blobs: self.clone(),
        }))
    }

    /// The content of a document that is not longer than `limit` bytes, or `None` if it is not there. One that is not what its digest
    /// says is dropped, and so not there.
    pub fn document(&self, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>, BlobError> {
        let Some(blob) = self.get(digest)? else {
            return Ok(None);
        };
        let content = blob.read_all(limit)?;
        let mut hasher = Hasher::new(digest.algorithm());
        hasher.update(&content);
        if hasher.finish() == *digest {
            return Ok(Some(content));
        }
        self.discard_if_damaged(digest)?;
        Ok(None)
    }

    /// Looks at the content of a blob of which a reader says that it is wrong. One that is not what its digest says loses its file, so
    /// that it counts as not there and is fetched or made again; whether that was so. Blocks, and reads all of it.
    pub fn discard_if_damaged(&self, digest: &Digest) -> Result<bool, BlobError> {
        let failed = |source| BlobError::Read {
            digest: digest.clone(),
            source,
        };
        let path = self.0.path(digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(failed(error)),
        };
        // A medium that cannot read it has lost it.
        let content = found::digest_of(&file, digest.algorithm(), |_| ());
        if content.is_ok_and(|content| content == *digest) {
            return Ok(false);
        }
        tracing::warn!(%digest, "the content of a blob is damaged: it is dropped, and fetched or made again when it is needed");
        fs::remove_file(&path).map_err(failed)?;
        Ok(true)
    }

    /// The length of the blob of a digest, if there is one.
    pub fn size(&self, digest: &Digest) -> Result<Option<u64>, DbError> {
        Ok(self.0.record(digest)?.map(|record| record.size))
    }

    /// What is known of a blob, also of one whose file is gone or cut off.
    pub fn info(&self, digest: &Digest) -> Result<Option<BlobInfo>, BlobError> {
        Ok(self.0.record(digest)?.map(|record| record.info))
    }

    /// Whether there is a blob of this digest now.
    pub fn contains(&self, digest: &Digest) -> Result<bool, BlobError> {
        Ok(self.get(digest)?.is_some())
    }

    pub(crate) fn has_record(&self, digest: &Digest) -> Result<bool, DbError> {
        Ok(self.0.record(digest)?.is_some())
    }

    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.0.path(digest)
    }

    /// The directory of ingests.
    pub(crate) fn ingests(&self) -> &Path {
        &self.0.ingests
    }

    /// Does something with a file of an ingest, unless one runs that writes it.
    pub(crate) fn unless_ingesting(
        &self,
        file_name: &str,
        act: impl FnOnce() -> io::Result<bool>,
    ) -> io::Result<bool> {
        let busy = self.0.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let running = busy
            .get(file_name)
            .is_some_and(|turn| turn.strong_count() > 0);
        if running { Ok(false) } else { act() }
    }

    /// Takes a small blob that is in memory.
    pub fn put(&self, content: &[u8], info: BlobInfo) -> Result<BlobRef, BlobError> {
        let expected = Expected {
            digest: Some(Digest::sha256_of(content)),
            size: Some(content.len() as u64),
        };
        match self.ingest(None, expected)? {
            Started::Present(blob) => {
                if !blob.info().includes(&info) {
                    drop(self.annotate(&blob, info));
                }
                Ok(blob)
            }
            Started::Ingest(mut ingest) => {
                ingest.append(content)?;
                ingest.commit(info)
            }
        }
    }

    /// Adds to what is known of a blob: a media type or diff id if there is none yet, labels by
    /// their names.
    pub fn annotate(&self, blob: &BlobRef, info: BlobInfo) -> crate::Ticket<()> {
        let digest = blob.digest.to_string();
        self.0.db.update(move |tx| {
            let mut table = tx.open_table(BLOBS)?;
            let old = table.get(digest.as_str())?.map(|row| row.value().to_vec());
            let Some(old) = old else {
                return Ok(());
            };
            let mut record: BlobRecord = decode("a blob", &old)?;
            record.info.merge(info.clone());
            table.insert(digest.as_str(), encode(&record)?.as_slice())?;
            Ok(())
        })
    }
}

impl BlobInfo {
    /// Whether there is nothing in `other` that would be added.
    fn includes(&self, other: &Self) -> bool {
        let mut merged = self.clone();
        merged.merge(other.clone());
        merged == *self
    }

    fn merge(&mut self, other: Self) {
        self.media_type = self.media_type.take().or(other.media_type);
        self.diff_id = self.diff_id.take().or(other.diff_id);
        self.labels.extend(other.labels);
    }
}

impl Inner {
    fn path(&self, digest: &Digest) -> PathBuf {
        self.layout
            .join("blobs")
            .join(digest.algorithm().name())
            .join(digest.hex())
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<Digest, BlobRecord>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, digest: &Digest) -> Result<Option<BlobRecord>, DbError> {
        if let Some(record) = self.pending().get(digest) {
            return Ok(Some(record.clone()));
        }
        self.db.read(|tx| {
            tx.open_table(BLOBS)?
                .get(digest.to_string().as_str())?
                .map(|row| decode("a blob", row.value()))
                .transpose()
        })
    }
}

/// The directory of nearly all blobs, which is made with the layout.
const FIRST: &str = "blobs/sha256";

fn create_layout(layout: &Path, marker: &Path) -> io::Result<()> {
    fs::create_dir_all(layout.join(FIRST))?;
    let index = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
    fs::write(layout.join("index.json"), index)?;
    fs::write(marker, r#"{"imageLayoutVersion":"1.0.0"}"#)
}

/// A blob that is kept while this lives.
#[derive(Clone)]
pub struct BlobRef {
    digest: Digest,
    record: Arc<BlobRecord>,
    pin: Pin,
    blobs: Blobs,
}

impl BlobRef {
    /// Its digest.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        self.record.size
    }

    /// What was known of it when this reference was made.
    pub fn info(&self) -> &BlobInfo {
        &self.record.info
    }

    /// What keeps it.
    pub fn pin(&self) -> &Pin {
        &self.pin
    }

    /// Its file. Must not be changed.
    pub fn path(&self) -> PathBuf {
        self.blobs.0.path(&self.digest)
    }

    /// As [`Blobs::discard_if_damaged`].
    pub fn discard_if_damaged(&self) -> Result<bool, BlobError> {
        self.blobs.discard_if_damaged(&self.digest)
    }

    /// Opens it to be read from its start.
    pub fn open(&self) -> Result<File, BlobError> {
        File::open(self.path()).map_err(|source| BlobError::Read {
            digest: self.digest.clone(),
            source,
        })
    }

    /// Reads `len` bytes at `offset`.
    pub fn read_range(&self, offset: u64, len: usize) -> Result<Vec<u8>, BlobError> {
        let available = self.size().saturating_sub(offset);
        if (len as u64) > available {
            return Err(BlobError::OutOfRange {
                digest: self.digest.clone(),
                offset,
                len: len as u64,
                size: self.size(),
            });
        }
        let mut content = vec![0; len];
        self.open()?
            .read_exact_at(&mut content, offset)
            .map_err(|source| BlobError::Read {
                digest: self.digest.clone(),
                source,
            })?;
        Ok(content)
    }

    /// Reads all of it, if it is not longer than `limit` bytes.
    pub fn read_all(&self, limit: u64) -> Result<Vec<u8>, BlobError> {
        if self.size() > limit {
            return Err(BlobError::TooLarge {
                digest: self.digest.clone(),
                size: self.size(),
                limit,
            });
        }
        self.read_range(0, self.size() as usize)
    }
}

impl std::fmt::Debug for BlobRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlobRef({}, {} bytes)", self.digest, self.size())
    }
}
