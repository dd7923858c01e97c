//! From the wire to a [`Graph`]. Nothing here recurses over the input.

mod ops;

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use prost::Message;
use weld_digest::Digest;
use weld_proto::pb;

use self::ops::{AT_ONCE, decode_ops, on_all};
use super::{DecodeError, Edge, Graph, SourceLocation, Vertex};

/// How much a definition may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Encoded bytes.
    pub bytes: usize,
    /// Operations.
    pub vertices: usize,
    /// Inputs of one operation.
    pub inputs: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 1 << 30,
            // Twice what fits into the largest message that BuildKit takes; each costs kilobytes in a
            // solver.
            vertices: 1 << 18,
            inputs: 1 << 16,
        }
    }
}

type Positions = HashMap<[u8; 32], usize>;

impl Graph {
    /// The graph of an encoded definition, within the default limits.
    pub fn decode(bytes: impl Into<Bytes>) -> Result<Self, DecodeError> {
        Self::decode_within(bytes, Limits::default())
    }

    /// The graph of an encoded definition.
    pub fn decode_within(bytes: impl Into<Bytes>, limits: Limits) -> Result<Self, DecodeError> {
        let bytes = bytes.into();
        if bytes.len() > limits.bytes {
            return Err(DecodeError::TooLarge {
                bytes: bytes.len(),
                limit: limits.bytes,
            });
        }
        let Encoded {
            def,
            metadata,
            source,
        } = Encoded::decode(bytes).map_err(DecodeError::Definition)?;
        Self::from_parts(def, Metadata::Encoded(metadata), source, limits)
    }

    /// The graph of a definition, within the default limits.
    pub fn from_pb(definition: pb::Definition) -> Result<Self, DecodeError> {
        Self::from_pb_within(definition, Limits::default())
    }

    /// The graph of a definition. One without operations is an empty file system.
    pub fn from_pb_within(definition: pb::Definition, limits: Limits) -> Result<Self, DecodeError> {
        let pb::Definition {
            def,
            metadata,
            source,
        } = definition;
        Self::from_parts(def, Metadata::Decoded(metadata), source, limits)
    }

    fn from_parts(
        mut def: Vec<Bytes>,
        metadata: Metadata,
        source: Option<pb::Source>,
        limits: Limits,
    ) -> Result<Self, DecodeError> {
        // The terminal operation is not counted.
        if def.len() > limits.vertices.saturating_add(1) {
            return Err(DecodeError::TooManyVertices {
                vertices: def.len() - 1,
                limit: limits.vertices,
            });
        }
        let Some(terminal) = def.pop() else {
            return Ok(Self::empty());
        };
        while def.last() == Some(&terminal) {
            def.pop();
        }
        let terminal_position = def.len();
        let terminal = Terminal::decode(terminal, terminal_position)?;
        let (mut vertices, unlinked, positions) = decode_ops(def, limits)?;
        let terminal_metadata =
            metadata.attach(&mut vertices, &positions, terminal.digest.as_sha256())?;
        link(&mut vertices, unlinked, &positions)?;
        let root = resolve(&terminal.input, terminal_position, 0, &vertices, &positions)?;
        let inputs_of = |vertex: usize| vertices.get(vertex).map_or(&[][..], Vertex::inputs);
        let order = topological_order(vertices.len(), inputs_of, root.vertex)
            .map_err(|position| cycle(position, &vertices))?;
        let mut graph = assemble(vertices, &order, root);
        graph.terminal_metadata = terminal_metadata;
        graph.attach_source(source.unwrap_or_default())?;
        Ok(graph)
    }

    /// The graph of an empty file system.
    pub fn empty() -> Self {
        Self {
            vertices: Vec::new(),
            root: None,
            terminal_metadata: pb::OpMetadata::default(),
            files: Vec::new(),
            locations: BTreeMap::new(),
        }
    }

