use std::collections::BTreeMap;

use bytes::Bytes;
use weld_digest::Digest;
use weld_dockerfile::{LineRange, SourceFile};
use weld_export::ExportError;
use weld_llb::{Graph, pb};
use weld_op::digest::from_solver;
use weld_op::session::SessionError;
use weld_op::{ResolveError, Tree};
use weld_solver::{ResultRef, SolveError};
use weld_store::snapshot::SnapshotError;

use crate::files::FileError;
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
        /// Why.
        source: Box<BuildError>,
    },
    /// What a frontend says of its result is wrong.
    #[error("invalid metadata {key}: {reason}")]
    Metadata {
        /// What is said.
        key: &'static str,
        /// What is wrong with it.
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
    /// A directory for the time being cannot be made.
    #[error("cannot make a temporary directory: {0}")]
    Scratch(std::io::Error),
    /// Work on a thread that may block ended early.
    #[error("a task ended early: {0}")]
    Stopped(#[from] tokio::task::JoinError),
    /// What a source stands for cannot be found out.
    #[error("failed to resolve source metadata for {name}: {source}")]
    Source {
        /// The source.
        name: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A result could not be delivered.
    #[error("failed to export: {0}")]
    Export(#[from] ExportError),
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
    /// The lines as a person reads them, with what is around them.
    fn excerpt(&self) -> Option<String> {
        let range = self.ranges.first()?;
        let line = |position: Option<pb::Position>| u32::try_from(position?.line).ok();
        let start = line(range.start)?;
        let end = line(range.end).unwrap_or(start);
        let file = SourceFile::new(self.info.filename.as_str(), self.info.data.to_vec());
        file.excerpt(LineRange::new(start, end))
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
                source: Box::new(source),
            },
        }
    }

    /// The error itself, without the frontends that it went through.
    pub fn innermost(&self) -> &Self {
        let mut error = self;
        while let Self::Frontend { source, .. } = error {
            error = source;
        }
        error
    }

    /// Whether it was cancelled, not failed.
    pub fn is_cancelled(&self) -> bool {
        matches!(self.innermost(), Self::Cancelled)
    }

    /// The lines of the Dockerfile that it is about.
    pub fn source_excerpt(&self) -> Option<String> {
        match self.innermost() {
            Self::Dockerfile(error) => error.excerpt(),
            Self::Solve {
                step: Some(step), ..
            } => step.sources.first()?.excerpt(),
            _ => None,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        None
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

fn failed_step(failure: &SolveError<Tree>, graph: &Graph) -> Option<FailedStep> {
    let weld_solver::Failure::Op { failure, .. } = failure else {
        return None;
    };
    let digest = from_solver(failure.vertex);
    let mut vertices = graph.vertices().iter();
    let index = vertices.position(|vertex| *vertex.digest() == digest)?;
    let vertex = graph.vertex(index)?;
    let sources = graph.locations(index).iter().filter_map(|location| {
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
    })
}
