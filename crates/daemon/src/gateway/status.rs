//! From a build's errors to gRPC statuses, with what clients show of them.

use prost::Message;
use tonic::{Code, Status};
use weld_engine::BuildError;
use weld_proto::google;

use super::details;

/// A failed build's error for its client, with typed details as BuildKit has them.
pub fn to_status(error: &BuildError) -> Status {
    let (code, message) = summary(error);
    with_details(code, message, details::of(error))
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
        BuildError::FrontendCap(_) | BuildError::Subrequest(_) => {
            (Code::Unimplemented, error.to_string())
        }
        BuildError::Definition(_) => (Code::InvalidArgument, error.to_string()),
        BuildError::Returned(status) => {
            let code = Code::from_i32(status.code);
            let code = if code == Code::Ok {
                Code::Unknown
            } else {
                code
            };
            (code, status.message.clone())
        }
        request if request.is_request_error() => (Code::InvalidArgument, error.to_string()),
        _ => (Code::Unknown, error.reason()),
    }
}
