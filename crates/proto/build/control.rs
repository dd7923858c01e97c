//! The services that a daemon serves to its clients.

use tonic_build::manual::Service;

use crate::rpc::Shape::{BothStream, ServerStream, Unary};
use crate::rpc::service;

pub(crate) fn services() -> Vec<Service> {
    vec![
        control(),
        traces(),
        content(),
        health(),
        reflection("v1"),
        reflection("v1alpha"),
    ]
}

fn control() -> Service {
    let message = |name: &str| format!("crate::control::{name}");
    let unary = |name: &str| (format!("{name}Request"), format!("{name}Response"));
    let (usage, usage_response) = unary("DiskUsage");
    let (solve, solve_response) = unary("Solve");
    let (status, status_response) = unary("Status");
    let (workers, workers_response) = unary("ListWorkers");
    let (info, info_response) = unary("Info");
    let (update, update_response) = unary("UpdateBuildHistory");
    let methods = [
        (
            "DiskUsage",
            message(&usage),
            message(&usage_response),
            Unary,
        ),
        (
            "Prune",
            message("PruneRequest"),
            message("UsageRecord"),
            ServerStream,
        ),
        ("Solve", message(&solve), message(&solve_response), Unary),
        (
            "Status",
            message(&status),
            message(&status_response),
            ServerStream,
        ),
        (
            "Session",
            "crate::session::BytesMessage".to_owned(),
            "crate::session::BytesMessage".to_owned(),
            BothStream,
        ),
        (
            "ListWorkers",
            message(&workers),
            message(&workers_response),
            Unary,
        ),
        ("Info", message(&info), message(&info_response), Unary),
        (
            "ListenBuildHistory",
            message("BuildHistoryRequest"),
            message("BuildHistoryEvent"),
            ServerStream,
        ),
        (
            "UpdateBuildHistory",
            message(&update),
            message(&update_response),
            Unary,
        ),
    ];
    let methods: Vec<_> = methods
        .iter()
        .map(|(name, request, response, shape)| {
            (*name, request.as_str(), response.as_str(), *shape)
        })
        .collect();
    service("moby.buildkit.v1", "Control", &methods)
}

fn traces() -> Service {
    service(
        "opentelemetry.proto.collector.trace.v1",
        "TraceService",
        &[(
            "Export",
            "crate::telemetry::ExportTraceServiceRequest",
            "crate::telemetry::ExportTraceServiceResponse",
            Unary,
        )],
    )
}

fn content() -> Service {
    service(
        "containerd.services.content.v1",
        "Content",
        &[
            (
                "Info",
                "crate::session::content::InfoRequest",
                "crate::session::content::InfoResponse",
                Unary,
            ),
            (
                "Update",
                "crate::session::content::UpdateRequest",
                "crate::session::content::UpdateResponse",
                Unary,
            ),
            (
                "List",
                "crate::session::content::ListContentRequest",
                "crate::session::content::ListContentResponse",
                ServerStream,
            ),
            (
                "Delete",
                "crate::session::content::DeleteContentRequest",
                "crate::session::content::Empty",
                Unary,
            ),
            (
                "Read",
                "crate::session::content::ReadContentRequest",
                "crate::session::content::ReadContentResponse",
                ServerStream,
            ),
            (
                "Status",
                "crate::session::content::StatusRequest",
                "crate::session::content::StatusResponse",
                Unary,
            ),
            (
                "ListStatuses",
                "crate::session::content::ListStatusesRequest",
                "crate::session::content::ListStatusesResponse",
                Unary,
            ),
            (
                "Write",
                "crate::session::content::WriteContentRequest",
                "crate::session::content::WriteContentResponse",
                BothStream,
            ),
            (
                "Abort",
                "crate::session::content::AbortRequest",
                "crate::session::content::Empty",
                Unary,
            ),
        ],
    )
}

fn health() -> Service {
    let (request, response) = (
        "crate::session::health::HealthCheckRequest",
        "crate::session::health::HealthCheckResponse",
    );
    service(
        "grpc.health.v1",
        "Health",
        &[
            ("Check", request, response, Unary),
            ("Watch", request, response, ServerStream),
        ],
    )
}

fn reflection(version: &str) -> Service {
    service(
        &format!("grpc.reflection.{version}"),
        "ServerReflection",
        &[(
            "ServerReflectionInfo",
            "crate::reflection::ServerReflectionRequest",
            "crate::reflection::ServerReflectionResponse",
            BothStream,
        )],
    )
}
