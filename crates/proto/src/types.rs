//! What the services tell of workers (package `moby.buildkit.v1.types`, `api/types/worker.proto`).

use std::collections::BTreeMap;

use crate::pb;

/// A worker.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WorkerRecord {
    /// Its name.
    #[prost(string, tag = "1")]
    pub id: String,
    /// What is said of it.
    #[prost(btree_map = "string, string", tag = "2")]
    pub labels: BTreeMap<String, String>,
    /// What it can build for, the best first.
    #[prost(message, repeated, tag = "3")]
    pub platforms: Vec<pb::Platform>,
    /// What is deleted by itself.
    #[prost(message, repeated, tag = "4")]
    pub gc_policy: Vec<GcPolicy>,
    /// Its version.
    #[prost(message, optional, tag = "5")]
    pub buildkit_version: Option<BuildkitVersion>,
    /// The devices that steps may ask for.
    #[prost(message, repeated, tag = "6")]
    pub cdi_devices: Vec<CdiDevice>,
}

/// A rule for deleting what no build uses.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GcPolicy {
    /// Also what frontends and internals use.
    #[prost(bool, tag = "1")]
    pub all: bool,
    /// Keep what was used within this time, in nanoseconds.
    #[prost(int64, tag = "2")]
    pub keep_duration: i64,
    /// Keep at least this much, in bytes.
    #[prost(int64, tag = "3")]
    pub reserved_space: i64,
    /// Only what matches one of these.
    #[prost(string, repeated, tag = "4")]
    pub filters: Vec<String>,
    /// Keep at most this much, in bytes.
    #[prost(int64, tag = "5")]
    pub max_used_space: i64,
    /// Leave this much of the disk free, in bytes.
    #[prost(int64, tag = "6")]
    pub min_free_space: i64,
}

/// A version of BuildKit's API and who implements it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BuildkitVersion {
    /// The program.
    #[prost(string, tag = "1")]
    pub package: String,
    /// The version.
    #[prost(string, tag = "2")]
    pub version: String,
    /// The commit.
    #[prost(string, tag = "3")]
    pub revision: String,
    /// The version of the Dockerfile frontend.
    #[prost(string, tag = "4")]
    pub dockerfile_version: String,
}

/// A device of the Container Device Interface.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CdiDevice {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Whether steps may use it without asking.
    #[prost(bool, tag = "2")]
    pub auto_allow: bool,
    /// What is said of it.
    #[prost(btree_map = "string, string", tag = "3")]
    pub annotations: BTreeMap<String, String>,
    /// Whether it is set up at its first use.
    #[prost(bool, tag = "4")]
    pub on_demand: bool,
}
