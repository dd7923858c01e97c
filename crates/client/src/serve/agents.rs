use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, Streaming};
use weld_op::session::Session;
use weld_proto::session::BytesMessage;
use weld_proto::session::servers::Ssh;
use weld_proto::session::ssh::{AGENT_ID, CheckAgentRequest, CheckAgentResponse, DEFAULT_ID};
use weld_session::Tunnel;

/// The session's SSH agents.
pub(super) struct Offered(pub(super) Arc<dyn Session>);

impl Offered {
    async fn agent(&self, id: &str) -> Result<weld_op::session::Agent, Status> {
        let id = if id.is_empty() { DEFAULT_ID } else { id };
        let agent = self.0.agent(id).await;
        let agent = agent.map_err(|error| Status::internal(error.to_string()))?;
        agent.ok_or_else(|| Status::not_found(format!("unset ssh forward key {id}")))
    }
}

#[tonic::async_trait]
impl Ssh for Offered {
    async fn check_agent(
        &self,
        request: Request<CheckAgentRequest>,
    ) -> Result<Response<CheckAgentResponse>, Status> {
        self.agent(&request.into_inner().id).await?;
        Ok(Response::new(CheckAgentResponse {}))
    }

    type ForwardAgentStream =
        Pin<Box<dyn Stream<Item = Result<BytesMessage, Status>> + Send + 'static>>;

    async fn forward_agent(
        &self,
        request: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<Self::ForwardAgentStream>, Status> {
        let id = request.metadata().get(AGENT_ID);
        let id = id.and_then(|id| id.to_str().ok()).unwrap_or_default();
        let agent = self.agent(id).await?;
        let mut near = agent
            .connect()
            .await
            .map_err(|error| Status::unavailable(format!("cannot reach the agent: {error}")))?;
        let (mut far, mut outgoing) = Tunnel::new(request.into_inner());
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            // Either side may break off.
            drop(tokio::io::copy_bidirectional(&mut near, &mut far).await);
        }));
        let outgoing = futures_util::stream::poll_fn(move |cx| outgoing.poll_recv(cx)).map(Ok);
        Ok(Response::new(Box::pin(Held {
            inner: outgoing,
            _task: task,
        })))
    }
}

/// Ends the task with the stream.
struct Held<S> {
    inner: S,
    _task: AbortOnDropHandle<()>,
}

impl<S: Stream + Unpin> Stream for Held<S> {
    type Item = S::Item;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.inner.poll_next_unpin(cx)
    }
}
