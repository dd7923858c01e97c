//! Files from HTTP servers as trees of one file.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use weld_digest::FieldHasher;
use weld_llb::HttpSource as Wanted;
use weld_solver::{CacheMap, Op, OpContext, OpError, ResultRef};
use weld_source::http::{AuthSecret, Download, Fetched, HttpRequest, HttpSource};
use weld_store::snapshot::{MutableSnapshot, SnapshotError, SnapshotRef};
use weld_store::{BlobError, BlobInfo, DbError, NewUsage, Object, RecordType, SnapshotId, names};

use super::{secrets, upload};
use crate::blocking::blocking;
use crate::captured::Pin;
use crate::digest::to_solver;
use crate::reporting::reporting;
use crate::{Tree, Worker};

/// The permissions of a file for which none are stated.
pub(super) const DEFAULT_MODE: u32 = 0o600;

/// The headers that are sent, as in BuildKit; others change nothing.
const HEADERS: [&str; 2] = ["accept", "user-agent"];

/// What a file is called while it comes.
const INCOMING: &str = ".incoming";

/// How large what is remembered of a download may be, in bytes.
const MAX_REMEMBERED: u64 = 1 << 20;

const REMEMBERED_TYPE: &str = "application/vnd.weld.download.v1+json";

/// Why a file does not become a tree.
#[derive(Debug, thiserror::Error)]
enum DownloadError {
    #[error("cannot keep {name}: {source}")]
    Snapshot {
        name: String,
        source: Box<SnapshotError>,
    },
    #[error("cannot write {name}: {source}")]
    File { name: String, source: io::Error },
    #[error("cannot look an earlier download of {name} up: {source}")]
    Database { name: String, source: Box<DbError> },
    #[error("cannot look an earlier download of {name} up: {source}")]
    Blob {
        name: String,
        source: Box<BlobError>,
    },
}

/// A file behind a URL as a vertex.
pub(crate) struct Http {
    worker: Arc<Worker>,
    wanted: Wanted,
    description: String,
    /// What was fetched to know its digest.
    kept: Mutex<Option<Kept>>,
}

/// A file that was fetched, as the tree that it makes.
#[derive(Clone)]
struct Kept {
    snapshot: SnapshotRef,
    download: Download,
}

/// A [`Kept`] file as it is remembered from build to build.
#[derive(Serialize, Deserialize)]
struct Remembered {
    snapshot: u64,
    download: Download,
}

impl Http {
    pub(crate) fn new(worker: Arc<Worker>, wanted: Wanted, description: String) -> Self {
        Self {
            worker,
            wanted,
            description,
            kept: Mutex::default(),
        }
    }

    fn request(&self) -> HttpRequest {
        HttpRequest {
            url: self.wanted.url.clone(),
            checksum: self.wanted.checksum.clone(),
            filename: self.wanted.file.filename.clone(),
            authorization: None,
            headers: self.headers(),
        }
    }

