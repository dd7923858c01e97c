//! Reading a cache: its manifest and config, or an image's.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use serde::Deserialize;
use tokio::io::AsyncReadExt;
use weld_digest::{Digest, Hasher};
use weld_export::cache::{
    ANNOTATION_CREATED, ANNOTATION_DESCRIPTION, ANNOTATION_UNCOMPRESSED, CacheOrigin,
    CacheReadError, Remote, TIMEOUTS, cache_parts, read_config, read_inline, read_noted,
};
use weld_llb::reference::{ParseReferenceError, Reference, Repository};
use weld_op::Worker;
use weld_op::lazy::Home;
use weld_op::session::{Session, SessionError};
use weld_solver::chain::CacheChains;
use weld_source::blob_store::BlobStore;
use weld_source::image::{
    Descriptor, Document, DocumentError, MAX_CONFIG, MAX_MANIFEST, Manifest, media_type,
};
use weld_source::objects::{ObjectError, Objects};
use weld_source::registry::{Registry, RegistryError};

/// The largest cache config that is fetched, in bytes.
const MAX_CACHE_CONFIG: u64 = 256 << 20;
/// How many images of an index are looked into.
const MAX_IMAGES: usize = 64;

/// Why a cache could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Option(#[from] weld_export::cache::CacheOptionError),
    #[error(transparent)]
    Reference(#[from] ParseReferenceError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("the client offers no content store {0:?}")]
    NoStore(String),
    #[error(transparent)]
    Objects(#[from] ObjectError),
    #[error("there is no cache of the name {names} at {place}")]
    NoName { names: String, place: String },
    #[error("blob {digest} of {store}: {source}")]
    Blob {
        digest: Digest,
        store: String,
        source: io::Error,
    },
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error(transparent)]
    Cache(#[from] CacheReadError),
    #[error(transparent)]
    MountsRead(#[from] weld_export::cache::MountsReadError),
    #[error("{0}")]
    Mounts(String),
    #[error(transparent)]
    Chains(#[from] weld_solver::chain::ImportError),
    #[error("image config {digest}: {reason}")]
    Config { digest: Digest, reason: String },
    #[error("a task ended early: {0}")]
    Stopped(#[from] tokio::task::JoinError),
    #[error("timeout={0:?}: {TIMEOUTS}")]
    Timeout(String),
    #[error(
        "it did not answer before, and counts as absent for another {} s",
        .0.as_secs().max(1)
    )]
    Absent(std::time::Duration),
    #[error("it did not answer within {} s", .0.as_secs())]
    Slow(std::time::Duration),
}

/// A place that a cache is read from.
pub(super) enum Place {
    Registry(Registry, Reference),
    Store(Arc<dyn BlobStore>, Digest, String),
    Objects(ObjectPlace),
}

/// A cache in an object store.
pub(super) struct ObjectPlace {
    /// Held by the build, so that its layers can be had with what its client said.
    pub(super) objects: Arc<Objects>,
    names: Vec<String>,
    by_client: bool,
}

impl Place {
    pub(super) async fn open(
        worker: &Worker,
        session: &Arc<dyn Session>,
        origin: CacheOrigin,
    ) -> Result<Self, ReadError> {
        match origin {
            CacheOrigin::Registry {
                reference,
                insecure,
            } => {
                let reference: Reference = reference.parse()?;
                let registry = worker.registry.with_credentials(session.credentials());
                let registry = match insecure {
                    true => registry.trusting(reference.repository().domain()),
                    false => registry,
                };
                Ok(Self::Registry(registry, reference))
            }
            CacheOrigin::Store { id, digest } => {
                let store = session.blob_store(&id).await?;
                let store = store.ok_or_else(|| ReadError::NoStore(id.clone()))?;
                Ok(Self::Store(store, digest, id))
            }
            CacheOrigin::Mounts(..) => {
                Err(ReadError::Mounts("cache mounts are no records".to_owned()))
            }
            CacheOrigin::Objects(cache) => {
                let by_client = cache.credentials.are_clients();
                let objects = Objects::open(cache.location, &cache.credentials, &cache.options)?;
                let objects = Arc::new(objects);
                worker.objects.add(session.id(), &objects);
                Ok(Self::Objects(ObjectPlace {
                    objects,
                    names: cache.names,
                    by_client,
                }))
            }
        }
    }

    /// Where layers of it are.
    pub(super) fn home(&self, insecure: bool) -> Home {
        match self {
            Self::Registry(_, reference) => Home::Registry {
                repository: reference.repository().clone(),
                insecure,
            },
            Self::Store(_, _, id) => Home::Store(id.clone()),
            Self::Objects(place) => Home::Objects {
                location: Box::new(place.objects.location().clone()),
                by_client: place.by_client,
            },
        }
    }

    /// The chains of keys that are there: one for a cache, one for each image with a cache in it, one for each name.
    pub(super) async fn chains(&self) -> Result<Vec<CacheChains<Remote>>, ReadError> {
        match self {
            Self::Registry(registry, reference) => {
                let document = registry.resolve_document(reference).await?.document;
                let blobs = Blobs::Registry(registry, reference);
                blobs.chains(document).await
            }
            Self::Store(store, digest, _) => {
                let bytes = read(&**store, digest, MAX_MANIFEST).await?;
                let document = Document::parse(&bytes, "")?;
                Blobs::Store(&**store).chains(document).await
            }
            Self::Objects(place) => place.chains().await,
        }
    }
}

impl ObjectPlace {
    async fn chains(&self) -> Result<Vec<CacheChains<Remote>>, ReadError> {
        let reads = self.names.iter().map(|name| async move {
            let document = self.objects.document(name, MAX_CACHE_CONFIG).await?;
            let Some(document) = document else {
                return Ok::<_, ReadError>(None);
            };
            // A large one takes its time.
            let read = tokio::task::spawn_blocking(move || read_noted(&document));
            Ok(Some(read.await??))
        });
        let read = futures_util::future::try_join_all(reads).await?;
        let found: Vec<_> = read.into_iter().flatten().collect();
        match found.is_empty() {
            false => Ok(found),
            true => Err(ReadError::NoName {
                names: self.names.join(", "),
                place: self.objects.location().to_string(),
            }),
        }
    }
}

/// What the manifests of a cache name, and who has it.
pub(super) enum Blobs<'a> {
    Registry(&'a Registry, &'a Reference),
    Store(&'a dyn BlobStore),
}

impl Blobs<'_> {
    async fn chains(&self, document: Document) -> Result<Vec<CacheChains<Remote>>, ReadError> {
        if let Some((config, layers)) = cache_parts(document.clone()) {
            return Ok(vec![self.cache(&config, layers).await?]);
        }
        match document {
            Document::Manifest(manifest) => Ok(self.image(*manifest).await?.into_iter().collect()),
            Document::Index(index) => self.images(index.manifests).await,
        }
    }

    async fn cache(
        &self,
        config: &Descriptor,
        layers: Vec<Descriptor>,
    ) -> Result<CacheChains<Remote>, ReadError> {
        let bytes = self.bytes(config, MAX_CACHE_CONFIG).await?;
        let blobs: HashMap<Digest, Arc<Descriptor>> = layers
            .into_iter()
            .map(|layer| (layer.digest.clone(), Arc::new(layer)))
            .collect();
        // A large one takes its time.
        let read = tokio::task::spawn_blocking(move || read_config(&bytes, &blobs));
        Ok(read.await??)
    }

    async fn images(
        &self,
        entries: Vec<Descriptor>,
    ) -> Result<Vec<CacheChains<Remote>>, ReadError> {
        let images = entries
            .into_iter()
            .filter(|entry| !entry.is_attestation() && media_type::is_manifest(&entry.media_type));
        let reads = images.take(MAX_IMAGES).map(|entry| async move {
            let document = match self {
                Self::Registry(registry, reference) => {
                    let repository = reference.repository();
                    registry.fetch_document(repository, &entry).await?.document
                }
                Self::Store(store) => {
                    let bytes = read(*store, &entry.digest, MAX_MANIFEST).await?;
                    Document::parse(&bytes, &entry.media_type)?
                }
            };
            match document {
                Document::Manifest(manifest) => self.image(*manifest).await,
                Document::Index(_) => Ok(None),
            }
        });
        let read = futures_util::future::try_join_all(reads).await?;
        Ok(read.into_iter().flatten().collect())
    }

    /// The cache in an image's config.
    async fn image(&self, manifest: Manifest) -> Result<Option<CacheChains<Remote>>, ReadError> {
        let bytes = self.bytes(&manifest.config, MAX_CONFIG).await?;
        let bad = |reason: String| ReadError::Config {
            digest: manifest.config.digest.clone(),
            reason,
        };
        let config: ImageConfig =
            serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
        let Some(records) = config.cache else {
            return Ok(None);
        };
        let diff_ids = config.rootfs.unwrap_or_default().diff_ids;
        if diff_ids.len() != manifest.layers.len() {
            return Err(bad(format!(
                "it names {} layers, the manifest {}",
                diff_ids.len(),
                manifest.layers.len()
            )));
        }
        let records = base64::engine::general_purpose::STANDARD
            .decode(records)
            .map_err(|error| bad(format!("its cache: {error}")))?;
        let mut made = config.history.unwrap_or_default().into_iter();
        let mut made = std::iter::from_fn(|| made.find(|entry| !entry.empty_layer));
        let layers = manifest.layers.into_iter().zip(diff_ids);
        let layers: Vec<_> = layers
            .map(|(mut layer, diff_id)| {
                let mut note = |key: &str, value: Option<String>| {
                    if let Some(value) = value.filter(|value| !value.is_empty()) {
                        layer.annotations.insert(key.to_owned(), value);
                    }
                };
                note(ANNOTATION_UNCOMPRESSED, Some(diff_id.to_string()));
                if let Some(entry) = made.next() {
                    note(ANNOTATION_CREATED, entry.created);
                    note(ANNOTATION_DESCRIPTION, entry.created_by);
                }
                Arc::new(layer)
            })
            .collect();
        Ok(Some(read_inline(&records, &layers)?))
    }

    pub(super) async fn bytes(
        &self,
        descriptor: &Descriptor,
        limit: u64,
    ) -> Result<Bytes, ReadError> {
        match self {
            Self::Registry(registry, reference) => {
                let repository = reference.repository();
                Ok(registry.fetch_bytes(repository, descriptor, limit).await?)
            }
            Self::Store(store) => read(*store, &descriptor.digest, limit).await,
        }
    }
}

#[derive(Deserialize)]
struct ImageConfig {
    rootfs: Option<RootFs>,
    #[serde(rename = "moby.buildkit.cache.v0", default)]
    cache: Option<String>,
    #[serde(default)]
    history: Option<Vec<HistoryEntry>>,
}

#[derive(Default, Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<Digest>,
}

