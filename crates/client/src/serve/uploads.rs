use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use tokio::io::AsyncReadExt;
use tonic::{Request, Response, Status, Streaming};
use weld_op::session::Session;
use weld_proto::session::servers::Upload;
use weld_proto::session::{BytesMessage, upload};

/// How much of a stream goes into one message, in bytes.
const PIECE: usize = 64 << 10;

/// The session's streams, such as standard input.
pub(super) struct Offered(pub(super) Arc<dyn Session>);

#[tonic::async_trait]
impl Upload for Offered {
    type PullStream = Pin<Box<dyn Stream<Item = Result<BytesMessage, Status>> + Send>>;

    async fn pull(
        &self,
        request: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<Self::PullStream>, Status> {
        let path = request.metadata().get(upload::URL_PATH);
        let path = path.and_then(|path| path.to_str().ok());
        let path = path.ok_or_else(|| {
            Status::invalid_argument(format!("the request lacks {}", upload::URL_PATH))
        })?;
        let stream = self.0.upload(path).await;
        let stream = stream.map_err(|error| Status::internal(error.to_string()))?;
        let stream = stream.ok_or_else(|| Status::not_found(format!("no upload {path}")))?;
        let pieces = futures_util::stream::try_unfold(stream, |mut stream| async move {
            let mut piece = vec![0; PIECE];
            let count = stream.read(&mut piece).await?;
            if count == 0 {
                return Ok(None);
            }
            piece.truncate(count);
            let data = Bytes::from(piece);
            Ok(Some((BytesMessage { data }, stream)))
        });
        Ok(Response::new(Box::pin(pieces)))
    }
}
