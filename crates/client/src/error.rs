use tonic::Status;
use weld_proto::control::REQUEST_ERROR;

use crate::{Address, TlsError};

/// Why a daemon did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// It cannot be reached.
    #[error("cannot connect to {address}: {reason}")]
    Connect {
        /// Where it should be.
        address: Address,
        /// Why.
        reason: String,
    },
    /// TLS cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// It answered with an error.
    #[error("{}", text(.0))]
    Daemon(Box<Status>),
    /// It answered with something that makes no sense.
    #[error("the daemon's answer makes no sense: {0}")]
    Answer(String),
    /// The request is one that only an engine in this process can meet.
    #[error("a daemon cannot do this: {0}")]
    Unsupported(&'static str),
    /// The session cannot be served.
    #[error("cannot serve the session: {0}")]
    Session(String),
    /// It was cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        Self::Daemon(Box::new(status))
    }
}

impl ClientError {
    /// Whether the build was cancelled.
    pub fn is_cancelled(&self) -> bool {
        match self {
            Self::Cancelled => true,
            Self::Daemon(status) => status.code() == tonic::Code::Cancelled,
            _ => false,
        }
    }

    /// Whether the daemon says that what was asked for can never be met.
    pub fn is_request_error(&self) -> bool {
        let Self::Daemon(status) = self else {
            return false;
        };
        status.code() == tonic::Code::InvalidArgument
            || status.metadata().contains_key(REQUEST_ERROR)
    }

    /// What is behind it, a line each, as far as the daemon says so.
    pub fn causes(&self) -> Vec<String> {
        match self {
            Self::Daemon(status) => {
                let code = format!("the daemon answered with {:?}", status.code());
                let details = crate::details::told(status);
                std::iter::once(code).chain(details).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The lines of the Dockerfile that it is about.
    pub fn source_excerpt(&self) -> Option<String> {
        match self {
            Self::Daemon(status) => crate::details::sources(status)
                .iter()
                .find_map(weld_engine::SourceRanges::excerpt),
            _ => None,
        }
    }
}

/// What went wrong, with what is behind it where the connection broke: that alone tells of a
/// certificate that lacks, or of TLS where none is spoken.
fn text(status: &Status) -> String {
    let mut text = match status.message() {
        "" => status.code().to_string(),
        message => message.to_owned(),
    };
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        let reason = cause.to_string();
        if !text.contains(&reason) {
            text.push_str(": ");
            text.push_str(&reason);
        }
        source = cause.source();
    }
    text
}
