//! An image, put together in the store: layers, config and manifest for each platform, and an
//! index over several.

mod attach;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_util::sync::CancellationToken;
use weld_digest::Digest;
use weld_source::image::Descriptor;
use weld_source::progress::Progress;
use weld_store::snapshot::{LayerBlob, LayerOptions, Made, SnapshotError, SnapshotRef};
use weld_store::{BlobInfo, BlobRef, Store};

use crate::ahead::{Ahead, LayerSender};
use crate::blocking::blocking;
use crate::cache;
use crate::config::{self, LayerFacts};
use crate::exporter::{Built, BuiltPlatform, Exporter};
use crate::manifest::{self, Types};
use crate::options::{AnnotationPlace, ImageOptions};
use crate::watch::Watch;
use crate::{ConfigError, ExportError};

/// How many layers are made at once: each uses all processors already, but small ones leave them
/// idle in between.
const LAYERS_AT_ONCE: usize = 4;
/// The annotation that says when the image was made.
const ANNOTATION_CREATED: &str = "org.opencontainers.image.created";

/// An image in the store.
pub(crate) struct Image {
    /// Its index, or its only manifest.
    pub(crate) root: Descriptor,
    /// Its manifests.
    pub(crate) manifests: Vec<ImageManifest>,
    /// Its index, if it has one.
    pub(crate) index: Option<Bytes>,
    /// All of it, kept while this lives.
    pub(crate) blobs: BTreeMap<Digest, BlobRef>,
    /// The layers of what was built, in their order.
    pub(crate) layers: Vec<Digest>,
    created: Option<OffsetDateTime>,
}

impl Image {
    /// Notes at the image when it was made, as its config says: when that was exported is not of
    /// interest, and the same result is the same archive.
    pub(crate) fn note_created(&mut self) {
        let created = self
            .created
            .and_then(|created| created.format(&Rfc3339).ok());
        if let Some(created) = created {
            let annotations = &mut self.root.annotations;
            annotations
                .entry(ANNOTATION_CREATED.to_owned())
                .or_insert(created);
        }
    }
}

/// The image for one platform.
pub(crate) struct ImageManifest {
    pub(crate) descriptor: Descriptor,
    pub(crate) bytes: Bytes,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// Puts images together.
pub(crate) struct Assembly<'a> {
    pub(crate) exporter: &'a Exporter,
    pub(crate) options: &'a ImageOptions,
    pub(crate) built: &'a Built,
    pub(crate) progress: &'a Progress,
    pub(crate) stop: &'a CancellationToken,
    /// Where layers are written while they are made.
    pub(crate) ahead: Option<&'a Ahead>,
}

/// One layer of an image.
struct ImageLayer {
    descriptor: Descriptor,
    facts: LayerFacts,
    blob: BlobRef,
}

