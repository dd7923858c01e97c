use std::collections::BTreeMap;

use weld_proto::pb;

use crate::{ExecError, ExecOp, FileChange, FileError, FileOp, Source, SourceError};

/// What a vertex does.
///
/// `I` names an input, as in [`ExecOp`].
#[derive(Clone, Debug, PartialEq)]
pub enum Op<I = usize> {
    /// Fetches content from outside.
    Source(Box<Source>),
    /// Runs a process.
    Exec(Box<ExecOp<I>>),
    /// Changes files.
    File(FileOp<I>),
    /// Lays file systems over each other.
    Merge(MergeOp<I>),
    /// The difference of two file systems.
    Diff(DiffOp<I>),
    /// Builds a definition that an input holds.
    Build(Box<BuildOp<I>>),
    /// Hands inputs on, once all inputs are there.
    Passthrough(PassthroughOp),
}

/// File systems laid over each other, the first lowest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergeOp<I = usize> {
    /// What is merged; at least two.
    pub inputs: Vec<I>,
}

/// What `upper` has changed on `lower`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiffOp<I = usize> {
    /// What it was before; an empty file system if absent.
    pub lower: Option<I>,
    /// What it is after; an empty file system if absent.
    pub upper: Option<I>,
}

/// A build whose definition is in an input.
#[derive(Clone, Debug, PartialEq)]
pub struct BuildOp<I = usize> {
    /// The input of the builder; a definition is built by the engine itself if absent.
    pub builder: Option<I>,
    /// Inputs by name.
    pub inputs: BTreeMap<String, I>,
    /// The definition of the builder.
    pub definition: Option<pb::Definition>,
    /// Attributes, see [`crate::attr`].
    pub attrs: BTreeMap<String, String>,
}

/// Hands inputs on, once all inputs are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassthroughOp {
    /// Names the operation.
    pub id: String,
    /// Which input each output is.
    pub outputs: Vec<usize>,
}

/// Why an operation is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpError {
    /// It is of no known kind.
    #[error("unknown operation")]
    Unknown,
    /// Its source is not understood.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A source has inputs.
    #[error("source has {0} inputs; it may have none")]
    SourceInputs(usize),
    /// Its process is not understood.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// Its file actions are not understood.
    #[error(transparent)]
    File(#[from] FileError),
    /// A merge has fewer than two inputs.
    #[error("merge has {0} inputs; it needs at least two")]
    TooFewMerged(usize),
    /// A difference lacks a side.
    #[error("diff lacks its {0} side")]
    NoSide(&'static str),
    /// An input index is out of range.
    #[error("{op} uses input {input} of {inputs}")]
    BadInput {
        /// The operation's kind.
        op: &'static str,
        /// The index.
        input: i64,
        /// How many inputs there are.
        inputs: usize,
    },
    /// A passthrough has no name.
    #[error("passthrough has no id")]
    NoId,
    /// A passthrough has no outputs.
    #[error("passthrough has no outputs")]
    NoOutputs,
}

fn input_of(op: &'static str, input: i64, inputs: usize) -> Result<usize, OpError> {
    usize::try_from(input)
        .ok()
        .filter(|index| *index < inputs)
        .ok_or(OpError::BadInput { op, input, inputs })
}

fn optional_input_of(
    op: &'static str,
    input: i64,
    inputs: usize,
) -> Result<Option<usize>, OpError> {
    if input == pb::EMPTY_INPUT {
        return Ok(None);
    }
    input_of(op, input, inputs).map(Some)
}

impl Op {
    /// The operation of that message, which has `inputs` inputs.
    pub fn from_pb(op: pb::op::Op, inputs: usize) -> Result<Self, OpError> {
        Ok(match op {
            pb::op::Op::Source(source) => {
                if inputs > 0 {
                    return Err(OpError::SourceInputs(inputs));
                }
                Self::Source(Box::new(Source::from_pb(&source)?))
            }
            pb::op::Op::Exec(exec) => Self::Exec(Box::new(ExecOp::from_pb(exec, inputs)?)),
            pb::op::Op::File(file) => Self::File(FileOp::from_pb(file, inputs)?),
            pb::op::Op::Merge(merge) => Self::Merge(MergeOp::from_pb(&merge, inputs)?),
            pb::op::Op::Diff(diff) => Self::Diff(DiffOp::from_pb(&diff, inputs)?),
            pb::op::Op::Build(build) => Self::Build(Box::new(BuildOp::from_pb(build, inputs)?)),
            pb::op::Op::Passthrough(passthrough) => {
                Self::Passthrough(PassthroughOp::from_pb(passthrough, inputs)?)
            }
        })
    }

    /// The message of the operation, which has `inputs` inputs.
    pub fn to_pb(&self, inputs: usize) -> pb::op::Op {
        let index = |input: usize| i64::try_from(input).unwrap_or(i64::MAX);
        match self {
            Self::Source(source) => pb::op::Op::Source(source.to_pb()),
            Self::Exec(exec) => pb::op::Op::Exec(exec.to_pb()),
            Self::File(file) => pb::op::Op::File(file.to_pb(inputs)),
            Self::Merge(merge) => pb::op::Op::Merge(pb::MergeOp {
                inputs: merge
                    .inputs
                    .iter()
                    .map(|&input| pb::MergeInput {
                        input: index(input),
                    })
                    .collect(),
            }),
            Self::Diff(diff) => pb::op::Op::Diff(pb::DiffOp {
                lower: Some(pb::LowerDiffInput {
                    input: crate::exec::index_to_pb(diff.lower),
                }),
                upper: Some(pb::UpperDiffInput {
                    input: crate::exec::index_to_pb(diff.upper),
                }),
            }),
            Self::Build(build) => pb::op::Op::Build(build.to_pb()),
            Self::Passthrough(passthrough) => pb::op::Op::Passthrough(pb::PassthroughOp {
                id: passthrough.id.clone(),
                outputs: passthrough
                    .outputs
                    .iter()
                    .map(|&input| index(input))
                    .collect(),
            }),
        }
    }
}

impl<I> Op<I> {
    /// How many outputs there are; `None` if only the build says.
    pub fn outputs(&self) -> Option<usize> {
        match self {
            Self::Source(_) | Self::Merge(_) | Self::Diff(_) => Some(1),
            Self::Exec(exec) => Some(exec.outputs()),
            Self::File(file) => Some(file.outputs()),
            Self::Passthrough(passthrough) => Some(passthrough.outputs.len()),
            // What a definition makes is one file system; what a builder makes, only that says.
            Self::Build(build) => build.builder.is_none().then_some(1),
        }
    }

    /// The kind, in one word.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Source(_) => "source",
            Self::Exec(_) => "exec",
            Self::File(_) => "file",
            Self::Merge(_) => "merge",
            Self::Diff(_) => "diff",
            Self::Build(_) => "build",
            Self::Passthrough(_) => "passthrough",
        }
    }

    /// What to call the operation where no one has named it.
    pub fn default_name(&self) -> String {
        match self {
            Self::Source(source) => source.identifier(),
            Self::Exec(exec) => exec.process.args.join(" "),
            Self::File(file) => file
                .actions
                .iter()
                .map(|action| action.change.describe())
                .collect::<Vec<_>>()
                .join(", "),
            Self::Passthrough(passthrough) => format!("passthrough {}", passthrough.id),
            Self::Merge(_) | Self::Diff(_) | Self::Build(_) => self.kind().to_owned(),
        }
    }
}

