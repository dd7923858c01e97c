//! The layers of an image as a tree: fetched in parallel, unpacked one on another.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::io::AsyncRead;
use tokio_util::task::AbortOnDropHandle;
use weld_digest::{Digest, FieldHasher};
use weld_llb::reference::Repository;
use weld_source::image::Descriptor;
use weld_source::oci_layout::LayoutError;
use weld_source::progress::Progress;
use weld_source::registry::RegistryError;
use weld_source::sink::{BlobSink, TeeReader, Verdict, fill, tee};
use weld_store::snapshot::{LABEL_SOURCE, LayerDescriptor, SnapshotError, SnapshotRef};
use weld_store::{
    BlobError, BlobInfo, BlobRef, Blobs, DbError, Expected, Ingest, NewUsage, Object, RecordType,
    Started, names,
};

use super::image::Place;
use super::layout::{self, Layout};
use super::pieces::{self, Patient};
use crate::supply::Supply;
use crate::{Tree, Worker};

/// One layer.
#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) descriptor: Descriptor,
    pub(crate) diff_id: Digest,
}

/// Where layers come from.
#[derive(Clone)]
pub(crate) struct Origin {
    pub(crate) place: Place,
    /// The repository, if it is in a registry.
    pub(crate) repository: Option<Repository>,
    /// What is told of whatever comes, if it is a cache's.
    pub(crate) supply: Option<Arc<Supply>>,
}

/// Why layers do not become a tree.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayersError {
    #[error(transparent)]
    Registry(Box<RegistryError>),
    #[error(transparent)]
    Layout(Box<LayoutError>),
    #[error("layer {digest}: {source}")]
    Store {
        digest: Digest,
        source: Box<BlobError>,
    },
    #[error("layer {digest}: {source}")]
    Unpack {
        digest: Digest,
        source: Box<SnapshotError>,
    },
    #[error("layer {digest}: cannot read it: {source}")]
    Read { digest: Digest, source: io::Error },
    #[error("it is in a registry, and nobody says in which repository")]
    NoRepository,
    #[error("cannot look a layer up: {0}")]
    Database(#[from] DbError),
    #[error("unpacking was stopped: {0}")]
    Stopped(#[from] tokio::task::JoinError),
}

impl From<RegistryError> for LayersError {
    fn from(error: RegistryError) -> Self {
        Self::Registry(Box::new(error))
    }
}

impl From<LayoutError> for LayersError {
    fn from(error: LayoutError) -> Self {
        Self::Layout(Box::new(error))
    }
}

/// The tree that layers make. What the store has of it is taken from there.
pub(super) async fn tree(
    worker: &Arc<Worker>,
    origin: Origin,
    layers: Vec<Layer>,
    description: &str,
    progress: Progress,
) -> Result<Tree, LayersError> {
    let chain = chain_names(layers.iter().map(|layer| &layer.diff_id));
    let (mut parent, present) = known(worker, &chain).await?;
    let mut fetches = Vec::new();
    for (number, layer) in layers.iter().enumerate().skip(present) {
        // The first missing layer has what it is unpacked on, so it is unpacked while it comes.
        let at_once = (number == present).then(|| parent.clone());
        let (worker, origin, layer) = (Arc::clone(worker), origin.clone(), layer.clone());
        let (description, progress) = (description.to_owned(), progress.clone());
        // Tasks of their own, so that they go on while this one unpacks.
        fetches.push(AbortOnDropHandle::new(tokio::spawn(async move {
            let began = Instant::now();
            let fetched = fetch(&worker, &origin, &layer, &description, at_once, &progress).await;
            fetched.map(|fetched| (fetched, began.elapsed()))
        })));
    }
    for (number, fetch) in (present..).zip(fetches) {
        let layer = &layers[number];
        let (fetched, mut took) = fetch.await??;
        let snapshot = match fetched {
            Fetched::Unpacked(snapshot) => snapshot,
            Fetched::Blob(blob) => {
                let transfer = progress.start(
                    format!("extracting {}", layer.descriptor.digest),
                    format!("extracting {}", layer.descriptor.digest),
                    None,
                );
                // Held until the snapshot names it: it would be garbage in between.
                let held = blob.clone();
                let began = Instant::now();
                let unpacked = unpack(worker, parent.clone(), layer, description, blob).await;
                let snapshot = match unpacked {
                    // It was here before and was damaged.
                    Err(_) if is_dropped(&held).await => {
                        let below = Some(parent.clone());
                        let again =
                            self::fetch(worker, &origin, layer, description, below, &progress);
                        match again.await? {
                            Fetched::Unpacked(snapshot) => snapshot,
                            Fetched::Blob(blob) => {
                                unpack(worker, parent.clone(), layer, description, blob).await?
                            }
                        }
                    }
                    unpacked => unpacked?,
                };
                drop(held);
                took += began.elapsed();
                transfer.complete();
                snapshot
            }
        };
        let (name, object) = (chain[number].clone(), Object::Snapshot(snapshot.id()));
        worker.store.uses().took(&object, took);
        // Nobody waits for it: without the name, the layer is unpacked again some day.
        drop(
            worker
                .store
                .db()
                .update(move |tx| names::set(tx, &name, &object)),
        );
        parent = Some(snapshot);
    }
    Ok(parent.map_or_else(Tree::scratch, Tree::of))
}

/// Drops a blob that could not be used, if it is not what its digest says; whether that was so.
pub(crate) async fn is_dropped(blob: &BlobRef) -> bool {
    let blob = blob.clone();
    let dropped = tokio::task::spawn_blocking(move || blob.discard_if_damaged());
    matches!(dropped.await, Ok(Ok(true)))
}

/// The names under which snapshots of layer stacks are found again, lowest first.
pub(crate) fn chain_names<'a>(diff_ids: impl Iterator<Item = &'a Digest>) -> Vec<String> {
    let mut below = None;
    diff_ids
        .map(|diff_id| {
            let hasher = FieldHasher::new("weld.chain.v1").digest(diff_id);
            let chain = match &below {
                Some(below) => hasher.digest(below),
                None => hasher,
            }
            .finish();
            let name = format!("chain:{}", chain.hex());
            below = Some(chain);
            name
        })
        .collect()
}

