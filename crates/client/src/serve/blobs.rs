use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use tokio::io::AsyncReadExt;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};
use weld_digest::Digest;
use weld_op::session::{Layout, Session};
use weld_proto::content::content_server::Content;
use weld_proto::session::content::{
    AbortRequest, DeleteContentRequest, Empty, Info, InfoRequest, InfoResponse, LAYOUT_PREFIX,
    ListContentRequest, ListContentResponse, ListStatusesRequest, ListStatusesResponse,
    ReadContentRequest, ReadContentResponse, STORE_ID, StatusRequest, StatusResponse,
    UpdateRequest, UpdateResponse, WriteContentRequest, WriteContentResponse,
};
use weld_source::oci_layout::OciLayout;

/// How much of a blob goes into one message, in bytes.
const PIECE: usize = 1 << 20;

/// The session's OCI layouts, which can be read.
pub(super) struct Stores(pub(super) Arc<dyn Session>);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send + 'static>>;

impl Stores {
    async fn open(
        &self,
        metadata: &MetadataMap,
        digest: &str,
    ) -> Result<(std::fs::File, u64), Status> {
        let store = metadata.get(STORE_ID);
        let store = store.and_then(|store| store.to_str().ok());
        let store = store
            .ok_or_else(|| Status::invalid_argument(format!("the request lacks {STORE_ID}")))?;
        let name = store.strip_prefix(LAYOUT_PREFIX).unwrap_or(store);
        let layout = self.0.layout(name).await;
        let layout = layout.map_err(|error| Status::internal(error.to_string()))?;
        let Some(Layout::Directory(path)) = layout else {
            return Err(Status::not_found(format!("unknown store {store}")));
        };
        let digest: Digest = digest
            .parse()
            .map_err(|error| Status::invalid_argument(format!("{digest:?}: {error}")))?;
        let opened = tokio::task::spawn_blocking(move || {
            let found = OciLayout::of_blobs(path)?.find_blob(&digest)?;
            Ok::<_, weld_source::oci_layout::LayoutError>((found, digest))
        });
        let opened = opened
            .await
            .map_err(|error| Status::internal(error.to_string()))?;
        let (found, digest) = opened.map_err(|error| Status::internal(error.to_string()))?;
        found.ok_or_else(|| Status::not_found(format!("content {digest}: not found")))
    }
}

fn read_only<T>() -> Result<T, Status> {
    Err(Status::unimplemented("this store can only be read"))
}

#[tonic::async_trait]
impl Content for Stores {
    async fn info(&self, request: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        let digest = &request.get_ref().digest;
        let (_, size) = self.open(request.metadata(), digest).await?;
        Ok(Response::new(InfoResponse {
            info: Some(Info {
                digest: digest.clone(),
                size: size.try_into().unwrap_or(i64::MAX),
                ..Info::default()
            }),
        }))
    }

    type ReadStream = Answers<ReadContentResponse>;

    async fn read(
        &self,
        request: Request<ReadContentRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        use tokio::io::AsyncSeekExt;
        let wanted = request.get_ref();
        let (file, length) = self.open(request.metadata(), &wanted.digest).await?;
        let range = |number: i64| u64::try_from(number);
        let (Ok(offset), Ok(size)) = (range(wanted.offset), range(wanted.size)) else {
            return Err(Status::out_of_range("offset and size cannot be negative"));
        };
        if offset > length {
            return Err(Status::out_of_range("the offset is behind the blob's end"));
        }
        let rest = length - offset;
        let size = if size == 0 { rest } else { size };
        if size > rest {
            return Err(Status::out_of_range("the blob ends before that"));
        }
        let mut file = tokio::fs::File::from_std(file);
        file.seek(std::io::SeekFrom::Start(offset)).await?;
        let pieces = futures_util::stream::try_unfold(
            (file.take(size), offset),
            |(mut file, offset)| async move {
                let mut piece = Vec::with_capacity(PIECE);
                let count = (&mut file)
                    .take(PIECE as u64)
                    .read_to_end(&mut piece)
                    .await?;
                if count == 0 {
                    return Ok(None);
                }
                let answer = ReadContentResponse {
                    offset: offset.try_into().unwrap_or(i64::MAX),
                    data: Bytes::from(piece),
                };
                Ok(Some((answer, (file, offset + count as u64))))
            },
        );
        Ok(Response::new(Box::pin(pieces)))
    }

    type ListStream = Answers<ListContentResponse>;

    async fn list(
        &self,
        _request: Request<ListContentRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        Err(Status::unimplemented("blobs are not listed"))
    }

    async fn update(
        &self,
        _request: Request<UpdateRequest>,
    ) -> Result<Response<UpdateResponse>, Status> {
        read_only()
    }

    async fn delete(
        &self,
        _request: Request<DeleteContentRequest>,
    ) -> Result<Response<Empty>, Status> {
        read_only()
    }

    async fn status(
        &self,
        _request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        read_only()
    }

    async fn list_statuses(
        &self,
        _request: Request<ListStatusesRequest>,
    ) -> Result<Response<ListStatusesResponse>, Status> {
        Ok(Response::new(ListStatusesResponse::default()))
    }

    type WriteStream = Answers<WriteContentResponse>;

    async fn write(
        &self,
        _request: Request<Streaming<WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        read_only()
    }

    async fn abort(&self, _request: Request<AbortRequest>) -> Result<Response<Empty>, Status> {
        read_only()
    }
}
