//! Runs one step in a sandbox.

#[cfg(not(target_os = "linux"))]
compile_error!("weld-runtime runs on Linux only");

mod agent;
mod beneath;
mod capability;
mod cgroup;
mod check;
mod config;
mod control;
mod embedded;
mod error;
mod identity;
mod layout;
mod mount;
mod oci;
mod output;
pub mod privilege;
mod program;
mod resolv;
mod rlimit;
mod runtime;
mod seccomp;
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
