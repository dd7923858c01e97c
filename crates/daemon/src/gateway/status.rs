//! From a build's errors to gRPC statuses, with what clients show of them.

use prost::Message;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use weld_engine::BuildError;
use weld_proto::control::REQUEST_ERROR;
use weld_proto::google;

use super::details;

/// A failed build's error for its client, with typed details as BuildKit has them.
pub fn to_status(error: &BuildError) -> Status {
    let (code, message) = summary(error);
    let mut status = with_details(code, message, details::of(error));
    if error.is_request_error() {
        mark(&mut status);
    }
    status
}

/// The refusal of a request that can never be met.
pub(crate) fn request_error(message: impl Into<String>) -> Status {
    let mut status = Status::unknown(message);
    mark(&mut status);
    status
}

/// A build that was cancelled because the daemon ends. The words that clients tell what was cancelled by are kept.
pub(crate) fn shutting_down() -> Status {
    Status::unavailable("the daemon is shutting down: context canceled")
}

/// Says that it is the request that is wrong. A code of its own would say so, too, but BuildKit's clients print
/// that in front of the message.
fn mark(status: &mut Status) {
    let value = MetadataValue::from_static("true");
    status.metadata_mut().insert(REQUEST_ERROR, value);
}

pub(super) fn with_details(code: Code, message: String, details: Vec<prost_types::Any>) -> Status {
    if details.is_empty() {
        return Status::new(code, message);
    }
    let status = google::Status {
        code: code.into(),
        message: message.clone(),
        details,
    };
    Status::with_details(code, message, status.encode_to_vec().into())
}

/// The code and the text, which clients put their own words in front of.
pub(super) fn summary(error: &BuildError) -> (Code, String) {
    match error.innermost() {
        BuildError::Cancelled => (Code::Cancelled, "context canceled".to_owned()),
        BuildError::FrontendCap(_) => (Code::Unimplemented, error.to_string()),
        BuildError::Definition(_) => (Code::Unknown, error.to_string()),
        BuildError::Returned(status) => {
            let code = Code::from_i32(status.code);
            let code = if code == Code::Ok {
                Code::Unknown
            } else {
                code
            };
            (code, status.message.clone())
        }
        request if request.is_request_error() => (Code::Unknown, error.to_string()),
        _ => (Code::Unknown, error.reason()),
    }
}
