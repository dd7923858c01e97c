use std::collections::BTreeMap;

use bytes::Bytes;

use super::{ExecOp, FileOp, OpMetadata, Source};

/// A whole build definition: the last operation has one input, which is the result.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Definition {
    /// Encoded [`Op`] messages.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub def: Vec<Bytes>,
    /// Metadata by the digest of an operation's bytes.
    #[prost(btree_map = "string, message", tag = "2")]
    pub metadata: BTreeMap<String, OpMetadata>,
    /// Where the operations come from in source files.
    #[prost(message, optional, tag = "3")]
    pub source: Option<Source>,
}

/// One vertex of the graph.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Op {
    /// What the operation works on.
    #[prost(message, repeated, tag = "1")]
    pub inputs: Vec<Input>,
    /// What it does; absent in the last operation of a definition.
    #[prost(oneof = "op::Op", tags = "2, 3, 4, 5, 6, 7, 8")]
    pub op: Option<op::Op>,
    /// The platform that it runs for.
    #[prost(message, optional, tag = "10")]
    pub platform: Option<Platform>,
    /// Which workers may run it.
    #[prost(message, optional, tag = "11")]
    pub constraints: Option<WorkerConstraints>,
}

/// Nested types of [`Op`].
pub mod op {
    /// The kinds of operations.
    #[expect(
        clippy::large_enum_variant,
        reason = "decoded one at a time and taken apart"
    )]
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Op {
        /// Runs a process.
        #[prost(message, tag = "2")]
        Exec(super::ExecOp),
        /// Fetches content from outside.
        #[prost(message, tag = "3")]
        Source(super::SourceOp),
        /// Changes files.
        #[prost(message, tag = "4")]
        File(super::FileOp),
        /// Builds a definition that an input holds.
        #[prost(message, tag = "5")]
        Build(super::BuildOp),
        /// Lays file systems over each other.
        #[prost(message, tag = "6")]
        Merge(super::MergeOp),
        /// The difference of two file systems.
        #[prost(message, tag = "7")]
        Diff(super::DiffOp),
        /// Hands inputs on, once all inputs are there.
        #[prost(message, tag = "8")]
        Passthrough(super::PassthroughOp),
    }
}

/// An OCI platform.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Platform {
    /// Such as `amd64`.
    #[prost(string, tag = "1")]
    pub architecture: String,
    /// Such as `linux`.
    #[prost(string, tag = "2")]
    pub os: String,
    /// Such as `v7`.
    #[prost(string, tag = "3")]
    pub variant: String,
    /// The version of the operating system, on Windows.
    #[prost(string, tag = "4")]
    pub os_version: String,
    /// Required features of the operating system.
    #[prost(string, repeated, tag = "5")]
    pub os_features: Vec<String>,
}

/// An edge to another operation's output.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Input {
    /// The digest of the other operation's bytes.
    #[prost(string, tag = "1")]
    pub digest: String,
    /// The index of its output.
    #[prost(int64, tag = "2")]
    pub index: i64,
}

/// Content from outside.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SourceOp {
    /// A scheme and what it names: `local://context`, `docker-image://…`, `https://…`.
    #[prost(string, tag = "1")]
    pub identifier: String,
    /// Attributes, see [`crate::attr`].
    #[prost(btree_map = "string, string", tag = "2")]
    pub attrs: BTreeMap<String, String>,
}

/// A build whose definition is in an input.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BuildOp {
    /// The input of the builder; [`LLB_BUILDER`](super::LLB_BUILDER) for a definition.
    #[prost(int64, tag = "1")]
    pub builder: i64,
    /// Inputs by name.
    #[prost(btree_map = "string, message", tag = "2")]
    pub inputs: BTreeMap<String, BuildInput>,
    /// The definition of the builder.
    #[prost(message, optional, tag = "3")]
    pub def: Option<Definition>,
    /// Attributes, see [`crate::attr`].
    #[prost(btree_map = "string, string", tag = "4")]
    pub attrs: BTreeMap<String, String>,
}

/// An input of a [`BuildOp`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct BuildInput {
    /// The input's index.
    #[prost(int64, tag = "1")]
    pub input: i64,
}

/// File systems laid over each other, the first lowest.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MergeOp {
    /// What is merged.
    #[prost(message, repeated, tag = "1")]
    pub inputs: Vec<MergeInput>,
}

/// An input of a [`MergeOp`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct MergeInput {
    /// The input's index.
    #[prost(int64, tag = "1")]
    pub input: i64,
}

/// What `upper` has changed on `lower`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DiffOp {
    /// What it was before.
    #[prost(message, optional, tag = "1")]
    pub lower: Option<LowerDiffInput>,
    /// What it is after.
    #[prost(message, optional, tag = "2")]
    pub upper: Option<UpperDiffInput>,
}

/// The lower side of a [`DiffOp`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct LowerDiffInput {
    /// The input's index; [`EMPTY_INPUT`](super::EMPTY_INPUT) for an empty file system.
    #[prost(int64, tag = "1")]
    pub input: i64,
}

/// The upper side of a [`DiffOp`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct UpperDiffInput {
    /// The input's index; [`EMPTY_INPUT`](super::EMPTY_INPUT) for an empty file system.
    #[prost(int64, tag = "1")]
    pub input: i64,
}

/// Hands inputs on, once all inputs are there.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PassthroughOp {
    /// Names the operation.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Which input each output is.
    #[prost(int64, repeated, tag = "2")]
    pub outputs: Vec<i64>,
}

/// Which workers may run an operation.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct WorkerConstraints {
    /// Filters in containerd's syntax.
    #[prost(string, repeated, tag = "1")]
    pub filter: Vec<String>,
}
