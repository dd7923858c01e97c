//! Whether the daemon takes builds.

use futures_util::stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use weld_proto::health::health_server;
use weld_proto::session::health::{HealthCheckRequest, HealthCheckResponse, ServingStatus};

use super::{Answers, reflection};

pub(super) struct Health {
    draining: CancellationToken,
}

impl Health {
    pub(super) const fn new(draining: CancellationToken) -> Self {
        Self { draining }
    }
}

fn status(draining: &CancellationToken, service: &str) -> ServingStatus {
    let known = service.is_empty() || reflection::SERVICES.contains(&service);
    match (known, draining.is_cancelled()) {
        (false, _) => ServingStatus::ServiceUnknown,
        (true, false) => ServingStatus::Serving,
        (true, true) => ServingStatus::NotServing,
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        match status(&self.draining, &service) {
            ServingStatus::ServiceUnknown => Err(Status::not_found("unknown service")),
            status => Ok(Response::new(response(status))),
        }
    }

    type WatchStream = Answers<HealthCheckResponse>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let service = request.into_inner().service;
        let draining = self.draining.clone();
        // The state now, and once more when it changes, which is when draining begins.
        let states = stream::unfold(0, move |told| {
            let (draining, service) = (draining.clone(), service.clone());
            async move {
                match told {
                    0 => Some((Ok(response(status(&draining, &service))), 1)),
                    1 if !draining.is_cancelled() => {
                        draining.cancelled().await;
                        Some((Ok(response(status(&draining, &service))), 2))
                    }
                    _ => std::future::pending().await,
                }
            }
        });
        Ok(Response::new(Box::pin(states)))
    }
}
