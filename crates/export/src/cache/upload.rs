//! From chains and layers to a cache that is complete, or not there.
//!
//! Every layer is made sure of at the destination, in parallel, before anything names it. What turns out not to be had is left out with
//! the results that are made of it. The config comes next, and the manifest last of all.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, TryStreamExt};
use weld_digest::Digest;
use weld_solver::chain::CacheChains;
use weld_source::blob_store::BlobStore;
use weld_source::image::Descriptor;
use weld_source::objects::{ObjectError, Objects};
use weld_source::progress::Progress;
use weld_source::reference::{Reference, Repository};
use weld_source::registry::{BlobUpload, Failure, Registry, RegistryError};
use weld_store::snapshot::LayerDescriptor;
use weld_store::{BlobInfo, BlobRef, Store};

use super::{CacheManifest, ManifestOptions, ObjectCache, Remote, write_manifest, write_noted};
use crate::blocking::blocking;

/// How many layers are on their way at a time; a registry client has a limit of its own beneath it.
pub(super) const AT_ONCE: usize = 16;

/// Why a cache was not written.
#[derive(Debug, thiserror::Error)]
pub enum CacheWriteError {
    /// The registry does not take it.
    #[error("error writing {what}: {source}")]
    Registry {
        /// What was written.
        what: String,
        /// Why.
        source: Box<RegistryError>,
    },
    /// The client's store does not take it.
    #[error("error writing {what} to {store}: {source}")]
    Store {
        /// What was written.
        what: String,
        /// The store.
        store: String,
        /// Why.
        source: io::Error,
    },
    /// The object store does not take it.
    #[error("error writing {what} to {store}: {source}")]
    Objects {
        /// What was written.
        what: String,
        /// The store.
        store: String,
        /// Why.
        source: ObjectError,
    },
    /// What is there cannot be merged with.
    #[error("cannot merge into {place}: {reason}")]
    Merge {
        /// Where.
        place: String,
        /// Why not.
        reason: String,
    },
    /// A blob was not what its digest says. It is dropped now.
    #[error("blob {digest} was damaged in the store, and is dropped: it is fetched or made anew")]
    Damaged {
        /// The blob.
        digest: Digest,
    },
    /// JSON cannot be made of it.
    #[error("cannot encode the cache: {0}")]
    Encode(#[from] serde_json::Error),
    /// It cannot be kept here.
    #[error("cannot keep the cache's {what}: {source}")]
    Keep {
        /// What.
        what: &'static str,
        /// Why.
        source: Box<weld_store::BlobError>,
    },
}

/// A layer of a cache.
#[derive(Clone, Debug)]
pub struct CacheLayer {
    /// What the manifest says of it.
    pub descriptor: Arc<Descriptor>,
    /// Its blob, if that is here.
    pub blob: Option<BlobRef>,
    /// What the store knows of it where its blob is elsewhere.
    pub lazy: Option<Arc<LayerDescriptor>>,
    /// Repositories that may have it.
    pub repositories: Vec<Repository>,
}

/// Brings the blobs of layers that are elsewhere.
#[async_trait]
pub trait LayerFetch: Send + Sync {
    /// The blob of a layer; `None` if it is not to be had, which whoever is concerned was told.
    async fn fetch(&self, layer: &LayerDescriptor, progress: &Progress) -> Option<BlobRef>;
}

/// Where a cache is written.
pub enum CacheSink {
    /// Under a name in a registry.
    Registry(Registry, Reference),
    /// Into a client's store.
    Store(Arc<dyn BlobStore>),
    /// Into an object store, under these names.
    Objects {
        /// The store.
        objects: Arc<Objects>,
        /// The names.
        names: Vec<String>,
        /// How many layers are on their way at a time.
        parallel: usize,
    },
}

/// A cache that was written.
#[derive(Clone, Debug)]
pub enum WrittenCache {
    /// It has a manifest.
    Manifest(Box<CacheManifest>),
    /// It has names alone.
    Named,
}

/// Writes a cache whose layers were made sure of; `None` if no result is left that could be written.
///
/// # Errors
/// [`CacheWriteError`]; then no manifest names what was written.
pub async fn write_cache(
    store: &Store,
    sink: &CacheSink,
    there: &Destination,
    chains: CacheChains<Remote>,
    options: ManifestOptions,
    progress: &Progress,
) -> Result<Option<WrittenCache>, CacheWriteError> {
    let complete = there.complete(chains);
    if let CacheSink::Objects { objects, names, .. } = sink {
        let Some(config) = write_noted(&complete)? else {
            return Ok(None);
        };
        publish_named(objects, names, config.into(), progress).await?;
        return Ok(Some(WrittenCache::Named));
    }
    let Some(manifest) = write_manifest(&complete, options)? else {
        return Ok(None);
    };
    sink.config(store, &manifest, progress).await?;
    if !sink.names(&manifest).await {
        sink.publish(store, &manifest, options, progress).await?;
    }
    Ok(Some(WrittenCache::Manifest(Box::new(manifest))))
}

/// Which layers the destination of a cache has, as far as it was asked.
#[derive(Debug, Default)]
pub struct Destination(HashMap<Digest, bool>);

impl Destination {
    /// Sees to it that the layers of a cache's results are there, as far as they can be had. Each is asked for once, and again where its
    /// blob came since.
    ///
    /// # Errors
    /// [`CacheWriteError`].
    pub async fn take(
        &mut self,
        sink: &CacheSink,
        chains: &CacheChains<Remote>,
        layers: &HashMap<Digest, CacheLayer>,
        fetch: &dyn LayerFetch,
        progress: &Progress,
    ) -> Result<(), CacheWriteError> {
        let used: HashSet<&Digest> = chains
            .items
            .iter()
            .flat_map(|item| &item.results)
            .flat_map(|result| &result.value.layers)
            .map(|layer| &layer.digest)
            .collect();
        let mut uploads: Vec<BoxFuture<'_, Result<(Digest, bool), CacheWriteError>>> = Vec::new();
        for (digest, layer) in layers {
            let is_settled = match self.0.get(digest) {
                Some(there) => *there || layer.blob.is_none(),
                None => false,
            };
            if used.contains(digest) && !is_settled {
                let upload = async move {
                    let there = sink.layer(layer, fetch, progress).await?;
                    Ok((digest.clone(), there))
                };
                uploads.push(upload.boxed());
            }
        }
        let asked: Vec<(Digest, bool)> = futures_util::stream::iter(uploads)
            .buffer_unordered(sink.at_once())
            .try_collect()
            .await?;
        self.0.extend(asked);
        Ok(())
    }

