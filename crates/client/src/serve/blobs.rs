use std::io;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};
use weld_digest::Digest;
use weld_op::session::{Layout, Session};
use weld_proto::content::content_server::Content;
use weld_proto::session::content::{
    AbortRequest, DeleteContentRequest, Empty, Info, InfoRequest, InfoResponse, LAYOUT_PREFIX,
    ListContentRequest, ListContentResponse, ListStatusesRequest, ListStatusesResponse,
    ReadContentRequest, ReadContentResponse, STORE_ID, StatusRequest, StatusResponse,
    UpdateRequest, UpdateResponse, WriteAction, WriteContentRequest, WriteContentResponse,
};
use weld_source::blob_store::BlobStore;
use weld_source::oci_layout::OciLayout;

/// How much of a blob goes into one message, in bytes.
const PIECE: usize = 1 << 20;

/// A blob's content and length.
type Opened = (Box<dyn AsyncRead + Send + Unpin>, u64);

/// The session's OCI layouts, which can be read, and its stores of build caches, which can also be written to.
pub(super) struct Stores(pub(super) Arc<dyn Session>);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send + 'static>>;

impl Stores {
    async fn open(&self, metadata: &MetadataMap, digest: &str) -> Result<Opened, Status> {
        let id = store_id(metadata)?;
        let digest = parse_digest(digest)?;
        let absent = || Status::not_found(format!("content {digest}: not found"));
        if let Some(store) = self.store(id).await? {
            let failed = |error: io::Error| Status::internal(error.to_string());
            let length = store.size(&digest).await.map_err(failed)?;
            let length = length.ok_or_else(absent)?;
            let content = store.open(&digest).await.map_err(failed)?;
            return Ok((content, length));
        }
        let name = id.strip_prefix(LAYOUT_PREFIX).unwrap_or(id);
        let layout = self.0.layout(name).await;
        let layout = layout.map_err(|error| Status::internal(error.to_string()))?;
        let Some(Layout::Directory(path)) = layout else {
            return Err(Status::not_found(format!("unknown store {id}")));
        };
        let wanted = digest.clone();
        let opened =
            tokio::task::spawn_blocking(move || OciLayout::of_blobs(path)?.find_blob(&wanted));
        let opened = opened
            .await
            .map_err(|error| Status::internal(error.to_string()))?;
        let found = opened.map_err(|error| Status::internal(error.to_string()))?;
        let (file, length) = found.ok_or_else(absent)?;
        Ok((Box::new(tokio::fs::File::from_std(file)), length))
    }

    /// The store of a build cache that has this id.
    async fn store(&self, id: &str) -> Result<Option<Arc<dyn BlobStore>>, Status> {
        let store = self.0.blob_store(id).await;
        store.map_err(|error| Status::internal(error.to_string()))
    }
}

fn store_id(metadata: &MetadataMap) -> Result<&str, Status> {
    let store = metadata.get(STORE_ID);
    let store = store.and_then(|store| store.to_str().ok());
    store.ok_or_else(|| Status::invalid_argument(format!("the request lacks {STORE_ID}")))
}

fn parse_digest(digest: &str) -> Result<Digest, Status> {
    digest
        .parse()
        .map_err(|error| Status::invalid_argument(format!("{digest:?}: {error}")))
}

/// One blob that a daemon writes: kept in a file until it is whole.
struct Incoming {
    store: Arc<dyn BlobStore>,
    file: tokio::fs::File,
    path: tempfile::TempPath,
    length: u64,
}

impl Incoming {
    fn begin(store: Arc<dyn BlobStore>) -> io::Result<Self> {
        let (file, path) = tempfile::NamedTempFile::new()?.into_parts();
        Ok(Self {
            store,
            file: tokio::fs::File::from_std(file),
            path,
            length: 0,
        })
    }

    /// Does one step; what the daemon is told, and whether it was the last.
    async fn step(
        &mut self,
        request: WriteContentRequest,
    ) -> Result<(WriteContentResponse, bool), Status> {
        if request.action() != WriteAction::Stat {
            let offset = u64::try_from(request.offset).unwrap_or(u64::MAX);
            if !request.data.is_empty() && offset != self.length {
                return Err(Status::out_of_range(
                    "the piece does not follow the last one",
                ));
            }
            self.file.write_all(&request.data).await?;
            self.length += request.data.len() as u64;
        }
        let answer = WriteContentResponse {
            action: request.action,
            offset: i64::try_from(self.length).unwrap_or(i64::MAX),
            total: request.total,
            ..WriteContentResponse::default()
        };
        if request.action() != WriteAction::Commit {
            return Ok((answer, false));
        }
        let digest = parse_digest(&request.expected)?;
        self.file.flush().await?;
        if request.total > 0 && u64::try_from(request.total).ok() != Some(self.length) {
            return Err(Status::failed_precondition(format!(
                "the blob has {} bytes, and {} were announced",
                self.length, request.total
            )));
        }
        self.store.put(&digest, self.length, &self.path).await?;
        let answer = WriteContentResponse {
            digest: digest.to_string(),
            ..answer
        };
        Ok((answer, true))
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
        let wanted = request.get_ref();
        let (mut content, length) = self.open(request.metadata(), &wanted.digest).await?;
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
        let mut skipped = (&mut content).take(offset);
        tokio::io::copy(&mut skipped, &mut tokio::io::sink()).await?;
        let pieces = futures_util::stream::try_unfold(
            (content.take(size), offset),
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
        request: Request<Streaming<WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        let id = store_id(request.metadata())?;
        let store = self.store(id).await?;
        let store = store.ok_or_else(|| Status::unimplemented(format!("{id} can only be read")))?;
        let incoming = Incoming::begin(store)?;
        let steps = (request.into_inner(), Some(incoming));
        let answers = futures_util::stream::try_unfold(steps, |(mut requests, state)| async move {
            let Some(mut incoming) = state else {
                return Ok(None);
            };
            // A daemon that gives up ends the stream; nothing stays.
            let Some(request) = requests.message().await? else {
                return Ok(None);
            };
            let (answer, last) = incoming.step(request).await?;
            let state = (!last).then_some(incoming);
            Ok(Some((answer, (requests, state))))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn abort(&self, _request: Request<AbortRequest>) -> Result<Response<Empty>, Status> {
        read_only()
    }
}
