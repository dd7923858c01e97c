//! Both ends of the connection over which a BuildKit client serves its build.
//!
//! The client opens one stream of messages to the daemon; in it runs an HTTP/2 connection
//! ([`Tunnel`]) on which the daemon is the one that calls ([`Caller`]). File trees travel over it
//! by fsutil's protocol: [`transfer`].

mod call;
pub mod metadata;
mod tunnel;

pub use call::{Caller, MAX_MESSAGE, caller_over};
pub use tunnel::Tunnel;
