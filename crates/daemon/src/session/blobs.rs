//! Content stores of clients.

use std::io;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::BytesMut;
use futures_util::TryStreamExt;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Request, Status};
use weld_digest::Digest;
use weld_export::ResultBlob;
use weld_proto::session::content::{
    INFO, InfoRequest, InfoResponse, LAYOUT_PREFIX, READ, ReadContentRequest, ReadContentResponse,
    STORE_ID, WRITE, WriteAction, WriteContentRequest, WriteContentResponse,
};
use weld_source::blob_store::BlobStore;
use weld_source::oci_layout::BlobProvider;

use super::connection::Connection;
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

    /// The store of that id.
    pub(super) fn store(session: Arc<ClientSession>, id: &str) -> Self {
        Self {
            store: id.to_owned(),
            name: format!("{id} of the client"),
            session,
        }
    }
}

#[async_trait]
impl BlobStore for ClientBlobs {
    async fn size(&self, digest: &Digest) -> io::Result<Option<u64>> {
        let connection = self.session.connection().await.map_err(to_io)?;
        size(&connection, &self.store, digest).await
    }

    async fn put(&self, digest: &Digest, size: u64, file: &Path) -> io::Result<()> {
        let connection = self.session.connection().await.map_err(to_io)?;
        let blob = ResultBlob {
            digest: digest.clone(),
            size,
            path: file.to_owned(),
        };
        put_blob(&connection, &self.store, &blob).await
    }
}

/// A store's id as calls carry it.
fn store_value(id: &str) -> io::Result<MetadataValue<Ascii>> {
    MetadataValue::try_from(id).map_err(|_| {
        let reason = format!("{id:?} contains value with non-printable ASCII characters");
        io::Error::new(io::ErrorKind::InvalidInput, reason)
    })
}

/// The length of a blob in one of the client's stores; `None` if it is not there.
async fn size(connection: &Connection, store: &str, digest: &Digest) -> io::Result<Option<u64>> {
    let mut request = Request::new(InfoRequest {
        digest: digest.to_string(),
    });
    let store = store_value(store)?;
    request.metadata_mut().insert(STORE_ID, store);
    match connection
        .caller
        .unary::<_, InfoResponse>(INFO, request)
        .await
    {
        Ok(answer) => {
            let size = answer.into_inner().info.map_or(0, |info| info.size);
            Ok(Some(u64::try_from(size).unwrap_or(0)))
        }
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(to_io(status)),
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
        let store = store_value(&self.store)?;
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

/// How much of a blob goes into one message, in bytes.
const PIECE: usize = 1 << 20;

/// Writes a blob into one of the client's stores, unless it is there.
pub(super) async fn put_blob(
    connection: &Connection,
    store: &str,
    blob: &ResultBlob,
) -> io::Result<()> {
    if size(connection, store, &blob.digest).await?.is_some() {
        return Ok(());
    }
    let store = store_value(store)?;
    let digest = blob.digest.to_string();
    let caller = &connection.caller;
    let (outgoing, mut requests) = mpsc::channel::<WriteContentRequest>(4);
    let requests = futures_util::stream::poll_fn(move |cx| requests.poll_recv(cx));
    let mut request = Request::new(requests);
    request.metadata_mut().insert(STORE_ID, store);
    let call = async {
        let answer = caller
            .streaming::<_, WriteContentResponse>(WRITE, request)
            .await;
        let mut answers = answer.map_err(to_io)?.into_inner();
        while let Some(answer) = answers.message().await.map_err(to_io)? {
            if answer.action() == WriteAction::Commit {
                return Ok(());
            }
        }
        Err(io::Error::other("the client did not keep the blob"))
    };
    let write = async {
        let total = i64::try_from(blob.size).unwrap_or(i64::MAX);
        let step = |action: WriteAction| WriteContentRequest {
            action: action.into(),
            r#ref: format!("weld-{digest}"),
            total,
            expected: digest.clone(),
            ..WriteContentRequest::default()
        };
        let mut file = tokio::fs::File::open(&blob.path).await?;
        let mut offset = 0;
        loop {
            let mut data = BytesMut::with_capacity(PIECE);
            let count = file.read_buf(&mut data).await?;
            let message = WriteContentRequest {
                offset,
                data: data.freeze(),
                ..step(match count {
                    0 => WriteAction::Commit,
                    _ => WriteAction::Write,
                })
            };
            offset += count as i64;
            // Why nobody takes it is what the call tells.
            if outgoing.send(message).await.is_err() || count == 0 {
                return Ok(());
            }
        }
    };
    match tokio::try_join!(call, write) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map(|_: ((), ())| ()),
    }
}

fn to_io(status: Status) -> io::Error {
    let kind = match status.code() {
        Code::NotFound => io::ErrorKind::NotFound,
        Code::AlreadyExists => io::ErrorKind::AlreadyExists,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, reason(&status))
}
