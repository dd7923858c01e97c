//! Making definitions.

mod caps;

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use prost::Message;
use weld_digest::Digest;
use weld_proto::{cap, pb};

use crate::graph::encode::encode_terminal;
use crate::{FileChange, FileInput, FileOp, Graph, Op, Platform, Source};

/// Collects operations and encodes those that a result needs.
///
/// An operation names its inputs by the [`Output`]s of operations added before, so there are no cycles.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    nodes: Vec<Node>,
    files: Vec<pb::SourceInfo>,
    /// The first file of each name and content.
    first_files: HashMap<(String, Bytes), usize>,
}

/// Whether files have the same content and are made by the same operations, of which the last names
/// all others. What is said of those clients may change.
fn is_same(one: &pb::SourceInfo, other: &pb::SourceInfo) -> bool {
    let last = |file: &pb::SourceInfo| file.definition.as_ref()?.def.last().cloned();
    one.filename == other.filename
        && one.language == other.language
        && one.data == other.data
        && last(one) == last(other)
}

/// An output of an operation in a [`Builder`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Output {
    node: usize,
    index: usize,
}

/// A source file of a [`Builder`]'s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SourceFileId(usize);

/// What an operation needs, and what is said of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Constraints {
    /// The platform; the definition's if absent.
    pub platform: Option<Platform>,
    /// Filters of the workers that may run it, in containerd's syntax.
    pub worker_filters: Vec<String>,
    /// What is said of it without changing its digest.
    pub metadata: pb::OpMetadata,
    /// Where it comes from in source files.
    pub locations: Vec<(SourceFileId, Vec<pb::Range>)>,
}

/// Why a definition cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// An output is not of this builder.
    #[error("operation {0} is not of this definition")]
    Foreign(usize),
    /// A process has no arguments.
    #[error("a process needs arguments")]
    NoArgs,
    /// A process has no working directory.
    #[error("a process needs a working directory")]
    NoDirectory,
    /// A file system in memory is to start with something.
    #[error("a tmpfs mount ({0}) cannot have a source")]
    TmpfsSource(String),
    /// Nothing is to be done to files.
    #[error("a file operation needs an action")]
    NoActions,
}

#[derive(Clone, Debug)]
struct Node {
    kind: NodeKind,
    constraints: Constraints,
}

#[derive(Clone, Debug)]
enum NodeKind {
    Op(Op<Output>),
    /// An operation of another definition, which keeps its bytes.
    Encoded {
        bytes: Bytes,
        inputs: Vec<Output>,
    },
}

impl Constraints {
    /// No constraints.
    pub fn new() -> Self {
        Self::default()
    }

    /// Names the operation for people.
    #[must_use]
    pub fn named(self, name: impl Into<String>) -> Self {
        self.described("llb.customname", name)
    }

    /// Adds a description.
    #[must_use]
    pub fn described(mut self, key: impl Into<String>, text: impl Into<String>) -> Self {
        self.metadata.description.insert(key.into(), text.into());
        self
    }

    /// Runs the operation even if the cache has its result.
    #[must_use]
    pub const fn ignoring_cache(mut self, ignore: bool) -> Self {
        self.metadata.ignore_cache |= ignore;
        self
    }

    /// Shows the operation's progress in a group.
    #[must_use]
    pub fn in_group(mut self, group: pb::ProgressGroup) -> Self {
        self.metadata.progress_group = Some(group);
        self
    }

    /// Says where the operation comes from.
    #[must_use]
    pub fn at(mut self, file: SourceFileId, ranges: Vec<pb::Range>) -> Self {
        self.locations.push((file, ranges));
        self
    }

    /// Sets the platform.
    #[must_use]
    pub fn for_platform(mut self, platform: Option<Platform>) -> Self {
        self.platform = platform;
        self
    }
}

impl<I> Op<I> {
    fn map_inputs<J, E>(&self, map: &mut impl FnMut(&I) -> Result<J, E>) -> Result<Op<J>, E> {
        Ok(match self {
            Self::Source(source) => Op::Source(source.clone()),
            Self::Exec(exec) => Op::Exec(Box::new(exec.map_inputs(map)?)),
            Self::File(file) => Op::File(file.map_inputs(map)?),
            Self::Merge(merge) => Op::Merge(crate::MergeOp {
                inputs: merge.inputs.iter().map(map).collect::<Result<_, E>>()?,
            }),
            Self::Diff(diff) => Op::Diff(crate::DiffOp {
                lower: diff.lower.as_ref().map(&mut *map).transpose()?,
                upper: diff.upper.as_ref().map(&mut *map).transpose()?,
            }),
            Self::Build(build) => Op::Build(Box::new(crate::BuildOp {
                builder: build.builder.as_ref().map(&mut *map).transpose()?,
                inputs: build
                    .inputs
                    .iter()
                    .map(|(name, input)| Ok((name.clone(), map(input)?)))
                    .collect::<Result<_, E>>()?,
                definition: build.definition.clone(),
                attrs: build.attrs.clone(),
            })),
            Self::Passthrough(passthrough) => Op::Passthrough(passthrough.clone()),
        })
    }
}

