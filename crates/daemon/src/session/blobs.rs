//! Content stores of clients.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};
use weld_digest::Digest;
use weld_proto::session::content::{
    LAYOUT_PREFIX, READ, ReadContentRequest, ReadContentResponse, STORE_ID,
};
use weld_source::oci_layout::BlobProvider;

use super::manager::ClientSession;
use super::offers::reason;

/// One of the client's stores.
pub(super) struct ClientBlobs {
    session: Arc<ClientSession>,
    store: String,
    name: String,
}

impl ClientBlobs {
    /// The store that is the OCI layout of that name.
    pub(super) fn layout(session: Arc<ClientSession>, name: &str) -> Self {
        Self {
            store: format!("{LAYOUT_PREFIX}{name}"),
            name: format!("{name} of the client"),
            session,
        }
    }
}

#[async_trait]
impl BlobProvider for ClientBlobs {
    fn name(&self) -> &str {
        &self.name
    }

    async fn open(&self, digest: &Digest) -> io::Result<Box<dyn AsyncRead + Send + Unpin>> {
        let connection = self.session.connection().await.map_err(to_io)?;
        let mut request = Request::new(ReadContentRequest {
            digest: digest.to_string(),
            offset: 0,
            size: 0,
        });
        let store = MetadataValue::try_from(self.store.as_str()).map_err(io::Error::other)?;
        request.metadata_mut().insert(STORE_ID, store);
        let answer = connection
            .caller
            .server_streaming::<_, ReadContentResponse>(READ, request)
            .await;
        let pieces = answer
            .map_err(to_io)?
            .into_inner()
            .map_ok(|piece| piece.data)
            .map_err(to_io);
        Ok(Box::new(StreamReader::new(pieces)))
    }
}

fn to_io(status: Status) -> io::Error {
    let kind = match status.code() {
        Code::NotFound => io::ErrorKind::NotFound,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, reason(&status))
}
