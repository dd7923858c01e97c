//! Whether a server is ready (package `grpc.health.v1`).

/// The service's stubs.
pub mod health_client {
    pub use super::stubs::health_client::HealthClient;
}

/// The service's stubs.
pub mod health_server {
    pub use super::stubs::health_server::{Health, HealthServer};
}

#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::nursery
)]
mod stubs {
    include!(concat!(env!("OUT_DIR"), "/grpc.health.v1.Health.rs"));
}

/// Is it ready?
#[derive(Clone, PartialEq, prost::Message)]
pub struct HealthCheckRequest {
    /// The service; empty for the server.
    #[prost(string, tag = "1")]
    pub service: String,
}

/// Whether it is ready.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HealthCheckResponse {
    /// Whether.
    #[prost(enumeration = "ServingStatus", tag = "1")]
    pub status: i32,
}

/// Whether something is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum ServingStatus {
    /// Nobody knows.
    Unknown = 0,
    /// It is.
    Serving = 1,
    /// It is not.
    NotServing = 2,
    /// There is no such service.
    ServiceUnknown = 3,
}
