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
mod status;

pub use forward::{Attached, Gateway};
pub use image::{IMAGE_FRONTEND, ImageFrontend};
pub use session::Session;
pub use status::to_status;
