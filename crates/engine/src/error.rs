use weld_dockerfile::ErrorKind;
use weld_export::ExportError;
use weld_llb::Graph;
use weld_op::file::FailedSequence;
use weld_op::lazy::LostLayer;
use weld_op::session::SessionError;
use weld_op::{DeviceError, ExecError, NestedFailure, ResolveError, Tree};
use weld_proto::google::Status;
use weld_solver::{OpCall, OpError, ResultRef, SolveError};
use weld_store::snapshot::SnapshotError;

use crate::attest::AttestOptionError;
use crate::cache::CacheExportError;
use crate::files::FileError;
use crate::policy::{PolicyError, VerifierError};
use crate::request::Entitlement;

mod causes;
mod step;

pub use step::{FailedStep, SourceRanges};
use step::{failed_step, places};

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
    /// The definition is none, whoever made it: the client itself, or a frontend.
    #[error("the definition is invalid: {0}")]
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
    /// A step of a definition may not run as it is.
    #[error("{source}")]
    Refused {
        /// Where the step comes from.
        places: Vec<SourceRanges>,
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

    /// The refusal of a vertex, with where it comes from.
    pub(crate) fn refused(self, graph: &Graph, vertex: usize) -> Self {
        Self::Refused {
            places: places(graph, vertex),
            source: Box::new(self),
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
        op_error(self.step_failure()?)
    }

    /// The failure of the solver, of the innermost build that failed.
    pub(crate) fn step_failure(&self) -> Option<&SolveError<Tree>> {
        match self.innermost() {
            Self::Solve { failure, .. } => Some(innermost_failure(failure)),
            _ => None,
        }
    }

    /// What the mounts, or the file actions, of a failed step came to, in their order.
    pub(crate) fn left_by_step(&self) -> Vec<Option<Tree>> {
        let Some(failure) = self.step_failure() else {
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

    /// The error itself, without the frontends that it went through and the place of a refusal.
    pub fn innermost(&self) -> &Self {
        let mut error = self;
        while let Self::Frontend { source, .. } | Self::Refused { source, .. } = error {
            error = source;
        }
        error
    }

    /// Where the step that failed, or may not run, comes from: what it was told of last is first.
    pub fn places(&self) -> &[SourceRanges] {
        let mut error = self;
        loop {
            match error {
                Self::Frontend { source, .. } => error = source,
                Self::Refused { places, .. } => return places,
                Self::Solve { failure, step } => match (refusal(failure), step) {
                    (Some(refused), _) if !refused.places().is_empty() => error = refused,
                    (_, Some(step)) => return &step.sources,
                    (_, None) => return &[],
                },
                _ => return &[],
            }
        }
    }

    /// Why the client forbids a source, if that is what is behind it.
    pub fn forbidden(&self) -> Option<&[String]> {
        let mut error: &(dyn std::error::Error + 'static) = match self.innermost() {
            Self::Dockerfile(error) => &**error,
            Self::Solve { failure, .. } => return refusal(failure)?.forbidden(),
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
        match self.innermost() {
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
                let refused = refusal(failure).and_then(Self::source_excerpt);
                refused.or_else(|| {
                    let words = step.missing_sources(&failure.to_string());
                    step.sources.first()?.excerpt_about(&words)
                })
            }
            refused => match self.places().first() {
                Some(place) => place.excerpt_about(&refused.refused_words()),
                None => self.asking_line()?.excerpt(),
            },
        }
    }

    /// What a step that may not run asks for, as a Dockerfile has it.
    fn refused_words(&self) -> Vec<String> {
        match self {
            Self::Entitlement {
                entitlement: Entitlement::SecurityInsecure,
                ..
            } => vec!["--security=insecure".to_owned()],
            Self::Entitlement {
                entitlement: Entitlement::NetworkHost,
                ..
            } => vec!["--network=host".to_owned()],
            Self::DeviceForbidden { device, .. } => vec![device.clone()],
            _ => Vec::new(),
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

/// What failed in the innermost build, where builds are inside of each other.
fn innermost_failure(failure: &SolveError<Tree>) -> &SolveError<Tree> {
    let mut failure = failure;
    while let Some(nested) = NestedFailure::behind(failure) {
        failure = &nested.failure;
    }
    failure
}

/// Why a build inside of the one that failed was not begun, if that is what failed.
fn refusal(failure: &SolveError<Tree>) -> Option<&BuildError> {
    let mut error = own_error(innermost_failure(failure))?;
    loop {
        if let Some(refused) = error.downcast_ref() {
            return Some(refused);
        }
        error = error.source()?;
    }
}

/// The own error of the operation that failed, or what caused it.
fn op_error<E: std::error::Error + 'static>(failure: &SolveError<Tree>) -> Option<&E> {
    let mut error = own_error(failure)?;
    loop {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        error = error.source()?;
    }
}

fn own_error(failure: &SolveError<Tree>) -> Option<&(dyn std::error::Error + 'static)> {
    let weld_solver::Failure::Op { failure, .. } = failure else {
        return None;
    };
    match &failure.error {
        OpError::Failed(error) | OpError::Gone(error) => Some(&**error),
        _ => None,
    }
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