impl NodeKind {
    /// The inputs, in the order in which BuildKit's client visits them.
    fn inputs(&self) -> Vec<Output> {
        let mut inputs = Vec::new();
        match self {
            Self::Encoded { inputs, .. } => return inputs.clone(),
            Self::Op(Op::File(file)) => file_inputs(file, &mut inputs),
            Self::Op(Op::Exec(exec)) => {
                inputs.extend(exec.mounts.iter().filter_map(|mount| mount.input()));
            }
            Self::Op(Op::Merge(merge)) => inputs.extend(&merge.inputs),
            Self::Op(Op::Diff(diff)) => inputs.extend(diff.lower.iter().chain(&diff.upper)),
            Self::Op(Op::Build(build)) => {
                inputs.extend(build.builder.iter().chain(build.inputs.values()));
            }
            Self::Op(Op::Source(_) | Op::Passthrough(_)) => {}
        }
        inputs
    }
}

/// What is changed comes first, then what is copied from, the last action's first.
fn file_inputs(file: &FileOp<Output>, inputs: &mut Vec<Output>) {
    let mut add = |input: &FileInput<Output>| {
        if let FileInput::Input(output) = input
            && !inputs.contains(output)
        {
            inputs.push(*output);
        }
    };
    if let Some(first) = file.actions.first() {
        add(&first.input);
    }
    for action in file.actions.iter().rev() {
        add(&action.input);
        if let FileChange::Copy(copy) = &action.change {
            add(&copy.from);
        }
    }
}

impl Builder {
    /// No operations.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a source file that operations come from.
    pub fn add_file(&mut self, name: &str, language: &str, data: impl Into<Bytes>) -> SourceFileId {
        self.add_source_file(pb::SourceInfo {
            filename: name.to_owned(),
            data: data.into(),
            definition: None,
            language: language.to_owned(),
        })
    }

    /// The same, of a file of which more may be known. One that is there already, such as of a
    /// graph that was made from the same file, is not added again.
    pub fn add_source_file(&mut self, file: pb::SourceInfo) -> SourceFileId {
        let next = self.files.len();
        let key = (file.filename.clone(), file.data.clone());
        // Of several that differ in how they were made the first alone is compared: a graph may
        // have any number of them.
        let first = *self.first_files.entry(key).or_insert(next);
        if self
            .files
            .get(first)
            .is_some_and(|first| is_same(first, &file))
        {
            return SourceFileId(first);
        }
        self.files.push(file);
        SourceFileId(next)
    }

    /// Adds content from outside.
    pub fn add_source(&mut self, source: Source, constraints: Constraints) -> Output {
        self.add(Op::Source(Box::new(source)), constraints)
    }

    /// Adds an operation; this is its first output.
    pub fn add(&mut self, op: Op<Output>, constraints: Constraints) -> Output {
        self.add_node(NodeKind::Op(op), constraints)
    }

    fn add_node(&mut self, kind: NodeKind, constraints: Constraints) -> Output {
        self.nodes.push(Node { kind, constraints });
        Output {
            node: self.nodes.len() - 1,
            index: 0,
        }
    }

    /// Adds all operations of another definition; this is its result.
    pub fn add_graph(&mut self, graph: &Graph) -> Option<Output> {
        let base = self.nodes.len();
        let files = graph.files().iter();
        let files: Vec<_> = files
            .map(|file| self.add_source_file(file.clone()))
            .collect();
        let output = |edge: &crate::Edge| Output {
            node: base + edge.vertex,
            index: edge.output,
        };
        for (index, vertex) in graph.vertices().iter().enumerate() {
            let locations = graph
                .locations(index)
                .iter()
                .filter_map(|location| {
                    let file = *files.get(location.file)?;
                    Some((file, location.ranges.clone()))
                })
                .collect();
            let kind = NodeKind::Encoded {
                bytes: vertex.bytes().clone(),
                inputs: vertex.inputs().iter().map(output).collect(),
            };
            let constraints = Constraints {
                metadata: vertex.metadata().clone(),
                locations,
                ..Constraints::default()
            };
            self.add_node(kind, constraints);
        }
        graph.root().as_ref().map(output)
    }

