//! How frontends ask a daemon for solves (package `moby.buildkit.v1.frontend`,
//! `frontend/gateway/pb/gateway.proto`): solves and their files.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Result;
use crate::{apicaps, fsutil, pb, sourcepolicy, types};

/// Asks for a solve.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SolveRequest {
    /// The definition to solve.
    #[prost(message, optional, tag = "1")]
    pub definition: Option<pb::Definition>,
    /// The frontend to ask instead.
    #[prost(string, tag = "2")]
    pub frontend: String,
    /// The frontend's options.
    #[prost(btree_map = "string, string", tag = "3")]
    pub frontend_opt: BTreeMap<String, String>,
    /// Whether the client takes results of several file systems.
    #[prost(bool, tag = "5")]
    pub allow_result_return: bool,
    /// Whether the client takes definitions with file systems.
    #[prost(bool, tag = "6")]
    pub allow_result_array_ref: bool,
    /// Whether this is what the frontend returns, for clients that know no `Return`.
    #[prost(bool, tag = "10")]
    pub r#final: bool,
    /// Metadata of that, as JSON.
    #[prost(bytes = "bytes", tag = "11")]
    pub exporter_attr: Bytes,
    /// Caches elsewhere.
    #[prost(message, repeated, tag = "12")]
    pub cache_imports: Vec<CacheOptionsEntry>,
    /// Definitions for the frontend.
    #[prost(btree_map = "string, message", tag = "13")]
    pub frontend_inputs: BTreeMap<String, pb::Definition>,
    /// Whether to build at once.
    #[prost(bool, tag = "14")]
    pub evaluate: bool,
    /// Further policies.
    #[prost(message, repeated, tag = "15")]
    pub source_policies: Vec<sourcepolicy::Policy>,
}

/// A cache elsewhere.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CacheOptionsEntry {
    /// Its kind.
    #[prost(string, tag = "1")]
    pub r#type: String,
    /// Where it is.
    #[prost(btree_map = "string, string", tag = "2")]
    pub attrs: BTreeMap<String, String>,
}

/// What a solve gave.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SolveResponse {
    /// The id of the file system, for clients that take no results.
    #[prost(string, tag = "1")]
    pub r#ref: String,
    /// The result.
    #[prost(message, optional, tag = "3")]
    pub result: Option<Result>,
}

/// Asks for the definitions that the frontend was given.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct InputsRequest {}

/// The definitions that the frontend was given.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InputsResponse {
    /// By name.
    #[prost(btree_map = "string, message", tag = "1")]
    pub definitions: BTreeMap<String, pb::Definition>,
}

/// Asks for a file of a file system, or of a container's mount.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReadFileRequest {
    /// The id of the file system or container.
    #[prost(string, tag = "1")]
    pub r#ref: String,
    /// The path.
    #[prost(string, tag = "2")]
    pub file_path: String,
    /// Only this part.
    #[prost(message, optional, tag = "3")]
    pub range: Option<FileRange>,
    /// Which mount of the container.
    #[prost(int32, tag = "4")]
    pub mount_index: i32,
}

/// A part of a file.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct FileRange {
    /// Its first byte.
    #[prost(int64, tag = "1")]
    pub offset: i64,
    /// Its length.
    #[prost(int64, tag = "2")]
    pub length: i64,
}

/// A file's content.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReadFileResponse {
    /// The content.
    #[prost(bytes = "bytes", tag = "1")]
    pub data: Bytes,
}

/// Asks for the entries of a directory.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReadDirRequest {
    /// The id of the file system or container.
    #[prost(string, tag = "1")]
    pub r#ref: String,
    /// The path.
    #[prost(string, tag = "2")]
    pub dir_path: String,
    /// A pattern of their names.
    #[prost(string, tag = "3")]
    pub include_pattern: String,
    /// Which mount of the container.
    #[prost(int32, tag = "4")]
    pub mount_index: i32,
}

/// The entries of a directory.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReadDirResponse {
    /// The entries.
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<fsutil::Stat>,
}

/// Asks what is known of a file.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StatFileRequest {
    /// The id of the file system or container.
    #[prost(string, tag = "1")]
    pub r#ref: String,
    /// The path.
    #[prost(string, tag = "2")]
    pub path: String,
    /// Which mount of the container.
    #[prost(int32, tag = "3")]
    pub mount_index: i32,
}

/// What is known of a file.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StatFileResponse {
    /// The file.
    #[prost(message, optional, tag = "1")]
    pub stat: Option<fsutil::Stat>,
}

/// Asks that a file system be built.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EvaluateRequest {
    /// Its id.
    #[prost(string, tag = "1")]
    pub r#ref: String,
}

/// Nothing.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct EvaluateResponse {}

/// Asks what the service can do.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct PingRequest {}

/// What the service can do.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PongResponse {
    /// Of this service.
    #[prost(message, repeated, tag = "1")]
    pub frontend_api_caps: Vec<apicaps::ApiCap>,
    /// In definitions.
    #[prost(message, repeated, tag = "2")]
    pub llb_caps: Vec<apicaps::ApiCap>,
    /// Where it runs steps.
    #[prost(message, repeated, tag = "3")]
    pub workers: Vec<types::WorkerRecord>,
}

/// Something that the user should look at.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WarnRequest {
    /// The digest of the vertex that it is about.
    #[prost(string, tag = "1")]
    pub digest: String,
    /// How grave it is.
    #[prost(int64, tag = "2")]
    pub level: i64,
    /// One line that says it all.
    #[prost(bytes = "bytes", tag = "3")]
    pub short: Bytes,
    /// More lines.
    #[prost(bytes = "bytes", repeated, tag = "4")]
    pub detail: Vec<Bytes>,
    /// Where to read on.
    #[prost(string, tag = "5")]
    pub url: String,
    /// The file that it is about.
    #[prost(message, optional, tag = "6")]
    pub info: Option<pb::SourceInfo>,
    /// The lines.
    #[prost(message, repeated, tag = "7")]
    pub ranges: Vec<pb::Range>,
}

/// Nothing.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct WarnResponse {}
