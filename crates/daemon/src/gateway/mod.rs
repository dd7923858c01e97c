//! The service that frontends work through, wherever they run: in a client, or in an image.
//!
//! A [`Session`] serves one frontend: it knows the file systems that the frontend was given by
//! their ids, and takes what the frontend returns. [`Gateway`] is the service on a daemon's
//! address: it finds the session of the build that a call is for.

mod caps;
mod containers;
mod convert;
mod details;
mod forward;
mod image;
mod processes;
mod service;
mod session;
mod signals;
mod source_meta;
mod status;

pub use forward::{Attached, Gateway};
pub use image::{IMAGE_FRONTEND, ImageFrontend};
pub use session::Session;
pub(crate) use source_meta::{request as meta_request, response as meta_response};
pub use status::to_status;
pub(crate) use status::{request_error, shutting_down};
