//! Images as sources: what a reference stands for, and its layers as a tree.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::OnceCell;
use weld_digest::{Digest, FieldHasher};
use weld_llb::reference::{ParseReferenceError, Reference};
use weld_llb::{ImageSource, OciLayoutSource, Platform};
use weld_solver::{CacheMap, Op, OpContext, OpError, ResultRef};
use weld_source::image::{
    Descriptor, Document, DocumentError, MAX_CONFIG, Manifest, NoMatchError, Served,
};
use weld_source::oci_layout::{LayoutError, Selector};
use weld_source::registry::{Anonymous, Credentials, Registry, RegistryError};
use weld_store::{BlobError, BlobInfo, Object, names};

use super::layers::{self, Layer, Origin};
use super::layout::Layout;
use crate::digest::to_solver;
use crate::reporting::reporting;
use crate::session::{self, Session, SessionError};
use crate::{Tree, Worker};

/// How many resolutions are kept in mind.
const RESOLUTIONS: usize = 1000;

/// How deep indexes may be nested.
const INDEX_DEPTH: usize = 4;

/// Why an image cannot be had.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ImageError {
    /// The reference is none.
    #[error(transparent)]
    Reference(#[from] ParseReferenceError),
    /// The registry does not give it.
    #[error(transparent)]
    Registry(Arc<RegistryError>),
    /// The OCI layout does not give it.
    #[error(transparent)]
    Layout(Arc<LayoutError>),
    /// The client does not offer the OCI layout.
    #[error(
        "OCI layout {0:?} is not offered by the client: pass it with --build-context NAME=oci-layout://DIR"
    )]
    NoLayout(String),
    /// The client cannot be asked.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// It is not for the platform.
    #[error("{reference}: {source}")]
    NoMatch {
        /// The image.
        reference: String,
        /// What is wanted and what there is.
        source: Arc<NoMatchError>,
    },
    /// Its manifest or index is not one.
    #[error("{reference}: {source}")]
    Document {
        /// The image.
        reference: String,
        /// What is wrong.
        source: Arc<DocumentError>,
    },
    /// Its config is not one.
    #[error("{reference}: the image config {digest} is not valid: {reason}")]
    Config {
        /// The image.
        reference: String,
        /// The config's digest.
        digest: Digest,
        /// What is wrong.
        reason: String,
    },
    /// Its indexes are nested too deeply.
    #[error("{0}: more than {INDEX_DEPTH} indexes in one another")]
    Nested(String),
    /// It has another digest than the definition says.
    #[error("{reference}: the digest is {actual}, and {expected} is required")]
    Checksum {
        /// The image.
        reference: String,
        /// What is required.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// What was fetched cannot be kept.
    #[error("{reference}: {source}")]
    Store {
        /// The image.
        reference: String,
        /// Why.
        source: Arc<BlobError>,
    },
}

impl From<RegistryError> for ImageError {
    fn from(error: RegistryError) -> Self {
        Self::Registry(Arc::new(error))
    }
}

impl From<LayoutError> for ImageError {
    fn from(error: LayoutError) -> Self {
        Self::Layout(Arc::new(error))
    }
}

/// What a reference stands for on one platform.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The digest that the reference names: of the index, or of the manifest if there is none.
    pub digest: Digest,
    /// The digest of the platform's manifest.
    pub manifest_digest: Digest,
    /// The platform's manifest.
    pub manifest: Manifest,
    /// The image's config.
    pub config: Bytes,
    /// The digests of the uncompressed layers.
    pub diff_ids: Vec<Digest>,
}

#[derive(Deserialize)]
struct Config {
    rootfs: Option<RootFs>,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Option<Vec<Digest>>,
}

type Resolution = Arc<OnceCell<Result<Arc<Resolved>, ImageError>>>;

/// What references turned out to stand for, by session, so that one build asks once and sees one
/// answer.
#[derive(Default)]
pub(crate) struct Resolutions(Mutex<Known>);

#[derive(Default)]
struct Known {
    by_key: HashMap<(String, String, Platform), Resolution>,
    order: VecDeque<(String, String, Platform)>,
}

impl Resolutions {
    fn entry(&self, key: (String, String, Platform)) -> Resolution {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(resolution) = known.by_key.get(&key) {
            return Arc::clone(resolution);
        }
        if known.order.len() >= RESOLUTIONS
            && let Some(oldest) = known.order.pop_front()
        {
            known.by_key.remove(&oldest);
        }
        let resolution = Resolution::default();
        known.order.push_back(key.clone());
        known.by_key.insert(key, Arc::clone(&resolution));
        resolution
    }

    fn forget(&self, key: &(String, String, Platform)) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.by_key.remove(key);
        known.order.retain(|other| other != key);
    }
}