impl Assembly<'_> {
    /// Puts the image together.
    pub(crate) async fn image(&self) -> Result<Image, ExportError> {
        self.check_annotations()?;
        if self.options.rewrite_timestamp && self.epoch().is_none() {
            let warning = "warning: rewrite-timestamp does nothing without SOURCE_DATE_EPOCH\n";
            self.progress.log("rewrite-timestamp", warning);
        }
        let mut image = Parts::default();
        for platform in &self.built.platforms {
            let layers = self.layers(platform).await?;
            let cache = self.inline_cache(platform)?;
            self.add_platform(&mut image, platform, layers, cache)
                .await?;
        }
        // Behind the images, and said when all layers are made.
        for (number, platform) in self.built.platforms.iter().enumerate() {
            self.attach(&mut image, number, platform).await?;
        }
        self.complete(image).await
    }

    /// The build cache that a platform's config is to hold.
    fn inline_cache(&self, platform: &BuiltPlatform) -> Result<Option<Vec<u8>>, ExportError> {
        let (Some(cache), Some(tree)) = (&platform.cache, &platform.tree) else {
            return Ok(None);
        };
        // Layers that are written anew are not what was built.
        if self.layer_options().max_mtime.is_some() {
            return Ok(None);
        }
        let layers = tree.layer_snapshots();
        let layers: Vec<_> = layers.iter().map(SnapshotRef::id).collect();
        cache
            .records(&layers)
            .map_err(|source| ExportError::Encode {
                what: "build cache",
                source,
            })
    }

    fn types(&self) -> Types {
        if self.options.oci_types {
            Types::Oci
        } else {
            Types::Docker
        }
    }

    fn epoch(&self) -> Option<OffsetDateTime> {
        let built = self.built.epoch.filter(|_| !self.options.no_epoch);
        self.options.epoch.or(built)
    }

    fn has_index(&self) -> bool {
        self.built.is_multi_platform || self.built.platforms.len() != 1 || self.has_attestations()
    }

    fn check_annotations(&self) -> Result<(), ExportError> {
        let built: Vec<_> = self
            .built
            .platforms
            .iter()
            .map(|platform| platform.platform.to_string())
            .collect();
        for annotation in &self.options.annotations {
            // As with BuildKit: those of all platforms are given to builds for some.
            if let Some(platform) = &annotation.platform
                && !built.contains(platform)
            {
                let warning = format!(
                    "warning: annotation {:?}: platform {platform} was not built (built: {})\n",
                    annotation.key,
                    built.join(", ")
                );
                self.progress.log("annotations", &warning);
            }
            let of_index = matches!(
                annotation.place,
                AnnotationPlace::Index | AnnotationPlace::IndexDescriptor
            );
            if of_index && !self.has_index() {
                return Err(ExportError::NoIndex {
                    key: annotation.key.clone(),
                });
            }
        }
        Ok(())
    }

    /// The layers of a platform's image, those that are no blobs yet made in parallel.
    async fn layers(&self, platform: &BuiltPlatform) -> Result<Vec<ImageLayer>, ExportError> {
        let Some(tree) = platform.tree.clone() else {
            return Ok(Vec::new());
        };
        let name = platform.platform.to_string();
        let failed = |source| ExportError::Layer {
            platform: name.clone(),
            source: Box::new(source),
        };
        let snapshots = self.exporter.snapshots.clone();
        let (layers, made) = blocking(move || {
            let layers = tree.layer_snapshots();
            let made = snapshots.made(&layers)?;
            Ok::<_, SnapshotError>((layers, made))
        })
        .await
        .map_err(failed)?;
        let base = base_layers(platform);
        let below = base.len().checked_sub(1);
        let below = below.and_then(|last| layers.get(last)).cloned();
        let ahead = self.ahead.map(|ahead| ahead.image(layers.len()));
        let mut ahead = ahead.into_iter().flatten();
        let making = layers.into_iter().enumerate().map(|(number, snapshot)| {
            let wanted = Wanted {
                number,
                options: self.layer_options(),
                base: base.get(number).cloned(),
                below: below.clone(),
                progress: self.progress.clone(),
                stop: self.stop.clone(),
                ahead: ahead.next(),
            };
            blocking(move || wanted.layer(&snapshot))
        });
        let blobs: Vec<LayerBlob> = futures_util::stream::iter(making)
            .buffered(LAYERS_AT_ONCE)
            .try_collect()
            .await
            .map_err(|source| match self.stop.is_cancelled() {
                true => ExportError::Cancelled,
                false => failed(source),
            })?;
        blobs
            .into_iter()
            .zip(made)
            .map(|(layer, made)| self.image_layer(layer, made, &name))
            .collect()
    }

    fn layer_options(&self) -> LayerOptions<'static> {
        let epoch = self.epoch().filter(|_| self.options.rewrite_timestamp);
        LayerOptions {
            force: self.options.force_compression,
            max_mtime: epoch.map(OffsetDateTime::unix_timestamp),
            ..LayerOptions::new(self.options.compression)
        }
    }

    fn image_layer(
        &self,
        layer: LayerBlob,
        made: Option<Made>,
        platform: &str,
    ) -> Result<ImageLayer, ExportError> {
        let LayerBlob { descriptor, blob } = layer;
        let blob = blob.ok_or_else(|| ExportError::LayerGone {
            platform: platform.to_owned(),
            digest: descriptor.digest.clone(),
        })?;
        // A layer of another cache was made when that says, not when it became known here.
        let told = |key: &str| descriptor.annotations.get(key).cloned();
        let (told_at, told_by) = (
            told(cache::ANNOTATION_CREATED),
            told(cache::ANNOTATION_DESCRIPTION),
        );
        let told_at = told_at.and_then(|at| OffsetDateTime::parse(&at, &Rfc3339).ok());
        let media_type = match self.options.keep_nondistributable {
            true => descriptor.media_type,
            false => manifest::distributable(&descriptor.media_type),
        };
        let media_type = self.types().layer(&media_type);
        let mut stated = Descriptor::new(media_type, descriptor.digest, descriptor.size);
        if self.options.oci_types {
            stated.annotations = descriptor.annotations;
            stated.annotations.retain(|key, _| is_public(key));
        }
        let created = made
            .as_ref()
            .and_then(|made| OffsetDateTime::from_unix_timestamp_nanos(i128::from(made.at)).ok());
        Ok(ImageLayer {
            descriptor: stated,
            facts: LayerFacts {
                diff_id: descriptor.diff_id,
                created: told_at.or(created),
                description: told_by
                    .or_else(|| made.map(|made| made.description))
                    .unwrap_or_default(),
            },
            blob,
        })
    }

    async fn add_platform(
        &self,
        parts: &mut Parts,
        platform: &BuiltPlatform,
        layers: Vec<ImageLayer>,
        cache: Option<Vec<u8>>,
    ) -> Result<(), ExportError> {
        let name = platform.platform.to_string();
        let failed = |source: ConfigError| ExportError::Config {
            platform: name.clone(),
            source,
        };
        let default;
        let given = match &platform.config {
            Some(config) => config.as_slice(),
            None => {
                default = config::default_config(&platform.platform);
                &default
            }
        };
        let facts: Vec<_> = layers.iter().map(|layer| layer.facts.clone()).collect();
        let base = platform.base_config.as_deref();
        let config = config::complete(given, &facts, self.epoch(), base, cache.as_deref())
            .map_err(failed)?;
        parts.created = parts.created.max(config::created_at(&config));
        let config_descriptor = Descriptor::of(self.types().config(), &config);
        let descriptors: Vec<_> = layers
            .iter()
            .map(|layer| layer.descriptor.clone())
            .collect();
        let annotations = |place| self.options.annotations_of(place, Some(&name));
        let (bytes, mut descriptor) = manifest::manifest(
            self.types(),
            config_descriptor.clone(),
            descriptors.clone(),
            annotations(AnnotationPlace::Manifest),
        )
        .map_err(|source| ExportError::Encode {
            what: "manifest",
            source,
        })?;
        descriptor.annotations = annotations(AnnotationPlace::ManifestDescriptor);
        descriptor.platform = Some(platform.platform.clone());
        let bytes = Bytes::from(bytes);
        for layer in layers {
            parts.layers.push(layer.blob.digest().clone());
            parts.blobs.insert(layer.blob.digest().clone(), layer.blob);
        }
        self.put(parts, "config", config.into(), &config_descriptor)
            .await?;
        self.put(parts, "manifest", bytes.clone(), &descriptor)
            .await?;
        parts.manifests.push(ImageManifest {
            descriptor,
            bytes,
            config: config_descriptor,
            layers: descriptors,
        });
        Ok(())
    }

    async fn complete(&self, mut parts: Parts) -> Result<Image, ExportError> {
        let (index, root) = match parts.manifests.as_slice() {
            [only] if !self.has_index() => (None, only.descriptor.clone()),
            manifests => {
                let manifests = manifests.iter().map(|one| one.descriptor.clone()).collect();
                let annotations = self.options.annotations_of(AnnotationPlace::Index, None);
                let (bytes, mut root) = manifest::index(self.types(), manifests, annotations)
                    .map_err(|source| ExportError::Encode {
                        what: "index",
                        source,
                    })?;
                let place = AnnotationPlace::IndexDescriptor;
                root.annotations = self.options.annotations_of(place, None);
                (Some(Bytes::from(bytes)), root)
            }
        };
        if let Some(index) = &index {
            self.put(&mut parts, "manifest list", index.clone(), &root)
                .await?;
        }
        Ok(Image {
            root,
            manifests: parts.manifests,
            index,
            blobs: parts.blobs,
            layers: parts.layers,
            created: self.epoch().or(parts.created),
        })
    }

    async fn put(
        &self,
        parts: &mut Parts,
        what: &'static str,
        content: Bytes,
        descriptor: &Descriptor,
    ) -> Result<(), ExportError> {
        let name = format!("exporting {what} {}", descriptor.digest);
        let watch = Watch::start(self.progress, &name, None, self.stop);
        let store: Store = self.exporter.store.clone();
        let info = BlobInfo {
            media_type: Some(descriptor.media_type.clone()),
            ..BlobInfo::default()
        };
        let blob = blocking(move || store.blobs().put(&content, info))
            .await
            .map_err(|source| ExportError::Blob {
                action: "keep",
                what,
                source: Box::new(source),
            });
        let blob = watch.judge(blob)?;
        parts.blobs.insert(blob.digest().clone(), blob);
        Ok(())
    }
}

