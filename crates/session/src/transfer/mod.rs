//! File trees over fsutil's protocol, at both ends.
//!
//! [`RemoteTree`] is a tree that the other end has, [`send`] gives one of this end away.

mod packets;
mod receive;
mod send;

pub use packets::{PacketSender, PacketStream, packets};
pub use receive::{ReceiveOptions, RemoteTree, TransferError};
pub use send::{SendError, Sent, send};
