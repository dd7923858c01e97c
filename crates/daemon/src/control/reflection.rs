//! Which services there are. Their definitions are not told: messages are written by hand here, and
//! clients have BuildKit's `.proto` files.

use futures_util::{StreamExt, stream};
use tonic::{Code, Request, Response, Status, Streaming};
use weld_proto::reflection::{
    Answer, ErrorResponse, ListServiceResponse, Question, ServerReflectionRequest,
    ServerReflectionResponse, ServiceResponse, v1, v1alpha,
};

use super::Answers;

/// All services, by their full names.
pub(super) const SERVICES: [&str; 7] = [
    "containerd.services.content.v1.Content",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "moby.buildkit.v1.Control",
    "moby.buildkit.v1.frontend.LLBBridge",
    "opentelemetry.proto.collector.trace.v1.TraceService",
];

#[derive(Clone, Copy)]
pub(super) struct Reflection;

fn answer(request: ServerReflectionRequest) -> ServerReflectionResponse {
    let answer = match &request.message_request {
        Some(Question::ListServices(_)) => Answer::ListServices(ListServiceResponse {
            service: SERVICES
                .iter()
                .map(|name| ServiceResponse {
                    name: (*name).to_owned(),
                })
                .collect(),
        }),
        _ => Answer::Error(ErrorResponse {
            error_code: Code::NotFound as i32,
            error_message: "only services are listed: use BuildKit's .proto files".to_owned(),
        }),
    };
    ServerReflectionResponse {
        valid_host: request.host.clone(),
        original_request: Some(request),
        message_response: Some(answer),
    }
}

fn answers(questions: Streaming<ServerReflectionRequest>) -> Answers<ServerReflectionResponse> {
    Box::pin(stream::unfold(questions, |mut questions| async {
        let question = questions.next().await?;
        Some((question.map(answer), questions))
    }))
}

#[tonic::async_trait]
impl v1::ServerReflection for Reflection {
    type ServerReflectionInfoStream = Answers<ServerReflectionResponse>;

    async fn server_reflection_info(
        &self,
        request: Request<Streaming<ServerReflectionRequest>>,
    ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
        Ok(Response::new(answers(request.into_inner())))
    }
}

#[tonic::async_trait]
impl v1alpha::ServerReflection for Reflection {
    type ServerReflectionInfoStream = Answers<ServerReflectionResponse>;

    async fn server_reflection_info(
        &self,
        request: Request<Streaming<ServerReflectionRequest>>,
    ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
        Ok(Response::new(answers(request.into_inner())))
    }
}
