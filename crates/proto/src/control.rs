//! The control service (package `moby.buildkit.v1`, `api/services/control/control.proto`).

use std::collections::BTreeMap;

use bytes::Bytes;
use prost_types::Timestamp;

use crate::types::{BuildkitVersion, WorkerRecord};
use crate::{google, pb, sourcepolicy};

/// The service's stubs.
pub mod control_client {
    pub use super::stubs::control_client::ControlClient;
}

/// The service's stubs.
pub mod control_server {
    pub use super::stubs::control_server::{Control, ControlServer};
}

#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::nursery
)]
mod stubs {
    include!(concat!(env!("OUT_DIR"), "/moby.buildkit.v1.Control.rs"));
}

/// Metadata by which a daemon tells Weldkit's client that a request can never be met as it is; others do not look at it.
pub const REQUEST_ERROR: &str = "weld-request-error";

/// What to delete of what no build uses.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PruneRequest {
    /// Only what matches one of these, as `buildctl` writes filters.
    #[prost(string, repeated, tag = "1")]
    pub filter: Vec<String>,
    /// Also what frontends and internals use.
    #[prost(bool, tag = "2")]
    pub all: bool,
    /// Keep what was used within this time, in nanoseconds.
    #[prost(int64, tag = "3")]
    pub keep_duration: i64,
    /// Keep at least this much, in bytes.
    #[prost(int64, tag = "4")]
    pub reserved_space: i64,
    /// Keep at most this much, in bytes.
    #[prost(int64, tag = "5")]
    pub max_used_space: i64,
    /// Leave this much of the disk free, in bytes.
    #[prost(int64, tag = "6")]
    pub min_free_space: i64,
}

/// Which records to list.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DiskUsageRequest {
    /// Only what matches one of these.
    #[prost(string, repeated, tag = "1")]
    pub filter: Vec<String>,
    /// Only what was not used for this time, in nanoseconds.
    #[prost(int64, tag = "2")]
    pub age_limit: i64,
}

/// What is kept on disk.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DiskUsageResponse {
    /// The records.
    #[prost(message, repeated, tag = "1")]
    pub record: Vec<UsageRecord>,
}

/// Something that is kept on disk.
#[derive(Clone, PartialEq, prost::Message)]
pub struct UsageRecord {
    /// Its name.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Whether it is changed in place.
    #[prost(bool, tag = "2")]
    pub mutable: bool,
    /// Whether something uses it now.
    #[prost(bool, tag = "3")]
    pub in_use: bool,
    /// Its bytes on disk.
    #[prost(int64, tag = "4")]
    pub size: i64,
    /// Its parent; superseded by `parents`.
    #[prost(string, tag = "5")]
    pub parent: String,
    /// When it was made.
    #[prost(message, optional, tag = "6")]
    pub created_at: Option<Timestamp>,
    /// When it was last used.
    #[prost(message, optional, tag = "7")]
    pub last_used_at: Option<Timestamp>,
    /// How often it was used.
    #[prost(int64, tag = "8")]
    pub usage_count: i64,
    /// What a person calls it.
    #[prost(string, tag = "9")]
    pub description: String,
    /// What it is for, such as `regular`.
    #[prost(string, tag = "10")]
    pub record_type: String,
    /// Whether something outside of the cache has it too.
    #[prost(bool, tag = "11")]
    pub shared: bool,
    /// What it is made of.
    #[prost(string, repeated, tag = "12")]
    pub parents: Vec<String>,
}