/// Where an image is.
#[derive(Clone)]
pub(crate) enum Place {
    Registry(Registry),
    Layout(Layout),
}

impl Place {
    /// The registries, as the client of a session or as nobody.
    pub(super) fn registry(worker: &Worker, session: Option<&Arc<dyn Session>>) -> Self {
        let credentials: Arc<dyn Credentials> = match session {
            Some(session) => session.credentials(),
            None => Arc::new(Anonymous),
        };
        Self::Registry(worker.registry_as(credentials))
    }
}

impl Worker {
    /// What an image's reference stands for on a platform, asked for once in a session.
    ///
    /// # Errors
    /// [`ImageError`].
    pub async fn resolve_image(
        &self,
        session: Option<&Arc<dyn Session>>,
        reference: &str,
        platform: &Platform,
    ) -> Result<Arc<Resolved>, ImageError> {
        let place = Place::registry(self, session);
        self.resolve_once(session, &place, reference, platform)
            .await
    }

    /// As [`Worker::resolve_image`], in an OCI layout that the session offers.
    ///
    /// # Errors
    /// [`ImageError`].
    pub async fn resolve_layout(
        &self,
        session: Option<&Arc<dyn Session>>,
        layout: &str,
        reference: &str,
        platform: &Platform,
    ) -> Result<Arc<Resolved>, ImageError> {
        let place = open_layout(session, layout).await?;
        self.resolve_once(session, &place, reference, platform)
            .await
    }

    async fn resolve_once(
        &self,
        session: Option<&Arc<dyn Session>>,
        place: &Place,
        reference: &str,
        platform: &Platform,
    ) -> Result<Arc<Resolved>, ImageError> {
        let owner = session.map_or("", |session| session.id());
        let kind = match place {
            Place::Registry(_) => reference.to_owned(),
            Place::Layout(layout) => format!("{}\n{reference}", layout.name()),
        };
        let key = (owner.to_owned(), kind, platform.clone());
        let resolution = self.resolutions.entry(key.clone());
        let resolved = resolution
            .get_or_init(|| async { self.resolve(place, reference, platform).await.map(Arc::new) })
            .await
            .clone();
        if resolved.is_err() {
            self.resolutions.forget(&key);
        }
        resolved
    }

    async fn resolve(
        &self,
        place: &Place,
        text: &str,
        platform: &Platform,
    ) -> Result<Resolved, ImageError> {
        let reference: Reference = text.parse::<Reference>()?.with_default_tag();
        let root = match place {
            Place::Registry(registry) => match self.known(&reference).await? {
                Some(known) => known,
                None => registry.resolve(&reference).await?,
            },
            Place::Layout(layout) => {
                let served = layout.resolve(Selector::of(&reference)).await?;
                weld_source::registry::Resolved {
                    descriptor: served.descriptor.clone(),
                    served: Some(served),
                }
            }
        };
        let digest = root.descriptor.digest.clone();
        let mut served = match root.served {
            Some(served) => served,
            None => self.document(place, &reference, &root.descriptor).await?,
        };
        self.keep(&reference, &served).await?;
        for _ in 0..INDEX_DEPTH {
            let index = match served.document {
                Document::Manifest(manifest) => {
                    let manifest_digest = served.descriptor.digest;
                    return self
                        .with_config(place, &reference, digest, manifest_digest, *manifest)
                        .await;
                }
                Document::Index(index) => index,
            };
            let chosen = index
                .select(platform)
                .map_err(|source| ImageError::NoMatch {
                    reference: text.to_owned(),
                    source: Arc::new(source),
                })?;
            served = self.document(place, &reference, chosen).await?;
            self.keep(&reference, &served).await?;
        }
        Err(ImageError::Nested(text.to_owned()))
    }

    /// What a reference with a digest stands for, if the store has it: nobody needs to be asked.
    async fn known(
        &self,
        reference: &Reference,
    ) -> Result<Option<weld_source::registry::Resolved>, ImageError> {
        let Some(digest) = reference.digest() else {
            return Ok(None);
        };
        let (blobs, wanted) = (self.store.blobs().clone(), digest.clone());
        let found = off_reactor(move || match blobs.get(&wanted)? {
            Some(blob) if blob.size() <= MAX_CONFIG => {
                let media_type = blob.info().media_type.clone().unwrap_or_default();
                Ok(Some((blob.read_all(MAX_CONFIG)?, media_type)))
            }
            Some(_) | None => Ok(None),
        })
        .await?;
        let found = found.map_err(|source| store_error(reference, source))?;
        Ok(found.and_then(|(bytes, media_type)| {
            let bytes = Bytes::from(bytes);
            // What is something else than the registry said some time is asked for again.
            let document = Document::parse(&bytes, &media_type).ok()?;
            let size = bytes.len() as u64;
            let descriptor = Descriptor::new(document.media_type(), digest.clone(), size);
            let served = Served {
                descriptor: descriptor.clone(),
                bytes,
                document,
            };
            Some(weld_source::registry::Resolved {
                descriptor,
                served: Some(served),
            })
        }))
    }

