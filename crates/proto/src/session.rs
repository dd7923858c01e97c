//! What a client serves the daemon while it builds: services that are called over the stream of
//! `moby.buildkit.v1.Control/Session`, which carries an HTTP/2 connection.

pub mod auth;
pub mod content;
pub mod exporter;
pub mod filesync;
pub mod health;
pub mod policy;
pub mod secrets;
pub mod ssh;
pub mod upload;

/// What serves the services.
pub mod servers {
    pub use super::stubs::auth::auth_server::{Auth, AuthServer};
    pub use super::stubs::exporter::exporter_server::{Exporter, ExporterServer};
    pub use super::stubs::file_sync::file_sync_server::{FileSync, FileSyncServer};
    pub use super::stubs::secrets::secrets_server::{Secrets, SecretsServer};
    pub use super::stubs::ssh::s_s_h_server::{SSH as Ssh, SSHServer as SshServer};
    pub use super::stubs::upload::upload_server::{Upload, UploadServer};
}

#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::nursery
)]
mod stubs {
    pub(super) mod auth {
        include!(concat!(env!("OUT_DIR"), "/moby.filesync.v1.Auth.rs"));
    }
    pub(super) mod exporter {
        include!(concat!(env!("OUT_DIR"), "/moby.exporter.v1.Exporter.rs"));
    }
    pub(super) mod file_sync {
        include!(concat!(env!("OUT_DIR"), "/moby.filesync.v1.FileSync.rs"));
    }
    pub(super) mod secrets {
        include!(concat!(
            env!("OUT_DIR"),
            "/moby.buildkit.secrets.v1.Secrets.rs"
        ));
    }
    pub(super) mod ssh {
        include!(concat!(env!("OUT_DIR"), "/moby.sshforward.v1.SSH.rs"));
    }
    pub(super) mod upload {
        include!(concat!(env!("OUT_DIR"), "/moby.upload.v1.Upload.rs"));
    }
}

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
