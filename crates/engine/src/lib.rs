//! One build engine: a request, solved for a job with its session, its progress and its results.
//!
//! An [`Engine`] owns a state directory. [`Engine::build`] takes a [`BuildRequest`]: a Dockerfile
//! or an LLB definition, what to do with the result, and a session that offers the client's
//! directories, secrets and credentials, such as a [`HostSession`]. Any number of builds may run
//! at once; equal work of theirs is done once.

mod build;
mod config;
mod context;
mod definition;
mod engine;
mod error;
mod export;
mod frontend;
mod host_session;
mod internal;
mod relay;
mod request;
mod ssh_agent;
mod usage;

pub use config::{Config, ConfigError, RuntimeKind, SnapshotterKind};
pub use context::{UnpackError, is_archive, unpack_context};
pub use definition::{Definition, DefinitionError};
pub use engine::{Engine, OpenError, enter_privileges};
pub use error::BuildError;
pub use host_session::{HostSession, LayoutReference, SecretSource, SessionError};
pub use request::{BuildInput, BuildRequest, BuildResponse, Entitlement, ParseEntitlementError};
pub use ssh_agent::AgentError;
pub use usage::{PruneOptions, StoreError, UsageRecord};
pub use weld_export::{ExportKind, ExportRequest, ExportTarget};
pub use weld_op::session::Session;
pub use weld_runtime::privilege::PrivilegeError;
pub use weld_solver::TraceSink;