/// A build.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SolveRequest {
    /// The build's name, which the client chooses.
    #[prost(string, tag = "1")]
    pub reference: String,
    /// What to build, where no frontend says so.
    #[prost(message, optional, tag = "2")]
    pub definition: Option<pb::Definition>,
    /// The kind of the one exporter; superseded by `exporters`.
    #[prost(string, tag = "3")]
    pub exporter_deprecated: String,
    /// The attributes of the one exporter; superseded by `exporters`.
    #[prost(btree_map = "string, string", tag = "4")]
    pub exporter_attrs_deprecated: BTreeMap<String, String>,
    /// The session that offers files, secrets and credentials.
    #[prost(string, tag = "5")]
    pub session: String,
    /// The frontend's name; empty where the client itself is it.
    #[prost(string, tag = "6")]
    pub frontend: String,
    /// The frontend's options.
    #[prost(btree_map = "string, string", tag = "7")]
    pub frontend_attrs: BTreeMap<String, String>,
    /// Where cache comes from and goes to.
    #[prost(message, optional, tag = "8")]
    pub cache: Option<CacheOptions>,
    /// What steps may do that they must not do by default.
    #[prost(string, repeated, tag = "9")]
    pub entitlements: Vec<String>,
    /// Definitions that the frontend works on.
    #[prost(btree_map = "string, message", tag = "10")]
    pub frontend_inputs: BTreeMap<String, pb::Definition>,
    /// Whether the build stays out of the history.
    #[prost(bool, tag = "11")]
    pub internal: bool,
    /// Which sources may be used.
    #[prost(message, optional, tag = "12")]
    pub source_policy: Option<sourcepolicy::Policy>,
    /// What to do with the result.
    #[prost(message, repeated, tag = "13")]
    pub exporters: Vec<Exporter>,
    /// Whether the session has exporters of its own.
    #[prost(bool, tag = "14")]
    pub enable_session_exporter: bool,
    /// The session that decides on sources.
    #[prost(string, tag = "15")]
    pub source_policy_session: String,
    /// Whose behaviour is wanted; 0 for the newest.
    #[prost(int64, tag = "16")]
    pub compatibility_version: i64,
    /// Whether steps reach the network through a proxy only.
    #[prost(bool, tag = "17")]
    pub proxy_network: bool,
}

/// Where cache comes from and goes to.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CacheOptions {
    /// Superseded by `exports`.
    #[prost(string, tag = "1")]
    pub export_ref_deprecated: String,
    /// Superseded by `imports`.
    #[prost(string, repeated, tag = "2")]
    pub import_refs_deprecated: Vec<String>,
    /// Superseded by `exports`.
    #[prost(btree_map = "string, string", tag = "3")]
    pub export_attrs_deprecated: BTreeMap<String, String>,
    /// Where it goes to.
    #[prost(message, repeated, tag = "4")]
    pub exports: Vec<CacheOptionsEntry>,
    /// Where it comes from.
    #[prost(message, repeated, tag = "5")]
    pub imports: Vec<CacheOptionsEntry>,
}

/// One place of a cache.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CacheOptionsEntry {
    /// The kind of place, such as `registry` or `local`.
    #[prost(string, tag = "1")]
    pub kind: String,
    /// Where and how.
    #[prost(btree_map = "string, string", tag = "2")]
    pub attrs: BTreeMap<String, String>,
}

/// What a build gave.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SolveResponse {
    /// What the exporters tell.
    #[prost(btree_map = "string, string", tag = "1")]
    pub exporter_response: BTreeMap<String, String>,
}

/// Whose progress to tell.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StatusRequest {
    /// The build's name.
    #[prost(string, tag = "1")]
    pub reference: String,
}

/// What happened since the last message.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StatusResponse {
    /// Steps that came up or changed.
    #[prost(message, repeated, tag = "1")]
    pub vertexes: Vec<Vertex>,
    /// Transfers and the like that came up or changed.
    #[prost(message, repeated, tag = "2")]
    pub statuses: Vec<VertexStatus>,
    /// What steps wrote.
    #[prost(message, repeated, tag = "3")]
    pub logs: Vec<VertexLog>,
    /// What users should look at.
    #[prost(message, repeated, tag = "4")]
    pub warnings: Vec<VertexWarning>,
}

/// The state of a step.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Vertex {
    /// The step's digest.
    #[prost(string, tag = "1")]
    pub digest: String,
    /// What it reads from.
    #[prost(string, repeated, tag = "2")]
    pub inputs: Vec<String>,
    /// What a person calls it.
    #[prost(string, tag = "3")]
    pub name: String,
    /// Whether its result came from the cache.
    #[prost(bool, tag = "4")]
    pub cached: bool,
    /// When it started.
    #[prost(message, optional, tag = "5")]
    pub started: Option<Timestamp>,
    /// When it ended.
    #[prost(message, optional, tag = "6")]
    pub completed: Option<Timestamp>,
    /// Why it failed.
    #[prost(string, tag = "7")]
    pub error: String,
    /// The group under which it is shown.
    #[prost(message, optional, tag = "8")]
    pub progress_group: Option<pb::ProgressGroup>,
}

