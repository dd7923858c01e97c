use weld_export::ExportError;
use weld_op::session::SessionError;
use weld_op::{ResolveError, Tree};
use weld_solver::{ResultRef, SolveError};

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
        /// The lines of the Dockerfile that the step comes from.
        excerpt: Option<String>,
    },
    /// A result could not be delivered.
    #[error("failed to export: {0}")]
    Export(#[from] ExportError),
    /// The client does not serve what it offers.
    #[error(transparent)]
    Session(#[from] SessionError),
}

impl BuildError {
    /// Whether it was cancelled, not failed.
    pub const fn is_cancelled(&self) -> bool {
        matches!(self, Self::Cancelled)
    }

    /// The lines of the Dockerfile that it is about.
    pub fn source_excerpt(&self) -> Option<String> {
        match self {
            Self::Dockerfile(error) => error.excerpt(),
            Self::Solve { excerpt, .. } => excerpt.clone(),
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
                excerpt: None,
            },
        }
    }
}
