//! The services that clients call.

mod content;
mod exporters;
mod health;
mod reflection;
mod request;
mod solve;
mod status;
mod traces;
mod usage;
mod workers;

use std::sync::Arc;
use std::time::SystemTime;

use futures_util::stream::BoxStream;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::server::Router;
use tonic::{Request, Response, Status, Streaming};
use weld_proto::content::content_server::ContentServer;
use weld_proto::control::control_server::ControlServer;
use weld_proto::control::{self, control_server};
use weld_proto::frontend::llb_bridge_server::LlbBridgeServer;
use weld_proto::health::health_server::HealthServer;
use weld_proto::reflection::{v1, v1alpha};
use weld_proto::session::BytesMessage;
use weld_proto::telemetry::trace_service_server::TraceServiceServer;

use crate::config::Limits;
use crate::server::{Peer, Shared};
use crate::session::SessionStream;
use crate::telemetry::SpanContext;

pub(crate) use workers::platforms;

/// The key under which clients find the daemon's time, to show times in theirs.
const TIMESTAMP: &str = "buildkit-current-timestamp";
/// How many messages may wait for a client.
const QUEUE: usize = 16;

/// `moby.buildkit.v1.Control`.
pub(crate) struct Control {
    shared: Arc<Shared>,
}

impl Control {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

/// Adds all services to a server.
pub(crate) fn add_services(
    mut server: tonic::transport::Server,
    control: Control,
    limits: &Limits,
) -> Router {
    let shared = Arc::clone(&control.shared);
    let reflection = reflection::Reflection;
    server
        .add_service(
            ControlServer::new(control)
                .max_decoding_message_size(limits.message)
                .max_encoding_message_size(limits.answer),
        )
        .add_service(
            LlbBridgeServer::new(shared.gateway.clone())
                .max_decoding_message_size(limits.message)
                .max_encoding_message_size(limits.answer),
        )
        .add_service(ContentServer::new(content::Content::new(
            shared.engine.store().clone(),
            Arc::clone(&shared.history),
        )))
        .add_service(
            TraceServiceServer::new(traces::Traces(Arc::clone(&shared.telemetry)))
                .max_decoding_message_size(limits.message),
        )
        .add_service(HealthServer::new(health::Health::new(
            shared.draining.clone(),
        )))
        .add_service(v1::ServerReflectionServer::new(reflection))
        .add_service(v1alpha::ServerReflectionServer::new(reflection))
}

type Answers<T> = BoxStream<'static, Result<T, Status>>;

/// A stream of what is sent to a queue.
fn answers<T: Send + 'static>(queue: mpsc::Receiver<Result<T, Status>>) -> Answers<T> {
    Box::pin(futures_util::stream::unfold(queue, |mut queue| async {
        Some((queue.recv().await?, queue))
    }))
}

/// A stream of what a task sends to a queue. The task ends with it.
fn answers_of<T: Send + 'static>(
    queue: mpsc::Receiver<Result<T, Status>>,
    task: AbortOnDropHandle<()>,
) -> Answers<T> {
    Box::pin(futures_util::stream::unfold(
        (queue, task),
        |(mut queue, task)| async { Some((queue.recv().await?, (queue, task))) },
    ))
}

/// Runs what may block.
async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, Status>
where
    T: Send + 'static,
    E: std::fmt::Display + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(Status::unknown(error.to_string())),
        Err(error) => Err(Status::internal(format!("a task ended early: {error}"))),
    }
}

fn put_timestamp(metadata: &mut MetadataMap) {
    let now = OffsetDateTime::from(SystemTime::now()).format(&Rfc3339);
    if let Some(now) = now.ok().and_then(|now| MetadataValue::try_from(now).ok()) {
        metadata.insert(TIMESTAMP, now);
    }
}

#[tonic::async_trait]
impl control_server::Control for Control {
    async fn disk_usage(
        &self,
        request: Request<control::DiskUsageRequest>,
    ) -> Result<Response<control::DiskUsageResponse>, Status> {
        usage::disk_usage(&self.shared, request.into_inner())
            .await
            .map(Response::new)
    }

    type PruneStream = Answers<control::UsageRecord>;

    async fn prune(
        &self,
        request: Request<control::PruneRequest>,
    ) -> Result<Response<Self::PruneStream>, Status> {
        let removed = usage::prune(&self.shared, request.into_inner());
        Ok(Response::new(answers(removed)))
    }

    async fn solve(
        &self,
        request: Request<control::SolveRequest>,
    ) -> Result<Response<control::SolveResponse>, Status> {
        let span = SpanContext::of_call(request.metadata());
        let caller = solve::Caller {
            span,
            domain: Peer::domain_of(request.extensions()),
        };
        solve::solve(&self.shared, request.into_inner(), caller)
            .await
            .map(Response::new)
    }

    type StatusStream = Answers<control::StatusResponse>;

    async fn status(
        &self,
        request: Request<control::StatusRequest>,
    ) -> Result<Response<Self::StatusStream>, Status> {
        let progress = status::open(&self.shared, &request.into_inner().reference).await?;
        let mut response = Response::new(progress);
        put_timestamp(response.metadata_mut());
        Ok(response)
    }

    type SessionStream = SessionStream;

    async fn session(
        &self,
        request: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let domain = Peer::domain_of(request.extensions());
        let sessions = self.shared.sessions.in_domain(domain.as_deref());
        sessions.serve(request)
    }

    async fn list_workers(
        &self,
        request: Request<control::ListWorkersRequest>,
    ) -> Result<Response<control::ListWorkersResponse>, Status> {
        workers::list(&self.shared, &request.into_inner()).map(Response::new)
    }

    async fn info(
        &self,
        _request: Request<control::InfoRequest>,
    ) -> Result<Response<control::InfoResponse>, Status> {
        Ok(Response::new(control::InfoResponse {
            buildkit_version: Some(workers::version()),
        }))
    }

    type ListenBuildHistoryStream = Answers<control::BuildHistoryEvent>;

    async fn listen_build_history(
        &self,
        request: Request<control::BuildHistoryRequest>,
    ) -> Result<Response<Self::ListenBuildHistoryStream>, Status> {
        let (sender, events) = mpsc::channel(QUEUE);
        let history = Arc::clone(&self.shared.history);
        let listening = tokio::spawn(history.listen(request.into_inner(), sender));
        let mut response = Response::new(answers_of(events, AbortOnDropHandle::new(listening)));
        put_timestamp(response.metadata_mut());
        Ok(response)
    }

    async fn update_build_history(
        &self,
        request: Request<control::UpdateBuildHistoryRequest>,
    ) -> Result<Response<control::UpdateBuildHistoryResponse>, Status> {
        let request = request.into_inner();
        let history = &self.shared.history;
        let reference = request.reference.as_str();
        if request.delete {
            history.delete(reference).await?;
        } else if request.finalize {
            traces::finalize(&self.shared, reference).await?;
        } else {
            let pin = |record: &mut control::BuildHistoryRecord| record.pinned = request.pinned;
            history.update(reference, pin, Vec::new()).await?;
        }
        Ok(Response::new(control::UpdateBuildHistoryResponse {}))
    }
}
