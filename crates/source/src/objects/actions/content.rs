//! The content of entries: written to signed addresses of Azure's or to the service, and read from signed addresses.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;
use url::Url;

use super::super::ObjectError;
use super::client::{Answer, Call, read_answer};
use super::service::{Entry, Service, Upload};
use crate::Secret;
use crate::transport::NetworkError;

/// Up to this length, in bytes, content goes in one request.
const AT_ONCE: u64 = 16 << 20;
/// The length of a piece, in bytes.
const PIECE: u64 = 8 << 20;
/// Most pieces: Azure takes 50,000 blocks.
const MAX_PIECES: u64 = 50_000;
/// How many pieces of one entry are on their way.
const PARALLEL: usize = 2;
/// The version of Azure's protocol that is spoken.
const AZURE_VERSION: &str = "2021-12-02";
/// How often a download that broke off is taken up again where it did.
const RESUMED: u32 = 3;

/// What is written.
#[derive(Clone)]
pub(super) enum Content {
    Bytes(Bytes),
    File(Arc<File>, PathBuf, u64),
}

impl Content {
    /// A file, which has to be `size` bytes.
    pub(super) async fn file(path: &Path, size: u64) -> Result<Self, ObjectError> {
        let opened = path.to_owned();
        let file = tokio::task::spawn_blocking(move || {
            let file = File::open(&opened)?;
            match file.metadata()?.len() == size {
                true => Ok(file),
                false => Err(io::Error::other(format!("it is not {size} bytes long"))),
            }
        });
        let file = file.await.map_err(io::Error::other).flatten();
        let file = file.map_err(|source| ObjectError::File {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self::File(Arc::new(file), path.to_owned(), size))
    }

    pub(super) const fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(_, _, size) => *size,
        }
    }

    async fn piece(&self, offset: u64, length: u64) -> Result<Bytes, ObjectError> {
        match self {
            Self::Bytes(bytes) => {
                let at = |position: u64| usize::try_from(position).unwrap_or(usize::MAX);
                let start = at(offset).min(bytes.len());
                let end = at(offset + length).min(bytes.len());
                Ok(bytes.slice(start..end))
            }
            Self::File(file, path, _) => {
                let file = Arc::clone(file);
                let read = tokio::task::spawn_blocking(move || {
                    let mut piece = vec![0; usize::try_from(length).map_err(io::Error::other)?];
                    file.read_exact_at(&mut piece, offset)?;
                    Ok::<Bytes, io::Error>(piece.into())
                });
                let read = read.await.map_err(io::Error::other).flatten();
                read.map_err(|source| ObjectError::File {
                    path: path.clone(),
                    source,
                })
            }
        }
    }
}

impl Service {
    /// Writes an entry whose key was reserved, and makes it known.
    pub(super) async fn write(
        &self,
        key: &str,
        upload: &Upload,
        content: &Content,
    ) -> Result<(), ObjectError> {
        let size = content.size();
        let length = PIECE.max(size.div_ceil(MAX_PIECES));
        let offsets = (0..size.div_ceil(length)).map(|number| number * length);
        match upload {
            Upload::Signed(url) if size <= AT_ONCE => {
                let piece = content.piece(0, size).await?;
                let mut call = self.signed("write", key, url, Method::PUT, piece)?;
                let kind = HeaderValue::from_static("BlockBlob");
                call.headers.insert("x-ms-blob-type", kind);
                self.clients.ask(&call).await?.done(&call)?;
            }
            Upload::Signed(url) => {
                let blocks = offsets.clone().map(|offset| async move {
                    let piece = content.piece(offset, length.min(size - offset)).await?;
                    let mut call = self.signed("write", key, url, Method::PUT, piece)?;
                    call.url
                        .query_pairs_mut()
                        .append_pair("comp", "block")
                        .append_pair("blockid", &block_id(offset));
                    self.clients.ask(&call).await?.done(&call)
                });
                all(blocks).await?;
                let blocks = offsets.map(|offset| format!("<Latest>{}</Latest>", block_id(offset)));
                let list = format!(
                    "<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>{}</BlockList>",
                    blocks.collect::<String>()
                );
                let mut call = self.signed("write", key, url, Method::PUT, list.into())?;
                call.url.query_pairs_mut().append_pair("comp", "blocklist");
                self.clients.ask(&call).await?.done(&call)?;
            }
            Upload::Service(entry) => {
                let pieces = offsets.map(|offset| async move {
                    let piece = content.piece(offset, length.min(size - offset)).await?;
                    self.send(key, *entry, offset, piece).await
                });
                all(pieces).await?;
            }
        }
        self.finish(key, upload, size).await
    }

