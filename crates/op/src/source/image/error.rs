use std::sync::Arc;

use weld_digest::Digest;
use weld_llb::reference::ParseReferenceError;
use weld_source::image::{DocumentError, NoMatchError};
use weld_source::oci_layout::LayoutError;
use weld_source::registry::RegistryError;
use weld_store::BlobError;

use crate::session::SessionError;

/// How deep indexes may be nested.
pub(super) const INDEX_DEPTH: usize = 4;

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
    /// More is attested than is told at once.
    #[error("the attestations of {reference} that are asked for have more than {limit} bytes")]
    AttestationsTooLarge {
        /// The image.
        reference: String,
        /// The most that is told.
        limit: u64,
    },
    /// It has another digest than the definition says.
    #[error("image digest {actual} for {reference} does not match expected checksum {expected}")]
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
