//! The layers of snapshots as blobs.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::SnapshotError;
use super::combine::ChangeSource;
use super::handle::SnapshotRef;
use super::record::{LAYERS, LayerDescriptor, Origin};
use super::store::lock;
use crate::Ticket;
use crate::blobs::{BlobInfo, BlobRef, Expected, Growth, Started};
use crate::db::{decode, encode};
use crate::gc::Removable;
use crate::layer::{self, Compression, DiffOptions, DiffSource};
use crate::object::Object;
use crate::refs::{self, Reference};

/// How many layers are made at once: each uses all processors already, but small ones leave
/// them idle in between.
const MAX_AT_ONCE: usize = 4;
/// The key of the blob that a snapshot was made of, of whatever compression.
pub(super) const ORIGINAL: u8 = 255;

/// Which blob of a layer is wanted.
#[derive(Clone, Copy)]
pub struct LayerOptions<'a> {
    /// How a layer is compressed that is no blob yet.
    pub compression: Compression,
    /// A blob that the snapshot was made of is compressed anew if it is compressed otherwise.
    pub force: bool,
    /// No file is newer than this, in seconds since 1970; see [`DiffOptions::max_mtime`]. Such a
    /// blob is made each time that it is asked for.
    pub max_mtime: Option<i64>,
    /// What the image is made from, whose layers keep their times.
    pub base: Option<&'a SnapshotRef>,
    /// Is told of each piece of a blob in the making, in bytes; an error from it ends the making.
    pub watch: Option<&'a (dyn Fn(u64) -> io::Result<()> + Sync)>,
    /// Is given a blob in the making, to read it meanwhile.
    pub follow: Option<&'a (dyn Fn(Growth) + Sync)>,
}

impl LayerOptions<'_> {
    /// Layers of this compression, those that are blobs as they are.
    pub const fn new(compression: Compression) -> Self {
        Self {
            compression,
            force: false,
            max_mtime: None,
            base: None,
            watch: None,
            follow: None,
        }
    }
}

/// Tells a watcher of what goes by.
struct Watched<'a, W> {
    to: W,
    watch: Option<&'a (dyn Fn(u64) -> io::Result<()> + Sync)>,
}

