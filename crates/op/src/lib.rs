//! The LLB operations as solver operations.
//!
//! [`definition`] turns a decoded LLB graph into what a solver loads: one operation per vertex,
//! each working on [`Tree`]s with what a [`Worker`] has.

mod blocking;
mod captured;
mod content;
mod devices;
pub mod digest;
mod domain;
mod exec;
pub mod file;
pub mod lazy;
mod lost;
mod merge;
mod mount_contents;
mod nested;
mod objects;
mod passthrough;
mod recall;
mod records;
mod reporting;
mod resolve;
mod room;
pub mod session;
mod source;
mod supply;
mod tree;
mod worker;

pub use captured::{Captured, Pin, captured};
pub use devices::{Device, DeviceConfig, DeviceError, Devices};
pub use domain::Domain;
pub use exec::{ExecError, Sandbox, SandboxMount, SandboxMountKind};
pub use mount_contents::{MountContents, MountSources};
pub use nested::{NestedError, NestedFailure, Nesting, OuterBuild};
pub use objects::ObjectStores;
pub use recall::{Explaining, Origin};
pub use records::Records;
pub use resolve::{Loading, ResolveError, definition, definition_from, retired_cache_mounts};
pub use source::image::{AttestationChain, AttestedContent, ImageError, Resolved};
pub use tree::Tree;
pub use worker::Worker;
