//! Where build inputs come from: registries, OCI layouts, object stores, git, HTTP and local directories.
//!
//! Each source verifies what it hands on (digests, checksums, commits), reports what it does
//! through [`progress`], and takes credentials through a trait, so that the same code serves a
//! command line and a daemon whose client holds the secrets. The registry client also pushes,
//! since the protocol is one.
//!
//! All `async` functions may be cancelled by dropping their future; blocking work runs on the
//! runtime's blocking pool.

pub mod blob_store;
pub mod git;
pub mod http;
pub mod image;
pub mod index_lock;
pub mod local;
pub mod objects;
pub mod oci_layout;
pub mod partial;
pub mod progress;
mod pump;
pub use weld_llb::reference;
pub mod registry;
pub mod retry;
mod secret;
pub mod set_aside;
pub mod sink;
mod transport;
mod url_text;

pub use secret::Secret;
pub use transport::{TransportError, posting_client};