    /// Replaces a source that was added before all was known of it.
    pub fn replace_source(&mut self, output: Output, source: Source) -> Result<(), BuildError> {
        match self.nodes.get_mut(output.node) {
            Some(Node {
                kind: NodeKind::Op(Op::Source(old)),
                ..
            }) => {
                **old = source;
                Ok(())
            }
            _ => Err(BuildError::Foreign(output.node)),
        }
    }

    /// File systems laid over each other, the first lowest; empty ones have no effect.
    pub fn merge(&mut self, inputs: &[Option<Output>], constraints: Constraints) -> Option<Output> {
        let inputs: Vec<Output> = inputs.iter().copied().flatten().collect();
        match inputs.as_slice() {
            [] => None,
            [only] => Some(*only),
            _ => Some(self.add(Op::Merge(crate::MergeOp { inputs }), constraints)),
        }
    }

    /// What `upper` has changed on `lower`.
    pub fn diff(
        &mut self,
        lower: Option<Output>,
        upper: Option<Output>,
        constraints: Constraints,
    ) -> Option<Output> {
        if lower.is_none() {
            return upper;
        }
        Some(self.add(Op::Diff(crate::DiffOp { lower, upper }), constraints))
    }

    pub(crate) fn output_at(output: Output, index: usize) -> Output {
        Output { index, ..output }
    }

    /// The definition whose result is `root`; an empty file system if absent. Operations that name no
    /// platform are for `platform`.
    pub fn definition(
        &self,
        root: Option<Output>,
        platform: &Platform,
    ) -> Result<pb::Definition, BuildError> {
        let Some(root) = root else {
            return Ok(pb::Definition::default());
        };
        let mut encoder = Encoder {
            builder: self,
            platform,
            digests: vec![None; self.nodes.len()],
            definition: pb::Definition::default(),
            seen: HashMap::new(),
            locations: BTreeMap::new(),
        };
        for node in self.order(root)? {
            encoder.add(node)?;
        }
        encoder.finish(root)
    }

    /// The nodes that `root` needs, inputs first.
    fn order(&self, root: Output) -> Result<Vec<usize>, BuildError> {
        let inputs_of = |node: usize| {
            let node = self.nodes.get(node).ok_or(BuildError::Foreign(node))?;
            Ok(node.kind.inputs().into_iter().rev().collect::<Vec<_>>())
        };
        let mut visited = vec![false; self.nodes.len()];
        let mut order = Vec::new();
        // A node and its inputs that are still to be visited, the next last.
        let mut stack = vec![(root.node, inputs_of(root.node)?)];
        while let Some((node, inputs)) = stack.last_mut() {
            let node = *node;
            if let Some(next) = inputs.pop() {
                if visited.get(next.node) == Some(&false) {
                    stack.push((next.node, inputs_of(next.node)?));
                } else if next.node >= visited.len() {
                    return Err(BuildError::Foreign(next.node));
                }
                continue;
            }
            stack.pop();
            if let Some(visited @ false) = visited.get_mut(node) {
                *visited = true;
                order.push(node);
            }
        }
        Ok(order)
    }
}

struct Encoder<'a> {
    builder: &'a Builder,
    platform: &'a Platform,
    digests: Vec<Option<Digest>>,
    definition: pb::Definition,
    seen: HashMap<Digest, ()>,
    locations: BTreeMap<String, Vec<(usize, Vec<pb::Range>)>>,
}

