//! Clients' sessions: what a client serves its build over the stream of `Control.Session`.

mod agent;
mod blobs;
mod connection;
mod credentials;
mod exporters;
mod files;
mod manager;
mod offers;
mod policy;
mod results;

pub use connection::{ConnectionError, SessionConfig};
pub use manager::{ClientSession, Lookup, SessionManager, SessionStream};
pub use offers::SessionOffers;
pub use policy::ClientVerifier;
pub use results::client_target;