    /// A manifest or index: the store's if it has it.
    async fn document(
        &self,
        place: &Place,
        reference: &Reference,
        descriptor: &Descriptor,
    ) -> Result<Served, ImageError> {
        if let Some(bytes) = self.kept(reference, descriptor).await? {
            let document = Document::parse(&bytes, &descriptor.media_type).map_err(|source| {
                ImageError::Document {
                    reference: reference.to_string(),
                    source: Arc::new(source),
                }
            })?;
            return Ok(Served {
                descriptor: descriptor.clone(),
                bytes,
                document,
            });
        }
        match place {
            Place::Registry(registry) => Ok(registry
                .fetch_document(reference.repository(), descriptor)
                .await?),
            Place::Layout(layout) => layout.document(descriptor).await,
        }
    }

    async fn with_config(
        &self,
        place: &Place,
        reference: &Reference,
        digest: Digest,
        manifest_digest: Digest,
        manifest: Manifest,
    ) -> Result<Resolved, ImageError> {
        let config = match self.kept(reference, &manifest.config).await? {
            Some(config) => config,
            None => {
                let fetched = match place {
                    Place::Registry(registry) => {
                        registry
                            .fetch_bytes(reference.repository(), &manifest.config, MAX_CONFIG)
                            .await?
                    }
                    Place::Layout(layout) => layout.bytes(&manifest.config, MAX_CONFIG).await?,
                };
                self.put(reference, fetched.clone(), &manifest.config.media_type)
                    .await?;
                fetched
            }
        };
        let bad = |reason: String| ImageError::Config {
            reference: reference.to_string(),
            digest: manifest.config.digest.clone(),
            reason,
        };
        let parsed: Config =
            serde_json::from_slice(&config).map_err(|error| bad(error.to_string()))?;
        let diff_ids = parsed
            .rootfs
            .and_then(|rootfs| rootfs.diff_ids)
            .unwrap_or_default();
        if diff_ids.len() != manifest.layers.len() {
            let reason = format!(
                "it names {} layers, the manifest {}",
                diff_ids.len(),
                manifest.layers.len()
            );
            return Err(bad(reason));
        }
        Ok(Resolved {
            digest,
            manifest_digest,
            manifest,
            config,
            diff_ids,
        })
    }

    async fn kept(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
    ) -> Result<Option<Bytes>, ImageError> {
        let (blobs, digest) = (self.store.blobs().clone(), descriptor.digest.clone());
        let found = off_reactor(move || match blobs.get(&digest)? {
            Some(blob) => blob.read_all(MAX_CONFIG).map(Some),
            None => Ok(None),
        })
        .await?;
        let found = found.map_err(|source| store_error(reference, source))?;
        Ok(found.map(Bytes::from))
    }

    async fn keep(&self, reference: &Reference, served: &Served) -> Result<(), ImageError> {
        self.put(
            reference,
            served.bytes.clone(),
            &served.descriptor.media_type,
        )
        .await
    }

    async fn put(
        &self,
        reference: &Reference,
        bytes: Bytes,
        media_type: &str,
    ) -> Result<(), ImageError> {
        let store = self.store.clone();
        let info = BlobInfo {
            media_type: Some(media_type.to_owned()),
            ..BlobInfo::default()
        };
        let put = off_reactor(move || {
            let blob = store.blobs().put(&bytes, info)?;
            let object = Object::Blob(blob.digest().clone());
            let name = format!("image-document:{}", blob.digest());
            store.uses().add(&object);
            if store.db().read(|tx| names::get(tx, &name))?.is_none() {
                // Nobody waits for it: without the name, it is asked for again some day.
                drop(store.db().update(move |tx| names::set(tx, &name, &object)));
            }
            Ok(())
        });
        let put: Result<(), BlobError> = put.await?;
        put.map_err(|source| store_error(reference, source))
    }
}

fn store_error(reference: &Reference, source: BlobError) -> ImageError {
    ImageError::Store {
        reference: reference.to_string(),
        source: Arc::new(source),
    }
}

pub(super) async fn off_reactor<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ImageError> {
    // The pool loses work only when the process shuts down.
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| ImageError::NoLayout("(shutting down)".into()))
}

pub(crate) async fn open_layout(
    session: Option<&Arc<dyn Session>>,
    name: &str,
) -> Result<Place, ImageError> {
    let offered = match session {
        Some(session) => session.layout(name).await?,
        None => None,
    };
    let offered = offered.ok_or_else(|| ImageError::NoLayout(name.to_owned()))?;
    Ok(Place::Layout(Layout::open(offered).await?))
}

