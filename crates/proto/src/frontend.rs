//! How frontends ask a daemon for solves (package `moby.buildkit.v1.frontend`,
//! `frontend/gateway/pb/gateway.proto`).

pub mod caps;
mod container;
mod results;
mod solve;
mod source;

pub use container::*;
pub use results::*;
pub use solve::*;
pub use source::*;

/// The client's stubs.
pub mod llb_bridge_client {
    pub use super::stubs::l_l_b_bridge_client::LLBBridgeClient as LlbBridgeClient;
}

/// The service's stubs.
pub mod llb_bridge_server {
    pub use super::stubs::l_l_b_bridge_server::{
        LLBBridge as LlbBridge, LLBBridgeServer as LlbBridgeServer,
    };
}

#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::nursery
)]
mod stubs {
    include!(concat!(
        env!("OUT_DIR"),
        "/moby.buildkit.v1.frontend.LLBBridge.rs"
    ));
}
