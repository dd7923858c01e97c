//! What Google's API conventions share (package `google.rpc`).

use prost_types::Any;

/// Why a call failed.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Status {
    /// A gRPC status code.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// What a person reads.
    #[prost(string, tag = "2")]
    pub message: String,
    /// What a program reads.
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<Any>,
}
