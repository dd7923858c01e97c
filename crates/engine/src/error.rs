use std::collections::BTreeMap;

use bytes::Bytes;
use weld_digest::Digest;
use weld_dockerfile::{ErrorKind, LineRange, Mark, SourceFile};
use weld_export::ExportError;
use weld_llb::{Graph, pb};
use weld_op::digest::from_solver;
use weld_op::file::FailedSequence;
use weld_op::lazy::LostLayer;
use weld_op::session::SessionError;
use weld_op::{DeviceError, ExecError, ResolveError, Tree};
use weld_proto::Message as _;
use weld_proto::google::Status;
use weld_solver::{OpCall, OpError, ResultRef, SolveError};
use weld_store::snapshot::SnapshotError;

use crate::attest::AttestOptionError;
use crate::cache::CacheExportError;
use crate::files::FileError;
use crate::policy::{PolicyError, VerifierError};
use crate::request::Entitlement;

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// It was cancelled.
    #[error("the build was cancelled")]
    Cancelled,
    /// The Dockerfile cannot be built.
    #[error("{0}")]
    Dockerfile(Box<weld_dockerfile::Error>),
    /// A frontend attribute has a value that it cannot have.
    #[error("{0}")]
    Option(weld_dockerfile::convert::OptionError),
    /// The definition that the frontend made is not one: a fault of this program.
    #[error("the frontend made an invalid definition: {0}")]
    Definition(#[from] weld_llb::DecodeError),
    /// The definition has something that this version cannot do.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// A step may not do what it wants to do.
    #[error(
        "{step}: entitlement {entitlement} is not allowed: allow it with --allow {entitlement}"
    )]
    Entitlement {
        /// The step.
        step: String,
        /// What it needs.
        entitlement: Entitlement,
    },
    /// A step may not have a device.
    #[error(
        "{step}: device {device} is requested by the build but not allowed: allow it with --allow device={device}"
    )]
    DeviceForbidden {
        /// The step.
        step: String,
        /// The device.
        device: String,
    },
    /// A step asks for a device that it cannot have.
    #[error("{step}: {source}")]
    Device {
        /// The step.
        step: String,
        /// Why.
        source: DeviceError,
    },
    /// A step failed.
    #[error("failed to solve: {failure}")]
    Solve {
        /// What failed and where.
        failure: SolveError<Tree>,
        /// The step that failed, if it was a step.
        step: Option<Box<FailedStep>>,
    },
    /// There is no such frontend.
    #[error("invalid frontend: {0}")]
    UnknownFrontend(String),
    /// A frontend failed.
    #[error("{source}")]
    Frontend {
        /// The frontend.
        name: String,
        /// The image that it was to run, if it runs images.
        image: String,
        /// The line that asks for it, as the error that it would be if there were no such frontend.
        asked_by: Option<Box<weld_dockerfile::Error>>,
        /// Why.
        source: Box<BuildError>,
    },
    /// A frontend elsewhere says that it failed.
    #[error("{}", .0.message)]
    Returned(Status),
    /// A frontend lacks something that it is asked for.
    #[error("unsupported frontend capability {0}")]
    FrontendCap(String),
    /// A frontend does not know a request.
    #[error("unsupported request {0}")]
    Subrequest(String),
    /// A frontend that is an image cannot be run, or does not answer.
    #[error("frontend image {image}: {reason}")]
    FrontendImage {
        /// The image.
        image: String,
        /// What is wrong.
        reason: String,
    },
    /// A frontend lacks an option.
    #[error("{0}")]
    FrontendOption(&'static str),
    /// What a frontend says of its result is wrong.
    #[error("invalid metadata {key}: {reason}")]
    Metadata {
        /// What is said.
        key: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Attestations cannot be asked for like this.
    #[error(transparent)]
    Attest(#[from] AttestOptionError),
    /// A policy is none, or forbids a source.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The client decides on sources, and forbids one.
    #[error("source {identifier:?} not allowed by policy: action {action}")]
    Forbidden {
        /// The source.
        identifier: String,
        /// What the client calls that.
        action: String,
        /// Why, in the client's words.
        messages: Vec<String>,
    },
    /// The client decides on sources, and did not decide on one.
    #[error(transparent)]
    Undecided(#[from] VerifierError),
    /// Complete materials were asked for, and nobody can say what these were.
    #[error(
        "provenance materials are incomplete: the content of the client's directories ({}) is not captured",
        .locals.join(", ")
    )]
    IncompleteMaterials {
        /// Names of the client's directories.
        locals: Vec<String>,
    },
    /// The image that is to scan results cannot.
    #[error("sbom scanner {image}: {reason}")]
    Scanner {
        /// The image.
        image: String,
        /// What is wrong.
        reason: String,
    },
    /// A file of a result cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A snapshot cannot be used.
    #[error("{action}: {source}")]
    Snapshot {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: Box<SnapshotError>,
    },
    /// The streams of a process cannot be made.
    #[error("cannot make pipes: {0}")]
    Streams(std::io::Error),
    /// The system has no random numbers.
    #[error("cannot get random numbers: {0}")]
    Random(std::io::Error),
    /// A directory for the time being cannot be made.
    #[error("cannot make a temporary directory: {0}")]
    Scratch(std::io::Error),
    /// A container cannot be had, or does not have what is asked of it.
    #[error("{reason}")]
    Container {
        /// Why.
        reason: String,
    },
    /// Work on a thread that may block ended early.
    #[error("a task ended early: {0}")]
    Stopped(#[from] tokio::task::JoinError),
    /// Cache mounts cannot be started anew.
    #[error("start cache mounts anew: {0}")]
    CacheMounts(#[from] weld_store::CacheMountError),
    /// What a source stands for cannot be found out.
    #[error("failed to resolve source metadata for {name}: {source}")]
    Source {
        /// The source.
        name: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What is to be done with the result cannot be meant; nothing was built.
    #[error("{0}")]
    Output(ExportError),
    /// What a cache option says cannot be meant; nothing was built.
    #[error("{0}")]
    CacheOption(Box<weld_export::cache::CacheOptionError>),
    /// A result could not be delivered.
    #[error("failed to export: {0}")]
    Export(#[from] ExportError),
    /// A cache could not be written.
    #[error("failed to export the cache: {0}")]
    CacheExport(Box<CacheExportError>),
    /// A layer of a cached result cannot be had, and nobody knows what made it.
    #[error(transparent)]
    Lost(Box<LostLayer>),
    /// The client does not serve what it offers.
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// A step that failed, as its definition has it.
#[derive(Clone, Debug)]
pub struct FailedStep {
    /// The digest of its vertex.
    pub digest: Digest,
    /// Its operation, encoded.
    pub op: Bytes,
    /// What is said of it, by key.
    pub description: BTreeMap<String, String>,
    /// Where it comes from.
    pub sources: Vec<SourceRanges>,
    /// Which of its file actions failed, if it has such.
    pub action: Option<usize>,
    /// The input whose content could not be looked at to find the step in the cache, if that is
    /// what failed.
    pub unread_input: Option<u32>,
}

impl FailedStep {
    /// The sources of its copies that its failure names, as a Dockerfile may have them.
    fn missing_sources(&self, failure: &str) -> Vec<String> {
        use pb::file_action::Action;
        let Ok(op) = pb::Op::decode(self.op.clone()) else {
            return Vec::new();
        };
        let Some(pb::op::Op::File(file)) = op.op else {
            return Vec::new();
        };
        let mut words = Vec::new();
        for action in file.actions {
            if let Some(Action::Copy(copy)) = action.action
                && failure.contains(&format!("{:?}", copy.src))
            {
                let relative = copy.src.trim_start_matches('/').to_owned();
                words.extend([copy.src, format!("./{relative}"), relative]);
            }
        }
        words
    }
}

/// Lines of a source file.
#[derive(Clone, Debug)]
pub struct SourceRanges {
    /// The file.
    pub info: pb::SourceInfo,
    /// The lines.
    pub ranges: Vec<pb::Range>,
}

impl SourceRanges {
    /// Lines of a file, each range from its first to its last.
    pub fn of_lines(name: &str, data: Vec<u8>, lines: &BTreeMap<i32, i32>) -> Self {
        let position = |line: &i32| {
            Some(pb::Position {
                line: *line,
                character: 0,
            })
        };
        Self {
            info: pb::SourceInfo {
                filename: name.to_owned(),
                data: data.into(),
                ..pb::SourceInfo::default()
            },
            ranges: lines
                .iter()
                .map(|(start, end)| pb::Range {
                    start: position(start),
                    end: position(end),
                })
                .collect(),
        }
    }

    /// The lines as a person reads them, with what is around them, and a caret under the range that
    /// tells its characters.
    pub fn excerpt(&self) -> Option<String> {
        self.excerpt_about(&[])
    }

    /// The same with a caret under the first of the words that is there, if no range tells characters.
    fn excerpt_about(&self, words: &[String]) -> Option<String> {
        let number = |number: i32| u32::try_from(number).ok();
        let lines = |range: &pb::Range| {
            let start = number(range.start?.line)?;
            let end = range.end.and_then(|end| number(end.line));
            Some(LineRange::new(start, end.unwrap_or(start)))
        };
        let mark = |range: &pb::Range| {
            let (start, end) = (range.start?, range.end?);
            let width = number(end.character.checked_sub(start.character)?)?;
            (start.line == end.line && width > 0).then_some(Mark {
                line: number(start.line)?,
                column: number(start.character)?.saturating_add(1),
                width,
            })
        };
        let ranges: Vec<_> = self.ranges.iter().filter_map(lines).collect();
        let file = SourceFile::new(self.info.filename.as_str(), self.info.data.to_vec());
        let mut places = words
            .iter()
            .flat_map(|word| ranges.iter().map(move |range| (word, range)));
        let told = self.ranges.iter().find_map(mark);
        let mark = told.or_else(|| places.find_map(|(word, range)| file.find_word(*range, word)));
        file.excerpt(&ranges, mark)
    }
}

impl BuildError {
    /// A failed solve of a graph.
    pub(crate) fn failed(failure: SolveError<Tree>, graph: &Graph) -> Self {
        match Self::from(failure) {
            Self::Solve { failure, .. } => {
                let step = failed_step(&failure, graph).map(Box::new);
                Self::Solve { failure, step }
            }
            other => other,
        }
    }

    pub(crate) fn snapshot(action: &'static str) -> impl Fn(SnapshotError) -> Self {
        move |source| Self::Snapshot {
            action,
            source: Box::new(source),
        }
    }

    /// The same, with the frontend whose work failed.
    pub(crate) fn of_frontend(self, name: String, image: String) -> Self {
        match self {
            Self::Cancelled => Self::Cancelled,
            source => Self::Frontend {
                name,
                image,
                asked_by: None,
                source: Box::new(source),
            },
        }
    }

    /// The same, with the line that asks for the frontend.
    pub(crate) fn asked_by(mut self, line: weld_dockerfile::Error) -> Self {
        if let Self::Frontend { asked_by, .. } = &mut self {
            *asked_by = Some(Box::new(line));
        }
        self
    }

    /// The line that asks for the frontend that failed, the innermost if there are several.
    pub fn asking_line(&self) -> Option<&weld_dockerfile::Error> {
        let mut line = None;
        let mut error = self;
        while let Self::Frontend {
            source, asked_by, ..
        } = error
        {
            line = asked_by.as_deref().or(line);
            error = source;
        }
        line
    }

    /// What a client puts its own words in front of: neither says that a build failed, nor which
    /// step, which clients know otherwise.
    pub fn reason(&self) -> String {
        let failure = match self.innermost() {
            Self::Solve { failure, .. } => failure,
            Self::Dockerfile(error) => return dockerfile_reason(error),
            _ => return self.to_string(),
        };
        let weld_solver::Failure::Op { failure, .. } = failure else {
            return failure.to_string();
        };
        match failure.call {
            OpCall::CacheMap => format!("failed to load cache key: {}", failure.error),
            OpCall::SlowKey | OpCall::Preprocess => {
                format!("failed to compute cache key: {}", failure.error)
            }
            _ => failure.error.to_string(),
        }
    }

    /// The exit code of the process whose failure it is.
    pub fn exit_code(&self) -> Option<u32> {
        match self.exec_error()? {
            ExecError::Status { status, .. } => u32::try_from(status.code).ok(),
            _ => None,
        }
    }

    fn exec_error(&self) -> Option<&ExecError> {
        let Self::Solve { failure, .. } = self.innermost() else {
            return None;
        };
        op_error(failure)
    }

    /// What the mounts, or the file actions, of a failed step came to, in their order.
    pub(crate) fn left_by_step(&self) -> Vec<Option<Tree>> {
        let Self::Solve { failure, .. } = self.innermost() else {
            return Vec::new();
        };
        if let Some(error) = op_error::<ExecError>(failure) {
            return error.mounts().to_vec();
        }
        let failed = op_error::<Box<FailedSequence>>(failure);
        let results = failed.map(|failed| failed.results.as_slice());
        let results = results.unwrap_or_default().iter();
        results.map(|result| result.clone().map(Tree::of)).collect()
    }

    /// The error itself, without the frontends that it went through.
    pub fn innermost(&self) -> &Self {
        let mut error = self;
        while let Self::Frontend { source, .. } = error {
            error = source;
        }
        error
    }

    /// Why the client forbids a source, if that is what is behind it.
    pub fn forbidden(&self) -> Option<&[String]> {
        let mut error: &(dyn std::error::Error + 'static) = match self.innermost() {
            Self::Dockerfile(error) => &**error,
            error => error,
        };
        loop {
            if let Some(Self::Forbidden { messages, .. }) = error.downcast_ref() {
                return Some(messages);
            }
            error = error.source()?;
        }
    }

    /// Whether it was cancelled, not failed.
    pub fn is_cancelled(&self) -> bool {
        matches!(self.innermost(), Self::Cancelled)
    }

    /// Whether what was asked for can never be met: nothing was wrong but the request's options.
    pub fn is_request_error(&self) -> bool {
        match self {
            Self::Output(error) | Self::Export(error) => error.is_request_error(),
            Self::CacheOption(_) => true,
            Self::CacheExport(error) => matches!(**error, CacheExportError::Option(_)),
            Self::Option(_) | Self::Attest(_) => true,
            _ => false,
        }
    }

    /// The lines of the Dockerfile that it is about.
    pub fn source_excerpt(&self) -> Option<String> {
        match self.innermost() {
            Self::Dockerfile(error) => error.excerpt(),
            Self::Solve {
                step: Some(step),
                failure,
            } => {
                let words = step.missing_sources(&failure.to_string());
                step.sources.first()?.excerpt_about(&words)
            }
            _ => self.asking_line()?.excerpt(),
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        None
    }
}

impl From<CacheExportError> for BuildError {
    fn from(error: CacheExportError) -> Self {
        Self::CacheExport(Box::new(error))
    }
}

impl From<LostLayer> for BuildError {
    fn from(error: LostLayer) -> Self {
        Self::Lost(Box::new(error))
    }
}

impl From<weld_dockerfile::Error> for BuildError {
    fn from(error: weld_dockerfile::Error) -> Self {
        Self::Dockerfile(Box::new(error))
    }
}

impl From<SolveError<Tree>> for BuildError {
    fn from(failure: weld_solver::Failure<ResultRef<Tree>>) -> Self {
        match failure {
            weld_solver::Failure::Cancelled | weld_solver::Failure::Discarded => Self::Cancelled,
            failure => Self::Solve {
                failure,
                step: None,
            },
        }
    }
}

/// The own error of the operation that failed.
fn op_error<E: std::error::Error + 'static>(failure: &SolveError<Tree>) -> Option<&E> {
    let weld_solver::Failure::Op { failure, .. } = failure else {
        return None;
    };
    match &failure.error {
        OpError::Failed(error) | OpError::Gone(error) => error.downcast_ref(),
        _ => None,
    }
}

fn failed_step(failure: &SolveError<Tree>, graph: &Graph) -> Option<FailedStep> {
    let action = op_error::<Box<FailedSequence>>(failure).and_then(|failed| failed.action());
    let weld_solver::Failure::Op { failure, .. } = failure else {
        return None;
    };
    let digest = from_solver(failure.vertex);
    let mut vertices = graph.vertices().iter();
    let index = vertices.position(|vertex| *vertex.digest() == digest)?;
    let vertex = graph.vertex(index)?;
    // What a step was told of last is nearest to it: clients read the innermost first.
    let locations = graph.locations(index).iter().rev();
    let sources = locations.filter_map(|location| {
        Some(SourceRanges {
            info: graph.files().get(location.file)?.clone(),
            ranges: location.ranges.clone(),
        })
    });
    Some(FailedStep {
        digest,
        op: vertex.bytes().clone(),
        description: vertex.metadata().description.clone(),
        sources: sources.collect(),
        action,
        unread_input: match failure.call {
            OpCall::SlowKey => failure.input,
            _ => None,
        },
    })
}

/// As clients of BuildKit know it: what is no Dockerfile names its line, what cannot be converted
/// has its place in the details.
pub(crate) fn dockerfile_reason(error: &weld_dockerfile::Error) -> String {
    let line = error.ranges().first().map(|lines| lines.start);
    match (error.kind(), line) {
        (ErrorKind::Convert(_) | ErrorKind::LintViolations { .. }, _) | (_, None) => {
            error.message()
        }
        (_, Some(line)) => format!("dockerfile parse error on line {line}: {}", error.message()),
    }
}