    /// What of a cache can be published: without results of which a layer is not there.
    pub(super) fn complete(&self, chains: CacheChains<Remote>) -> CacheChains<Remote> {
        let known = |digest: &Digest| self.0.get(digest).copied().unwrap_or(false);
        chains
            .with_results(|mut results| {
                results.retain(|result| {
                    let mut layers = result.value.layers.iter();
                    layers.all(|layer| known(&layer.digest))
                });
                results
            })
            .useful()
    }
}

impl CacheSink {
    /// Into an object store, whose container is made if it is not there.
    ///
    /// # Errors
    /// [`CacheWriteError`].
    pub async fn objects(cache: &ObjectCache) -> Result<Self, CacheWriteError> {
        let failed = |source| CacheWriteError::Objects {
            what: "cache".to_owned(),
            store: cache.location.to_string(),
            source,
        };
        let objects = Objects::open(cache.location.clone(), &cache.credentials, &cache.options);
        let objects = objects.map_err(failed)?;
        objects.prepare().await.map_err(failed)?;
        Ok(Self::Objects {
            objects: Arc::new(objects),
            names: cache.names.clone(),
            parallel: cache.parallel,
        })
    }

    const fn at_once(&self) -> usize {
        match self {
            Self::Registry(..) | Self::Store(_) => AT_ONCE,
            Self::Objects { parallel, .. } => *parallel,
        }
    }

