//! Blobs over the wire (package `containerd.services.content.v1`, of containerd's API).

use std::collections::BTreeMap;

use bytes::Bytes;
use prost_types::{FieldMask, Timestamp};

/// The service's stubs.
pub mod content_client {
    pub use super::stubs::content_client::ContentClient;
}

/// The service's stubs.
pub mod content_server {
    pub use super::stubs::content_server::{Content, ContentServer};
}

#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::nursery
)]
mod stubs {
    include!(concat!(
        env!("OUT_DIR"),
        "/containerd.services.content.v1.Content.rs"
    ));
}

/// What is known of a blob.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Info {
    /// Its digest.
    #[prost(string, tag = "1")]
    pub digest: String,
    /// Its bytes.
    #[prost(int64, tag = "2")]
    pub size: i64,
    /// When it came.
    #[prost(message, optional, tag = "3")]
    pub created_at: Option<Timestamp>,
    /// When what is known of it changed.
    #[prost(message, optional, tag = "4")]
    pub updated_at: Option<Timestamp>,
    /// What is said of it.
    #[prost(btree_map = "string, string", tag = "5")]
    pub labels: BTreeMap<String, String>,
}

/// What is known of a blob?
#[derive(Clone, PartialEq, prost::Message)]
pub struct InfoRequest {
    /// Its digest.
    #[prost(string, tag = "1")]
    pub digest: String,
}

/// What is known of a blob.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InfoResponse {
    /// What.
    #[prost(message, optional, tag = "1")]
    pub info: Option<Info>,
}

/// A change of what is known of a blob.
#[derive(Clone, PartialEq, prost::Message)]
pub struct UpdateRequest {
    /// What is known from now on.
    #[prost(message, optional, tag = "1")]
    pub info: Option<Info>,
    /// Which fields change.
    #[prost(message, optional, tag = "2")]
    pub update_mask: Option<FieldMask>,
}

/// What is known of a blob.
#[derive(Clone, PartialEq, prost::Message)]
pub struct UpdateResponse {
    /// What.
    #[prost(message, optional, tag = "1")]
    pub info: Option<Info>,
}

/// Which blobs to list.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListContentRequest {
    /// Only what matches one of these.
    #[prost(string, repeated, tag = "1")]
    pub filters: Vec<String>,
}

/// Some of the blobs.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListContentResponse {
    /// The blobs.
    #[prost(message, repeated, tag = "1")]
    pub info: Vec<Info>,
}

/// Which blob to delete.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeleteContentRequest {
    /// Its digest.
    #[prost(string, tag = "1")]
    pub digest: String,
}

/// What to read.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReadContentRequest {
    /// The blob's digest.
    #[prost(string, tag = "1")]
    pub digest: String,
    /// Where to begin.
    #[prost(int64, tag = "2")]
    pub offset: i64,
    /// How many bytes; 0 for all that follow.
    #[prost(int64, tag = "3")]
    pub size: i64,
}

/// A piece of a blob.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReadContentResponse {
    /// Where it begins.
    #[prost(int64, tag = "1")]
    pub offset: i64,
    /// The bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub data: Bytes,
}

/// How far a write is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Status {
    /// When it began.
    #[prost(message, optional, tag = "1")]
    pub started_at: Option<Timestamp>,
    /// When it last went on.
    #[prost(message, optional, tag = "2")]
    pub updated_at: Option<Timestamp>,
    /// Its name.
    #[prost(string, tag = "3")]
    pub reference: String,
    /// How many bytes are there.
    #[prost(int64, tag = "4")]
    pub offset: i64,
    /// How many bytes are to come; 0 where that is not known.
    #[prost(int64, tag = "5")]
    pub total: i64,
    /// The digest that the blob is to have.
    #[prost(string, tag = "6")]
    pub expected: String,
}

/// How far is a write?
#[derive(Clone, PartialEq, prost::Message)]
pub struct StatusRequest {
    /// Its name.
    #[prost(string, tag = "1")]
    pub reference: String,
}

/// How far a write is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StatusResponse {
    /// How far.
    #[prost(message, optional, tag = "1")]
    pub status: Option<Status>,
}

/// Which writes to list.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListStatusesRequest {
    /// Only what matches one of these.
    #[prost(string, repeated, tag = "1")]
    pub filters: Vec<String>,
}

/// The writes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListStatusesResponse {
    /// The writes.
    #[prost(message, repeated, tag = "1")]
    pub statuses: Vec<Status>,
}

/// What a message of a write wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum WriteAction {
    /// How far it is.
    Stat = 0,
    /// To add bytes.
    Write = 1,
    /// To be done.
    Commit = 2,
}

/// A message of a write.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WriteContentRequest {
    /// What it wants.
    #[prost(enumeration = "WriteAction", tag = "1")]
    pub action: i32,
    /// The write's name.
    #[prost(string, tag = "2")]
    pub reference: String,
    /// How many bytes there will be; 0 where that is not known.
    #[prost(int64, tag = "3")]
    pub total: i64,
    /// The digest that the blob is to have.
    #[prost(string, tag = "4")]
    pub expected: String,
    /// Where the bytes go.
    #[prost(int64, tag = "5")]
    pub offset: i64,
    /// The bytes.
    #[prost(bytes = "bytes", tag = "6")]
    pub data: Bytes,
    /// What is said of the blob.
    #[prost(btree_map = "string, string", tag = "7")]
    pub labels: BTreeMap<String, String>,
}

/// An answer to a message of a write.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WriteContentResponse {
    /// What the message wanted.
    #[prost(enumeration = "WriteAction", tag = "1")]
    pub action: i32,
    /// When the write began.
    #[prost(message, optional, tag = "2")]
    pub started_at: Option<Timestamp>,
    /// When it last went on.
    #[prost(message, optional, tag = "3")]
    pub updated_at: Option<Timestamp>,
    /// How many bytes are there.
    #[prost(int64, tag = "4")]
    pub offset: i64,
    /// How many bytes are to come.
    #[prost(int64, tag = "5")]
    pub total: i64,
    /// The digest so far, or of the blob.
    #[prost(string, tag = "6")]
    pub digest: String,
}

/// Which write to give up.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AbortRequest {
    /// Its name.
    #[prost(string, tag = "1")]
    pub reference: String,
}
