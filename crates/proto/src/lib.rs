//! Wire types of BuildKit's API.
//!
//! Messages are written by hand with `prost`, so that building needs no `protoc`. Field numbers are those
//! of BuildKit's `solver/pb/ops.proto`. Fields are encoded in the order of their numbers (where a
//! message has a choice of fields, that comes last) and maps in the order of their keys, as Go does: equal definitions give equal bytes, and a vertex's
//! digest is that of its bytes. One known difference: an entry of a map whose value is the empty string
//! is written without its value, which decodes to the same.

pub mod attr;
pub mod cap;
pub mod fsutil;
pub mod pb;
pub mod session;

pub use prost::{DecodeError, Message};