/// The highest stack that the store has, and how many layers that is.
async fn known(
    worker: &Arc<Worker>,
    chain: &[String],
) -> Result<(Option<SnapshotRef>, usize), LayersError> {
    let (worker, chain) = (Arc::clone(worker), chain.to_vec());
    tokio::task::spawn_blocking(move || {
        for (number, name) in chain.iter().enumerate().rev() {
            if let Some(snapshot) = named(&worker, name)? {
                return Ok((Some(snapshot), number + 1));
            }
        }
        Ok((None, 0))
    })
    .await?
}

/// The snapshot of a stack that has this name.
pub(crate) fn named(worker: &Worker, name: &str) -> Result<Option<SnapshotRef>, DbError> {
    let object = worker.store.db().read(|tx| names::get(tx, name))?;
    let Some(Object::Snapshot(id)) = object else {
        return Ok(None);
    };
    // One that was removed meanwhile is not there.
    let snapshot = worker.snapshots.get(id).ok().flatten();
    if snapshot.is_some() {
        worker.store.uses().add(&Object::Snapshot(id));
    }
    Ok(snapshot)
}

/// Has an unpacked stack found again by the layers that it is made of.
pub(crate) fn name_stack(worker: &Worker, top: &SnapshotRef) {
    let layers = top.layer_snapshots();
    let mut diff_ids = Vec::with_capacity(layers.len());
    for layer in &layers {
        match layer.diff_id() {
            Ok(Some(diff_id)) => diff_ids.push(diff_id),
            // One that no image has: nobody would look for it.
            _ => return,
        }
    }
    let Some(name) = chain_names(diff_ids.iter()).pop() else {
        return;
    };
    let object = Object::Snapshot(top.id());
    // Nobody waits for it: without the name, the layer is unpacked again some day.
    drop(
        worker
            .store
            .db()
            .update(move |tx| names::set(tx, &name, &object)),
    );
}

pub(crate) enum Fetched {
    Blob(BlobRef),
    Unpacked(SnapshotRef),
}

