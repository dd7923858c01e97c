//! Spans that clients send. There is no collector to pass them on to: they are taken and dropped.

use tonic::{Request, Response, Status};
use weld_proto::telemetry::trace_service_server::TraceService;
use weld_proto::telemetry::{ExportTraceServiceRequest, ExportTraceServiceResponse};

pub(super) struct Traces;

#[tonic::async_trait]
impl TraceService for Traces {
    async fn export(
        &self,
        _request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        Ok(Response::new(ExportTraceServiceResponse {}))
    }
}
