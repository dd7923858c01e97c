//! Spans that clients send, and the traces of builds in the history.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::TryStreamExt;
use prost_types::Timestamp;
use tonic::{Request, Response, Status};
use weld_proto::control::{BuildHistoryRecord, Vertex};
use weld_proto::telemetry::trace_service_server::TraceService;
use weld_proto::telemetry::{ExportTraceServiceRequest, ExportTraceServiceResponse};

use super::status;
use crate::history::{History, HistoryError};
use crate::server::Shared;
use crate::telemetry::{StepSpan, Telemetry};

/// What the blobs of traces are.
const TRACE_TYPE: &str = "application/vnd.buildkit.otlp.json.v0";
/// How many characters of a step's name, or error, its span has.
const MAX_NAME: usize = 256;

pub(super) struct Traces(pub(super) Arc<Telemetry>);

#[tonic::async_trait]
impl TraceService for Traces {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.take(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse {}))
    }
}

/// Has the history know the trace of a build that has ended. Where nobody wanted spans while it ran,
/// which most builds are spared, they are made of its progress.
pub(super) async fn finalize(shared: &Arc<Shared>, reference: &str) -> Result<(), Status> {
    shared.telemetry.finalize(reference).await;
    let record = shared.history.get(reference).await?;
    let Some(record) = record.filter(|record| record.trace.is_none()) else {
        return Ok(());
    };
    let time = moment(record.created_at)..moment(record.completed_at);
    let error = record.error.as_ref().map(|error| error.message.as_str());
    let steps = steps(shared, &record).await?;
    if let Some(spans) = Telemetry::trace_of(time, error, steps) {
        keep(&shared.history, reference, spans).await?;
    }
    Ok(())
}

/// Keeps a build's spans with what is remembered of it.
pub(super) async fn keep(
    history: &Arc<History>,
    reference: &str,
    spans: Vec<u8>,
) -> Result<(), HistoryError> {
    let trace = history.keep(spans, TRACE_TYPE).await?;
    let descriptor = trace.descriptor();
    let add = |record: &mut BuildHistoryRecord| record.trace = Some(descriptor);
    history.update(reference, add, vec![trace.digest()]).await
}

/// The steps that have begun and ended, the oldest first.
async fn steps(shared: &Arc<Shared>, record: &BuildHistoryRecord) -> Result<Vec<StepSpan>, Status> {
    let mut told = status::replay(shared, record).await?;
    let mut vertexes: HashMap<String, Vertex> = HashMap::new();
    while let Some(message) = told.try_next().await? {
        for vertex in message.vertexes {
            let known = vertexes.entry(vertex.digest.clone()).or_default();
            *known = Vertex {
                started: known.started.or(vertex.started),
                completed: vertex.completed.or(known.completed),
                cached: known.cached || vertex.cached,
                ..vertex
            };
        }
    }
    let short = |text: String| text.chars().take(MAX_NAME).collect();
    let steps = vertexes.into_values().filter_map(|vertex| {
        Some(StepSpan {
            started: moment(Some(vertex.started?)),
            completed: moment(Some(vertex.completed?)),
            digest: vertex.digest,
            name: short(vertex.name),
            cached: vertex.cached,
            error: short(vertex.error),
        })
    });
    let mut steps: Vec<_> = steps.collect();
    steps.sort_by(|one, other| (one.started, &one.digest).cmp(&(other.started, &other.digest)));
    Ok(steps)
}

fn moment(time: Option<Timestamp>) -> SystemTime {
    time.and_then(|time| SystemTime::try_from(time).ok())
        .unwrap_or(SystemTime::UNIX_EPOCH)
}