pub(crate) async fn fetch(
    worker: &Arc<Worker>,
    origin: &Origin,
    layer: &Layer,
    description: &str,
    parent: Option<Option<SnapshotRef>>,
    progress: &Progress,
) -> Result<Fetched, LayersError> {
    let digest = &layer.descriptor.digest;
    let store_error = |source| LayersError::Store {
        digest: digest.clone(),
        source: Box::new(source),
    };
    let expected = Expected {
        digest: Some(digest.clone()),
        size: Some(layer.descriptor.size),
    };
    let blobs = worker.store.blobs();
    let started = blobs
        .ingest_async(Some(&digest.to_string()), expected)
        .await
        .map_err(store_error)?;
    let ingest = match started {
        Started::Present(blob) => return Ok(Fetched::Blob(blob)),
        Started::Ingest(ingest) => ingest,
    };
    let info = BlobInfo {
        media_type: Some(layer.descriptor.media_type.clone()),
        labels: origin
            .repository
            .iter()
            .map(|repository| (LABEL_SOURCE.to_owned(), repository.to_string()))
            .collect(),
        diff_id: Some(layer.diff_id.clone()),
    };
    let sink = StoreSink::new(blobs.clone(), ingest, info, origin.supply.clone());
    let (registry, repository) = match &origin.place {
        Place::Registry(registry) => {
            let repository = origin.repository.as_ref();
            (registry, repository.ok_or(LayersError::NoRepository)?)
        }
        Place::Layout(Layout::Blobs(blobs)) => {
            let read_error = |source| LayersError::Read {
                digest: digest.clone(),
                source,
            };
            let content = match &origin.supply {
                None => layout::open(&**blobs, digest).await?,
                Some(supply) => {
                    let patience = supply.patience();
                    let opening = layout::open(&**blobs, digest);
                    let opened = tokio::time::timeout(patience, opening).await;
                    let silent = |_| read_error(pieces::silence(patience));
                    Box::new(Patient::new(opened.map_err(silent)??, patience))
                }
            };
            let received = receive(content, sink, digest, progress).await;
            let (sink, wanted) = (received.map_err(read_error)?, digest.clone());
            let finished = tokio::task::spawn_blocking(move || finish(sink, &wanted));
            return finished.await?.map(Fetched::Blob).map_err(read_error);
        }
        Place::Layout(Layout::Directory(layout)) => {
            let (layout, descriptor) = (Arc::clone(layout), layer.descriptor.clone());
            let copied = tokio::task::spawn_blocking(move || {
                let mut file = layout.file(&descriptor)?;
                copy(&mut file, sink, &descriptor.digest).map_err(|source| LayersError::Read {
                    digest: descriptor.digest.clone(),
                    source,
                })
            });
            return copied.await?.map(Fetched::Blob);
        }
    };
    match parent {
        Some(parent) if sink.position() == 0 => {
            let (sink, reader) = tee(sink);
            let unpacking = unpack(worker, parent, layer, description, reader);
            let fetching = registry.fetch_blob(repository, &layer.descriptor, sink, progress);
            let (fetched, unpacked) = tokio::join!(fetching, unpacking);
            let blob = fetched?.into_inner().into_blob();
            match (unpacked, blob) {
                (Ok(snapshot), _) => Ok(Fetched::Unpacked(snapshot)),
                // What was read on the way may have been cut short and begun again.
                (Err(_), Some(blob)) => Ok(Fetched::Blob(blob)),
                (Err(error), None) => Err(error),
            }
        }
        _ => {
            let sink = registry
                .fetch_blob(repository, &layer.descriptor, sink, progress)
                .await?;
            let blob = sink.into_blob().ok_or_else(|| LayersError::Read {
                digest: digest.clone(),
                source: io::ErrorKind::UnexpectedEof.into(),
            })?;
            Ok(Fetched::Blob(blob))
        }
    }
}

/// A source of a layer's bytes that can be opened where they are read.
trait OpenLayer: Send + 'static {
    type Reader: Read + Send;

    fn open(self) -> Result<Self::Reader, BlobError>;
}

impl OpenLayer for BlobRef {
    type Reader = std::fs::File;

    fn open(self) -> Result<Self::Reader, BlobError> {
        BlobRef::open(&self)
    }
}

impl OpenLayer for TeeReader {
    type Reader = Self;

    fn open(self) -> Result<Self, BlobError> {
        Ok(self)
    }
}

