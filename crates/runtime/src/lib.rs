//! Runs one step in a sandbox.

#[cfg(not(target_os = "linux"))]
compile_error!("weld-runtime runs on Linux only");

mod agent;
mod config;
mod error;
mod output;
mod runtime;
mod spec;
mod status;
pub mod user;

pub use agent::{AgentConnector, AgentSocket, AgentStream, Connecting};
pub use config::{CgroupConfig, CgroupMode, DnsConfig, RuntimeConfig, RuntimeKind};
pub use error::RuntimeError;
pub use output::{Chunk, Stdio, Stream};
pub use runtime::Runtime;
pub use spec::{
    DEFAULT_HOSTNAME, Device, DeviceKind, MountPlan, Network, Overlay, Resources, Secret, Security,
    Source, StepMount, StepSpec, Ulimit, UpperDirs, User, UserIds,
};
pub use status::ExitStatus;
pub use tokio_util::sync::CancellationToken;