    /// Sees to it that a layer is there; false if it is not to be had.
    pub(super) async fn layer(
        &self,
        layer: &CacheLayer,
        fetch: &dyn LayerFetch,
        progress: &Progress,
    ) -> Result<bool, CacheWriteError> {
        let sent = self.send(layer, fetch, progress).await;
        let (Err(error), Some(blob)) = (&sent, &layer.blob) else {
            return sent;
        };
        let is_doubted = match error {
            CacheWriteError::Registry { source, .. } => {
                matches!(source.failure(), Some(Failure::Status { status, .. }) if status.as_u16() == 400)
            }
            CacheWriteError::Store { .. } => true,
            _ => false,
        };
        if is_doubted {
            drop_damaged(blob).await?;
        }
        sent
    }

    async fn send(
        &self,
        layer: &CacheLayer,
        fetch: &dyn LayerFetch,
        progress: &Progress,
    ) -> Result<bool, CacheWriteError> {
        match self {
            Self::Registry(registry, reference) => {
                let repository = reference.repository();
                let failed = registry_error(&layer.descriptor);
                let blob = match &layer.blob {
                    Some(blob) => blob.clone(),
                    None => {
                        let (descriptor, others) = (&layer.descriptor, &layer.repositories);
                        let linked = registry.link_blob(repository, descriptor, others).await;
                        if linked.map_err(&failed)? {
                            return Ok(true);
                        }
                        match fetched(layer, fetch, progress).await {
                            Some(blob) => blob,
                            None => return Ok(false),
                        }
                    }
                };
                let upload = BlobUpload {
                    descriptor: Descriptor::clone(&layer.descriptor),
                    content: Arc::new(blob.path()),
                    mount_from: layer.repositories.clone(),
                };
                let pushed = registry.push_blob(repository, &upload, progress).await;
                pushed.map_err(&failed)?;
                Ok(true)
            }
            Self::Store(store) => store_layer(&**store, layer, false, fetch, progress).await,
            Self::Objects { objects, .. } => {
                store_layer(&**objects, layer, true, fetch, progress).await
            }
        }
    }

    /// Writes the config of a cache that has a manifest.
    pub(super) async fn config(
        &self,
        store: &Store,
        manifest: &CacheManifest,
        progress: &Progress,
    ) -> Result<(), CacheWriteError> {
        let name = format!("writing config {}", manifest.config_descriptor.digest);
        let config = Bytes::from(manifest.config.clone());
        let descriptor = &manifest.config_descriptor;
        self.document(store, "config", &name, config, descriptor, progress)
            .await
    }

    /// Writes a document as a blob.
    async fn document(
        &self,
        local: &Store,
        what: &'static str,
        name: &str,
        content: Bytes,
        descriptor: &Descriptor,
        progress: &Progress,
    ) -> Result<(), CacheWriteError> {
        let transfer = progress.start(name, name, None);
        match self {
            Self::Registry(registry, reference) => {
                let upload = BlobUpload {
                    descriptor: descriptor.clone(),
                    content: Arc::new(content),
                    mount_from: Vec::new(),
                };
                registry
                    .push_blob(reference.repository(), &upload, &Progress::none())
                    .await
                    .map_err(registry_error(descriptor))?;
            }
            Self::Store(store) => {
                let (blobs, media_type) = (local.blobs().clone(), descriptor.media_type.clone());
                let info = BlobInfo {
                    media_type: Some(media_type),
                    ..BlobInfo::default()
                };
                let kept = blocking(move || blobs.put(&content, info)).await;
                let kept = kept.map_err(|source| CacheWriteError::Keep {
                    what,
                    source: Box::new(source),
                })?;
                store
                    .put(&descriptor.digest, descriptor.size, &kept.path())
                    .await
                    .map_err(|source| CacheWriteError::Store {
                        what: what.to_owned(),
                        store: store.name().to_owned(),
                        source,
                    })?;
            }
            // What it has beside layers has a name.
            Self::Objects { .. } => {}
        }
        transfer.complete();
        Ok(())
    }

    /// Whether the cache is known already. Where that cannot be told, it is written again.
    async fn names(&self, manifest: &CacheManifest) -> bool {
        match self {
            Self::Registry(registry, reference) => {
                let there = registry.resolve_pushed(reference).await;
                there.is_ok_and(|there| there.descriptor.digest == manifest.descriptor.digest)
            }
            Self::Store(_) | Self::Objects { .. } => false,
        }
    }

