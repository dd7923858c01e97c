//! Runs one step in a sandbox.
//!
//! A [`StepSpec`] says as data what to run: on which root file system, with which mounts, secrets,
//! user, network, limits and rights. A [`Runtime`] runs it, streams its output and tells how it ended,
//! when every process of it is dead, everything is unmounted and its cgroup is removed.
//!
//! # What a step finds
//! The surroundings are those that BuildKit gives with runc: the program is process 1 of its PID
//! namespace; mount, IPC, UTS and (with a v2 hierarchy) cgroup namespaces are its own; the network is
//! the host's or a loopback interface. A sandboxed step has docker's default capabilities, system
//! call filter, masked and read-only files and devices; `no_new_privs` is not set, so that `sudo`
//! works. Standard input is empty and there is no terminal.
//!
//! # Who ends a step
//! Cancelling kills it at once, as BuildKit does. The kernel kills it when this process dies for
//! whatever reason; an exception is a step whose very first program has set-user-ID bits, which takes
//! that tie off. [`Runtime::clean_leftovers`] ends those, and removes cgroups.
//!
//! # What it needs
//! Linux 5.12 on x86-64 or AArch64, and root, or a user namespace ([`privilege::enter`]). Cgroups v1,
//! v2 and both together serve for limits, for devices and for telling an out-of-memory kill; without
//! any the step runs all the same, with device nodes in its trees made ineffective.
//!
//! The kernel writes an overlay's upper file system to disk when the overlay is unmounted, that is at
//! the end of each step, unless the plan has the option `volatile`.

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
pub mod memory;
mod mount;
mod oci;
mod output;
pub mod privilege;
mod process;
mod program;
mod resolv;
mod rlimit;
mod runtime;
mod seccomp;
mod spec;
mod state_lock;
mod status;
mod terminal;
pub mod user;

pub use agent::{AgentConnector, AgentSocket, AgentStream, Connecting};
pub use config::{CgroupConfig, CgroupMode, DnsConfig, RuntimeConfig, RuntimeKind};
pub use error::RuntimeError;
pub use output::{Chunk, Stdio, Stream};
pub use process::StepProcess;
pub use runtime::Runtime;
pub use spec::{
    DEFAULT_HOSTNAME, Device, DeviceAccess, DeviceKind, MountPlan, Network, Overlay, Resources,
    Secret, Security, Source, StepMount, StepSpec, Ulimit, UpperDirs, User, UserIds,
};
pub use status::ExitStatus;
pub use terminal::Terminal;
pub use tokio_util::sync::CancellationToken;
