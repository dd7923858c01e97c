//! The exec operation: runs a process over its inputs.

mod cache_mounts;
mod environment;
mod key;
mod mounts;
mod output;
mod said;
mod sandbox;

use std::sync::Arc;

use async_trait::async_trait;
use weld_llb::{ExecOp, LinuxResources, MountKind, NetMode, Platform, SecurityMode};
use weld_runtime::{ExitStatus, Network, Resources, RuntimeError, Security, StepSpec, User};
use weld_solver::{CacheMap, Digest, Op, OpContext, OpError, ResultRef};
use weld_store::CacheMountError;
use weld_store::snapshot::SnapshotError;

pub use sandbox::{Sandbox, SandboxMount, SandboxMountKind};

use crate::blocking::blocking;
use crate::devices::{self, Device, DeviceError};
use crate::recall::{Fields, Step};
use crate::session::SessionError;
use crate::{Tree, Worker, content};

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// Its program ended with another code than the ones that mean success.
    #[error("process {command:?} did not complete successfully: {status}")]
    Status {
        /// The program and its arguments.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What its mounts came to, in their order; `None` for one that is no tree.
        mounts: Vec<Option<Tree>>,
    },
    /// It could not be run.
    #[error("process {command:?} did not complete successfully: {source}")]
    Runtime {
        /// The program and its arguments.
        command: String,
        /// Why.
        source: Box<RuntimeError>,
    },
    /// A snapshot that it needs could not be made.
    #[error("{action}: {source}")]
    Snapshot {
        /// What was tried.
        action: String,
        /// Why it failed.
        source: Box<SnapshotError>,
    },
    /// A mount could not be made.
    #[error("mount {dest}: {source}")]
    Mount {
        /// Where it is mounted.
        dest: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Work on a thread that may block ended early.
    #[error("{action}: {stopped}")]
    Stopped {
        /// What was tried.
        action: String,
        /// How it ended.
        stopped: tokio::task::JoinError,
    },
    /// A cache mount could not be had.
    #[error("cache mount {dest}: {source}")]
    CacheMount {
        /// Where it is mounted.
        dest: String,
        /// Why it failed.
        source: Box<CacheMountError>,
    },
    /// A secret that the client does not offer.
    #[error("secret {0}: not found: offer it with --secret id={0},src=FILE or id={0},env=VARIABLE")]
    NoSecret(String),
    /// A secret that the client offers but could not serve.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A secret for an environment variable that is not text.
    #[error("secret {0}: it is not UTF-8 text or has a NUL in it, so it cannot be in a variable")]
    SecretText(String),
    /// An SSH agent that the client does not offer.
    #[error("ssh agent {0}: not found: offer it with --ssh {0}")]
    NoAgent(String),
    /// The address of an extra host is none.
    #[error("extra host {host}: {address:?} is not an IP address")]
    BadHost {
        /// The host.
        host: String,
        /// The address.
        address: String,
    },
    /// A device that it cannot be given.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A network mode that this version does not have.
    #[error("network mode {0} is not supported")]
    Network(String),
}

pub(crate) struct Exec {
    pub(crate) worker: Arc<Worker>,
    pub(crate) op: ExecOp,
    pub(crate) platform: Platform,
    pub(crate) inputs: usize,
    pub(crate) resources: Option<LinuxResources>,
    /// What a user reads of what it made.
    pub(crate) description: String,
}

#[async_trait]
impl Op<Tree> for Exec {
    async fn cache_map(&self, _ctx: &OpContext<Tree>, _index: u32) -> Result<CacheMap, OpError> {
        Ok(key::cache_map(&self.op, &self.platform, self.inputs))
    }

    async fn slow_key(
        &self,
        _ctx: &OpContext<Tree>,
        input: u32,
        tree: &ResultRef<Tree>,
    ) -> Result<Option<Digest>, OpError> {
        if input as usize >= self.inputs {
            return Ok(None);
        }
        content::key(tree, self.selectors(input)).await.map(Some)
    }

    async fn exec(
        &self,
        ctx: &OpContext<Tree>,
        inputs: Vec<ResultRef<Tree>>,
    ) -> Result<Vec<Tree>, OpError> {
        let devices = self.devices().await?;
        let mut prepared = mounts::prepare(self, ctx, &inputs).await?;
        let mut spec = self.spec(&mut prepared).map_err(OpError::failed)?;
        let given = devices::give(&devices, &mut spec).map_err(ExecError::from);
        given.map_err(OpError::failed)?;
        match self.run(ctx, spec).await? {
            None => prepared.commit(self).await,
            Some(status) => {
                let mounts = prepared.keep(self).await;
                Err(OpError::failed(ExecError::Status {
                    command: self.op.process.args.join(" "),
                    status,
                    mounts,
                }))
            }
        }
    }
}