    /// Makes the cache known: all that the manifest names is there.
    pub(super) async fn publish(
        &self,
        local: &Store,
        manifest: &CacheManifest,
        options: ManifestOptions,
        progress: &Progress,
    ) -> Result<(), CacheWriteError> {
        let kind = match options.image_manifest {
            true => "cache image manifest",
            false => "cache manifest",
        };
        let descriptor = &manifest.descriptor;
        let name = format!("writing {kind} {}", descriptor.digest);
        let content = Bytes::from(manifest.manifest.clone());
        match self {
            Self::Store(_) | Self::Objects { .. } => {
                self.document(local, "manifest", &name, content, descriptor, progress)
                    .await
            }
            Self::Registry(registry, reference) => {
                let transfer = progress.start(name.clone(), name, None);
                registry
                    .push_document(reference, &content)
                    .await
                    .map_err(|source| CacheWriteError::Registry {
                        what: "manifest".to_owned(),
                        source: Box::new(source),
                    })?;
                transfer.complete();
                Ok(())
            }
        }
    }
}

/// Sees to it that a store has a layer; false if the layer is not to be had.
/// `takes_anything`: the store does not look at the digest of what it is given.
async fn store_layer(
    store: &dyn BlobStore,
    layer: &CacheLayer,
    takes_anything: bool,
    fetch: &dyn LayerFetch,
    progress: &Progress,
) -> Result<bool, CacheWriteError> {
    let digest = &layer.descriptor.digest;
    let failed = |source| CacheWriteError::Store {
        what: format!("layer {digest}"),
        store: store.name().to_owned(),
        source,
    };
    let there = store.has(digest, layer.descriptor.size).await;
    if there.map_err(failed)? {
        return Ok(true);
    }
    let blob = match &layer.blob {
        Some(blob) => blob.clone(),
        None => match fetched(layer, fetch, progress).await {
            Some(blob) => blob,
            None => return Ok(false),
        },
    };
    if takes_anything {
        drop_damaged(&blob).await?;
    }
    let name = format!("writing layer {digest}");
    let transfer = progress.start(name.clone(), name, Some(blob.size()));
    match store.put(digest, blob.size(), &blob.path()).await {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            let text = format!("WARNING: {error}: what needs it is left out of the cache");
            progress.start(text.clone(), text, None).complete();
            return Ok(false);
        }
        Err(error) => return Err(failed(error)),
    }
    transfer.complete();
    Ok(true)
}

/// Makes a cache known under its names: all that its config names is there.
async fn publish_named(
    objects: &Objects,
    names: &[String],
    config: Bytes,
    progress: &Progress,
) -> Result<(), CacheWriteError> {
    for name in names {
        let text = format!("writing cache manifest {name}");
        let transfer = progress.start(text.clone(), text, Some(config.len() as u64));
        let written = objects.write_document(name, config.clone()).await;
        written.map_err(|source| CacheWriteError::Objects {
            what: format!("cache manifest {name}"),
            store: objects.location().to_string(),
            source,
        })?;
        transfer.complete();
    }
    Ok(())
}

async fn fetched(
    layer: &CacheLayer,
    fetch: &dyn LayerFetch,
    progress: &Progress,
) -> Option<BlobRef> {
    fetch.fetch(layer.lazy.as_deref()?, progress).await
}

/// Drops a blob that is not what its digest says, which is an error then.
async fn drop_damaged(blob: &BlobRef) -> Result<(), CacheWriteError> {
    let (looked_at, digest) = (blob.clone(), blob.digest().clone());
    let dropped = blocking(move || looked_at.discard_if_damaged()).await;
    match dropped {
        Ok(true) => Err(CacheWriteError::Damaged { digest }),
        // Where it cannot be read, who sends it says so.
        Ok(false) | Err(_) => Ok(()),
    }
}

fn registry_error(descriptor: &Descriptor) -> impl Fn(RegistryError) -> CacheWriteError {
    let what = format!("layer blob {}", descriptor.digest);
    move |source| CacheWriteError::Registry {
        what: what.clone(),
        source: Box::new(source),
    }
}
