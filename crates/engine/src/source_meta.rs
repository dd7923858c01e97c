//! What sources stand for, found out without building anything.

use bytes::Bytes;
use weld_digest::Digest;
use weld_llb::{Platform, Source, pb};

use crate::bridge::Bridge;
use crate::error::BuildError;
use crate::internal::Internal;
use crate::provenance::ImageMaterial;

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
        request: SourceMetaRequest,
    ) -> Result<ResolvedSource, BuildError> {
        let name = request.source.identifier.clone();
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| BuildError::Source {
            name: name.clone(),
            source,
        };
        let source = Source::from_pb(&request.source).map_err(|error| failed(error.into()))?;
        let (reference, layout) = match &source {
            Source::Image(image) => (image.reference.clone(), None),
            Source::OciLayout(image) => (image.reference.clone(), Some(image.store.clone())),
            _ => return Err(failed("only images can be resolved".into())),
        };
        let (digest, config) = self
            .resolve_image_config(ImageConfigRequest {
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
}