    fn headers(&self) -> Vec<(String, String)> {
        let sent = |name: &str| HEADERS.contains(&name.to_ascii_lowercase().as_str());
        let headers = self.wanted.headers.iter();
        headers
            .filter(|(name, _)| sent(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }

    /// What the file is apart from its name and content.
    fn attributes(&self, domain: &str) -> FieldHasher {
        let file = &self.wanted.file;
        let headers = self.headers();
        let hasher = FieldHasher::new(domain)
            .number(u64::from(file.mode.unwrap_or(DEFAULT_MODE)))
            .number(u64::from(file.uid.unwrap_or(0)))
            .number(u64::from(file.gid.unwrap_or(0)))
            .optional(self.wanted.auth_header_secret.as_deref())
            .number(headers.len() as u64);
        headers.iter().fold(hasher, |hasher, (name, value)| {
            hasher.text(&name.to_ascii_lowercase()).text(value)
        })
    }

    /// The key of a file that is kept or that is to have the stated checksum.
    fn key(&self, filename: &str, download: &Download) -> weld_solver::Digest {
        let hasher = self
            .attributes("weld.op.http.v1")
            .text(filename)
            .digest(&download.digest);
        let hasher = match download.last_modified {
            Some(seconds) => hasher.flag(true).bytes(&seconds.to_be_bytes()),
            None => hasher.flag(false),
        };
        to_solver(&hasher.finish())
    }

    /// Under what this file of this URL is found again.
    fn name(&self) -> String {
        let hasher = self
            .attributes("weld.http.name.v1")
            .text(&self.wanted.url)
            .optional(self.wanted.file.filename.as_deref());
        let name = format!("http:{}", hasher.finish().hex());
        self.worker.domain().scoped(name)
    }

    async fn authorized(&self, ctx: &OpContext<Tree>) -> Result<HttpRequest, OpError> {
        let mut request = self.request();
        let stated = self.wanted.auth_header_secret.as_deref();
        let candidates = AuthSecret::candidates(&request.url, stated);
        let names: Vec<_> = candidates
            .iter()
            .map(|candidate| candidate.name.clone())
            .collect();
        let found = secrets::first(ctx, &names).await?;
        request.authorization = match (found, stated) {
            (Some((index, value)), _) => candidates.get(index).map(|secret| secret.header(&value)),
            (None, Some(name)) => return Err(secrets::missing(name)),
            (None, None) => None,
        };
        Ok(request)
    }

    /// The file: as it was kept, if the server says that it is still the same.
    async fn download(&self, ctx: &OpContext<Tree>) -> Result<Kept, OpError> {
        if let Some(path) = upload::path(&self.wanted.url) {
            return self.uploaded(ctx, &path).await;
        }
        let mut before = self.remembered().await?;
        if let (Some(kept), Some(checksum)) = (&before, &self.wanted.checksum)
            && kept.download.digest == *checksum
        {
            return Ok(kept.clone());
        }
        let request = self.authorized(ctx).await?;
        let source = self.worker.http_source().await.map_err(OpError::failed)?;
        loop {
            let work = self.fetch(ctx, source, &request, before.as_ref());
            let fetched = tokio::select! {
                fetched = work => fetched?,
                () = ctx.cancellation().cancelled() => return Err(OpError::Cancelled),
            };
            match (fetched, before.take()) {
                ((into, Fetched::Fetched { file, download }), _) => {
                    return self.keep(into, file, download).await;
                }
                ((_, Fetched::Unchanged { filename, .. }), Some(kept))
                    if kept.download.filename == filename =>
                {
                    return Ok(kept);
                }
                // It has another name now: once more, without what was kept.
                ((_, Fetched::Unchanged { .. }), _) => {}
            }
        }
    }

    async fn fetch(
        &self,
        ctx: &OpContext<Tree>,
        source: &HttpSource,
        request: &HttpRequest,
        before: Option<&Kept>,
    ) -> Result<(MutableSnapshot, Fetched), OpError> {
        let (into, file) = self.begin().await?;
        let before: Vec<_> = before
            .map(|kept| kept.download.clone())
            .into_iter()
            .collect();
        let fetched = reporting(ctx, |progress| async move {
            source.fetch(request, &before, file, &progress).await
        });
        Ok((into, fetched.await.map_err(OpError::failed)?))
    }

    /// A tree, and the file in it that is written to.
    async fn begin(&self) -> Result<(MutableSnapshot, File), OpError> {
        let (worker, name) = (Arc::clone(&self.worker), self.description.clone());
        blocking(move || {
            let into = worker
                .snapshots
                .create(None)
                .map_err(|source| DownloadError::Snapshot {
                    name: name.clone(),
                    source: Box::new(source),
                })?;
            let file =
                incoming(into.files()).map_err(|source| DownloadError::File { name, source })?;
            Ok::<_, DownloadError>((into, file))
        })
        .await
    }

    /// A file that a client has as a stream.
    async fn uploaded(&self, ctx: &OpContext<Tree>, path: &str) -> Result<Kept, OpError> {
        let filename = HttpSource::filename(&self.request()).map_err(OpError::failed)?;
        let work = async {
            let content = upload::open(ctx, path).await?;
            let (into, file) = self.begin().await?;
            let wanted = self.wanted.checksum.as_ref();
            let received = reporting(ctx, |progress| async move {
                upload::receive(content, file, filename, wanted, &progress).await
            });
            let (file, download) = received.await.map_err(OpError::failed)?;
            self.keep(into, file, download).await
        };
        tokio::select! {
            kept = work => kept,
            () = ctx.cancellation().cancelled() => Err(OpError::Cancelled),
        }
    }

    /// Makes a tree of what was fetched, and remembers it for later builds.
    async fn keep(
        &self,
        into: MutableSnapshot,
        file: File,
        download: Download,
    ) -> Result<Kept, OpError> {
        let (worker, attributes) = (Arc::clone(&self.worker), self.wanted.file.clone());
        let (key, name) = (self.name(), self.description.clone());
        blocking(move || {
            let placed = download.set_attributes(&file, &attributes).and_then(|()| {
                let files = into.files();
                fs::rename(files.join(INCOMING), files.join(&download.filename))
            });
            placed.map_err(|source| DownloadError::File {
                name: name.clone(),
                source,
            })?;
            let usage = NewUsage {
                record_type: RecordType::Regular,
                description: format!("http url {name}"),
                mutable: false,
                size: None,
            };
            let snapshot = into
                .commit(usage)
                .map_err(|source| DownloadError::Snapshot {
                    name: name.clone(),
                    source: Box::new(source),
                })?;
            let kept = Kept { snapshot, download };
            remember(&worker, key, &kept).map_err(|source| DownloadError::Blob {
                name,
                source: Box::new(source),
            })?;
            Ok::<_, DownloadError>(kept)
        })
        .await
    }

    async fn remembered(&self) -> Result<Option<Kept>, OpError> {
        let (worker, key) = (Arc::clone(&self.worker), self.name());
        let name = self.description.clone();
        blocking(move || {
            let found = worker
                .store
                .db()
                .read(|tx| Ok((names::get(tx, &key)?, names::get(tx, &file_name_of(&key))?)));
            let found = found.map_err(|source| DownloadError::Database {
                name: name.clone(),
                source: Box::new(source),
            })?;
            let (Some(Object::Blob(digest)), Some(Object::Snapshot(id))) = found else {
                return Ok(None);
            };
            let blob_error = |source| DownloadError::Blob {
                name: name.clone(),
                source: Box::new(source),
            };
            let blobs = worker.store.blobs();
            let Some(json) = blobs
                .document(&digest, MAX_REMEMBERED)
                .map_err(blob_error)?
            else {
                return Ok(None);
            };
            // What another version wrote is fetched anew.
            let Ok(remembered) = serde_json::from_slice::<Remembered>(&json) else {
                return Ok(None);
            };
            if SnapshotId(remembered.snapshot) != id {
                return Ok(None);
            }
            let snapshot = worker
                .snapshots
                .get(id)
                .map_err(|source| DownloadError::Snapshot {
                    name: name.clone(),
                    source: Box::new(source),
                })?;
            worker.store.uses().add(&Object::Snapshot(id));
            Ok::<_, DownloadError>(snapshot.map(|snapshot| Kept {
                snapshot,
                download: remembered.download,
            }))
        })
        .await
    }
}

fn incoming(directory: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(directory.join(INCOMING))
}

/// The name of the tree; `key` itself names what is known of it.
fn file_name_of(key: &str) -> String {
    format!("{key}:file")
}

fn remember(worker: &Worker, key: String, kept: &Kept) -> Result<(), BlobError> {
    let remembered = Remembered {
        snapshot: kept.snapshot.id().0,
        download: kept.download.clone(),
    };
    let Ok(json) = serde_json::to_vec(&remembered) else {
        return Ok(());
    };
    let info = BlobInfo {
        media_type: Some(REMEMBERED_TYPE.to_owned()),
        ..BlobInfo::default()
    };
    let blob = worker.store.blobs().put(&json, info)?;
    let snapshot = kept.snapshot.clone();
    // Waited for, so that the next build, which may come at once, need not fetch it again.
    let named = worker.store.db().update(move |tx| {
        names::set(tx, &key, &Object::Blob(blob.digest().clone()))?;
        names::set(tx, &file_name_of(&key), &Object::Snapshot(snapshot.id()))
    });
    if let Err(error) = named.wait() {
        tracing::warn!("a download is not remembered: {error}");
    }
    Ok(())
}

impl crate::recall::Step for Http {
    fn pin(&self) -> Option<Pin> {
        if let Some(checksum) = &self.wanted.checksum {
            return Some(Pin::Digest(checksum.clone()));
        }
        let kept = self.kept.try_lock().ok()?;
        Some(Pin::Digest(kept.as_ref()?.download.digest.clone()))
    }
}

#[async_trait]
impl Op<Tree> for Http {
    /// With a checksum the key is known without asking the server; else the file is fetched, or
    /// found to be what was fetched before.
    async fn cache_map(&self, ctx: &OpContext<Tree>, _index: u32) -> Result<CacheMap, OpError> {
        if let Some(checksum) = &self.wanted.checksum {
            let filename = HttpSource::filename(&self.request()).map_err(OpError::failed)?;
            let stated = Download {
                digest: checksum.clone(),
                size: 0,
                filename: filename.clone(),
                last_modified: None,
                etag: None,
            };
            return Ok(CacheMap::new(self.key(&filename, &stated)));
        }
        let kept = self.download(ctx).await?;
        let key = self.key(&kept.download.filename, &kept.download);
        *self.kept.lock().await = Some(kept);
        Ok(CacheMap::new(key))
    }

    async fn exec(
        &self,
        ctx: &OpContext<Tree>,
        _inputs: Vec<ResultRef<Tree>>,
    ) -> Result<Vec<Tree>, OpError> {
        let kept = self.kept.lock().await.clone();
        let kept = match kept {
            Some(kept) => kept,
            None => self.download(ctx).await?,
        };
        Ok(vec![Tree::of(kept.snapshot)])
    }
}
