//! What an error of a build is about (package `errdefs`, `solver/errdefs/errdefs.proto`).
//!
//! BuildKit puts these into a status as JSON, with the names of [`type_url`].

use std::collections::BTreeMap;

use crate::pb;

/// The type of a detail of a status, by its name such as `errdefs.Vertex`.
pub fn type_url(name: &str) -> String {
    format!("github.com/moby/buildkit/{name}+json")
}

/// The vertex that failed.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Vertex {
    /// Its digest.
    #[prost(string, tag = "1")]
    pub digest: String,
}

/// The lines that an error is about.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Source {
    /// The file.
    #[prost(message, optional, tag = "1")]
    pub info: Option<pb::SourceInfo>,
    /// The lines.
    #[prost(message, repeated, tag = "2")]
    pub ranges: Vec<pb::Range>,
}

/// The frontend that failed.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Frontend {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The image that it runs.
    #[prost(string, tag = "2")]
    pub source: String,
}

/// What a frontend cannot do.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct FrontendCap {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
}

/// A request to a frontend that it does not know.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Subrequest {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
}

/// The operation that failed.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Solve {
    /// The ids of its inputs' results.
    #[prost(string, repeated, tag = "1")]
    pub input_ids: Vec<String>,
    /// The ids of what its mounts came to.
    #[prost(string, repeated, tag = "2")]
    pub mount_ids: Vec<String>,
    /// The operation.
    #[prost(message, optional, tag = "3")]
    pub op: Option<pb::Op>,
    /// What is said of it.
    #[prost(btree_map = "string, string", tag = "6")]
    pub description: BTreeMap<String, String>,
    /// What of it failed.
    #[prost(oneof = "solve::Subject", tags = "4, 5")]
    pub subject: Option<solve::Subject>,
}

/// What [`Solve`] has a choice of.
pub mod solve {
    use super::{ContentCache, FileAction};

    /// What of an operation failed.
    #[derive(Clone, PartialEq, Eq, prost::Oneof)]
    pub enum Subject {
        /// One of its file actions.
        #[prost(message, tag = "4")]
        File(FileAction),
        /// Reading the content of one of its inputs.
        #[prost(message, tag = "5")]
        Cache(ContentCache),
    }
}

/// A file action that failed.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct FileAction {
    /// Which.
    #[prost(int64, tag = "1")]
    pub index: i64,
}

/// An input whose content could not be read.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ContentCache {
    /// Which.
    #[prost(int64, tag = "1")]
    pub index: i64,
}