    /// The length of an entry's content, in bytes, as the server tells it.
    pub(super) async fn length(&self, entry: &Entry) -> Result<Option<u64>, ObjectError> {
        let (key, body) = (&entry.key, Bytes::new());
        let call = self.signed("look for", key, &entry.url, Method::HEAD, body)?;
        let response = self.clients.send(&call).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let answer = Answer {
            status: response.status(),
            body: Bytes::new(),
        };
        answer.done(&call)?;
        let length = response.headers().get(CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        let unknown = || call.failed("the server does not say how long it is".to_owned(), None);
        length.map(Some).ok_or_else(unknown)
    }

    /// An entry's content from an offset on.
    async fn download(&self, entry: &Entry, offset: u64) -> Result<reqwest::Response, ObjectError> {
        let mut call = self.signed("read", &entry.key, &entry.url, Method::GET, Bytes::new())?;
        if offset > 0 {
            let range = HeaderValue::from_str(&format!("bytes={offset}-"));
            let range = range.map_err(|error| call.failed(error.to_string(), None))?;
            call.headers.insert(RANGE, range);
        }
        let response = self.clients.send(&call).await?;
        if !response.status().is_success() {
            let status = response.status();
            let body = read_answer(response).await.unwrap_or_default();
            return Err(Answer { status, body }.refused(&call));
        }
        let from = response.headers().get(CONTENT_RANGE);
        let from = from.and_then(|range| range.to_str().ok());
        let expected = format!("bytes {offset}-");
        if offset > 0 && !from.is_some_and(|from| from.starts_with(&expected)) {
            let reason = format!("the server does not give what follows byte {offset}");
            return Err(call.failed(reason, None));
        }
        Ok(response)
    }

    /// An entry's content. Where it breaks off, the key is looked up again, since addresses are good for minutes, and the rest read.
    pub(super) async fn read(
        &self,
        entry: Entry,
    ) -> Result<Box<dyn AsyncRead + Send + Unpin>, ObjectError> {
        let response = self.download(&entry, 0).await?;
        let reading = Reading {
            service: self.clone(),
            key: entry.key,
            length: response.content_length(),
            response: Some(response),
            offset: 0,
            failures: 0,
        };
        let pieces = futures_util::stream::try_unfold(reading, |mut reading| async move {
            let piece = reading.next().await.map_err(io::Error::from)?;
            Ok::<_, io::Error>(piece.map(|piece| (piece, reading)))
        });
        Ok(Box::new(StreamReader::new(Box::pin(pieces))))
    }

    /// A request to an address that is signed, and so is a secret by itself.
    fn signed(
        &self,
        action: &'static str,
        key: &str,
        url: &Secret,
        method: Method,
        body: Bytes,
    ) -> Result<Call<'static>, ObjectError> {
        let parsed = Url::parse(url.expose()).ok();
        let parsed = parsed.filter(|url| matches!(url.scheme(), "http" | "https"));
        let url = parsed.ok_or_else(|| ObjectError::Request {
            action,
            key: key.to_owned(),
            reason: "the service names no address for it".to_owned(),
            status: None,
        })?;
        let mut headers = HeaderMap::new();
        let version = HeaderValue::from_static(AZURE_VERSION);
        headers.insert("x-ms-version", version);
        Ok(Call {
            action,
            key: key.to_owned(),
            method,
            url,
            headers,
            body,
            secret: None,
            until: Instant::now() + self.patience(),
        })
    }
}

/// An entry on its way.
struct Reading {
    service: Service,
    key: String,
    length: Option<u64>,
    response: Option<reqwest::Response>,
    offset: u64,
    failures: u32,
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Bytes>, ObjectError> {
        loop {
            let Some(response) = &mut self.response else {
                return Ok(None);
            };
            let error = match response.chunk().await {
                Ok(Some(piece)) => {
                    self.offset += piece.len() as u64;
                    return Ok(Some(piece));
                }
                Ok(None) => {
                    self.response = None;
                    return Ok(None);
                }
                Err(error) => NetworkError::from(error),
            };
            self.failures += 1;
            let failed = |reason: String| ObjectError::Request {
                action: "read",
                key: self.key.clone(),
                reason,
                status: None,
            };
            if self.failures > RESUMED || self.length.is_none() {
                return Err(failed(error.to_string()));
            }
            let found = self.service.find(&self.key).await?;
            let found = found.filter(|found| found.key == self.key);
            let gone = || failed(format!("{error}, and it is not there any more"));
            let entry = found.ok_or_else(gone)?;
            self.response = Some(self.service.download(&entry, self.offset).await?);
        }
    }
}

/// The name of a block; all of one blob have to be of one length.
fn block_id(offset: u64) -> String {
    STANDARD.encode(format!("{offset:020}"))
}

async fn all(
    pieces: impl Iterator<Item = impl Future<Output = Result<(), ObjectError>>>,
) -> Result<(), ObjectError> {
    let pieces = futures_util::stream::iter(pieces).buffer_unordered(PARALLEL);
    pieces.try_collect::<()>().await
}