impl<W: Write> Write for Watched<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.to.write(bytes)?;
        if let Some(watch) = self.watch {
            watch(count as u64)?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// A layer and, if it is here, its blob.
#[derive(Clone)]
pub struct LayerBlob {
    /// What it is.
    pub descriptor: LayerDescriptor,
    /// The blob, kept while this lives; nothing if it was not fetched or was removed.
    pub blob: Option<BlobRef>,
}

impl SnapshotRef {
    /// The blobs of all layers, lowest first. A blob that a snapshot was made of is taken whatever
    /// its compression is, unless `force` asks for one of `compression`.
    pub fn layers(
        &self,
        compression: Compression,
        force: bool,
    ) -> Result<Vec<LayerBlob>, SnapshotError> {
        let options = LayerOptions {
            force,
            ..LayerOptions::new(compression)
        };
        let layers = self.layer_snapshots();
        let next = AtomicUsize::new(0);
        let done: Vec<Mutex<Option<Result<LayerBlob, SnapshotError>>>> =
            layers.iter().map(|_| Mutex::default()).collect();
        let work = || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let (Some(layer), Some(done)) = (layers.get(index), done.get(index)) else {
                    return;
                };
                *lock(done) = Some(layer.layer(&options));
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..layers.len().min(MAX_AT_ONCE) {
                // Where no thread is to be had, the others do its work.
                drop(std::thread::Builder::new().spawn_scoped(scope, work));
            }
            work();
        });
        done.into_iter()
            .filter_map(|slot| slot.into_inner().unwrap_or_else(PoisonError::into_inner))
            .collect()
    }

    /// The blob of its own layer, made if there is none yet. To be asked of those that
    /// [`SnapshotRef::layer_snapshots`] gives.
    pub fn layer(&self, options: &LayerOptions<'_>) -> Result<LayerBlob, SnapshotError> {
        let &LayerOptions {
            compression, force, ..
        } = options;
        let _turn = lock(&self.0.computing);
        if options.max_mtime.is_some() {
            self.check_unpacked()?;
            return self.make_layer(options);
        }
        if let Some(known) = self.known_layer(ORIGINAL)? {
            let kind = Compression::of_media_type(&known.descriptor.media_type);
            let fits = kind.is_some_and(|kind| kind.is_same_kind(compression));
            // Where the blob is gone and the files are here, another one is made of them.
            let is_lost = known.blob.is_none() && self.is_unpacked();
            if !is_lost && (!force || fits) {
                return Ok(known);
            }
        }
        if let Some(known) = self.known_layer(key(compression))?
            && known.blob.is_some()
        {
            return Ok(known);
        }
        self.check_unpacked()?;
        let made = self.make_layer(options)?;
        // Waited for, since whoever asks next reads what is committed.
        self.save_layer(key(compression), &made.descriptor, made.blob.as_ref())?
            .wait()?;
        Ok(made)
    }

    /// The blobs of its own layer, one for each compression that it was made in or of: the original before any other.
    pub fn known_blobs(&self) -> Result<Vec<LayerBlob>, SnapshotError> {
        let id = self.id();
        let keys: Vec<u8> = self.snapshots().store().db().read(|tx| {
            let table = tx.open_table(LAYERS)?;
            let rows = table.range((id.0, 0)..=(id.0, ORIGINAL))?;
            rows.map(|row| Ok(row?.0.value().1)).collect()
        })?;
        let known = keys.into_iter().rev().map(|key| self.known_layer(key));
        known.filter_map(Result::transpose).collect()
    }

    /// Whether a blob of its own layer is known, or it has none of its own. If not, no walk through
    /// [`SnapshotRef::layer_snapshots`] finds a blob for each.
    pub fn may_be_blobs(&self) -> Result<bool, SnapshotError> {
        Ok(match self.record().origin {
            Origin::Layer { .. } | Origin::Difference { .. } => !self.known_blobs()?.is_empty(),
            Origin::Merge { .. } | Origin::Range { .. } => true,
        })
    }

    fn make_layer(&self, options: &LayerOptions<'_>) -> Result<LayerBlob, SnapshotError> {
        let compression = options.compression;
        let blobs = self.snapshots().store().blobs();
        let mut ingest = match blobs.ingest(None, Expected::default())? {
            Started::Ingest(ingest) => ingest,
            Started::Present(blob) => {
                return Err(SnapshotError::Blob(crate::BlobError::WrongDigest {
                    name: "layer".to_owned(),
                    expected: blob.digest().clone(),
                    actual: blob.digest().clone(),
                }));
            }
        };
        if let Some(follow) = options.follow {
            follow(ingest.follow()?);
        }
        let source = self.change_source()?;
        let source = match &source {
            ChangeSource::Layer { upper, below } => DiffSource::Layer {
                upper: upper.as_fd(),
                below: below.as_ref().map(AsFd::as_fd),
                userxattr: self.userxattr(),
            },
            ChangeSource::Trees { lower, upper } => DiffSource::Trees {
                lower: lower.as_ref().map(AsFd::as_fd),
                upper: upper.as_fd(),
            },
        };
        let watched = Watched {
            to: *ingest,
            watch: options.watch,
        };
        let base = options.base.filter(|_| options.max_mtime.is_some());
        let kept = base.map(SnapshotRef::root).transpose()?;
        let diff = DiffOptions {
            max_mtime: options.max_mtime,
            kept: kept.as_ref().map(AsFd::as_fd),
        };
        let (watched, written) = layer::write(compression, watched, |to| {
            layer::write_diff(source, diff, to)
        })
        .map_err(SnapshotError::layer(self.id()))?;
        let media_type = compression.media_type(true).to_owned();
        let blob = watched.to.commit(BlobInfo {
            media_type: Some(media_type.clone()),
            diff_id: Some(written.diff_id.clone()),
            ..BlobInfo::default()
        })?;
        Ok(LayerBlob {
            descriptor: LayerDescriptor {
                diff_id: written.diff_id,
                media_type,
                digest: blob.digest().clone(),
                size: blob.size(),
                annotations: BTreeMap::new(),
            },
            blob: Some(blob),
        })
    }

    /// The blob of its own layer as [`layer`](Self::layer) would give it, if that need not be made:
    /// it is here, or it is known where it is to be had. To be asked of those that
    /// [`SnapshotRef::layer_snapshots`] gives.
    pub fn known_blob(
        &self,
        compression: Compression,
        force: bool,
    ) -> Result<Option<LayerBlob>, SnapshotError> {
        if let Some(known) = self.known_layer(ORIGINAL)? {
            let kind = Compression::of_media_type(&known.descriptor.media_type);
            if !force || kind.is_some_and(|kind| kind.is_same_kind(compression)) {
                return Ok(Some(known));
            }
        }
        let known = self.known_layer(key(compression))?;
        Ok(known.filter(|known| known.blob.is_some()))
    }

    /// The digest of its own layer's content, if it was made of a blob.
    pub fn diff_id(&self) -> Result<Option<weld_digest::Digest>, SnapshotError> {
        let known = self.known_layer(ORIGINAL)?;
        Ok(known.map(|known| known.descriptor.diff_id))
    }

    /// The blob that it was made of, if its files are here and the blob is not; with what the store still knows of the blob if it lost it,
    /// and did not remove it.
    pub fn lost_blob(&self) -> Result<Option<(LayerDescriptor, Option<BlobInfo>)>, SnapshotError> {
        let Some(known) = self.known_layer(ORIGINAL)? else {
            return Ok(None);
        };
        if known.blob.is_some() || !self.is_unpacked() {
            return Ok(None);
        }
        let digest = &known.descriptor.digest;
        let info = self.snapshots().store().blobs().info(digest)?;
        Ok(Some((known.descriptor, info)))
    }

    /// No longer names the blob that it was made of: that is lost, and not to be had again.
    pub fn give_up_blob(&self) -> Result<(), SnapshotError> {
        let Some(known) = self.known_layer(ORIGINAL)? else {
            return Ok(());
        };
        let store = self.snapshots().store();
        let holder = Reference::Snapshot(self.id());
        let blob = Object::Blob(known.descriptor.digest);
        let object = blob.clone();
        store
            .db()
            .update(move |tx| refs::remove(tx, &holder, &object))
            .wait()?;
        if let Err(error) = store.collector().remove([blob], Removable::Unnamed) {
            tracing::warn!(%error, "cannot forget a blob that is lost");
        }
        Ok(())
    }

    /// Keeps the blob that it was made of, which came after the snapshot was declared, as long as the
    /// snapshot.
    pub fn keep_blob(&self, blob: &BlobRef) -> Result<(), SnapshotError> {
        let Some(known) = self.known_layer(ORIGINAL)? else {
            return Ok(());
        };
        if known.descriptor.digest != *blob.digest() {
            return Ok(());
        }
        self.save_layer(ORIGINAL, &known.descriptor, Some(blob))?
            .wait()?;
        Ok(())
    }

    /// Keeps in mind the blob that it was made of.
    pub(super) fn remember_layer(
        &self,
        descriptor: &LayerDescriptor,
    ) -> Result<Ticket<()>, SnapshotError> {
        let blob = self.snapshots().store().blobs().get(&descriptor.digest)?;
        self.save_layer(ORIGINAL, descriptor, blob.as_ref())
    }

    fn known_layer(&self, key: u8) -> Result<Option<LayerBlob>, SnapshotError> {
        let store = self.snapshots().store();
        let descriptor: Option<LayerDescriptor> = store.db().read(|tx| {
            tx.open_table(LAYERS)?
                .get((self.id().0, key))?
                .map(|row| decode("a layer", row.value()))
                .transpose()
        })?;
        let Some(descriptor) = descriptor else {
            return Ok(None);
        };
        let blob = store.blobs().get(&descriptor.digest)?;
        Ok(Some(LayerBlob { descriptor, blob }))
    }

    fn save_layer(
        &self,
        key: u8,
        descriptor: &LayerDescriptor,
        blob: Option<&BlobRef>,
    ) -> Result<Ticket<()>, SnapshotError> {
        let row = encode(descriptor)?;
        let id = self.id();
        let object = blob.map(|blob| Object::Blob(blob.digest().clone()));
        Ok(self.snapshots().store().db().update(move |tx| {
            tx.open_table(LAYERS)?.insert((id.0, key), row.as_slice())?;
            match &object {
                Some(object) => refs::add(tx, &Reference::Snapshot(id), object),
                None => Ok(()),
            }
        }))
    }
}

/// The key of a kind of compression; levels count.
fn key(compression: Compression) -> u8 {
    match compression {
        Compression::Uncompressed => 0,
        Compression::Gzip(level) => 16 + level.unwrap_or(0),
        Compression::Zstd(level) => 32 + level.unwrap_or(0),
    }
}