    fn attach_source(&mut self, source: pb::Source) -> Result<(), DecodeError> {
        self.files = source.infos;
        if source.locations.is_empty() {
            return Ok(());
        }
        let indexes: HashMap<String, usize> = self
            .vertices
            .iter()
            .enumerate()
            .map(|(index, vertex)| (vertex.digest.to_string(), index))
            .collect();
        for (digest, locations) in source.locations {
            let locations = locations
                .locations
                .into_iter()
                .map(|location| self.location(&digest, location))
                .collect::<Result<Vec<_>, _>>()?;
            if let Some(&index) = indexes.get(&digest)
                && !locations.is_empty()
            {
                self.locations.insert(index, locations);
            }
        }
        Ok(())
    }

    fn location(
        &self,
        digest: &str,
        location: pb::Location,
    ) -> Result<SourceLocation, DecodeError> {
        let file = usize::try_from(location.source_index)
            .ok()
            .filter(|file| *file < self.files.len())
            .ok_or_else(|| DecodeError::BadSourceFile {
                digest: digest.to_owned(),
                file: location.source_index,
                files: self.files.len(),
            })?;
        Ok(SourceLocation {
            file,
            ranges: location.ranges,
        })
    }
}

/// The last operation, whose one input is the result.
struct Terminal {
    digest: Digest,
    input: pb::Input,
}

impl Terminal {
    fn decode(bytes: Bytes, position: usize) -> Result<Self, DecodeError> {
        let digest = Digest::sha256_of(&bytes);
        let op = decode_op(bytes, position, &digest)?;
        let acts = op.op.is_some();
        let inputs = op.inputs.len();
        match <[pb::Input; 1]>::try_from(op.inputs) {
            Ok([input]) if !acts => Ok(Self { digest, input }),
            _ => Err(DecodeError::NoResult { inputs, acts }),
        }
    }
}

fn decode_op(bytes: Bytes, position: usize, digest: &Digest) -> Result<pb::Op, DecodeError> {
    pb::Op::decode(bytes).map_err(|source| DecodeError::Wire {
        position,
        digest: digest.clone(),
        source,
    })
}

/// A [`pb::Definition`] on the wire, with the metadata still as it came: a map of a million of them would
/// cost more than all the rest.
#[derive(Clone, PartialEq, prost::Message)]
struct Encoded {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    def: Vec<Bytes>,
    #[prost(message, repeated, tag = "2")]
    metadata: Vec<EncodedMetadata>,
    #[prost(message, optional, tag = "3")]
    source: Option<pb::Source>,
}

/// An entry of the map of metadata.
#[derive(Clone, PartialEq, prost::Message)]
struct EncodedMetadata {
    /// A text: the digest of an operation.
    #[prost(bytes = "bytes", tag = "1")]
    digest: Bytes,
    /// A [`pb::OpMetadata`].
    #[prost(bytes = "bytes", tag = "2")]
    metadata: Bytes,
}

/// What is said of operations, by their digests.
enum Metadata {
    Decoded(BTreeMap<String, pb::OpMetadata>),
    Encoded(Vec<EncodedMetadata>),
}

impl Metadata {
    /// Gives each vertex its own; returns that of the terminal operation.
    fn attach(
        self,
        vertices: &mut [Vertex],
        positions: &Positions,
        terminal: Option<&[u8; 32]>,
    ) -> Result<pb::OpMetadata, DecodeError> {
        let mut of_terminal = pb::OpMetadata::default();
        let mut attach = |digest: &[u8], metadata: pb::OpMetadata| {
            let Some(hash) = parse_sha256(digest) else {
                return;
            };
            let position = positions.get(&hash).copied();
            if let Some(vertex) = position.and_then(|position| vertices.get_mut(position)) {
                vertex.metadata = Some(Box::new(metadata));
            } else if terminal == Some(&hash) {
                of_terminal = metadata;
            }
        };
        match self {
            Self::Decoded(map) => {
                for (digest, metadata) in map {
                    attach(digest.as_bytes(), metadata);
                }
            }
            Self::Encoded(entries) => {
                for entries in entries.chunks(AT_ONCE) {
                    let decode = |(_, entry): (usize, &EncodedMetadata)| {
                        pb::OpMetadata::decode(entry.metadata.clone())
                    };
                    for (entry, metadata) in entries.iter().zip(on_all(entries, decode)) {
                        attach(&entry.digest, metadata.map_err(DecodeError::Definition)?);
                    }
                }
            }
        }
        Ok(of_terminal)
    }
}

