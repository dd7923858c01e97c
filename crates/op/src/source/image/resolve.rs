//! What a reference stands for: asked for once in a session, its documents kept in the store.

use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use weld_digest::Digest;
use weld_llb::Platform;
use weld_llb::reference::Reference;
use weld_source::image::{Descriptor, Document, MAX_CONFIG, Manifest, Served};
use weld_source::oci_layout::Selector;
use weld_source::registry::{Anonymous, Credentials, Registry};
use weld_store::{BlobError, BlobInfo, Object, names};

use super::ImageError;
use super::error::INDEX_DEPTH;
use crate::Worker;
use crate::session::Session;
use crate::source::answers::Answers;
use crate::source::layout::Layout;

/// The most layers that an image may have; overlayfs and docker end far below.
const MAX_LAYERS: usize = 4096;

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

/// What references of images turned out to stand for, by session, reference and platform. Those who
/// wait for a failure get it, and the next one asks again.
pub(crate) type Resolutions =
    Answers<(String, String, Platform), Result<Arc<Resolved>, ImageError>>;

/// Where an image is.
#[derive(Clone)]
pub(crate) enum Place {
    Registry(Registry),
    Layout(Layout),
}

impl Place {
    /// The registries, as the client of a session or as nobody.
    pub(crate) fn registry(worker: &Worker, session: Option<&Arc<dyn Session>>) -> Self {
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

    pub(super) async fn resolve_once(
        &self,
        session: Option<&Arc<dyn Session>>,
        place: &Place,
        reference: &str,
        platform: &Platform,
    ) -> Result<Arc<Resolved>, ImageError> {
        // Ids of sessions are chosen by clients.
        let owner = session.map_or("", |session| session.id()).to_owned();
        let owner = self.domain.scoped(owner);
        let kind = match place {
            Place::Registry(_) => reference.to_owned(),
            Place::Layout(layout) => format!("{}\n{reference}", layout.name()),
        };
        let key = (owner, kind, platform.clone());
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

    /// What a reference with a digest stands for, if the store has it from there: nobody needs to be
    /// asked, but for whether the client of a named domain may have it. What only other domains asked
    /// for says nothing of that either, nor does what another repository has: whoever knows its digest
    /// may not be one who can read it.
    async fn known(
        &self,
        reference: &Reference,
    ) -> Result<Option<weld_source::registry::Resolved>, ImageError> {
        let Some(digest) = reference.digest().filter(|_| self.domain.name().is_none()) else {
            return Ok(None);
        };
        let (store, wanted) = (self.store.clone(), digest.clone());
        let name = self.document_name(reference, digest);
        let found = off_reactor(move || {
            if store.db().read(|tx| names::get(tx, &name))?.is_none() {
                return Ok(None);
            }
            let blob = store.blobs().get(&wanted)?;
            let Some(blob) = blob.filter(|blob| blob.size() <= MAX_CONFIG) else {
                return Ok(None);
            };
            let media_type = blob.info().media_type.clone().unwrap_or_default();
            let content = store.blobs().document(&wanted, MAX_CONFIG)?;
            Ok(content.map(|content| (content, media_type)))
        })
        .await?;
        let found = found.map_err(|source: BlobError| store_error(reference, source))?;
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
    pub(super) async fn document(
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
        let config = self.content(place, reference, &manifest.config).await?;
        let bad = |reason: String| ImageError::Config {
            reference: reference.to_string(),
            digest: manifest.config.digest.clone(),
            reason,
        };
        let parsed: Config =
            serde_json::from_slice(&config).map_err(|error| bad(error.to_string()))?;
        if manifest.layers.len() > MAX_LAYERS {
            let count = manifest.layers.len();
            return Err(bad(format!(
                "the image has {count} layers, and {MAX_LAYERS} are the most"
            )));
        }
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

    /// A small blob: the store's if it has it.
    pub(super) async fn content(
        &self,
        place: &Place,
        reference: &Reference,
        descriptor: &Descriptor,
    ) -> Result<Bytes, ImageError> {
        if let Some(kept) = self.kept(reference, descriptor).await? {
            return Ok(kept);
        }
        let fetched = match place {
            Place::Registry(registry) => {
                registry
                    .fetch_bytes(reference.repository(), descriptor, MAX_CONFIG)
                    .await?
            }
            Place::Layout(layout) => layout.bytes(descriptor, MAX_CONFIG).await?,
        };
        self.put(reference, fetched.clone(), &descriptor.media_type)
            .await?;
        Ok(fetched)
    }

    async fn kept(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
    ) -> Result<Option<Bytes>, ImageError> {
        let (blobs, digest) = (self.store.blobs().clone(), descriptor.digest.clone());
        let found = off_reactor(move || blobs.document(&digest, MAX_CONFIG)).await?;
        let found = found.map_err(|source| store_error(reference, source))?;
        Ok(found.map(Bytes::from))
    }

    pub(super) async fn keep(
        &self,
        reference: &Reference,
        served: &Served,
    ) -> Result<(), ImageError> {
        self.put(
            reference,
            served.bytes.clone(),
            &served.descriptor.media_type,
        )
        .await
    }

    /// The name of a document that a client of this domain was given of a repository.
    fn document_name(&self, reference: &Reference, digest: &Digest) -> String {
        let repository = reference.repository();
        let document = format!("{}/{}@{digest}", repository.domain(), repository.path());
        format!("image-document:{}", self.domain.scoped(document))
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
        let (worker, reference_of) = (self.clone(), reference.clone());
        let put = off_reactor(move || {
            let blob = store.blobs().put(&bytes, info)?;
            let object = Object::Blob(blob.digest().clone());
            let name = worker.document_name(&reference_of, blob.digest());
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

pub(in crate::source) async fn off_reactor<T: Send + 'static>(
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
