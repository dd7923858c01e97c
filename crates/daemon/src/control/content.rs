//! Blobs of the store, to be read: records of the history name them. Clients that are kept apart from each other read what the history
//! names, which is everybody's, and nothing else: a layer is some client's own.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use tonic::{Extensions, Request, Response, Status, Streaming};
use weld_digest::Digest;
use weld_proto::content::content_server;
use weld_proto::session::content::{
    AbortRequest, DeleteContentRequest, Empty, Info, InfoRequest, InfoResponse, ListContentRequest,
    ListContentResponse, ListStatusesRequest, ListStatusesResponse, ReadContentRequest,
    ReadContentResponse, StatusRequest, StatusResponse, UpdateRequest, UpdateResponse,
    WriteContentRequest, WriteContentResponse,
};
use weld_store::{BlobError, BlobRef, Blobs, Store};

use super::{Answers, blocking};
use crate::history::History;
use crate::selector::Selector;
use crate::server::Peer;

/// How many bytes go in one message.
const PIECE: u64 = 1 << 20;
/// How many blobs are listed in one message.
const PAGE: usize = 100;

pub(super) struct Content {
    store: Store,
    history: Arc<History>,
}

impl Content {
    pub(super) const fn new(store: Store, history: Arc<History>) -> Self {
        Self { store, history }
    }

    /// The blobs that a client may read; `None` for all.
    async fn readable(&self, client: &Extensions) -> Result<Option<HashSet<String>>, Status> {
        if Peer::domain_of(client).is_none() {
            return Ok(None);
        }
        let history = Arc::clone(&self.history);
        Ok(Some(blocking(move || history.usage()).await?.blobs))
    }

    async fn blob(&self, digest: &str, client: &Extensions) -> Result<BlobRef, Status> {
        let readable = self.readable(client).await?;
        if readable.is_some_and(|readable| !readable.contains(digest)) {
            return Err(Status::not_found(format!("content {digest}: not found")));
        }
        let parsed: Digest = digest
            .parse()
            .map_err(|_| Status::invalid_argument(format!("{digest:?} is no digest")))?;
        let blobs = self.store.blobs().clone();
        let blob = blocking(move || blobs.get(&parsed)).await?;
        blob.ok_or_else(|| Status::not_found(format!("content {digest}: not found")))
    }
}

fn info(blob: &BlobRef) -> Info {
    Info {
        digest: blob.digest().to_string(),
        size: blob.size().try_into().unwrap_or(i64::MAX),
        labels: blob.info().labels.clone(),
        ..Info::default()
    }
}

/// The blobs that one of the filters selects, or all.
fn list(blobs: &Blobs, selectors: &[Selector]) -> Result<Vec<Info>, ListError> {
    let mut infos = Vec::new();
    for algorithm in std::fs::read_dir(blobs.layout().join("blobs"))? {
        let algorithm = algorithm?;
        for file in std::fs::read_dir(algorithm.path())? {
            let names = (algorithm.file_name(), file?.file_name());
            let (Some(algorithm), Some(hex)) = (names.0.to_str(), names.1.to_str()) else {
                continue;
            };
            let Ok(digest) = format!("{algorithm}:{hex}").parse() else {
                continue;
            };
            // One that is being deleted is not there any more.
            let Some(blob) = blobs.get(&digest)? else {
                continue;
            };
            let selected = |selector: &Selector| {
                selector.matches(|path| match path {
                    [field] if field == "digest" => Some(digest.to_string()),
                    [field] if field == "size" => Some(blob.size().to_string()),
                    [field, label] if field == "labels" => blob.info().labels.get(label).cloned(),
                    _ => None,
                })
            };
            if selectors.is_empty() || selectors.iter().any(selected) {
                infos.push(info(&blob));
            }
        }
    }
    Ok(infos)
}

