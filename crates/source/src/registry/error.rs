use std::fmt;
use std::io;
use std::time::Duration;

use reqwest::StatusCode;
use weld_digest::Digest;

use super::config::ConfigError;
use super::credentials::CredentialsError;
use crate::image::DocumentError;
use crate::transport::{Hope, NetworkError};

/// What was done when a registry failed, in the words of a user: `pull docker.io/library/x:1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    pub(super) verb: &'static str,
    pub(super) object: String,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.object)
    }
}

/// Why a registry did not do what it should.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} at {host}: {failure}")]
pub struct EndpointError {
    /// What was wanted.
    pub action: Action,
    /// Which host failed.
    pub host: String,
    /// How.
    pub failure: Failure,
}

/// How a registry failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It wants credentials, or refuses those that it got.
    #[error("unauthorized: {0}")]
    Unauthorized(String),
    /// It refuses the request.
    #[error("forbidden: {0}")]
    Forbidden(String),
    /// It has no such thing.
    #[error("not found: {0}")]
    NotFound(String),
    /// It wants fewer requests.
    #[error("too many requests: {detail}")]
    TooManyRequests {
        /// What it said.
        detail: String,
        /// How long it asked to wait.
        retry_after: Option<Duration>,
    },
    /// It answered with another status.
    #[error("status {status}: {detail}")]
    Status {
        /// The status.
        status: StatusCode,
        /// What it said.
        detail: String,
        /// How long it asked to wait.
        retry_after: Option<Duration>,
    },
    /// It gave no usable answer.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The credentials for it cannot be had.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The token server that it names failed.
    #[error("token server {realm}: {source}")]
    Token {
        /// The token server's host.
        realm: String,
        /// How.
        source: Box<Failure>,
    },
    /// It served something that is not what the digest names.
    #[error("the content has digest {actual} instead of {expected}")]
    Digest {
        /// What was asked for.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// It served more or less than the descriptor says.
    #[error("the content has {actual} bytes instead of {expected}")]
    Size {
        /// What was asked for, in bytes.
        expected: u64,
        /// What came, in bytes.
        actual: u64,
    },
    /// It served more than is read of such a thing.
    #[error("the content is larger than the limit of {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: u64,
    },
    /// It served a document that is none of an image.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// It broke the protocol.
    #[error("malformed answer: {0}")]
    Protocol(String),
    /// It said or took nothing for as long as the client waits.
    #[error("no answer for {} s", .0.as_secs_f32())]
    Silent(Duration),
    /// So little of the content came that waiting for the rest is no use.
    #[error("only {bytes} bytes came in {} s", .during.as_secs())]
    Trickle {
        /// What came, in bytes.
        bytes: u64,
        /// In which time.
        during: Duration,
    },
}

/// Why something could not be pulled or pushed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The registry's settings cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The registry failed.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The registry and its mirrors failed.
    #[error("{origin}{}", list_mirrors(.mirrors))]
    All {
        /// What the registry itself said.
        origin: Box<EndpointError>,
        /// What the mirrors said before.
        mirrors: Vec<EndpointError>,
    },
    /// No host of this registry may be used for it.
    #[error("cannot {action}: no host of registry {registry} is configured to allow it")]
    NotCapable {
        /// What was wanted.
        action: Action,
        /// The registry.
        registry: String,
    },
    /// The receiver of the content failed: a full disk, say.
    #[error("cannot store {digest}: {source}")]
    Sink {
        /// What was received.
        digest: Digest,
        /// Why.
        source: io::Error,
    },
    /// What is to be pushed cannot be read.
    #[error("cannot read {digest} to push it: {source}")]
    Source {
        /// What was to be pushed.
        digest: Digest,
        /// Why.
        source: io::Error,
    },
    /// What is to be pushed is a document of an image no longer.
    #[error("cannot push {0}: not a valid manifest: {1}")]
    Manifest(String, DocumentError),
}

fn list_mirrors(errors: &[EndpointError]) -> String {
    errors
        .iter()
        .map(|error| format!("; mirror {}: {}", error.host, error.failure))
        .collect()
}

impl RegistryError {
    /// What the registry said, if it was the registry.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Endpoint(error) => Some(&error.failure),
            Self::All { origin, .. } => Some(&origin.failure),
            _ => None,
        }
    }

    /// Whether the registry has no such thing.
    pub fn is_not_found(&self) -> bool {
        matches!(self.failure(), Some(Failure::NotFound(_)))
    }
}