/// A transfer, or other long work inside a step.
#[derive(Clone, PartialEq, prost::Message)]
pub struct VertexStatus {
    /// Its name.
    #[prost(string, tag = "1")]
    pub id: String,
    /// The step's digest.
    #[prost(string, tag = "2")]
    pub vertex: String,
    /// A longer name.
    #[prost(string, tag = "3")]
    pub name: String,
    /// How much is done.
    #[prost(int64, tag = "4")]
    pub current: i64,
    /// How much there is to do.
    #[prost(int64, tag = "5")]
    pub total: i64,
    /// When this was so.
    #[prost(message, optional, tag = "6")]
    pub timestamp: Option<Timestamp>,
    /// When it started.
    #[prost(message, optional, tag = "7")]
    pub started: Option<Timestamp>,
    /// When it ended.
    #[prost(message, optional, tag = "8")]
    pub completed: Option<Timestamp>,
}

/// A piece of what a step wrote.
#[derive(Clone, PartialEq, prost::Message)]
pub struct VertexLog {
    /// The step's digest.
    #[prost(string, tag = "1")]
    pub vertex: String,
    /// When it was written.
    #[prost(message, optional, tag = "2")]
    pub timestamp: Option<Timestamp>,
    /// 1 for standard output, 2 for standard error.
    #[prost(int64, tag = "3")]
    pub stream: i64,
    /// The bytes.
    #[prost(bytes = "bytes", tag = "4")]
    pub msg: Bytes,
}

/// What users should look at although it does not fail the build.
#[derive(Clone, PartialEq, prost::Message)]
pub struct VertexWarning {
    /// The step's digest.
    #[prost(string, tag = "1")]
    pub vertex: String,
    /// How grave it is; 0 is graver than 1.
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
    /// The lines that it is about.
    #[prost(message, repeated, tag = "7")]
    pub ranges: Vec<pb::Range>,
}

/// Which workers to list.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListWorkersRequest {
    /// Only what matches one of these.
    #[prost(string, repeated, tag = "1")]
    pub filter: Vec<String>,
}

/// The workers.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListWorkersResponse {
    /// The workers.
    #[prost(message, repeated, tag = "1")]
    pub record: Vec<WorkerRecord>,
}

/// Who are you?
#[derive(Clone, PartialEq, prost::Message)]
pub struct InfoRequest {}

/// Who the daemon is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InfoResponse {
    /// Its version.
    #[prost(message, optional, tag = "1")]
    pub buildkit_version: Option<BuildkitVersion>,
}

/// Which builds to tell of.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BuildHistoryRequest {
    /// Only builds that run.
    #[prost(bool, tag = "1")]
    pub active_only: bool,
    /// Only this build.
    #[prost(string, tag = "2")]
    pub reference: String,
    /// Do not wait for what comes.
    #[prost(bool, tag = "3")]
    pub early_exit: bool,
    /// Only what matches one of these.
    #[prost(string, repeated, tag = "4")]
    pub filter: Vec<String>,
    /// Only so many, the newest.
    #[prost(int32, tag = "5")]
    pub limit: i32,
}

/// What became of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum BuildHistoryEventType {
    /// It began.
    Started = 0,
    /// It ended, or its record changed.
    Complete = 1,
    /// Its record was deleted.
    Deleted = 2,
}

/// Something became of a build.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BuildHistoryEvent {
    /// What.
    #[prost(enumeration = "BuildHistoryEventType", tag = "1")]
    pub kind: i32,
    /// What is known of the build.
    #[prost(message, optional, tag = "2")]
    pub record: Option<BuildHistoryRecord>,
}

