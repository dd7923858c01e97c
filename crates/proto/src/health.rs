//! The service that says whether a server is ready (package `grpc.health.v1`). Its messages are in
//! [`session::health`](crate::session::health).

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