/// An image as a vertex, from a registry or an OCI layout.
pub(crate) struct Image {
    pub(crate) worker: Arc<Worker>,
    pub(crate) wanted: Wanted,
    pub(crate) platform: Platform,
    pub(crate) description: String,
}

pub(crate) enum Wanted {
    Registry(ImageSource),
    Layout(OciLayoutSource),
}

impl Wanted {
    fn layer_limit(&self) -> Option<u64> {
        match self {
            Self::Registry(image) => image.layer_limit,
            Self::Layout(image) => image.layer_limit,
        }
    }
}

impl Image {
    async fn resolve(
        &self,
        ctx: &OpContext<Tree>,
    ) -> Result<(Arc<Resolved>, Place, Reference), OpError> {
        if let Some(handle) = ctx.next_session(&[]).await {
            drop(handle);
            return ctx
                .with_session(|handle| async move { self.resolve_with(session::of(&handle)).await })
                .await;
        }
        self.resolve_with(None).await
    }

    async fn resolve_with(
        &self,
        session: Option<Arc<dyn Session>>,
    ) -> Result<(Arc<Resolved>, Place, Reference), OpError> {
        let resolved = async {
            let session = session.as_ref();
            match &self.wanted {
                Wanted::Registry(image) => {
                    let place = Place::registry(&self.worker, session);
                    let resolved = self
                        .worker
                        .resolve_once(session, &place, &image.reference, &self.platform)
                        .await?;
                    check(image, &resolved)?;
                    Ok((resolved, place, image.reference.parse()?))
                }
                Wanted::Layout(image) => {
                    let place =
                        open_layout(session, image.store.as_deref().unwrap_or_default()).await?;
                    let resolved = self
                        .worker
                        .resolve_once(session, &place, &image.reference, &self.platform)
                        .await?;
                    Ok((resolved, place, image.reference.parse()?))
                }
            }
        };
        match resolved.await {
            // Another client may offer it.
            Err(error @ ImageError::NoLayout(_)) => Err(OpError::gone(error)),
            other => other.map_err(OpError::failed),
        }
    }
}

fn check(image: &ImageSource, resolved: &Resolved) -> Result<(), ImageError> {
    match &image.checksum {
        Some(expected) if *expected != resolved.digest => Err(ImageError::Checksum {
            reference: image.reference.clone(),
            expected: expected.clone(),
            actual: resolved.digest.clone(),
        }),
        _ => Ok(()),
    }
}

impl crate::recall::Step for Image {}

#[async_trait]
impl Op<Tree> for Image {
    /// Known by its manifest first, then by its layers alone: the same layers may be found under
    /// another name, or with another config.
    async fn cache_map(&self, ctx: &OpContext<Tree>, index: u32) -> Result<CacheMap, OpError> {
        let (resolved, ..) = self.resolve(ctx).await?;
        let limit = self.wanted.layer_limit().unwrap_or(u64::MAX);
        let digest = match index {
            0 => FieldHasher::new("weld.op.image.manifest.v1")
                .digest(&resolved.manifest_digest)
                .number(limit),
            _ => {
                let count = usize::try_from(limit)
                    .unwrap_or(usize::MAX)
                    .min(resolved.diff_ids.len());
                resolved.diff_ids[..count].iter().fold(
                    FieldHasher::new("weld.op.image.layers.v1").number(count as u64),
                    |hasher, id| hasher.digest(id),
                )
            }
        };
        let mut map = CacheMap::new(to_solver(&digest.finish()));
        map.more = index == 0;
        Ok(map)
    }

    async fn exec(
        &self,
        ctx: &OpContext<Tree>,
        _inputs: Vec<ResultRef<Tree>>,
    ) -> Result<Vec<Tree>, OpError> {
        let (resolved, place, reference) = self.resolve(ctx).await?;
        let limit = self
            .wanted
            .layer_limit()
            .and_then(|limit| usize::try_from(limit).ok())
            .unwrap_or(usize::MAX);
        let layers: Vec<Layer> = resolved
            .manifest
            .layers
            .iter()
            .zip(&resolved.diff_ids)
            .take(limit)
            .map(|(descriptor, diff_id)| Layer {
                descriptor: descriptor.clone(),
                diff_id: diff_id.clone(),
            })
            .collect();
        let origin = Origin {
            place,
            repository: reference.repository().clone(),
        };
        let work = reporting(ctx, |progress| {
            layers::tree(&self.worker, origin, layers, &self.description, progress)
        });
        let tree = tokio::select! {
            tree = work => tree.map_err(OpError::failed)?,
            () = ctx.cancellation().cancelled() => return Err(OpError::Cancelled),
        };
        Ok(vec![tree])
    }
}
