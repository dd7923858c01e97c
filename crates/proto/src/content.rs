//! The service of containerd that reads and writes blobs (package `containerd.services.content.v1`).
//! Its messages are in [`session::content`](crate::session::content).

/// The service's stubs.
pub mod content_client {
    pub use super::stubs::content_client::ContentClient;
}

/// The service's stubs.
pub mod content_server {
    pub use super::stubs::content_server::{Content, ContentServer};
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
        "/containerd.services.content.v1.Content.rs"
    ));
}
