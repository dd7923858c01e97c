//! Why a step did not run.

use std::io;
use std::path::PathBuf;

use crate::user::UserError;

/// Why a step did not run to its end. A program that ran and failed is not an error but an
/// [`ExitStatus`](crate::ExitStatus).
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The spec says something that cannot be.
    #[error("invalid step: {field}: {reason}")]
    InvalidSpec {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The state directory cannot be used.
    #[error("runtime state directory {path:?}: {action}: {source}")]
    State {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// Another runtime uses the state directory.
    #[error("runtime state directory {path:?} is in use by another process")]
    StateInUse {
        /// The directory.
        path: PathBuf,
    },
    /// A program was to be started in the sandbox of a step that has ended.
    #[error("the first process of the container has ended: nothing more can be started in it")]
    StepEnded,
    /// The kernel refused a part of the sandbox that concerns no file.
    #[error("cannot set up the sandbox: {action}: {source}")]
    Sandbox {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The root file system cannot be mounted.
    #[error("cannot mount the root file system: {action}: {source}")]
    Root {
        /// What was tried.
        action: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A mount cannot be made.
    #[error("cannot mount {target:?}: {action}: {source}")]
    Mount {
        /// The target in the sandbox.
        target: PathBuf,
        /// What was tried.
        action: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The path within a mount's source is not there.
    #[error("cannot mount {target:?}: {sub_path:?} not found in the mount's source")]
    SubPathNotFound {
        /// The target in the sandbox.
        target: PathBuf,
        /// The path within the source.
        sub_path: PathBuf,
    },
    /// A mount's target may not be mounted on.
    #[error("cannot mount {target:?}: {reason}")]
    MountTarget {
        /// The target in the sandbox.
        target: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The user or group is not in the image.
    #[error(transparent)]
    User(#[from] UserError),
    /// The working directory cannot be used.
    #[error("cannot change to working directory {path:?}: {source}")]
    WorkingDirectory {
        /// The directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The cgroup cannot be made or limited.
    #[error("cgroup {path:?}: {action}: {source}")]
    Cgroup {
        /// The cgroup's directory or file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The kernel does not take a limit of the step.
    #[error("the kernel refuses {file} {value:?}: {source} (cgroup limits of the step)")]
    LimitRefused {
        /// The cgroup's file that the limit is written to, such as `cpu.max`.
        file: &'static str,
        /// What was written, in that file's unit.
        value: String,
        /// Why it was refused.
        source: io::Error,
    },
    /// The system has no cgroup that would enforce a limit of the step.
    #[error("cannot limit {what} of the step: {reason}")]
    LimitUnsupported {
        /// Which limit.
        what: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// The machine does not have all the processors or memory nodes that the step is to be bound to.
    #[error("{what} {wanted:?}: not available (available: {available})")]
    NotAvailable {
        /// Which limit.
        what: &'static str,
        /// What the step is to be bound to, such as `0-3,7`.
        wanted: String,
        /// What there is.
        available: String,
    },
    /// The program is not in the image.
    #[error("exec: {program:?}: executable file not found in $PATH")]
    NotInPath {
        /// The program's name.
        program: String,
    },
    /// The program, given as a path, or its interpreter is not in the image.
    #[error("exec: {program:?}: no such file or directory")]
    NoSuchProgram {
        /// The program's path.
        program: String,
    },
    /// The program is there and cannot be executed.
    #[error("exec: {program:?}: {reason}")]
    NotExecutable {
        /// The program's name or path.
        program: String,
        /// Why, e.g. `permission denied`.
        reason: String,
    },
    /// The external runtime cannot be run or failed by itself.
    #[error("{runtime:?} failed: {message}")]
    External {
        /// The runtime's path.
        runtime: PathBuf,
        /// What it said, or why it could not be run.
        message: String,
    },
    /// The step was cancelled; all its processes are dead.
    #[error("the step was cancelled")]
    Cancelled,
    /// Who ran it had it end, for this reason; all its processes are dead, or will be in a moment.
    #[error(transparent)]
    Stopped(Box<dyn std::error::Error + Send + Sync>),
    /// The thread that looked after the step is gone.
    #[error("the step's supervisor ended without an answer")]
    SupervisorLost,
}

impl RuntimeError {
    /// The exit code that docker and BuildKit give to a program that could not be started: 127 when
    /// it is not there, 126 when it cannot be executed. `None` for every other error.
    #[must_use]
    pub fn exit_code(&self) -> Option<i32> {
        match self {
            Self::NotInPath { .. } | Self::NoSuchProgram { .. } => Some(127),
            Self::NotExecutable { .. } => Some(126),
            _ => None,
        }
    }
}