async fn unpack(
    worker: &Arc<Worker>,
    parent: Option<SnapshotRef>,
    layer: &Layer,
    description: &str,
    content: impl OpenLayer,
) -> Result<SnapshotRef, LayersError> {
    let digest = layer.descriptor.digest.clone();
    let descriptor = LayerDescriptor {
        diff_id: layer.diff_id.clone(),
        media_type: weld_source::image::media_type::oci_layer_type(&layer.descriptor.media_type)
            .to_owned(),
        digest: digest.clone(),
        size: layer.descriptor.size,
        annotations: layer.descriptor.annotations.clone(),
    };
    let usage = NewUsage {
        record_type: RecordType::Regular,
        description: format!("pulled from {description}"),
        mutable: false,
        size: None,
    };
    let worker = Arc::clone(worker);
    tokio::task::spawn_blocking(move || {
        let reader = content.open().map_err(|source| LayersError::Store {
            digest: digest.clone(),
            source: Box::new(source),
        })?;
        worker
            .snapshots
            .apply(parent.as_ref(), reader, &descriptor, usage)
            .map_err(|source| LayersError::Unpack {
                digest,
                source: Box::new(source),
            })
    })
    .await?
}

/// Writes a blob into the store.
struct StoreSink {
    blobs: Blobs,
    ingest: Option<Box<Ingest>>,
    info: BlobInfo,
    blob: Option<BlobRef>,
    supply: Option<Arc<Supply>>,
}

impl StoreSink {
    fn new(blobs: Blobs, ingest: Box<Ingest>, info: BlobInfo, supply: Option<Arc<Supply>>) -> Self {
        Self {
            blobs,
            ingest: Some(ingest),
            info,
            blob: None,
            supply,
        }
    }

    fn into_blob(self) -> Option<BlobRef> {
        self.blob
    }

    /// The ingest; a new one if the last one proved wrong.
    fn ingest(&mut self) -> io::Result<&mut Ingest> {
        if self.ingest.is_none() {
            match self
                .blobs
                .ingest(None, Expected::default())
                .map_err(io::Error::other)?
            {
                Started::Ingest(ingest) => self.ingest = Some(ingest),
                Started::Present(_) => {
                    return Err(io::Error::other("a blob without a digest is not known"));
                }
            }
        }
        self.ingest
            .as_deref_mut()
            .ok_or_else(|| io::Error::other("the ingest was not made"))
    }
}

impl BlobSink for StoreSink {
    fn position(&self) -> u64 {
        self.ingest.as_ref().map_or(0, |ingest| ingest.offset())
    }

    fn write(&mut self, chunk: Bytes) -> io::Result<()> {
        if let Some(supply) = &self.supply {
            supply.heard(chunk.len() as u64);
        }
        self.ingest()?.append(&chunk).map_err(io::Error::other)
    }

    fn restart(&mut self) -> io::Result<()> {
        self.ingest()?.restart().map_err(io::Error::other)
    }

    fn finish(&mut self, expected: &Digest) -> io::Result<Verdict> {
        self.ingest()?;
        let Some(ingest) = self.ingest.take() else {
            return Err(io::Error::other("there is nothing to finish"));
        };
        match ingest.commit(self.info.clone()) {
            Ok(blob) => {
                let verdict = Verdict::of(blob.digest().clone(), expected);
                self.blob = (verdict == Verdict::Right).then_some(blob);
                Ok(verdict)
            }
            Err(BlobError::WrongDigest { actual, .. }) => Ok(Verdict::Wrong { actual }),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

/// Writes what a client sends. Dropped, it ends at the next piece.
pub(super) async fn receive<S: BlobSink>(
    content: Box<dyn AsyncRead + Send + Unpin>,
    mut sink: S,
    digest: &Digest,
    progress: &Progress,
) -> io::Result<S> {
    let transfer = progress.start(digest.to_string(), "downloading", None);
    let write = move |pieces: &mut dyn Iterator<Item = Bytes>| {
        sink.restart()?;
        for piece in pieces {
            sink.write(piece)?;
        }
        Ok(sink)
    };
    pieces::relay(content, transfer, write).await?
}

fn copy(from: &mut impl Read, mut sink: StoreSink, expected: &Digest) -> io::Result<BlobRef> {
    sink.restart()?;
    fill(&mut sink, from)?;
    finish(sink, expected)
}

fn finish(mut sink: StoreSink, expected: &Digest) -> io::Result<BlobRef> {
    match sink.finish(expected)? {
        Verdict::Right => sink
            .into_blob()
            .ok_or_else(|| io::Error::other("the blob was not kept")),
        Verdict::Wrong { actual } => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it is damaged: its digest is {actual}"),
        )),
    }
}
