use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, Streaming};
use weld_fileset::SelectionOptions;
use weld_op::session::Session;
use weld_proto::fsutil::Packet;
use weld_proto::session::filesync::{DIR_NAME, EXCLUDE_PATTERNS, FOLLOW_PATHS, INCLUDE_PATTERNS};
use weld_proto::session::servers::FileSync;
use weld_session::metadata;
use weld_session::transfer::{packets, send};

/// The session's directories.
pub(super) struct Directories(pub(super) Arc<dyn Session>);

/// What goes to the daemon, and who makes it.
pub(super) struct Packets {
    outgoing: BoxStream<'static, Packet>,
    _task: AbortOnDropHandle<()>,
}

impl Packets {
    pub(super) fn new(
        outgoing: impl Stream<Item = Packet> + Send + 'static,
        task: AbortOnDropHandle<()>,
    ) -> Self {
        Self {
            outgoing: outgoing.boxed(),
            _task: task,
        }
    }
}

impl Stream for Packets {
    type Item = Result<Packet, Status>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.outgoing
            .poll_next_unpin(cx)
            .map(|packet| packet.map(Ok))
    }
}

#[tonic::async_trait]
impl FileSync for Directories {
    type DiffCopyStream = Packets;

    async fn diff_copy(
        &self,
        request: Request<Streaming<Packet>>,
    ) -> Result<Response<Packets>, Status> {
        let texts = |key| metadata::get(request.metadata(), key);
        let name = texts(DIR_NAME).into_iter().next().unwrap_or_default();
        let selection = SelectionOptions {
            include_patterns: texts(INCLUDE_PATTERNS),
            exclude_patterns: texts(EXCLUDE_PATTERNS),
            follow_paths: texts(FOLLOW_PATHS),
        };
        let provider = self.0.directory(&name, selection).await;
        let provider = provider.map_err(|error| Status::internal(error.to_string()))?;
        let provider = provider
            .ok_or_else(|| Status::not_found(format!("no access allowed to dir {name:?}")))?;
        let (sender, outgoing) = packets();
        let incoming = request.into_inner().boxed();
        let task = tokio::spawn(async move {
            match send(provider, incoming, sender).await {
                Ok(sent) => tracing::debug!(?sent, directory = name, "sent a directory"),
                Err(error) => tracing::debug!(%error, directory = name, "a directory was not sent"),
            }
        });
        Ok(Response::new(Packets::new(
            outgoing,
            AbortOnDropHandle::new(task),
        )))
    }

    type TarStreamStream = Packets;

    async fn tar_stream(
        &self,
        _request: Request<Streaming<Packet>>,
    ) -> Result<Response<Packets>, Status> {
        Err(Status::unimplemented("directories are sent by DiffCopy"))
    }
}