/// The annotation of a layer whose times were brought down to an epoch, which is its value.
const REWRITTEN: &str = "buildkit/rewritten-timestamp";

/// What there is of an image in the making.
#[derive(Default)]
struct Parts {
    manifests: Vec<ImageManifest>,
    blobs: BTreeMap<Digest, BlobRef>,
    layers: Vec<Digest>,
    created: Option<OffsetDateTime>,
}

/// One layer that is wanted.
struct Wanted {
    number: usize,
    options: LayerOptions<'static>,
    /// The layer of the base image in its place.
    base: Option<Digest>,
    /// The base image.
    below: Option<SnapshotRef>,
    progress: Progress,
    stop: CancellationToken,
    /// Who writes it to an archive meanwhile.
    ahead: Option<LayerSender>,
}

impl Wanted {
    fn layer(&self, snapshot: &SnapshotRef) -> Result<LayerBlob, SnapshotError> {
        let watch: std::sync::OnceLock<Watch> = std::sync::OnceLock::new();
        let compression = self.options.compression;
        let tell = |amount| {
            // Layers that are blobs already are not worth a word.
            let watch = watch.get_or_init(|| {
                let name = format!("exporting layer {} as {compression}", self.number + 1);
                Watch::start(&self.progress, &name, None, &self.stop)
            });
            watch.advance(amount)
        };
        let options = LayerOptions {
            watch: Some(&tell),
            base: self.below.as_ref(),
            ..self.options
        };
        let done = self.make(snapshot, &options);
        if let (
            Some(ahead),
            Ok(LayerBlob {
                blob: Some(blob), ..
            }),
        ) = (&self.ahead, &done)
        {
            ahead.made(blob.clone());
        }
        if done.is_ok()
            && let Some(watch) = watch.get()
        {
            watch.complete();
        }
        done
    }