impl<I> FileChange<I> {
    fn describe(&self) -> String {
        match self {
            Self::Copy(copy) => format!("copy {} {}", copy.src, copy.dest),
            Self::Mkfile(mkfile) => format!("mkfile {}", mkfile.path),
            Self::Mkdir(mkdir) => format!("mkdir {}", mkdir.path),
            Self::Rm(rm) => format!("rm {}", rm.path),
            Self::Symlink(symlink) => format!("symlink {} -> {}", symlink.path, symlink.target),
        }
    }
}

impl MergeOp {
    fn from_pb(merge: &pb::MergeOp, inputs: usize) -> Result<Self, OpError> {
        if merge.inputs.len() < 2 {
            return Err(OpError::TooFewMerged(merge.inputs.len()));
        }
        Ok(Self {
            inputs: merge
                .inputs
                .iter()
                .map(|merged| input_of("merge", merged.input, inputs))
                .collect::<Result<_, _>>()?,
        })
    }
}

impl DiffOp {
    fn from_pb(diff: &pb::DiffOp, inputs: usize) -> Result<Self, OpError> {
        let lower = diff.lower.as_ref().ok_or(OpError::NoSide("lower"))?;
        let upper = diff.upper.as_ref().ok_or(OpError::NoSide("upper"))?;
        Ok(Self {
            lower: optional_input_of("diff", lower.input, inputs)?,
            upper: optional_input_of("diff", upper.input, inputs)?,
        })
    }
}

impl BuildOp {
    fn from_pb(build: pb::BuildOp, inputs: usize) -> Result<Self, OpError> {
        Ok(Self {
            builder: optional_input_of("build", build.builder, inputs)?,
            inputs: build
                .inputs
                .into_iter()
                .map(|(name, input)| Ok((name, input_of("build", input.input, inputs)?)))
                .collect::<Result<_, OpError>>()?,
            definition: build.def,
            attrs: build.attrs,
        })
    }

    /// The message of the operation.
    pub fn to_pb(&self) -> pb::BuildOp {
        let index = |input: usize| i64::try_from(input).unwrap_or(i64::MAX);
        pb::BuildOp {
            builder: crate::exec::index_to_pb(self.builder),
            inputs: self
                .inputs
                .iter()
                .map(|(name, &input)| {
                    let input = index(input);
                    (name.clone(), pb::BuildInput { input })
                })
                .collect(),
            def: self.definition.clone(),
            attrs: self.attrs.clone(),
        }
    }
}

impl PassthroughOp {
    fn from_pb(passthrough: pb::PassthroughOp, inputs: usize) -> Result<Self, OpError> {
        if passthrough.id.is_empty() {
            return Err(OpError::NoId);
        }
        if passthrough.outputs.is_empty() {
            return Err(OpError::NoOutputs);
        }
        Ok(Self {
            id: passthrough.id,
            outputs: passthrough
                .outputs
                .iter()
                .map(|&input| input_of("passthrough", input, inputs))
                .collect::<Result<_, _>>()?,
        })
    }
}
