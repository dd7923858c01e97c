//! What sources stand for, found out without building anything.

use std::collections::BTreeMap;

use bytes::Bytes;
use weld_digest::Digest;
use weld_llb::{Builder, Constraints, Platform, Source, pb};
use weld_op::{Pin, captured};

use crate::bridge::Bridge;
use crate::error::BuildError;
use crate::internal::Internal;
use crate::provenance::ImageMaterial;

/// The scheme of images.
const IMAGE: &str = "docker-image://";

/// A source of which a frontend wants to know.
#[derive(Clone, Debug)]
pub struct SourceMetaRequest {
    /// The source.
    pub source: pb::SourceOp,
    /// The platform to choose of an index; that of this machine if absent.
    pub platform: Option<Platform>,
    /// What to call the step where progress is shown; empty for a name of the engine's.
    pub log_name: String,
    /// Do not fetch the image's config.
    pub no_config: bool,
    /// Return a commit's objects.
    pub return_object: bool,
}

/// An image whose config a frontend wants.
#[derive(Clone, Debug)]
pub struct ImageConfigRequest {
    /// The reference.
    pub reference: String,
    /// The platform to choose of an index; that of this machine if absent.
    pub platform: Option<Platform>,
    /// The OCI layout of the client's that has it, instead of a registry.
    pub layout: Option<String>,
    /// What to call the step where progress is shown; empty for a name of the engine's.
    pub log_name: String,
}

/// An image's config.
#[derive(Clone, Debug)]
pub struct ResolvedConfig {
    /// The reference, as policies may have changed it.
    pub reference: String,
    /// The digest that it stands for.
    pub digest: Digest,
    /// The config, as JSON.
    pub config: Bytes,
}

/// What a source stands for.
#[derive(Clone, Debug)]
pub struct ResolvedSource {
    /// The source, as policies may have changed it.
    pub source: pb::SourceOp,
    /// What it stands for.
    pub meta: SourceMeta,
}

/// What a source stands for, by its kind.
#[derive(Clone, Debug)]
pub enum SourceMeta {
    /// Nothing that can be told without building.
    Nothing,
    /// A commit.
    Git {
        /// The object that the reference names.
        checksum: String,
        /// The reference's full name.
        reference: String,
        /// The commit, if the object is a tag.
        commit_checksum: Option<String>,
    },
    /// A file behind a URL.
    Http {
        /// The digest of its content.
        digest: Digest,
        /// What it is called.
        filename: String,
        /// When it was last changed, seconds since 1970.
        last_modified: Option<i64>,
    },
    /// An image.
    Image {
        /// The digest of the index or manifest that the reference names.
        digest: Digest,
        /// The config of the platform's image.
        config: Bytes,
    },
}

impl Bridge {
    /// The config of an image, with the digest that its reference stands for.
    ///
    /// # Errors
    /// [`BuildError::Source`].
    pub async fn resolve_image_config(
        &self,
        request: ImageConfigRequest,
    ) -> Result<ResolvedConfig, BuildError> {
        let (reference, layout) = match &request.layout {
            // A client's own layouts are of no interest to policies on images.
            Some(_) => (request.reference, request.layout),
            None => {
                let mut source = pb::SourceOp {
                    identifier: format!("{IMAGE}{}", request.reference),
                    attrs: BTreeMap::new(),
                };
                self.policies.apply(&mut source)?;
                match source.identifier.strip_prefix(IMAGE) {
                    Some(reference) => (reference.to_owned(), None),
                    None => {
                        return Err(BuildError::Source {
                            name: request.reference,
                            source: format!("a policy makes it {}", source.identifier).into(),
                        });
                    }
                }
            }
        };
        let request = ImageConfigRequest {
            reference,
            layout,
            ..request
        };
        let reference = request.reference.clone();
        let (digest, config) = self.image_config(request).await?;
        Ok(ResolvedConfig {
            reference,
            digest,
            config,
        })
    }