#[derive(Deserialize)]
struct HistoryEntry {
    created: Option<String>,
    created_by: Option<String>,
    #[serde(default)]
    empty_layer: bool,
}

/// A blob of a client's in memory, verified.
pub(super) async fn read(
    store: &dyn BlobStore,
    digest: &Digest,
    limit: u64,
) -> Result<Bytes, ReadError> {
    let failed = |source| ReadError::Blob {
        digest: digest.clone(),
        store: store.name().to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    let content = store.open(digest).await.map_err(failed)?;
    let mut content = content.take(limit.saturating_add(1));
    content.read_to_end(&mut bytes).await.map_err(failed)?;
    if bytes.len() as u64 > limit {
        let reason = format!("it is larger than {limit} bytes");
        return Err(failed(io::Error::other(reason)));
    }
    let mut hasher = Hasher::new(digest.algorithm());
    hasher.update(&bytes);
    let actual = hasher.finish();
    if actual != *digest {
        let reason = format!("it is damaged: its digest is {actual}");
        return Err(failed(io::Error::new(io::ErrorKind::InvalidData, reason)));
    }
    Ok(bytes.into())
}

/// What repositories a layer may be in.
pub(super) fn repositories(home: &Home) -> Vec<Repository> {
    match home {
        Home::Registry { repository, .. } => vec![repository.clone()],
        Home::Store(_) | Home::Objects { .. } => Vec::new(),
    }
}
