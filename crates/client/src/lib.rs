//! Talks to a daemon, Weldkit's or BuildKit's, and serves it a session.
//!
//! A [`Client`] takes the same requests as an [`Engine`](weld_engine::Engine): what the request's
//! session offers is served to the daemon while it builds ([`serve`]), and what it builds comes
//! back the same way.

mod address;
mod ask;
mod client;
mod details;
mod error;
mod provenance;
pub mod serve;
mod status;
mod tls;
mod usage;

pub use address::{Address, ParseAddressError};
pub use client::Client;
pub use error::ClientError;
pub use tls::{TlsError, TlsOptions};