/// Why blobs cannot be listed.
#[derive(Debug, thiserror::Error)]
enum ListError {
    /// Their directory cannot be read.
    #[error("list blobs: {0}")]
    Read(#[from] std::io::Error),
    /// What is known of them cannot be read.
    #[error("list blobs: {0}")]
    Blob(#[from] BlobError),
}

fn read_only() -> Status {
    Status::unimplemented("read-only content store")
}

fn range(request: &ReadContentRequest, size: u64) -> Result<(u64, u64), Status> {
    let out_of_range = || {
        let (offset, length) = (request.offset, request.size);
        let reason = format!(
            "no {length} bytes from {offset} in {size} of {}",
            request.digest
        );
        Status::out_of_range(reason)
    };
    let offset = u64::try_from(request.offset).map_err(|_| out_of_range())?;
    let length = u64::try_from(request.size).map_err(|_| out_of_range())?;
    let left = size.checked_sub(offset).ok_or_else(out_of_range)?;
    match length {
        0 => Ok((offset, size)),
        length if length <= left => Ok((offset, offset + length)),
        _ => Err(out_of_range()),
    }
}

#[tonic::async_trait]
impl content_server::Content for Content {
    async fn info(&self, request: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        let digest = &request.get_ref().digest;
        let blob = self.blob(digest, request.extensions()).await?;
        Ok(Response::new(InfoResponse {
            info: Some(info(&blob)),
        }))
    }

    async fn update(&self, _: Request<UpdateRequest>) -> Result<Response<UpdateResponse>, Status> {
        Err(read_only())
    }

    type ListStream = Answers<ListContentResponse>;

    async fn list(
        &self,
        request: Request<ListContentRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let readable = self.readable(request.extensions()).await?;
        let filters = request.into_inner().filters;
        let selectors = filters.iter().map(|filter| Selector::parse(filter));
        let selectors = selectors.collect::<Result<Vec<_>, _>>()?;
        let blobs = self.store.blobs().clone();
        let mut infos = blocking(move || list(&blobs, &selectors)).await?;
        if let Some(readable) = readable {
            infos.retain(|info| readable.contains(&info.digest));
        }
        let pages: Vec<_> = infos
            .chunks(PAGE)
            .map(|page| {
                Ok(ListContentResponse {
                    info: page.to_vec(),
                })
            })
            .collect();
        Ok(Response::new(Box::pin(stream::iter(pages))))
    }

    async fn delete(&self, _: Request<DeleteContentRequest>) -> Result<Response<Empty>, Status> {
        Err(read_only())
    }

    type ReadStream = Answers<ReadContentResponse>;

    async fn read(
        &self,
        request: Request<ReadContentRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let digest = &request.get_ref().digest;
        let blob = self.blob(digest, request.extensions()).await?;
        let request = request.into_inner();
        let (offset, end) = range(&request, blob.size())?;
        let pieces = stream::unfold(Some((blob, offset)), move |state| async move {
            let (blob, offset) = state?;
            let length = (end - offset).min(PIECE);
            if length == 0 {
                return None;
            }
            let read = blocking(move || {
                // At most a megabyte.
                let piece = blob.read_range(offset, length as usize)?;
                Ok::<_, BlobError>((blob, piece))
            });
            match read.await {
                Ok((blob, piece)) => {
                    let next = offset + piece.len() as u64;
                    let response = ReadContentResponse {
                        offset: offset.try_into().unwrap_or(i64::MAX),
                        data: Bytes::from(piece),
                    };
                    Some((Ok(response), (next > offset).then_some((blob, next))))
                }
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(Box::pin(pieces)))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Err(read_only())
    }

    async fn list_statuses(
        &self,
        _: Request<ListStatusesRequest>,
    ) -> Result<Response<ListStatusesResponse>, Status> {
        Ok(Response::new(ListStatusesResponse::default()))
    }

    type WriteStream = Answers<WriteContentResponse>;

    async fn write(
        &self,
        _: Request<Streaming<WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        Err(read_only())
    }

    async fn abort(&self, _: Request<AbortRequest>) -> Result<Response<Empty>, Status> {
        Err(read_only())
    }
}
