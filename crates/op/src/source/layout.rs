//! OCI layouts that clients offer: on this machine, or at the other end of a connection.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};
use weld_digest::{Digest, Hasher};
use weld_source::image::{Descriptor, Document, MAX_MANIFEST, Served};
use weld_source::oci_layout::{BlobProvider, LayoutError, OciLayout, Selector};

use super::image::{ImageError, off_reactor};
use crate::session;

/// A layout that images are read from.
#[derive(Clone)]
pub(crate) enum Layout {
    Directory(Arc<OciLayout>),
    Blobs(Arc<dyn BlobProvider>),
}

impl Layout {
    pub(super) async fn open(offered: session::Layout) -> Result<Self, ImageError> {
        Ok(match offered {
            session::Layout::Directory(path) => {
                Self::Directory(Arc::new(off_reactor(move || OciLayout::open(path)).await??))
            }
            session::Layout::Blobs(blobs) => Self::Blobs(blobs),
        })
    }

    /// What tells it from others.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Directory(layout) => layout.path().display().to_string(),
            Self::Blobs(blobs) => blobs.name().to_owned(),
        }
    }

    /// The manifest or index of an image, verified.
    pub(super) async fn resolve(&self, selector: Selector) -> Result<Served, ImageError> {
        match self {
            Self::Directory(layout) => {
                let layout = Arc::clone(layout);
                Ok(off_reactor(move || layout.resolve(&selector)).await??)
            }
            Self::Blobs(blobs) => {
                let Selector::Digest(digest) = selector else {
                    return Err(LayoutError::NoDigest(blobs.name().to_owned()).into());
                };
                let bytes = read(&**blobs, &digest, MAX_MANIFEST).await?;
                served(&**blobs, &digest, bytes, "")
            }
        }
    }

    /// The manifest or index that a descriptor names, verified.
    pub(super) async fn document(&self, descriptor: &Descriptor) -> Result<Served, ImageError> {
        match self {
            Self::Directory(layout) => {
                let (layout, descriptor) = (Arc::clone(layout), descriptor.clone());
                Ok(off_reactor(move || layout.document(&descriptor)).await??)
            }
            Self::Blobs(blobs) => {
                let bytes = read(&**blobs, &descriptor.digest, MAX_MANIFEST).await?;
                served(&**blobs, &descriptor.digest, bytes, &descriptor.media_type)
            }
        }
    }

    /// The manifests that have `subject` as their subject. What a client serves has no list of them.
    pub(super) async fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>, ImageError> {
        match self {
            Self::Directory(layout) => {
                let (layout, subject) = (Arc::clone(layout), subject.clone());
                Ok(off_reactor(move || layout.referrers(&subject)).await??)
            }
            Self::Blobs(_) => Ok(Vec::new()),
        }
    }

    /// A blob in memory, verified.
    pub(super) async fn bytes(
        &self,
        descriptor: &Descriptor,
        limit: u64,
    ) -> Result<Bytes, ImageError> {
        match self {
            Self::Directory(layout) => {
                let (layout, descriptor) = (Arc::clone(layout), descriptor.clone());
                Ok(off_reactor(move || layout.bytes(&descriptor, limit)).await??)
            }
            Self::Blobs(blobs) => Ok(read(&**blobs, &descriptor.digest, limit).await?),
        }
    }
}

/// A blob of a client's, for whoever copies it and digests it on the way.
pub(super) async fn open(
    blobs: &dyn BlobProvider,
    digest: &Digest,
) -> Result<Box<dyn AsyncRead + Send + Unpin>, LayoutError> {
    let opened = blobs.open(digest).await;
    opened.map_err(|source| unreadable(blobs, digest, source))
}

async fn read(blobs: &dyn BlobProvider, digest: &Digest, limit: u64) -> Result<Bytes, LayoutError> {
    let mut bytes = Vec::new();
    let content = open(blobs, digest).await?;
    let mut content = content.take(limit.saturating_add(1));
    if let Err(source) = content.read_to_end(&mut bytes).await {
        return Err(unreadable(blobs, digest, source));
    }
    if bytes.len() as u64 > limit {
        let source = io::Error::other(format!("it is larger than {limit} bytes"));
        return Err(unreadable(blobs, digest, source));
    }
    let mut hasher = Hasher::new(digest.algorithm());
    hasher.update(&bytes);
    let actual = hasher.finish();
    match actual == *digest {
        true => Ok(bytes.into()),
        false => Err(LayoutError::Damaged {
            path: blobs.name().into(),
            digest: digest.clone(),
            reason: format!("its content has digest {actual}"),
        }),
    }
}

fn served(
    blobs: &dyn BlobProvider,
    digest: &Digest,
    bytes: Bytes,
    media_type: &str,
) -> Result<Served, ImageError> {
    let document = Document::parse(&bytes, media_type).map_err(|source| LayoutError::Document {
        path: blobs.name().into(),
        file: digest.to_string(),
        source,
    })?;
    let size = bytes.len() as u64;
    Ok(Served {
        descriptor: Descriptor::new(document.media_type(), digest.clone(), size),
        bytes,
        document,
    })
}

fn unreadable(blobs: &dyn BlobProvider, digest: &Digest, source: io::Error) -> LayoutError {
    LayoutError::Read {
        path: blobs.name().into(),
        file: digest.to_string(),
        source,
    }
}
