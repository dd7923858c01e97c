//! What a job loads: a graph of vertices in topological order that ends in one output.

use std::sync::Arc;

use crate::Digest;

/// Most outputs that one vertex may have; bounds what a client can make the solver allocate per vertex.
pub const MAX_OUTPUTS: u32 = 1 << 16;

/// One output of one vertex of a [`Definition`], by the vertex's position in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Output {
    /// Position of the vertex in the definition.
    pub vertex: u32,
    /// Index of the output.
    pub index: u32,
}

/// A cache source registered with the solver, beside its own store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CacheSourceId(pub(crate) u32);

impl CacheSourceId {
    /// The solver's own store.
    pub const LOCAL: Self = Self(0);

    /// Its number; 0 is the solver's own store.
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// Whether an edge of a vertex may be merged with an edge of another vertex.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MergePolicy {
    /// Merged with any live edge that has an equal index key.
    #[default]
    Auto,
    /// Never merged with an edge of a vertex that has another digest.
    Never,
}

/// Per-vertex options. They are not part of the vertex's digest.
#[derive(Clone, Debug)]
pub struct VertexOptions {
    /// Run the operation although a record of it may exist; the result is still saved.
    pub ignore_cache: bool,
    /// Whether this vertex may be merged.
    pub merge: MergePolicy,
    /// Whether results of this vertex may be exported to a cache.
    pub export_cache: bool,
    /// Whether records of this vertex may be used by jobs of other isolation domains.
    pub public: bool,
    /// Tells vertices apart that have one digest, where their operations may do different things: a live vertex is shared only with
    /// vertices that have the same here. Keys know nothing of it: an operation whose results are not for all says so in its cache map.
    pub audience: Option<Digest>,
    /// Sources consulted for records beside the solver's own store.
    pub cache_sources: Vec<CacheSourceId>,
    /// What the operation does, for errors.
    pub description: Arc<str>,
}

impl Default for VertexOptions {
    fn default() -> Self {
        Self {
            ignore_cache: false,
            merge: MergePolicy::Auto,
            export_cache: true,
            public: false,
            audience: None,
            cache_sources: Vec::new(),
            description: Arc::from(""),
        }
    }
}

/// One vertex of a [`Definition`]; `O` is the handle of its operation.
#[derive(Clone, Debug)]
pub struct VertexDef<O> {
    /// Digest over the operation and everything below it.
    pub digest: Digest,
    /// Name shown to users.
    pub name: Arc<str>,
    /// The operation.
    pub op: O,
    /// Inputs, in the operation's order. Each refers to an earlier vertex.
    pub inputs: Vec<Output>,
    /// Options.
    pub options: VertexOptions,
}

/// A graph in topological order (every input refers to an earlier vertex), ending in `root`.
#[derive(Clone, Debug)]
pub struct Definition<O> {
    vertices: Vec<VertexDef<O>>,
    root: Output,
}

/// Why a list of vertices is not a definition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DefinitionError {
    /// An input refers to the vertex itself or to a later one.
    #[error(
        "input {input} of vertex {vertex} refers to vertex {refers_to}, which does not come before it"
    )]
    Order {
        /// Position of the vertex.
        vertex: u32,
        /// Index of the input.
        input: u32,
        /// Position that the input refers to.
        refers_to: u32,
    },
    /// The root refers to a vertex that is not there.
    #[error("the root refers to vertex {vertex} of {count}")]
    Root {
        /// Position that the root refers to.
        vertex: u32,
        /// Number of vertices.
        count: u32,
    },
    /// An output index is out of bounds.
    #[error("output {output} of vertex {vertex} is over the limit of {MAX_OUTPUTS}")]
    OutputLimit {
        /// Position of the vertex.
        vertex: u32,
        /// Index of the output.
        output: u32,
    },
    /// More vertices or inputs than an index can count.
    #[error("a definition has at most 2^32 - 1 vertices, and a vertex as many inputs")]
    TooLarge,
}

impl<O> Definition<O> {
    /// Checks the order and the bounds of every reference.
    pub fn new(vertices: Vec<VertexDef<O>>, root: Output) -> Result<Self, DefinitionError> {
        let count = u32::try_from(vertices.len()).map_err(|_| DefinitionError::TooLarge)?;
        for (vertex, def) in (0..count).zip(&vertices) {
            let inputs = u32::try_from(def.inputs.len()).map_err(|_| DefinitionError::TooLarge)?;
            for (input, output) in (0..inputs).zip(&def.inputs) {
                if output.vertex >= vertex {
                    return Err(DefinitionError::Order {
                        vertex,
                        input,
                        refers_to: output.vertex,
                    });
                }
                check_output(*output)?;
            }
        }
        if root.vertex >= count {
            return Err(DefinitionError::Root {
                vertex: root.vertex,
                count,
            });
        }
        check_output(root)?;
        Ok(Self { vertices, root })
    }

    /// The vertices, in topological order.
    pub fn vertices(&self) -> &[VertexDef<O>] {
        &self.vertices
    }

    /// The output that the definition ends in.
    pub fn root(&self) -> Output {
        self.root
    }

    pub(crate) fn into_parts(self) -> (Vec<VertexDef<O>>, Output) {
        (self.vertices, self.root)
    }
}

fn check_output(output: Output) -> Result<(), DefinitionError> {
    if output.index >= MAX_OUTPUTS {
        return Err(DefinitionError::OutputLimit {
            vertex: output.vertex,
            output: output.index,
        });
    }
    Ok(())
}