impl Failure {
    /// Whether it is the server, or the way to it, that does not do what it should; not what was asked for, or by whom.
    pub fn is_of_the_server(&self) -> bool {
        match self {
            Self::TooManyRequests { .. } | Self::Network(_) => true,
            Self::Digest { .. } | Self::Size { .. } | Self::Protocol(_) => true,
            Self::Silent(_) | Self::Trickle { .. } => true,
            Self::Status { status, .. } => status.is_server_error(),
            Self::Token { source, .. } => source.is_of_the_server(),
            _ => false,
        }
    }

    /// How often such a request is worth being made in all, and what the server asked to wait before.
    pub fn worth(&self, most: u32) -> (u32, Option<Duration>) {
        let (hope, wait) = self.hope();
        let tries = match hope {
            Hope::None => 1,
            Hope::Unreachable => most.min(super::UNREACHABLE_ATTEMPTS),
            Hope::Transient => most,
        };
        (tries, wait)
    }

    /// Whether, and after which wait, it may help to try again.
    pub(super) fn hope(&self) -> (Hope, Option<Duration>) {
        match self {
            Self::TooManyRequests { retry_after, .. } => (Hope::Transient, *retry_after),
            Self::Status {
                status,
                retry_after,
                ..
            } if status.is_server_error() || *status == StatusCode::REQUEST_TIMEOUT => {
                (Hope::Transient, *retry_after)
            }
            Self::Network(error) => (error.hope(), None),
            Self::Token { source, .. } => source.hope(),
            // A proxy in between may have garbled or cut it: once more is worth it.
            Self::Digest { .. } | Self::Size { .. } => (Hope::Unreachable, None),
            _ => (Hope::None, None),
        }
    }

    pub(super) fn at(self, action: &Action, host: &str) -> EndpointError {
        EndpointError {
            action: action.clone(),
            host: host.to_owned(),
            failure: self,
        }
    }

    /// The failure that a response reports.
    pub(super) async fn of(response: reqwest::Response) -> Self {
        let status = response.status();
        let retry_after = crate::retry::retry_after(response.headers());
        let detail = detail(response).await;
        match status {
            StatusCode::UNAUTHORIZED => Self::Unauthorized(detail),
            StatusCode::FORBIDDEN => Self::Forbidden(detail),
            StatusCode::NOT_FOUND => Self::NotFound(detail),
            StatusCode::TOO_MANY_REQUESTS => Self::TooManyRequests {
                detail,
                retry_after,
            },
            _ => Self::Status {
                status,
                detail,
                retry_after,
            },
        }
    }
}

/// How much of an error's body is read, and how much of it is shown.
const MAX_ERROR_BODY: usize = 64 << 10;
const MAX_ERROR_TEXT: usize = 500;

/// What a response says about an error: the registry's errors, a token server's, else the text.
async fn detail(mut response: reqwest::Response) -> String {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ERROR_BODY {
            break;
        }
    }
    let text = describe(&body);
    if text.is_empty() {
        // The status itself is told anyway.
        return "no reason given".to_owned();
    }
    text
}

fn describe(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Errors {
        #[serde(default)]
        errors: Vec<Item>,
        details: Option<String>,
        error_description: Option<String>,
        message: Option<String>,
        error: Option<String>,
    }
    #[derive(serde::Deserialize)]
    struct Item {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let text = match serde_json::from_slice::<Errors>(body) {
        Ok(known) if !known.errors.is_empty() => known
            .errors
            .iter()
            .map(|item| match (item.code.as_str(), item.message.as_str()) {
                (code, "") => code.to_lowercase().replace('_', " "),
                (_, message) => message.to_owned(),
            })
            .collect::<Vec<_>>()
            .join("; "),
        Ok(known) => known
            .error_description
            .or(known.details)
            .or(known.message)
            .or(known.error)
            .unwrap_or_default(),
        Err(_) if body.trim_ascii_start().starts_with(b"<") => String::new(),
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_ERROR_TEXT)
        .collect::<String>()
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::describe;

    #[test]
    fn error_bodies_become_readable() {
        for (body, text) in [
            (
                r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{}}]}"#,
                "manifest unknown",
            ),
            (r#"{"errors":[{"code":"NAME_UNKNOWN"}]}"#, "name unknown"),
            (
                r#"{"details":"incorrect username or password"}"#,
                "incorrect username or password",
            ),
            (
                r#"{"error":"x","error_description":"bad token"}"#,
                "bad token",
            ),
            ("<html><body>502</body></html>", ""),
            ("plain\ntext\u{1b}[31m", "plain text [31m"),
            ("", ""),
            (r#"{"errors":null}"#, r#"{"errors":null}"#),
        ] {
            assert_eq!(describe(body.as_bytes()), text, "{body}");
        }
        assert_eq!(describe(&[b'x'; 10_000]).len(), 500);
    }
}