    async fn image_config(
        &self,
        request: ImageConfigRequest,
    ) -> Result<(Digest, Bytes), BuildError> {
        let worker = &self.core.worker;
        let platform = request.platform.unwrap_or_else(|| worker.platform.clone());
        let platform = platform.normalize();
        let (reference, session) = (&request.reference, Some(self.session()));
        let name = match request.log_name.as_str() {
            "" => format!("resolve image config for {reference}"),
            name => name.to_owned(),
        };
        let step = Internal::begin(self.progress(), &name, &platform.to_string());
        let resolved = match &request.layout {
            Some(layout) => {
                worker
                    .resolve_layout(session, layout, reference, &platform)
                    .await
            }
            None => worker.resolve_image(session, reference, &platform).await,
        };
        let resolved = step.end(resolved).map_err(|source| BuildError::Source {
            name: reference.clone(),
            source: Box::new(source),
        })?;
        self.scope.note_image(ImageMaterial {
            reference: reference.clone(),
            platform: Some(platform.clone()),
            digest: Some(resolved.digest.clone()),
            is_local: request.layout.is_some(),
        });
        Ok((resolved.digest.clone(), resolved.config.clone()))
    }

    /// What a source stands for.
    ///
    /// # Errors
    /// [`BuildError::Source`].
    pub async fn resolve_source_metadata(
        &self,
        mut request: SourceMetaRequest,
    ) -> Result<ResolvedSource, BuildError> {
        let changed = self.policies.apply(&mut request.source)?;
        let name = request.source.identifier.clone();
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| BuildError::Source {
            name: name.clone(),
            source,
        };
        let source = Source::from_pb(&request.source).map_err(|error| failed(error.into()))?;
        let (reference, layout) = match &source {
            Source::Image(image) => (image.reference.clone(), None),
            Source::OciLayout(image) => (image.reference.clone(), Some(image.store.clone())),
            Source::Http(_) => return self.http_metadata(source, request.source).await,
            // The frontend may well know what to do with it.
            _ if changed => {
                return Ok(ResolvedSource {
                    source: request.source,
                    meta: SourceMeta::Nothing,
                });
            }
            _ => {
                return Err(failed(
                    "only images and HTTP sources can be resolved".into(),
                ));
            }
        };
        let (digest, config) = self
            .image_config(ImageConfigRequest {
                reference,
                platform: request.platform,
                layout: layout.flatten(),
                log_name: request.log_name,
            })
            .await?;
        Ok(ResolvedSource {
            source: request.source,
            meta: SourceMeta::Image { digest, config },
        })
    }

    /// A file is fetched, to know its digest; the build that uses it need not fetch it again.
    async fn http_metadata(
        &self,
        source: Source,
        asked: pb::SourceOp,
    ) -> Result<ResolvedSource, BuildError> {
        let failed = |reason: Box<dyn std::error::Error + Send + Sync>| BuildError::Source {
            name: asked.identifier.clone(),
            source: reason,
        };
        let mut builder = Builder::new();
        let output = builder.add_source(source, Constraints::new());
        let definition = builder
            .definition(Some(output), self.platform())
            .map_err(|error| failed(error.into()))?;
        let reference = self.reference(definition, false)?;
        reference.evaluate().await?;
        let digest = reference.provenance().await?.iter().find_map(|walked| {
            let pin = captured(&*walked.op)
                .and_then(|own| own.pin)
                .or_else(|| captured(&*walked.ran).and_then(|ran| ran.pin));
            match pin {
                Some(Pin::Digest(digest)) => Some(digest),
                _ => None,
            }
        });
        let files = reference.read_dir("/", None).await?;
        let (Some(digest), Some(file)) = (digest, files.into_iter().next()) else {
            return Err(failed("nothing is known of the file".into()));
        };
        Ok(ResolvedSource {
            source: asked,
            meta: SourceMeta::Http {
                digest,
                filename: file.path.to_string_lossy().into_owned(),
                // Of 1970 is a file of which the server tells no time.
                last_modified: Some(file.mtime.seconds).filter(|seconds| *seconds != 0),
            },
        })
    }
}
