//! Single blobs, of a registry or an OCI layout, as trees of one file.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use weld_digest::{Digest, FieldHasher};
use weld_llb::BlobSource;
use weld_llb::reference::{ParseReferenceError, Reference};
use weld_solver::{CacheMap, Op, OpContext, OpError, ResultRef};
use weld_source::http::{Download, safe_file_name};
use weld_source::oci_layout::LayoutError;
use weld_source::progress::Progress;
use weld_source::registry::RegistryError;
use weld_source::sink::{BlobSink, FileSink, Verdict};
use weld_store::snapshot::{MutableSnapshot, SnapshotError};
use weld_store::{NewUsage, RecordType};

use super::http::DEFAULT_MODE;
use super::image::{ImageError, Place, open_layout};
use super::layers::receive;
use super::layout::{self, Layout};
use crate::blocking::blocking;
use crate::digest::to_solver;
use crate::recall::Step;
use crate::reporting::reporting;
use crate::session::{self, Session};
use crate::{Tree, Worker};

/// Why a blob does not become a tree.
#[derive(Debug, thiserror::Error)]
enum BlobSourceError {
    #[error(transparent)]
    Reference(#[from] ParseReferenceError),
    #[error("blob {0}: the reference has no digest")]
    NoDigest(String),
    #[error(transparent)]
    Layout(#[from] ImageError),
    #[error("cannot fetch blob {name}: {source}")]
    Registry {
        name: String,
        source: Box<RegistryError>,
    },
    #[error("cannot read blob {name}: {source}")]
    Blob {
        name: String,
        source: Box<LayoutError>,
    },
    #[error("blob {name} is damaged: its digest is {actual}")]
    Digest { name: String, actual: Digest },
    #[error("cannot write blob {name}: {source}")]
    File { name: String, source: io::Error },
    #[error("cannot keep blob {name}: {source}")]
    Snapshot {
        name: String,
        source: Box<SnapshotError>,
    },
    #[error("fetching the blob was stopped: {0}")]
    Stopped(#[from] tokio::task::JoinError),
}

/// Where the blob is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlobPlace {
    /// In a registry.
    Registry,
    /// In an OCI layout of the client's.
    Layout,
}

/// A blob as a vertex.
pub(crate) struct Blob {
    pub(crate) worker: Arc<Worker>,
    pub(crate) wanted: BlobSource,
    pub(crate) place: BlobPlace,
}

impl Blob {
    fn name(&self) -> String {
        self.wanted.reference.clone()
    }

    fn parsed(&self) -> Result<(Reference, Digest), BlobSourceError> {
        let reference: Reference = self.wanted.reference.parse()?;
        let digest = reference.digest().cloned();
        let digest = digest.ok_or_else(|| BlobSourceError::NoDigest(self.name()))?;
        Ok((reference, digest))
    }

    /// The file's name: as stated, else the digest.
    fn file_name(&self, digest: &Digest) -> String {
        match self.wanted.file.filename.as_deref() {
            None | Some("") => digest.hex().to_owned(),
            Some(stated) => safe_file_name(stated),
        }
    }

    /// Fetches as whichever client can.
    async fn fetch(&self, ctx: &OpContext<Tree>, progress: Progress) -> Result<Fetched, OpError> {
        if let Some(handle) = ctx.next_session(&[]).await {
            drop(handle);
            return ctx
                .with_session(|handle| {
                    let progress = progress.clone();
                    async move { self.fetch_with(session::of(&handle), progress).await }
                })
                .await;
        }
        self.fetch_with(None, progress).await
    }

    async fn fetch_with(
        &self,
        session: Option<Arc<dyn Session>>,
        progress: Progress,
    ) -> Result<Fetched, OpError> {
        match self.fetch_into_tree(session, &progress).await {
            // Another client may offer it.
            Err(error @ BlobSourceError::Layout(ImageError::NoLayout(_))) => {
                Err(OpError::gone(error))
            }
            other => other.map_err(OpError::failed),
        }
    }

    async fn fetch_into_tree(
        &self,
        session: Option<Arc<dyn Session>>,
        progress: &Progress,
    ) -> Result<Fetched, BlobSourceError> {
        let (reference, digest) = self.parsed()?;
        let place = self.open(session).await?;
        let (into, file) = self.new_file(&digest).await?;
        let (file, size) = match place {
            Place::Registry(registry) => {
                let failed = |source| BlobSourceError::Registry {
                    name: self.name(),
                    source: Box::new(source),
                };
                let repository = reference.repository();
                let blob = registry
                    .describe_blob(repository, &digest)
                    .await
                    .map_err(failed)?;
                let sink = FileSink::resume(file, digest.algorithm()).map_err(self.unwritable())?;
                let fetched = registry.fetch_blob(repository, &blob, sink, progress).await;
                (fetched.map_err(failed)?.into_file(), blob.size)
            }
            Place::Layout(Layout::Blobs(blobs)) => {
                let failed = |source| BlobSourceError::Blob {
                    name: self.name(),
                    source: Box::new(source),
                };
                let content = layout::open(&*blobs, &digest).await.map_err(failed)?;
                let sink = FileSink::resume(file, digest.algorithm()).map_err(self.unwritable())?;
                let received = receive(content, sink, &digest, progress).await;
                verified(received.map_err(self.unwritable())?, &digest, self.name())?
            }
            Place::Layout(Layout::Directory(layout)) => {
                let (name, wanted) = (self.name(), digest.clone());
                let copied = tokio::task::spawn_blocking(move || {
                    let mut from =
                        layout
                            .blob(&wanted)
                            .map_err(|source| BlobSourceError::Blob {
                                name: name.clone(),
                                source: Box::new(source),
                            })?;
                    copy(&mut from, file, &wanted, name)
                });
                copied.await??
            }
        };
        let download = Download {
            filename: self.file_name(&digest),
            digest,
            size,
            last_modified: None,
            etag: None,
        };
        Ok(Fetched {
            into,
            file,
            download,
        })
    }

    async fn open(&self, session: Option<Arc<dyn Session>>) -> Result<Place, BlobSourceError> {
        match self.place {
            BlobPlace::Registry => Ok(Place::registry(&self.worker, session.as_ref())),
            BlobPlace::Layout => {
                let store = self.wanted.store.clone().unwrap_or_default();
                // A definition may want the layout of one session and no other's.
                let session = session.filter(|session| {
                    let wanted = self.wanted.session.as_deref();
                    wanted.is_none_or(|wanted| wanted == session.id())
                });
                Ok(open_layout(session.as_ref(), &store).await?)
            }
        }
    }

    async fn new_file(&self, digest: &Digest) -> Result<(MutableSnapshot, File), BlobSourceError> {
        let (worker, name) = (Arc::clone(&self.worker), self.name());
        let file_name = self.file_name(digest);
        let made = tokio::task::spawn_blocking(move || {
            let into =
                worker
                    .snapshots
                    .create(None)
                    .map_err(|source| BlobSourceError::Snapshot {
                        name: name.clone(),
                        source: Box::new(source),
                    })?;
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(true);
            let file = options.open(into.files().join(file_name));
            Ok((
                into,
                file.map_err(|source| BlobSourceError::File { name, source })?,
            ))
        });
        made.await?
    }

    fn unwritable(&self) -> impl FnOnce(io::Error) -> BlobSourceError {
        let name = self.name();
        move |source| BlobSourceError::File { name, source }
    }
}

/// A blob as a file that goes when this is dropped.
pub(super) struct Staged {
    _into: MutableSnapshot,
    path: PathBuf,
}

impl Staged {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Blob {
    /// Fetches it for an operation that needs it for a while.
    pub(super) async fn stage(&self, ctx: &OpContext<Tree>) -> Result<Staged, OpError> {
        let work = reporting(ctx, |progress| self.fetch(ctx, progress));
        let fetched = tokio::select! {
            fetched = work => fetched?,
            () = ctx.cancellation().cancelled() => return Err(OpError::Cancelled),
        };
        Ok(Staged {
            path: fetched.into.files().join(&fetched.download.filename),
            _into: fetched.into,
        })
    }
}

/// A blob that is there but not a tree yet.
struct Fetched {
    into: MutableSnapshot,
    file: File,
    download: Download,
}

/// Copies a blob and verifies it on the way; returns the file and how many bytes it has.
fn copy(
    from: &mut File,
    to: File,
    digest: &Digest,
    name: String,
) -> Result<(File, u64), BlobSourceError> {
    let failed = |source| BlobSourceError::File {
        name: name.clone(),
        source,
    };
    let mut sink = FileSink::resume(to, digest.algorithm()).map_err(failed)?;
    weld_source::sink::fill(&mut sink, from).map_err(failed)?;
    verified(sink, digest, name)
}

/// The file of a blob that is complete, and its size.
fn verified(sink: FileSink, digest: &Digest, name: String) -> Result<(File, u64), BlobSourceError> {
    match Verdict::of(sink.digest(), digest) {
        Verdict::Right => {
            let size = sink.position();
            Ok((sink.into_file(), size))
        }
        Verdict::Wrong { actual } => Err(BlobSourceError::Digest { name, actual }),
    }
}

#[async_trait]
impl Op<Tree> for Blob {
    /// The digest is stated, so nobody needs to be asked.
    async fn cache_map(&self, _ctx: &OpContext<Tree>, _index: u32) -> Result<CacheMap, OpError> {
        let (_, digest) = self.parsed().map_err(OpError::failed)?;
        let file = &self.wanted.file;
        let key = FieldHasher::new("weld.op.blob.v1")
            .digest(&digest)
            .text(&self.file_name(&digest))
            .number(u64::from(file.mode.unwrap_or(DEFAULT_MODE)))
            .number(u64::from(file.uid.unwrap_or(0)))
            .number(u64::from(file.gid.unwrap_or(0)))
            .finish();
        Ok(CacheMap::new(to_solver(&key)))
    }

    async fn exec(
        &self,
        ctx: &OpContext<Tree>,
        _inputs: Vec<ResultRef<Tree>>,
    ) -> Result<Vec<Tree>, OpError> {
        let work = reporting(ctx, |progress| self.fetch(ctx, progress));
        let fetched = tokio::select! {
            fetched = work => fetched?,
            () = ctx.cancellation().cancelled() => return Err(OpError::Cancelled),
        };
        let (name, attributes) = (self.name(), self.wanted.file.clone());
        let tree = blocking(move || {
            fetched
                .download
                .set_attributes(&fetched.file, &attributes)
                .map_err(|source| BlobSourceError::File {
                    name: name.clone(),
                    source,
                })?;
            let usage = NewUsage {
                record_type: RecordType::Regular,
                description: format!("blob {name}"),
                mutable: false,
                size: None,
            };
            fetched
                .into
                .commit(usage)
                .map_err(|source| BlobSourceError::Snapshot {
                    name,
                    source: Box::new(source),
                })
        });
        tree.await.map(|tree| vec![Tree::of(tree)])
    }
}

impl Step for Blob {}
