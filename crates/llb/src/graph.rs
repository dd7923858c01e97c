//! Validated definitions.

mod decode;
pub(crate) mod encode;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use weld_digest::Digest;
use weld_proto::pb;

use crate::credentials::mask_credentials;
use crate::{Op, OpError, Platform};

pub use decode::Limits;

/// A validated definition: the vertices that its result needs.
///
/// Vertices are in topological order: the inputs of a vertex are before it. Digests are unique, and every
/// edge leads to an output that exists.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    vertices: Vec<Vertex>,
    root: Option<Edge>,
    terminal_metadata: pb::OpMetadata,
    files: Vec<pb::SourceInfo>,
    locations: BTreeMap<usize, Vec<SourceLocation>>,
}

/// One vertex of a [`Graph`].
#[derive(Clone, Debug, PartialEq)]
pub struct Vertex {
    digest: Digest,
    bytes: Bytes,
    op: Op,
    inputs: Vec<Edge>,
    platform: Option<Arc<Platform>>,
    worker_filters: Vec<String>,
    metadata: Option<Box<pb::OpMetadata>>,
}

/// An output of a vertex.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Edge {
    /// The vertex's index in [`Graph::vertices`].
    pub vertex: usize,
    /// The output's index.
    pub output: usize,
}

/// Areas of a source file that a vertex comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceLocation {
    /// The file's index in [`Graph::files`].
    pub file: usize,
    /// The areas.
    pub ranges: Vec<pb::Range>,
}

/// Why a definition is refused. Vertices are named by their position in the definition and their digest.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The definition is too large.
    #[error("definition of {bytes} bytes: more than {limit} are not accepted")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The definition has too many vertices.
    #[error("definition of {vertices} operations: more than {limit} are not accepted")]
    TooManyVertices {
        /// How many it has.
        vertices: usize,
        /// The limit.
        limit: usize,
    },
    /// The definition's bytes are not one.
    #[error("not an LLB definition")]
    Definition(#[source] prost::DecodeError),
    /// An operation's bytes are not one.
    #[error("operation {position} ({digest}) is not an LLB operation")]
    Wire {
        /// The position.
        position: usize,
        /// The digest.
        digest: Digest,
        /// What is wrong.
        source: prost::DecodeError,
    },
    /// An operation is not understood.
    #[error("operation {position} ({digest}): {source}")]
    Op {
        /// The position.
        position: usize,
        /// The digest.
        digest: Digest,
        /// What is wrong.
        source: Box<OpError>,
    },
    /// An operation has too many inputs.
    #[error("operation {position} has {inputs} inputs: more than {limit} are not accepted")]
    TooManyInputs {
        /// The position.
        position: usize,
        /// How many it has.
        inputs: usize,
        /// The limit.
        limit: usize,
    },
    /// An input is no digest of an operation's.
    #[error("operation {position}: input {input} is {digest:?}, which is no SHA-256 digest")]
    BadInputDigest {
        /// The position.
        position: usize,
        /// The input's index.
        input: usize,
        /// What is there instead.
        digest: String,
    },
    /// An input is not in the definition.
    #[error("operation {position}: input {input} is {digest}, which is not in the definition")]
    Dangling {
        /// The position.
        position: usize,
        /// The input's index.
        input: usize,
        /// The digest.
        digest: Digest,
    },
    /// An input is an output that does not exist.
    #[error(
        "operation {position}: input {input} is output {output} of {digest}, which has {outputs}"
    )]
    NoSuchOutput {
        /// The position.
        position: usize,
        /// The input's index.
        input: usize,
        /// The output's index.
        output: i64,
        /// The digest of the operation that lacks it.
        digest: Digest,
        /// How many outputs it has.
        outputs: usize,
    },
    /// Operations need each other.
    #[error("operation {position} ({digest}) needs itself")]
    Cycle {
        /// The position.
        position: usize,
        /// The digest.
        digest: Digest,
    },
    /// The last operation does not say what the result is.
    #[error("the last operation must have exactly one input, the result, and do nothing; it has {inputs} inputs{}", if *.acts { " and acts" } else { "" })]
    NoResult {
        /// How many inputs it has.
        inputs: usize,
        /// Whether it does something.
        acts: bool,
    },
    /// A source location names a file that does not exist.
    #[error("source location of {digest} names file {file} of {files}")]
    BadSourceFile {
        /// The operation's digest.
        digest: String,
        /// The file's index.
        file: i32,
        /// How many files there are.
        files: usize,
    },
}