/// Vertices, the inputs of those that are not linked yet by their positions, and where each digest is.
type Unlinked = (Vec<Vertex>, Vec<(usize, Vec<pb::Input>)>, Positions);

/// The hash of a SHA-256 digest. Definitions of a million operations spend much of their time here, so it
/// allocates nothing.
fn parse_sha256(digest: &[u8]) -> Option<[u8; 32]> {
    let hex = digest.strip_prefix(b"sha256:")?;
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut hash = [0; 32];
    let (pairs, []) = hex.as_chunks::<2>() else {
        return None;
    };
    if pairs.len() != hash.len() {
        return None;
    }
    for (byte, [high, low]) in hash.iter_mut().zip(pairs) {
        *byte = nibble(*high)? << 4 | nibble(*low)?;
    }
    Some(hash)
}

fn resolve(
    input: &pb::Input,
    position: usize,
    index: usize,
    vertices: &[Vertex],
    positions: &Positions,
) -> Result<Edge, DecodeError> {
    let Some(hash) = parse_sha256(input.digest.as_bytes()) else {
        return Err(DecodeError::BadInputDigest {
            position,
            input: index,
            digest: input.digest.clone(),
        });
    };
    let target = positions
        .get(&hash)
        .and_then(|&vertex| Some((vertex, vertices.get(vertex)?)));
    let Some((vertex, target)) = target else {
        return Err(DecodeError::Dangling {
            position,
            input: index,
            digest: Digest::from_sha256(hash),
        });
    };
    let outputs = target.op.outputs();
    match usize::try_from(input.index) {
        Ok(output) if outputs.is_none_or(|outputs| output < outputs) => Ok(Edge { vertex, output }),
        _ => Err(DecodeError::NoSuchOutput {
            position,
            input: index,
            output: input.index,
            digest: Digest::from_sha256(hash),
            outputs: outputs.unwrap_or(0),
        }),
    }
}

fn edges(
    inputs: &[pb::Input],
    position: usize,
    vertices: &[Vertex],
    positions: &Positions,
) -> Result<Vec<Edge>, DecodeError> {
    let inputs = inputs.iter().enumerate();
    inputs
        .map(|(index, input)| resolve(input, position, index, vertices, positions))
        .collect()
}

/// Links those whose inputs come after them, or do not exist.
fn link(
    vertices: &mut [Vertex],
    unlinked: Vec<(usize, Vec<pb::Input>)>,
    positions: &Positions,
) -> Result<(), DecodeError> {
    for (position, inputs) in unlinked {
        let edges = edges(&inputs, position, vertices, positions)?;
        if let Some(vertex) = vertices.get_mut(position) {
            vertex.inputs = edges;
        }
    }
    Ok(())
}

/// The vertices that `root` needs, inputs first: in the order given where that is one, else by depth-first
/// search. An error names a vertex that needs itself.
fn topological_order<'a>(
    count: usize,
    inputs_of: impl Fn(usize) -> &'a [Edge],
    root: usize,
) -> Result<Vec<usize>, usize> {
    let in_order =
        (0..count).all(|vertex| inputs_of(vertex).iter().all(|edge| edge.vertex < vertex));
    if in_order {
        return Ok(needed_in_order(count, inputs_of, root));
    }
    depth_first(count, inputs_of, root)
}

fn needed_in_order<'a>(
    count: usize,
    inputs_of: impl Fn(usize) -> &'a [Edge],
    root: usize,
) -> Vec<usize> {
    let mut needed = vec![false; count];
    if let Some(root) = needed.get_mut(root) {
        *root = true;
    }
    for vertex in (0..count).rev() {
        if !needed.get(vertex).copied().unwrap_or(false) {
            continue;
        }
        for edge in inputs_of(vertex) {
            if let Some(input) = needed.get_mut(edge.vertex) {
                *input = true;
            }
        }
    }
    (0..count)
        .filter(|&vertex| needed.get(vertex).copied().unwrap_or(false))
        .collect()
}

