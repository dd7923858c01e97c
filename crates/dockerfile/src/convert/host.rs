//! What the conversion needs from the engine around it.

use async_trait::async_trait;
use bytes::Bytes;
use weld_digest::Digest;
use weld_llb::{Platform, ResolveMode, Source, pb};

use crate::lint::Warning;
use crate::source::SourceFile;

/// Why a host could not do what it was asked. The host's own errors are behind it.
pub type HostError = Box<dyn std::error::Error + Send + Sync>;

/// The engine around a conversion. Calls run concurrently.
#[async_trait]
pub trait Host: Send + Sync {
    /// The config of an image, for a platform.
    async fn resolve_image_config(
        &self,
        request: ImageRequest<'_>,
    ) -> Result<ResolvedImage, HostError>;

    /// Files of a small part of a context: a Dockerfile, an ignore file. One entry for each path asked
    /// for, `None` where there is no such file.
    async fn read_files(&self, request: ReadRequest<'_>) -> Result<Vec<Option<Bytes>>, HostError>;

    /// The time of what a definition of one source and nothing else holds, in seconds since 1970:
    /// a commit's, that of which a server says that a file was changed then, or that of the newest
    /// file of an archive.
    async fn source_time(
        &self,
        definition: &pb::Definition,
        source: &Source,
    ) -> Result<Option<i64>, HostError>;

    /// Hears of what the linter found.
    fn warn(&self, warning: &Warning, source: &SourceFile);
}

/// An image whose config is wanted.
#[derive(Clone, Debug)]
pub struct ImageRequest<'a> {
    /// The reference, with the registry's name and a tag or digest.
    pub reference: &'a str,
    /// The platform to choose of an index.
    pub platform: &'a Platform,
    /// When the registry is asked.
    pub mode: ResolveMode,
    /// The OCI layout that holds the image, instead of a registry.
    pub layout: Option<LayoutStore<'a>>,
    /// What to call the step where progress is shown.
    pub name: String,
}

/// An OCI layout that a client serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayoutStore<'a> {
    /// The session that serves it.
    pub session: &'a str,
    /// Its name in the session.
    pub store: &'a str,
}

/// An image's config.
#[derive(Clone, Debug)]
pub struct ResolvedImage {
    /// The reference to use instead, if a policy has changed it.
    pub reference: Option<String>,
    /// The digest of the index or manifest that the reference stands for; `None` if a policy has made
    /// of it what is no image.
    pub digest: Option<Digest>,
    /// The config, as JSON.
    pub config: Bytes,
}

/// Files that are wanted.
#[derive(Clone, Copy, Debug)]
pub struct ReadRequest<'a> {
    /// What builds the file system that holds them.
    pub definition: &'a pb::Definition,
    /// Where they come from, if the definition is this source and nothing else. A host that has the
    /// directory at hand may read them there, as long as it resolves paths beneath its root.
    pub source: Option<&'a Source>,
    /// The paths, relative to the root.
    pub paths: &'a [String],
    /// Read no more than this of each file, in bytes.
    pub limit: usize,
}
