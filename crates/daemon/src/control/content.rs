//! Blobs of the store, to be read: records of the history name them.

use bytes::Bytes;
use futures_util::stream;
use tonic::{Request, Response, Status, Streaming};
use weld_digest::Digest;
use weld_proto::content::content_server;
use weld_proto::session::content::{
    AbortRequest, DeleteContentRequest, Empty, Info, InfoRequest, InfoResponse, ListContentRequest,
    ListContentResponse, ListStatusesRequest, ListStatusesResponse, ReadContentRequest,
    ReadContentResponse, StatusRequest, StatusResponse, UpdateRequest, UpdateResponse,
    WriteContentRequest, WriteContentResponse,
};
use weld_store::{BlobError, BlobRef, Store};

use super::{Answers, blocking};

/// How many bytes go in one message.
const PIECE: u64 = 1 << 20;

pub(super) struct Content {
    store: Store,
}

impl Content {
    pub(super) const fn new(store: Store) -> Self {
        Self { store }
    }

    async fn blob(&self, digest: &str) -> Result<BlobRef, Status> {
        let parsed: Digest = digest
            .parse()
            .map_err(|_| Status::invalid_argument(format!("{digest:?} is no digest")))?;
        let blobs = self.store.blobs().clone();
        let blob = blocking(move || blobs.get(&parsed)).await?;
        blob.ok_or_else(|| Status::not_found(format!("content {digest}: not found")))
    }
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
        let blob = self.blob(&request.into_inner().digest).await?;
        Ok(Response::new(InfoResponse {
            info: Some(Info {
                digest: blob.digest().to_string(),
                size: blob.size().try_into().unwrap_or(i64::MAX),
                labels: blob.info().labels.clone(),
                ..Info::default()
            }),
        }))
    }

    async fn update(&self, _: Request<UpdateRequest>) -> Result<Response<UpdateResponse>, Status> {
        Err(read_only())
    }

    type ListStream = Answers<ListContentResponse>;

    async fn list(
        &self,
        _: Request<ListContentRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        Err(Status::unimplemented(
            "blobs are read by their digests; they are not listed",
        ))
    }

    async fn delete(&self, _: Request<DeleteContentRequest>) -> Result<Response<Empty>, Status> {
        Err(read_only())
    }

    type ReadStream = Answers<ReadContentResponse>;

    async fn read(
        &self,
        request: Request<ReadContentRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let request = request.into_inner();
        let blob = self.blob(&request.digest).await?;
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
