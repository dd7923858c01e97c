use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes};
use prost::encoding::{DecodeContext, WireType, message, skip_field};
use prost::{DecodeError, Message};

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
///
/// It is encoded as Go does: the kind of operation comes last, although its number is lower than those of
/// the platform and the constraints.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Op {
    /// What the operation works on.
    pub inputs: Vec<Input>,
    /// What it does; absent in the last operation of a definition.
    pub op: Option<op::Op>,
    /// The platform that it runs for.
    pub platform: Option<Platform>,
    /// Which workers may run it.
    pub constraints: Option<WorkerConstraints>,
}

const INPUTS: u32 = 1;
const PLATFORM: u32 = 10;
const CONSTRAINTS: u32 = 11;

impl Message for Op {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        message::encode_repeated(INPUTS, &self.inputs, buffer);
        if let Some(platform) = &self.platform {
            message::encode(PLATFORM, platform, buffer);
        }
        if let Some(constraints) = &self.constraints {
            message::encode(CONSTRAINTS, constraints, buffer);
        }
        if let Some(op) = &self.op {
            op.encode(buffer);
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            INPUTS => message::merge_repeated(wire_type, &mut self.inputs, buffer, context),
            2..=8 => op::Op::merge(&mut self.op, tag, wire_type, buffer, context),
            PLATFORM => {
                let platform = self.platform.get_or_insert_default();
                message::merge(wire_type, platform, buffer, context)
            }
            CONSTRAINTS => {
                let constraints = self.constraints.get_or_insert_default();
                message::merge(wire_type, constraints, buffer, context)
            }
            _ => skip_field(wire_type, tag, buffer, context),
        }
    }

    fn encoded_len(&self) -> usize {
        let platform = self.platform.as_ref();
        let constraints = self.constraints.as_ref();
        message::encoded_len_repeated(INPUTS, &self.inputs)
            + platform.map_or(0, |platform| message::encoded_len(PLATFORM, platform))
            + constraints.map_or(0, |constraints| {
                message::encoded_len(CONSTRAINTS, constraints)
            })
            + self.op.as_ref().map_or(0, op::Op::encoded_len)
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
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