static NO_METADATA: pb::OpMetadata = pb::OpMetadata {
    ignore_cache: false,
    description: BTreeMap::new(),
    export_cache: None,
    caps: BTreeMap::new(),
    progress_group: None,
    linux_resources: None,
};

impl Vertex {
    /// SHA-256 of [`Self::bytes`].
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The encoded operation.
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// What the vertex does; its inputs are indexes of [`Self::inputs`].
    pub const fn op(&self) -> &Op {
        &self.op
    }

    /// What it works on.
    pub fn inputs(&self) -> &[Edge] {
        &self.inputs
    }

    /// The platform that it runs for.
    pub fn platform(&self) -> Option<&Platform> {
        self.platform.as_deref()
    }

    /// Filters of the workers that may run it, in containerd's syntax.
    pub fn worker_filters(&self) -> &[String] {
        &self.worker_filters
    }

    /// What is said of it without changing its digest.
    pub fn metadata(&self) -> &pb::OpMetadata {
        self.metadata.as_deref().unwrap_or(&NO_METADATA)
    }

    /// A description by its key, such as `llb.customname`.
    pub fn description(&self, key: &str) -> Option<&str> {
        self.metadata().description.get(key).map(String::as_str)
    }
}

impl Graph {
    /// The vertices, inputs first.
    pub fn vertices(&self) -> &[Vertex] {
        &self.vertices
    }

    /// The result; absent for an empty file system.
    pub const fn root(&self) -> Option<Edge> {
        self.root
    }

    /// The vertex at an index.
    pub fn vertex(&self, index: usize) -> Option<&Vertex> {
        self.vertices.get(index)
    }

    /// The vertices that an edge of `vertex` leads to, with the output's index.
    pub fn inputs_of<'a>(
        &'a self,
        vertex: &'a Vertex,
    ) -> impl Iterator<Item = (&'a Vertex, usize)> {
        vertex
            .inputs
            .iter()
            .filter_map(|edge| Some((self.vertices.get(edge.vertex)?, edge.output)))
    }

    /// The source files that vertices come from.
    pub fn files(&self) -> &[pb::SourceInfo] {
        &self.files
    }

    /// Where the vertex at an index comes from.
    pub fn locations(&self, index: usize) -> &[SourceLocation] {
        self.locations.get(&index).map_or(&[], Vec::as_slice)
    }

    /// What the definition as a whole relies on.
    pub const fn capabilities(&self) -> &BTreeMap<String, bool> {
        &self.terminal_metadata.caps
    }

    /// What to call a vertex: its custom name, or what it does. Credentials in URLs are masked.
    pub fn name(&self, vertex: &Vertex) -> String {
        mask_credentials(&self.plain_name(vertex)).into_owned()
    }

    fn plain_name(&self, vertex: &Vertex) -> String {
        if let Some(name) = vertex.description("llb.customname") {
            return name.to_owned();
        }
        let name = |input: usize| {
            let edge = vertex.inputs.get(input)?;
            Some(self.vertices.get(edge.vertex)?.op.default_name())
        };
        match &vertex.op {
            Op::Merge(merge) => {
                let names: Vec<_> = merge
                    .inputs
                    .iter()
                    .filter_map(|&input| name(input))
                    .collect();
                format!("merge ({})", names.join(", "))
            }
            Op::Diff(diff) => {
                let side = |input: Option<usize>| {
                    input
                        .and_then(name)
                        .map_or_else(|| "scratch".to_owned(), |name| format!("({name})"))
                };
                format!("diff {} -> {}", side(diff.lower), side(diff.upper))
            }
            op => op.default_name(),
        }
    }
}
