//! What a client serves the daemon while it builds: services that are called over the stream of
//! `moby.buildkit.v1.Control/Session`, which carries an HTTP/2 connection.

pub mod auth;
pub mod content;
pub mod exporter;
pub mod filesync;
pub mod health;
pub mod secrets;
pub mod ssh;
pub mod upload;

use bytes::Bytes;

/// Metadata of the stream: the session's id.
pub const HEADER_ID: &str = "x-docker-expose-session-uuid";
/// Metadata of the stream: the session's name; clients of today send none.
pub const HEADER_NAME: &str = "x-docker-expose-session-name";
/// Metadata of the stream: what tells this client's directories from others'.
pub const HEADER_SHARED_KEY: &str = "x-docker-expose-session-sharedkey";
/// Metadata of the stream, once for each method that the client serves.
pub const HEADER_METHOD: &str = "x-docker-expose-session-grpc-method";
/// Metadata of the stream: how often, in milliseconds, the client is asked whether it is alive.
pub const HEADER_HEALTH_TIMEOUT: &str = "x-buildkit-session-health-custom-timeout";

/// A piece of a stream of bytes. Every package has a message of its own of this form.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BytesMessage {
    /// The piece.
    #[prost(bytes = "bytes", tag = "1")]
    pub data: Bytes,
}