/// What is known of a build.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BuildHistoryRecord {
    /// The build's name.
    #[prost(string, tag = "1")]
    pub reference: String,
    /// The frontend's name.
    #[prost(string, tag = "2")]
    pub frontend: String,
    /// The frontend's options.
    #[prost(btree_map = "string, string", tag = "3")]
    pub frontend_attrs: BTreeMap<String, String>,
    /// What was to be done with the result.
    #[prost(message, repeated, tag = "4")]
    pub exporters: Vec<Exporter>,
    /// Why it failed.
    #[prost(message, optional, tag = "5")]
    pub error: Option<google::Status>,
    /// When it began.
    #[prost(message, optional, tag = "6")]
    pub created_at: Option<Timestamp>,
    /// When it ended.
    #[prost(message, optional, tag = "7")]
    pub completed_at: Option<Timestamp>,
    /// Its progress: each status message with its length before it.
    #[prost(message, optional, tag = "8")]
    pub logs: Option<Descriptor>,
    /// What the exporters told.
    #[prost(btree_map = "string, string", tag = "9")]
    pub exporter_response: BTreeMap<String, String>,
    /// The result, where there is one for all platforms.
    #[prost(message, optional, tag = "10")]
    pub result: Option<BuildResultInfo>,
    /// The results by platform.
    #[prost(btree_map = "string, message", tag = "11")]
    pub results: BTreeMap<String, BuildResultInfo>,
    /// How often the record was changed.
    #[prost(int32, tag = "12")]
    pub generation: i32,
    /// Spans.
    #[prost(message, optional, tag = "13")]
    pub trace: Option<Descriptor>,
    /// Whether the record is kept for ever.
    #[prost(bool, tag = "14")]
    pub pinned: bool,
    /// How many steps came from the cache.
    #[prost(int32, tag = "15")]
    pub num_cached_steps: i32,
    /// How many steps there were.
    #[prost(int32, tag = "16")]
    pub num_total_steps: i32,
    /// How many steps ended.
    #[prost(int32, tag = "17")]
    pub num_completed_steps: i32,
    /// The error with all its details.
    #[prost(message, optional, tag = "18")]
    pub external_error: Option<Descriptor>,
    /// How many warnings there were.
    #[prost(int32, tag = "19")]
    pub num_warnings: i32,
}

/// A change to a record.
#[derive(Clone, PartialEq, prost::Message)]
pub struct UpdateBuildHistoryRequest {
    /// The build's name.
    #[prost(string, tag = "1")]
    pub reference: String,
    /// Whether to keep the record for ever.
    #[prost(bool, tag = "2")]
    pub pinned: bool,
    /// Whether to delete it.
    #[prost(bool, tag = "3")]
    pub delete: bool,
    /// Whether to write the trace now.
    #[prost(bool, tag = "4")]
    pub finalize: bool,
}

/// Done.
#[derive(Clone, PartialEq, prost::Message)]
pub struct UpdateBuildHistoryResponse {}

/// Names a blob.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Descriptor {
    /// What it is.
    #[prost(string, tag = "1")]
    pub media_type: String,
    /// Its digest.
    #[prost(string, tag = "2")]
    pub digest: String,
    /// Its bytes.
    #[prost(int64, tag = "3")]
    pub size: i64,
    /// What else is said of it.
    #[prost(btree_map = "string, string", tag = "5")]
    pub annotations: BTreeMap<String, String>,
}

/// What a build gave for one platform.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BuildResultInfo {
    /// Superseded by `results`.
    #[prost(message, optional, tag = "1")]
    pub result_deprecated: Option<Descriptor>,
    /// What is attested of it.
    #[prost(message, repeated, tag = "2")]
    pub attestations: Vec<Descriptor>,
    /// What exporters gave, by the exporter's number.
    #[prost(btree_map = "int64, message", tag = "3")]
    pub results: BTreeMap<i64, Descriptor>,
}

/// What to do with a result.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Exporter {
    /// The exporter's name.
    #[prost(string, tag = "1")]
    pub kind: String,
    /// Its attributes.
    #[prost(btree_map = "string, string", tag = "2")]
    pub attrs: BTreeMap<String, String>,
}