impl ExecError {
    /// What the mounts of a step that failed came to, in their order.
    pub fn mounts(&self) -> &[Option<Tree>] {
        match self {
            Self::Status { mounts, .. } => mounts,
            _ => &[],
        }
    }
}

impl Step for Exec {
    fn selectors(&self, input: u32) -> Vec<content::Selector> {
        let uses = key::uses(&self.op, self.inputs);
        let used = uses.get(input as usize);
        let paths = used
            .map(|used| used.selectors.as_slice())
            .unwrap_or_default();
        paths.iter().map(content::Selector::path).collect()
    }

    fn said(&self) -> Option<Fields> {
        Some(said::said(&self.op, &self.platform))
    }
}

/// The ids of the cache mounts of an operation.
pub(crate) fn cache_ids(op: &ExecOp) -> impl Iterator<Item = String> {
    op.mounts.iter().filter_map(|mount| match &mount.kind {
        MountKind::Cache(cache) => Some(cache_mounts::cache_id(&mount.dest, cache).to_owned()),
        _ => None,
    })
}

impl Exec {
    /// The devices that it asks for. Whether it may have them was decided when it was loaded.
    async fn devices(&self) -> Result<Vec<Device>, OpError> {
        if self.op.devices.is_empty() {
            return Ok(Vec::new());
        }
        let (config, wanted) = (Arc::clone(&self.worker.devices), self.op.devices.clone());
        blocking(move || config.devices().find_all(&wanted).map_err(ExecError::from)).await
    }

    fn spec(&self, prepared: &mut mounts::Prepared) -> Result<StepSpec, ExecError> {
        let process = &self.op.process;
        let (root, read_only_root) = prepared.take_root();
        let mut spec = StepSpec::new(prepared.step_id(), root, process.args.clone());
        spec.read_only_root = read_only_root;
        spec.mounts = std::mem::take(&mut prepared.mounts);
        spec.secrets = std::mem::take(&mut prepared.secrets);
        spec.agents = std::mem::take(&mut prepared.agents);
        spec.remove_stub_parents = process.remove_mount_stubs_recursive;
        spec.env = environment::variables(&self.op, std::mem::take(&mut prepared.secret_env));
        spec.cwd = if process.cwd.is_empty() {
            "/".into()
        } else {
            process.cwd.clone().into()
        };
        spec.user = User::Named(process.user.clone());
        spec.hostname.clone_from(&process.hostname);
        spec.extra_hosts = environment::hosts(&process.extra_hosts)?;
        spec.ulimits = environment::ulimits(&process.ulimits);
        spec.network = match self.op.network {
            NetMode::Unset | NetMode::Host => Network::Host,
            NetMode::None => Network::None,
        };
        spec.security = match self.op.security {
            SecurityMode::Sandbox => Security::Sandbox,
            SecurityMode::Insecure => Security::Insecure,
        };
        spec.resources = self.resources.as_ref().map(resources).unwrap_or_default();
        if !process.cgroup_parent.is_empty() {
            spec.cgroup_parent = Some(process.cgroup_parent.clone().into());
        }
        Ok(spec)
    }

    /// Runs the step; returns how it ended if that was no success.
    async fn run(
        &self,
        ctx: &OpContext<Tree>,
        spec: StepSpec,
    ) -> Result<Option<ExitStatus>, OpError> {
        let (stdio, output) = output::channel();
        let step = self
            .worker
            .runtime
            .run(spec, stdio, ctx.cancellation().clone());
        let (ended, ()) = tokio::join!(step, output.pass_on(ctx));
        let command = || self.op.process.args.join(" ");
        let status = match ended {
            Ok(status) => status,
            Err(RuntimeError::Cancelled) => return Err(OpError::Cancelled),
            Err(source) if source.exit_code().is_some_and(|code| self.is_success(code)) => {
                return Ok(None);
            }
            Err(source) => {
                return Err(OpError::failed(ExecError::Runtime {
                    command: command(),
                    source: source.into(),
                }));
            }
        };
        if self.is_success(status.code) && !status.oom_killed {
            return Ok(None);
        }
        if let Some(writer) = crate::room::writer() {
            writer.fails().await;
        }
        Ok(Some(status))
    }

    fn is_success(&self, code: i32) -> bool {
        match self.op.process.valid_exit_codes.as_slice() {
            [] => code == 0,
            valid => valid.contains(&code),
        }
    }
}

/// Limits as the runtime has them.
pub(crate) fn resources(limits: &LinuxResources) -> Resources {
    Resources {
        memory: limits.memory,
        memory_swap: limits.memory_swap,
        cpu_shares: limits.cpu_shares,
        cpu_quota: limits.cpu_quota,
        cpu_period: limits.cpu_period,
        cpuset_cpus: limits.cpuset_cpus.clone(),
        cpuset_mems: limits.cpuset_mems.clone(),
    }
}