impl Encoder<'_> {
    fn add(&mut self, index: usize) -> Result<(), BuildError> {
        let node = self
            .builder
            .nodes
            .get(index)
            .ok_or(BuildError::Foreign(index))?;
        let (bytes, caps) = match &node.kind {
            NodeKind::Encoded { bytes, .. } => (bytes.clone(), Vec::new()),
            NodeKind::Op(op) => (self.encode(op, &node.constraints)?, caps::of_op(op)),
        };
        let digest = Digest::sha256_of(&bytes);
        if let Some(slot) = self.digests.get_mut(index) {
            *slot = Some(digest.clone());
        }
        let key = digest.to_string();
        let metadata = self.definition.metadata.entry(key.clone()).or_default();
        merge_metadata(metadata, &node.constraints.metadata);
        metadata
            .caps
            .extend(caps.into_iter().map(|cap| (cap.to_owned(), true)));
        if !node.constraints.locations.is_empty() {
            let locations = self.locations.entry(key).or_default();
            for (file, ranges) in &node.constraints.locations {
                locations.push((file.0, ranges.clone()));
            }
        }
        if self.seen.insert(digest, ()).is_none() {
            self.definition.def.push(bytes);
        }
        Ok(())
    }

    fn encode(&self, op: &Op<Output>, constraints: &Constraints) -> Result<Bytes, BuildError> {
        // Inputs are listed once, except where the operation is a list of its inputs.
        let shared = matches!(op, Op::Exec(_) | Op::File(_));
        let mut inputs: Vec<pb::Input> = Vec::new();
        let op = op.map_inputs(&mut |output: &Output| {
            let input = self.input(*output)?;
            let known = inputs.iter().position(|other| *other == input);
            if let Some(index) = known.filter(|_| shared) {
                return Ok(index);
            }
            inputs.push(input);
            Ok(inputs.len() - 1)
        })?;
        let platform = match &op {
            Op::Source(source) if !source.is_platform_specific() => None,
            Op::File(_) | Op::Merge(_) | Op::Diff(_) | Op::Passthrough(_) => None,
            Op::Source(_) | Op::Exec(_) | Op::Build(_) => {
                let platform = constraints.platform.as_ref().unwrap_or(self.platform);
                Some(platform.clone().into())
            }
        };
        let message = pb::Op {
            op: Some(op.to_pb(inputs.len())),
            inputs,
            platform,
            constraints: Some(pb::WorkerConstraints {
                filter: constraints.worker_filters.clone(),
            }),
        };
        Ok(message.encode_to_vec().into())
    }

    fn input(&self, output: Output) -> Result<pb::Input, BuildError> {
        let digest = self.digests.get(output.node).and_then(Option::as_ref);
        let digest = digest.ok_or(BuildError::Foreign(output.node))?;
        Ok(pb::Input {
            digest: digest.to_string(),
            index: i64::try_from(output.index).unwrap_or(i64::MAX),
        })
    }

    fn finish(mut self, root: Output) -> Result<pb::Definition, BuildError> {
        let digest = self.digests.get(root.node).and_then(Option::as_ref);
        let digest = digest.ok_or(BuildError::Foreign(root.node))?;
        let terminal = encode_terminal(Some(digest), root.index);
        let caps = self.definition_caps();
        let metadata = pb::OpMetadata {
            caps: caps.into_iter().map(|cap| (cap.to_owned(), true)).collect(),
            ..pb::OpMetadata::default()
        };
        let key = Digest::sha256_of(&terminal).to_string();
        self.definition.metadata.insert(key, metadata);
        self.definition.def.push(terminal);
        self.definition.source = Some(self.source());
        Ok(self.definition)
    }

    fn definition_caps(&self) -> Vec<&'static str> {
        let any = |has: fn(&pb::OpMetadata) -> bool| self.definition.metadata.values().any(has);
        let mut caps = vec![cap::CONSTRAINTS, cap::PLATFORM];
        if any(|metadata| metadata.ignore_cache) {
            caps.push(cap::META_IGNORE_CACHE);
        }
        if any(|metadata| !metadata.description.is_empty()) {
            caps.push(cap::META_DESCRIPTION);
        }
        if any(|metadata| metadata.export_cache.is_some()) {
            caps.push(cap::META_EXPORT_CACHE);
        }
        caps
    }

    /// The locations of the operations, and the files that they name.
    fn source(&self) -> pb::Source {
        let mut infos: Vec<pb::SourceInfo> = Vec::new();
        let mut indexes: BTreeMap<usize, usize> = BTreeMap::new();
        let mut locations = BTreeMap::new();
        for (digest, of_digest) in &self.locations {
            let mut encoded = Vec::new();
            for (file, ranges) in of_digest {
                let Some(info) = self.builder.files.get(*file) else {
                    continue;
                };
                let index = *indexes.entry(*file).or_insert_with(|| {
                    infos
                        .iter()
                        .position(|other| other == info)
                        .unwrap_or_else(|| {
                            infos.push(info.clone());
                            infos.len() - 1
                        })
                });
                encoded.push(pb::Location {
                    source_index: i32::try_from(index).unwrap_or(i32::MAX),
                    ranges: ranges.clone(),
                });
            }
            locations.insert(digest.clone(), pb::Locations { locations: encoded });
        }
        pb::Source { locations, infos }
    }
}

fn merge_metadata(into: &mut pb::OpMetadata, from: &pb::OpMetadata) {
    into.ignore_cache |= from.ignore_cache;
    into.description.extend(
        from.description
            .iter()
            .map(|(key, text)| (key.clone(), text.clone())),
    );
    if from.export_cache.is_some() {
        into.export_cache = from.export_cache;
    }
    into.caps
        .extend(from.caps.keys().map(|cap| (cap.clone(), true)));
    if from.progress_group.is_some() {
        into.progress_group.clone_from(&from.progress_group);
    }
    if from.linux_resources.is_some() {
        into.linux_resources.clone_from(&from.linux_resources);
    }
}