    fn make(
        &self,
        snapshot: &SnapshotRef,
        options: &LayerOptions<'_>,
    ) -> Result<LayerBlob, SnapshotError> {
        if let (Some(base), Some(_)) = (&self.base, options.max_mtime) {
            // The base image's layers stay what they are.
            let plain = LayerOptions {
                max_mtime: None,
                ..*options
            };
            let layer = snapshot.layer(&plain)?;
            if layer.descriptor.diff_id == *base {
                return Ok(layer);
            }
        }
        let follow = |growth| {
            if let Some(ahead) = &self.ahead {
                ahead.growing(growth);
            }
        };
        let followed = LayerOptions {
            follow: self.ahead.is_some().then_some(&follow),
            ..*options
        };
        let mut layer = snapshot.layer(&followed)?;
        if let Some(epoch) = options.max_mtime {
            let annotations = &mut layer.descriptor.annotations;
            annotations.insert(REWRITTEN.to_owned(), epoch.to_string());
        }
        Ok(layer)
    }
}

/// The layers of the image that a platform's result started from.
fn base_layers(platform: &BuiltPlatform) -> Arc<[Digest]> {
    #[derive(Deserialize)]
    struct Base {
        rootfs: RootFs,
    }
    #[derive(Deserialize)]
    struct RootFs {
        #[serde(default)]
        diff_ids: Vec<Digest>,
    }
    let base = platform.base_config.as_deref();
    let base: Option<Base> = base.and_then(|base| serde_json::from_slice(base).ok());
    base.map(|base| base.rootfs.diff_ids)
        .unwrap_or_default()
        .into()
}

/// Whether an annotation of a layer is for others: not what engines note for themselves.
fn is_public(key: &str) -> bool {
    // Clients look for this one of BuildKit's own.
    if key == REWRITTEN {
        return true;
    }
    !matches!(key, "containerd.io/uncompressed")
        && !key.starts_with("buildkit/")
        && !key.starts_with("weld.")
        && !key.starts_with("containerd.io/distribution.source.")
}