#[derive(Clone, Copy, PartialEq)]
enum Mark {
    New,
    Open,
    Done,
}

fn depth_first<'a>(
    count: usize,
    inputs_of: impl Fn(usize) -> &'a [Edge],
    root: usize,
) -> Result<Vec<usize>, usize> {
    let mut marks = vec![Mark::New; count];
    let mut order = Vec::new();
    // A vertex and how many of its inputs have been visited.
    let mut stack = vec![(root, 0)];
    if let Some(mark) = marks.get_mut(root) {
        *mark = Mark::Open;
    }
    while let Some((vertex, visited)) = stack.last_mut() {
        let next = inputs_of(*vertex).get(*visited);
        let Some(next) = next.map(|edge| edge.vertex) else {
            if let Some(mark) = marks.get_mut(*vertex) {
                *mark = Mark::Done;
            }
            order.push(*vertex);
            stack.pop();
            continue;
        };
        *visited += 1;
        match marks.get_mut(next) {
            Some(mark @ Mark::New) => {
                *mark = Mark::Open;
                stack.push((next, 0));
            }
            Some(Mark::Open) => return Err(next),
            Some(Mark::Done) | None => {}
        }
    }
    Ok(order)
}

fn cycle(position: usize, vertices: &[Vertex]) -> DecodeError {
    let digest = vertices
        .get(position)
        .map_or_else(|| Digest::sha256_of([]), |vertex| vertex.digest.clone());
    DecodeError::Cycle { position, digest }
}

fn assemble(vertices: Vec<Vertex>, order: &[usize], root: Edge) -> Graph {
    let unchanged = order.len() == vertices.len() && order.iter().enumerate().all(|(a, b)| a == *b);
    if unchanged {
        return Graph {
            vertices,
            root: Some(root),
            ..Graph::empty()
        };
    }
    // Old index to new one.
    let mut indexes = vec![0; vertices.len()];
    for (new, &old) in order.iter().enumerate() {
        if let Some(index) = indexes.get_mut(old) {
            *index = new;
        }
    }
    let renumber = |edge: Edge| Edge {
        vertex: indexes.get(edge.vertex).copied().unwrap_or(0),
        output: edge.output,
    };
    let mut slots: Vec<Option<Vertex>> = vertices
        .into_iter()
        .map(|mut vertex| {
            for edge in &mut vertex.inputs {
                *edge = renumber(*edge);
            }
            Some(vertex)
        })
        .collect();
    let vertices = order
        .iter()
        .filter_map(|&old| slots.get_mut(old)?.take())
        .collect();
    Graph {
        vertices,
        root: Some(renumber(root)),
        ..Graph::empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edges(inputs: &[&[usize]]) -> Vec<Vec<Edge>> {
        let edge = |&vertex: &usize| Edge { vertex, output: 0 };
        inputs
            .iter()
            .map(|inputs| inputs.iter().map(edge).collect())
            .collect()
    }

    fn order(inputs: &[&[usize]], root: usize) -> Result<Vec<usize>, usize> {
        let edges = edges(inputs);
        topological_order(edges.len(), |vertex| edges[vertex].as_slice(), root)
    }

    /// A cycle cannot be encoded, for a digest would have to contain itself: so it is tested here.
    #[test]
    fn a_cycle_is_found() {
        assert_eq!(order(&[&[1], &[2], &[0]], 0), Err(0));
        assert_eq!(order(&[&[0]], 0), Err(0));
        assert_eq!(order(&[&[1, 2], &[2], &[]], 0), Ok(vec![2, 1, 0]));
    }

    #[test]
    fn what_the_result_does_not_need_is_left_out() {
        assert_eq!(order(&[&[], &[], &[0]], 2), Ok(vec![0, 2]));
    }
}
