//! Content stores of the client (package `containerd.services.content.v1`).

use std::collections::BTreeMap;

use bytes::Bytes;

/// [`InfoRequest`] to [`InfoResponse`].
pub const INFO: &str = "/containerd.services.content.v1.Content/Info";
/// [`UpdateRequest`] to [`UpdateResponse`].
pub const UPDATE: &str = "/containerd.services.content.v1.Content/Update";
/// [`ListContentRequest`] to a stream of [`ListContentResponse`].
pub const LIST: &str = "/containerd.services.content.v1.Content/List";
/// [`DeleteContentRequest`] to [`Empty`].
pub const DELETE: &str = "/containerd.services.content.v1.Content/Delete";
/// [`ReadContentRequest`] to a stream of [`ReadContentResponse`].
pub const READ: &str = "/containerd.services.content.v1.Content/Read";
/// [`StatusRequest`] to [`StatusResponse`].
pub const STATUS: &str = "/containerd.services.content.v1.Content/Status";
/// [`ListStatusesRequest`] to [`ListStatusesResponse`].
pub const LIST_STATUSES: &str = "/containerd.services.content.v1.Content/ListStatuses";
/// Streams of [`WriteContentRequest`] and [`WriteContentResponse`].
pub const WRITE: &str = "/containerd.services.content.v1.Content/Write";
/// [`AbortRequest`] to [`Empty`].
pub const ABORT: &str = "/containerd.services.content.v1.Content/Abort";

/// Metadata of all methods: which of the client's stores.
pub const STORE_ID: &str = "buildkit-attachable-store-id";
/// What the ids of stores begin with that are OCI layouts for sources.
pub const LAYOUT_PREFIX: &str = "oci:";
/// The id of the store that results go to.
pub const EXPORT_STORE: &str = "export";

/// Nothing (package `google.protobuf`).
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Empty {}

/// A moment (package `google.protobuf`).
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Timestamp {
    /// Seconds since 1970.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// Nanoseconds beyond.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

/// What a store knows of a blob.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Info {
    /// Its digest.
    #[prost(string, tag = "1")]
    pub digest: String,
    /// Its length, in bytes.
    #[prost(int64, tag = "2")]
    pub size: i64,
    /// When it came.
    #[prost(message, optional, tag = "3")]
    pub created_at: Option<Timestamp>,
    /// When its labels changed last.
    #[prost(message, optional, tag = "4")]
    pub updated_at: Option<Timestamp>,
    /// Its labels.
    #[prost(btree_map = "string, string", tag = "5")]
    pub labels: BTreeMap<String, String>,
}

/// Asks for what is known of a blob.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct InfoRequest {
    /// Its digest.
    #[prost(string, tag = "1")]
    pub digest: String,
}

/// What is known of a blob.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InfoResponse {
    /// It.
    #[prost(message, optional, tag = "1")]
    pub info: Option<Info>,
}

/// Names fields (package `google.protobuf`).
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct FieldMask {
    /// The fields.
    #[prost(string, repeated, tag = "1")]
    pub paths: Vec<String>,
}

/// Changes a blob's labels.
#[derive(Clone, PartialEq, prost::Message)]
pub struct UpdateRequest {
    /// The blob with its labels.
    #[prost(message, optional, tag = "1")]
    pub info: Option<Info>,
    /// Which to change.
    #[prost(message, optional, tag = "2")]
    pub update_mask: Option<FieldMask>,
}

/// What is known of it now.
#[derive(Clone, PartialEq, prost::Message)]
pub struct UpdateResponse {
    /// It.
    #[prost(message, optional, tag = "1")]
    pub info: Option<Info>,
}

/// Asks for blobs.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ListContentRequest {
    /// Which.
    #[prost(string, repeated, tag = "1")]
    pub filters: Vec<String>,
}

/// Some of the blobs.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListContentResponse {
    /// They.
    #[prost(message, repeated, tag = "1")]
    pub info: Vec<Info>,
}

