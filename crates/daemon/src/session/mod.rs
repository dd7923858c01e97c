//! Clients' sessions: what a client serves its build over the stream of `Control.Session`.

mod connection;
mod manager;

pub use connection::{ConnectionError, SessionConfig};
pub use manager::{ClientSession, Lookup, SessionManager, SessionStream};
