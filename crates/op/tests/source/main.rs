//! Source operations as the solver runs and caches them, against real servers.

#![allow(clippy::unwrap_used, reason = "a test helper fails by panicking")]

mod blob;
mod git;
mod http;
mod passthrough;
mod server;
mod world;
