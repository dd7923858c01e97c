//! SSH agents of clients.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::{FutureExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::task::AbortOnDropHandle;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status, Streaming};
use weld_proto::session::BytesMessage;
use weld_proto::session::ssh::{
    AGENT_ID, CHECK_AGENT, CheckAgentRequest, CheckAgentResponse, DEFAULT_ID, FORWARD_AGENT,
};
use weld_runtime::{AgentConnector, AgentStream};
use weld_session::{Caller, Tunnel};

use super::manager::ClientSession;

/// Whether the client has an agent of that id.
pub(super) async fn check(session: &ClientSession, id: &str) -> Result<bool, Status> {
    let connection = session.connection().await?;
    if !connection.serves(CHECK_AGENT) {
        return Ok(false);
    }
    let request = Request::new(CheckAgentRequest { id: id.to_owned() });
    let answer = connection
        .caller
        .unary::<_, CheckAgentResponse>(CHECK_AGENT, request)
        .await;
    match answer {
        Ok(_) => Ok(true),
        Err(status) => match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Err(status),
            // Clients say that they have none with a code of no meaning.
            _ => Ok(false),
        },
    }
}

/// Connects to the client's agent of that id.
pub(super) fn connector(session: Arc<ClientSession>, id: &str) -> AgentConnector {
    let id = if id.is_empty() { DEFAULT_ID } else { id }.to_owned();
    AgentConnector::new(move || {
        let (session, id) = (Arc::clone(&session), id.clone());
        Box::pin(async move {
            let connection = session.connection().await.map_err(io::Error::other)?;
            connect(connection.caller.clone(), &id)
        })
    })
}

/// A connection to an agent. The client answers only after it was asked something, so the call
/// is waited for where its answer is read.
fn connect(caller: Caller, id: &str) -> io::Result<Box<dyn AgentStream>> {
    let id = MetadataValue::try_from(id).map_err(io::Error::other)?;
    let (mut started, answer) =
        tokio::sync::oneshot::channel::<Result<Streaming<BytesMessage>, Status>>();
    let incoming = answer.into_stream().flat_map(|answer| match answer {
        Ok(Ok(stream)) => stream.left_stream(),
        Ok(Err(status)) => futures_util::stream::iter([Err(status)]).right_stream(),
        Err(_) => {
            futures_util::stream::iter([Err(Status::unavailable("the call ended"))]).right_stream()
        }
    });
    let (tunnel, mut outgoing) = Tunnel::new(incoming);
    let mut request = Request::new(futures_util::stream::poll_fn(move |cx| {
        outgoing.poll_recv(cx)
    }));
    request.metadata_mut().insert(AGENT_ID, id);
    let call = tokio::spawn(async move {
        tokio::select! {
            answer = caller.streaming::<_, BytesMessage>(FORWARD_AGENT, request) => {
                // Whoever wanted it may be gone.
                drop(started.send(answer.map(tonic::Response::into_inner)));
            }
            () = started.closed() => {}
        }
    });
    Ok(Box::new(Agent {
        tunnel,
        _call: AbortOnDropHandle::new(call),
    }))
}

/// A connection to an agent, with the call that it is made by.
struct Agent<S> {
    tunnel: Tunnel<S>,
    _call: AbortOnDropHandle<()>,
}

impl<S> AsyncRead for Agent<S>
where
    Tunnel<S>: AsyncRead + Unpin,
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tunnel).poll_read(cx, buffer)
    }
}

impl<S> AsyncWrite for Agent<S>
where
    Tunnel<S>: AsyncWrite + Unpin,
{
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tunnel).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tunnel).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tunnel).poll_shutdown(cx)
    }
}
