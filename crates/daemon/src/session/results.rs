//! Results that clients take.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tonic::metadata::{MetadataKey, MetadataMap, MetadataValue};
use tonic::{Code, Request, Status, Streaming};
use weld_export::{ClientTarget, Content, ResultBlob, ResultReceiver};
use weld_proto::fsutil::Packet;
use weld_proto::session::BytesMessage;
use weld_proto::session::content::EXPORT_STORE;
use weld_proto::session::filesync::{
    EXPORTER_ID, EXPORTER_META_PREFIX, EXPORTER_MULTI_PLATFORM, SEND,
};
use weld_session::transfer::{SendError, packets, send};
use weld_session::{Caller, Pieces};
use weld_source::local::TreeProvider;

use super::blobs::put_blob;
use super::manager::ClientSession;
use super::offers::reason;

/// How much of a file goes into one message, in bytes.
const PIECE: usize = 256 << 10;

/// Where the results of one exporter of a build go to.
struct ClientResults {
    session: Arc<ClientSession>,
    /// Its number among those of the build's request.
    exporter: usize,
}

/// The client of `session` as the target of the exporter that has this number in its request.
pub fn client_target(session: Arc<ClientSession>, exporter: usize) -> ClientTarget {
    ClientTarget::new(Arc::new(ClientResults { session, exporter }))
}

impl ClientResults {
    async fn caller(&self) -> io::Result<Caller> {
        let connection = self.session.connection().await.map_err(to_io)?;
        if !connection.serves(SEND) {
            return Err(io::Error::other("the client takes no files"));
        }
        Ok(connection.caller.clone())
    }

    fn mark(&self, metadata: &mut MetadataMap) {
        metadata.insert(EXPORTER_ID, self.exporter.into());
    }
}

#[async_trait]
impl ResultReceiver for ClientResults {
    async fn tree(&self, files: Arc<dyn TreeProvider>) -> io::Result<()> {
        let caller = self.caller().await?;
        let (outgoing, packets) = packets();
        let mut request = Request::new(packets);
        self.mark(request.metadata_mut());
        request
            .metadata_mut()
            .insert(EXPORTER_MULTI_PLATFORM, MetadataValue::from_static("1"));
        // The client answers at the first file that it wants, and the tree may have none: what is
        // sent must not wait for it.
        let (started, answer) = tokio::sync::oneshot::channel();
        let call = async move {
            let answer = caller.streaming::<_, Packet>(SEND, request).await;
            let (incoming, failure) = match answer {
                Ok(answer) => (Some(answer.into_inner()), None),
                Err(status) => (None, Some(status)),
            };
            drop(started.send(incoming));
            failure
        };
        let incoming = Answer::Pending(answer);
        let (failure, sent) = tokio::join!(call, send(files, incoming, outgoing));
        match (failure, sent) {
            (Some(status), _) => Err(to_io(status)),
            (None, Ok(_)) => Ok(()),
            (None, Err(SendError::Call(status))) => Err(to_io(status)),
            (None, Err(error)) => Err(io::Error::other(error)),
        }
    }

    async fn file(
        &self,
        response: &BTreeMap<String, String>,
        mut content: Content,
    ) -> io::Result<()> {
        let caller = self.caller().await?;
        let (pieces, stream) = Pieces::new();
        let mut request = Request::new(stream);
        self.mark(request.metadata_mut());
        for (key, value) in response {
            let key = format!("{EXPORTER_META_PREFIX}{key}").to_ascii_lowercase();
            // What cannot be said this way the client finds in the build's response.
            if let (Ok(key), Ok(value)) = (
                MetadataKey::from_bytes(key.as_bytes()),
                MetadataValue::try_from(value.as_str()),
            ) {
                request.metadata_mut().insert(key, value);
            }
        }
        let call = async {
            let answer = async {
                let answer = caller
                    .streaming_fallible::<_, _, BytesMessage>(SEND, request)
                    .await;
                let mut answer = answer?.into_inner();
                while answer.message().await?.is_some() {}
                Ok::<(), Status>(())
            };
            match answer.await {
                // A client that has the file already, or wants nothing but to hear of it.
                Err(status) if status.code() == Code::AlreadyExists => Ok(()),
                told => told.map_err(to_io),
            }
        };
        let pump = async {
            loop {
                let mut piece = BytesMut::with_capacity(PIECE);
                if content.read_buf(&mut piece).await? == 0 {
                    pieces.complete().await;
                    return Ok(());
                }
                if !pieces.send(piece.freeze()).await {
                    // Why is what the call tells.
                    return Ok(());
                }
            }
        };
        tokio::try_join!(call, pump).map(|_: ((), ())| ())
    }

    async fn blobs(&self, blobs: Vec<ResultBlob>) -> io::Result<()> {
        let connection = self.session.connection().await.map_err(to_io)?;
        for blob in blobs {
            put_blob(&connection, EXPORT_STORE, &blob).await?;
        }
        Ok(())
    }
}

/// The client's half of the call, once it has begun.
enum Answer {
    Pending(tokio::sync::oneshot::Receiver<Option<Streaming<Packet>>>),
    Started(Box<Streaming<Packet>>),
    Ended,
}

impl futures_util::Stream for Answer {
    type Item = Result<Packet, Status>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        use std::task::{Poll, ready};
        loop {
            match &mut *self {
                Self::Pending(answer) => {
                    *self = match ready!(std::pin::Pin::new(answer).poll(cx)) {
                        Ok(Some(stream)) => Self::Started(Box::new(stream)),
                        _ => Self::Ended,
                    };
                }
                Self::Started(stream) => return std::pin::Pin::new(stream).poll_next(cx),
                Self::Ended => return Poll::Ready(None),
            }
        }
    }
}

fn to_io(status: Status) -> io::Error {
    io::Error::other(reason(&status))
}
