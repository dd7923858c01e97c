use std::io;
use std::time::Duration;

use reqwest::StatusCode;
use weld_digest::Digest;

use crate::transport::{Hope, NetworkError, TransportError};

/// Why a file could not be fetched. The URL is shown without credentials.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The URL is none of a file.
    #[error("invalid URL {url:?}: {reason}")]
    Url {
        /// What was given, if it can be shown.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// A header's value cannot be sent.
    #[error("cannot fetch {url}: header {name} has a value that cannot be sent")]
    Header {
        /// The URL.
        url: String,
        /// The header's name.
        name: String,
    },
    /// The client could not be set up.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The server refused.
    #[error("cannot fetch {url}: invalid response status {status}")]
    Status {
        /// The URL.
        url: String,
        /// The server's answer.
        status: StatusCode,
        /// How long it asked to wait.
        retry_after: Option<Duration>,
    },
    /// There was no usable answer.
    #[error("cannot fetch {url}: {source}")]
    Network {
        /// The URL.
        url: String,
        /// Why.
        source: NetworkError,
    },
    /// The content is not what it should be.
    #[error("checksum mismatch for {url}: expected {expected}, got {actual}")]
    Checksum {
        /// The URL.
        url: String,
        /// What was stated.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// The content is larger than is allowed.
    #[error("cannot fetch {url}: it is larger than the limit of {limit} bytes")]
    TooLarge {
        /// The URL.
        url: String,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The file cannot be written.
    #[error("cannot store {url}: {source}")]
    Write {
        /// The URL.
        url: String,
        /// Why.
        source: io::Error,
    },
}

impl HttpError {
    pub(super) fn hope(&self) -> (Hope, Option<Duration>) {
        match self {
            Self::Status {
                status,
                retry_after,
                ..
            } if status.is_server_error()
                || matches!(
                    *status,
                    StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
                ) =>
            {
                (Hope::Transient, *retry_after)
            }
            Self::Network { source, .. } => (source.hope(), None),
            _ => (Hope::None, None),
        }
    }
}
