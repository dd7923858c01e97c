//! Spans that clients send.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use weld_proto::telemetry::trace_service_server::TraceService;
use weld_proto::telemetry::{ExportTraceServiceRequest, ExportTraceServiceResponse};

use crate::telemetry::Telemetry;

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