/// Removes a blob.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DeleteContentRequest {
    /// Its digest.
    #[prost(string, tag = "1")]
    pub digest: String,
}

/// Asks for a blob's content.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ReadContentRequest {
    /// Its digest.
    #[prost(string, tag = "1")]
    pub digest: String,
    /// From where.
    #[prost(int64, tag = "2")]
    pub offset: i64,
    /// How much; 0 for all.
    #[prost(int64, tag = "3")]
    pub size: i64,
}

/// A piece of a blob.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ReadContentResponse {
    /// Where it is.
    #[prost(int64, tag = "1")]
    pub offset: i64,
    /// The piece.
    #[prost(bytes = "bytes", tag = "2")]
    pub data: Bytes,
}

/// How far a blob has come.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Status {
    /// When it began.
    #[prost(message, optional, tag = "1")]
    pub started_at: Option<Timestamp>,
    /// When it got its last piece.
    #[prost(message, optional, tag = "2")]
    pub updated_at: Option<Timestamp>,
    /// The name under which it is written.
    #[prost(string, tag = "3")]
    pub r#ref: String,
    /// How much is there.
    #[prost(int64, tag = "4")]
    pub offset: i64,
    /// How much there will be.
    #[prost(int64, tag = "5")]
    pub total: i64,
    /// Its digest, if that is known.
    #[prost(string, tag = "6")]
    pub expected: String,
}

/// Asks how far a blob has come.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct StatusRequest {
    /// The name under which it is written.
    #[prost(string, tag = "1")]
    pub r#ref: String,
}

/// How far it has come.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StatusResponse {
    /// It.
    #[prost(message, optional, tag = "1")]
    pub status: Option<Status>,
}

/// Asks how far blobs have come.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ListStatusesRequest {
    /// Which.
    #[prost(string, repeated, tag = "1")]
    pub filters: Vec<String>,
}

/// How far they have come.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListStatusesResponse {
    /// They.
    #[prost(message, repeated, tag = "1")]
    pub statuses: Vec<Status>,
}

/// What a [`WriteContentRequest`] wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum WriteAction {
    /// To know how far the blob has come.
    Stat = 0,
    /// To write a piece.
    Write = 1,
    /// To write the last piece and keep the blob.
    Commit = 2,
}

/// A step of writing a blob.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct WriteContentRequest {
    /// What is wanted.
    #[prost(enumeration = "WriteAction", tag = "1")]
    pub action: i32,
    /// The name under which it is written.
    #[prost(string, tag = "2")]
    pub r#ref: String,
    /// Its length, if that is known.
    #[prost(int64, tag = "3")]
    pub total: i64,
    /// Its digest, if that is known.
    #[prost(string, tag = "4")]
    pub expected: String,
    /// Where the piece belongs.
    #[prost(int64, tag = "5")]
    pub offset: i64,
    /// The piece.
    #[prost(bytes = "bytes", tag = "6")]
    pub data: Bytes,
    /// The labels that it gets.
    #[prost(btree_map = "string, string", tag = "7")]
    pub labels: BTreeMap<String, String>,
}

/// How far it has come.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WriteContentResponse {
    /// What was done.
    #[prost(enumeration = "WriteAction", tag = "1")]
    pub action: i32,
    /// When it began.
    #[prost(message, optional, tag = "2")]
    pub started_at: Option<Timestamp>,
    /// When it got its last piece.
    #[prost(message, optional, tag = "3")]
    pub updated_at: Option<Timestamp>,
    /// How much is there.
    #[prost(int64, tag = "4")]
    pub offset: i64,
    /// How much there will be.
    #[prost(int64, tag = "5")]
    pub total: i64,
    /// Its digest, once it is known.
    #[prost(string, tag = "6")]
    pub digest: String,
}

/// Gives up writing a blob.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct AbortRequest {
    /// The name under which it is written.
    #[prost(string, tag = "1")]
    pub r#ref: String,
}
