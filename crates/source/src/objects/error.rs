//! What goes wrong with object stores, in a line: their answers are XML, with the request's signature in it.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use http::StatusCode;
use object_store::path::Path as Key;

use crate::transport::TransportError;

/// Why an object store could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// What it is given cannot be used.
    #[error("{attribute}: {reason}")]
    Setting {
        /// Which part of it.
        attribute: &'static str,
        /// Why.
        reason: String,
    },
    /// A key that the protocols' crate would change.
    #[error(
        "object key {0:?}: no part of it may be empty, \".\" or \"..\", or have control characters in it"
    )]
    Key(String),
    /// A request failed.
    #[error("cannot {action} {key}: {reason}")]
    Request {
        /// What was to be done.
        action: &'static str,
        /// With which object.
        key: String,
        /// What the server or the connection says.
        reason: String,
        /// The server's status, if it answered.
        status: Option<StatusCode>,
    },
    /// An object is larger than is read.
    #[error("{key} is larger than {limit} bytes")]
    TooLarge {
        /// The object.
        key: String,
        /// The limit.
        limit: u64,
    },
    /// Somebody else reserved it, and it did not become complete.
    #[error("{0} is being written by somebody else, or was not completed")]
    Abandoned(String),
    /// A file that is uploaded cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No connection can be set up.
    #[error(transparent)]
    Transport(#[from] TransportError),
}

impl ObjectError {
    /// What the protocols' crate says.
    pub(super) fn of(action: &'static str, key: &Key, error: &object_store::Error) -> Self {
        let (reason, status) = condensed(error);
        Self::Request {
            action,
            key: key.to_string(),
            reason,
            status,
        }
    }

    /// What the server answered.
    pub(super) fn answer(action: &'static str, key: &str, status: StatusCode, body: &str) -> Self {
        Self::Request {
            action,
            key: key.to_owned(),
            reason: answer(status, body),
            status: Some(status),
        }
    }

    /// The server's status, if it answered.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Request { status, .. } => *status,
            _ => None,
        }
    }

    /// Whether it says something of the server, and not of what was asked of it: it was not reached, broke off, or could not answer.
    pub fn is_of_the_server(&self) -> bool {
        match self {
            Self::Request { status: None, .. } => true,
            Self::Request {
                status: Some(status),
                ..
            } => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
            _ => false,
        }
    }
}

impl From<ObjectError> for io::Error {
    fn from(error: ObjectError) -> Self {
        let kind = match (&error, error.status()) {
            (ObjectError::Abandoned(_), _) => io::ErrorKind::ResourceBusy,
            (_, Some(StatusCode::NOT_FOUND)) => io::ErrorKind::NotFound,
            (_, Some(StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED)) => {
                io::ErrorKind::PermissionDenied
            }
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// The innermost cause, which says what happened; those around it repeat the address and count tries.
fn condensed(error: &object_store::Error) -> (String, Option<StatusCode>) {
    let mut innermost: &(dyn Error + 'static) = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let text = innermost.to_string();
    const STATUS: &str = "status code: ";
    let Some((_, rest)) = text.split_once(STATUS) else {
        return (element(&text, "Message").unwrap_or(text), None);
    };
    let code = rest.get(..3).and_then(|code| code.parse().ok());
    match code {
        Some(status) => (answer(status, rest), Some(status)),
        None => (element(&text, "Message").unwrap_or(text), None),
    }
}

/// `403 Forbidden: AccessDenied: Access Denied`.
fn answer(status: StatusCode, body: &str) -> String {
    let parts = [
        Some(status.to_string()),
        element(body, "Code"),
        element(body, "Message"),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    parts.join(": ")
}

/// The first line of an element's text; at most 200 characters of it.
pub(super) fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    let line = text.lines().next().unwrap_or_default();
    let shown = line.chars().filter(|c| !c.is_control()).take(200);
    Some(shown.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_without_their_signatures() {
        let body = "<?xml version=\"1.0\"?><Error><Code>SignatureDoesNotMatch</Code>\
            <Message>It does not match.\nMore.</Message><StringToSign>AWS4-HMAC</StringToSign></Error>";
        let told = answer(StatusCode::FORBIDDEN, body);
        assert_eq!(
            told,
            "403 Forbidden: SignatureDoesNotMatch: It does not match."
        );
        assert_eq!(answer(StatusCode::NOT_FOUND, ""), "404 Not Found");
    }
}
