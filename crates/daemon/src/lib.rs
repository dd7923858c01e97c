//! BuildKit's API, served over an [`Engine`](weld_engine::Engine) to unmodified clients.
//!
//! A [`Server`] is bound to the addresses of a [`DaemonConfig`](config::DaemonConfig), which may
//! be read from a `buildkitd.toml`, and runs until it is told to stop.

mod builds;
pub mod config;
mod control;
pub mod gateway;
mod history;
mod metrics;
mod random;
mod selector;
mod server;
pub mod session;
mod telemetry;

pub use server::{Connection, ListenError, Peer, ServeError, Server};
