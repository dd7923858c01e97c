//! Running a process.

use weld_proto::pb::{
    self, CacheSharingOpt, CdiDevice, HostIp, MountContentCache, MountType, NetMode, ProxyEnv,
    SecretEnv, SecurityMode, Ulimit,
};

/// Runs a process in a container.
///
/// `I` names an input: an index of the vertex's inputs in a [`Graph`](crate::Graph), an
/// [`Output`](crate::Output) while a definition is built.
#[derive(Clone, Debug, PartialEq)]
pub struct ExecOp<I = usize> {
    /// The process.
    pub process: Process,
    /// What is mounted; one of them at `/`.
    pub mounts: Vec<Mount<I>>,
    /// The network.
    pub network: NetMode,
    /// The privileges.
    pub security: SecurityMode,
    /// Secrets in environment variables.
    pub secret_env: Vec<SecretEnv>,
    /// Devices.
    pub devices: Vec<CdiDevice>,
}

/// The process that an [`ExecOp`] runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// Environment variables as `NAME=value`.
    pub env: Vec<String>,
    /// The working directory.
    pub cwd: String,
    /// The user, as `name`, `uid`, `name:group` or `uid:gid`; empty for root.
    pub user: String,
    /// Proxy settings, which the cache does not see.
    pub proxy: Option<ProxyEnv>,
    /// Additional lines of `/etc/hosts`.
    pub extra_hosts: Vec<HostIp>,
    /// The host's name; empty for the default.
    pub hostname: String,
    /// Resource limits.
    pub ulimits: Vec<Ulimit>,
    /// The control group above the container's own; empty for the default.
    pub cgroup_parent: String,
    /// Remove mount points made for the step, with the directories made above them.
    pub remove_mount_stubs_recursive: bool,
    /// Exit codes that mean success; empty for 0 only.
    pub valid_exit_codes: Vec<i32>,
}

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount<I = usize> {
    /// The mount point.
    pub dest: String,
    /// What is mounted there.
    pub kind: MountKind<I>,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountKind<I = usize> {
    /// An input, or an empty file system.
    Bind(BindMount<I>),
    /// A directory that outlives the build.
    Cache(CacheMount<I>),
    /// A file system in memory.
    Tmpfs {
        /// The size limit in bytes; 0 for none.
        size: u64,
    },
    /// A secret's value in a file.
    Secret(SecretMount),
    /// The socket of an SSH agent.
    Ssh(SshMount),
}

/// An input, mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindMount<I = usize> {
    /// The input; an empty file system if absent.
    pub input: Option<I>,
    /// The path within the input; empty for all of it.
    pub selector: String,
    /// Whether it is read-only.
    pub readonly: bool,
    /// The output that it becomes.
    pub output: Option<usize>,
    /// Whether the input is compared by content when the cache is asked.
    pub content_cache: MountContentCache,
}

/// A directory that outlives the build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheMount<I = usize> {
    /// What it starts with.
    pub input: Option<I>,
    /// The path within the input; empty for all of it.
    pub selector: String,
    /// Names the directory; the mount point if empty.
    pub id: String,
    /// What happens to concurrent users.
    pub sharing: CacheSharingOpt,
    /// Whether it is read-only.
    pub readonly: bool,
    /// The output that it becomes; BuildKit's client never asks for one.
    pub output: Option<usize>,
}

/// A secret in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretMount {
    /// The secret.
    pub id: String,
    /// The file's owner.
    pub uid: u32,
    /// The file's group.
    pub gid: u32,
    /// The file's permission bits.
    pub mode: u32,
    /// Whether the secret may lack.
    pub optional: bool,
}

/// An SSH agent's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshMount {
    /// The agent.
    pub id: String,
    /// The socket's owner.
    pub uid: u32,
    /// The socket's group.
    pub gid: u32,
    /// The socket's permission bits.
    pub mode: u32,
    /// Whether the agent may lack.
    pub optional: bool,
}

/// Why a process operation is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExecError {
    /// There is no process.
    #[error("exec has no process")]
    NoProcess,
    /// The process has no program.
    #[error("exec has no arguments")]
    NoArgs,
    /// Nothing is mounted at `/`.
    #[error("exec has no mount at /")]
    NoRoot,
    /// A number stands for no value of an enumeration that is known.
    #[error("exec: invalid {what} {value}")]
    UnknownValue {
        /// The enumeration.
        what: &'static str,
        /// The number.
        value: i32,
    },
    /// An input index of a mount is out of range.
    #[error("exec: mount {dest:?} uses input {input} of {inputs}")]
    BadInput {
        /// The mount point.
        dest: String,
        /// The index.
        input: i64,
        /// How many inputs there are.
        inputs: usize,
    },
    /// The output indexes of the mounts are not 0, 1, … each once.
    #[error("exec: mount {dest:?} has output {output}, which is taken or leaves a gap")]
    BadOutput {
        /// The mount point.
        dest: String,
        /// The index.
        output: i64,
    },
    /// A mount's size is negative.
    #[error("exec: mount {dest:?} has a negative size")]
    NegativeSize {
        /// The mount point.
        dest: String,
    },
    /// A mount of a kind whose options lack.
    #[error("exec: mount {dest:?} lacks its {kind} options")]
    NoOptions {
        /// The mount point.
        dest: String,
        /// The kind.
        kind: &'static str,
    },
}

impl<I> Mount<I> {
    /// The input that is mounted.
    pub const fn input(&self) -> Option<&I> {
        match &self.kind {
            MountKind::Bind(bind) => bind.input.as_ref(),
            MountKind::Cache(cache) => cache.input.as_ref(),
            MountKind::Tmpfs { .. } | MountKind::Secret(_) | MountKind::Ssh(_) => None,
        }
    }

    /// The output that the mount becomes.
    pub const fn output(&self) -> Option<usize> {
        match &self.kind {
            MountKind::Bind(bind) => bind.output,
            MountKind::Cache(cache) => cache.output,
            MountKind::Tmpfs { .. } | MountKind::Secret(_) | MountKind::Ssh(_) => None,
        }
    }

    fn map_input<J, E>(&self, map: &mut impl FnMut(&I) -> Result<J, E>) -> Result<Mount<J>, E> {
        let kind = match &self.kind {
            MountKind::Bind(bind) => MountKind::Bind(BindMount {
                input: bind.input.as_ref().map(map).transpose()?,
                selector: bind.selector.clone(),
                readonly: bind.readonly,
                output: bind.output,
                content_cache: bind.content_cache,
            }),
            MountKind::Cache(cache) => MountKind::Cache(CacheMount {
                input: cache.input.as_ref().map(map).transpose()?,
                selector: cache.selector.clone(),
                id: cache.id.clone(),
                sharing: cache.sharing,
                readonly: cache.readonly,
                output: cache.output,
            }),
            MountKind::Tmpfs { size } => MountKind::Tmpfs { size: *size },
            MountKind::Secret(secret) => MountKind::Secret(secret.clone()),
            MountKind::Ssh(ssh) => MountKind::Ssh(ssh.clone()),
        };
        Ok(Mount {
            dest: self.dest.clone(),
            kind,
        })
    }
}

impl<I> ExecOp<I> {
    /// The mount at `/`.
    pub fn root(&self) -> Option<&Mount<I>> {
        self.mounts
            .iter()
            .find(|mount| mount.dest == pb::ROOT_MOUNT)
    }

    /// How many outputs there are.
    pub fn outputs(&self) -> usize {
        self.mounts
            .iter()
            .filter_map(|mount| Some(mount.output()? + 1))
            .max()
            .unwrap_or(0)
    }

    /// The operation with its inputs replaced, asked for in the order of the mounts.
    pub fn map_inputs<J, E>(
        &self,
        map: &mut impl FnMut(&I) -> Result<J, E>,
    ) -> Result<ExecOp<J>, E> {
        Ok(ExecOp {
            process: self.process.clone(),
            mounts: self
                .mounts
                .iter()
                .map(|mount| mount.map_input(map))
                .collect::<Result<_, E>>()?,
            network: self.network,
            security: self.security,
            secret_env: self.secret_env.clone(),
            devices: self.devices.clone(),
        })
    }
}

fn known<T: TryFrom<i32>>(what: &'static str, value: i32) -> Result<T, ExecError> {
    T::try_from(value).map_err(|_| ExecError::UnknownValue { what, value })
}

impl ExecOp {
    /// The operation of that message, which has `inputs` inputs.
    pub fn from_pb(op: pb::ExecOp, inputs: usize) -> Result<Self, ExecError> {
        let meta = op.meta.ok_or(ExecError::NoProcess)?;
        if meta.args.is_empty() {
            return Err(ExecError::NoArgs);
        }
        let mounts = op
            .mounts
            .into_iter()
            .map(|mount| Mount::from_pb(mount, inputs))
            .collect::<Result<Vec<_>, _>>()?;
        let exec = Self {
            process: Process {
                args: meta.args,
                env: meta.env,
                cwd: meta.cwd,
                user: meta.user,
                proxy: meta.proxy_env,
                extra_hosts: meta.extra_hosts,
                hostname: meta.hostname,
                ulimits: meta.ulimit,
                cgroup_parent: meta.cgroup_parent,
                remove_mount_stubs_recursive: meta.remove_mount_stubs_recursive,
                valid_exit_codes: meta.valid_exit_codes,
            },
            mounts,
            network: known("network mode", op.network)?,
            security: known("security mode", op.security)?,
            secret_env: op.secretenv,
            devices: op.cdi_devices,
        };
        if exec.root().is_none() {
            return Err(ExecError::NoRoot);
        }
        exec.check_outputs()?;
        Ok(exec)
    }

    fn check_outputs(&self) -> Result<(), ExecError> {
        let mut taken = vec![false; self.mounts.len()];
        for mount in &self.mounts {
            let Some(output) = mount.output() else {
                continue;
            };
            match taken.get_mut(output) {
                Some(slot) if !*slot => *slot = true,
                _ => {
                    return Err(ExecError::BadOutput {
                        dest: mount.dest.clone(),
                        output: i64::try_from(output).unwrap_or(i64::MAX),
                    });
                }
            }
        }
        Ok(())
    }

    /// The message of the operation.
    pub fn to_pb(&self) -> pb::ExecOp {
        let process = &self.process;
        pb::ExecOp {
            meta: Some(pb::Meta {
                args: process.args.clone(),
                env: process.env.clone(),
                cwd: process.cwd.clone(),
                user: process.user.clone(),
                proxy_env: process.proxy.clone(),
                extra_hosts: process.extra_hosts.clone(),
                hostname: process.hostname.clone(),
                ulimit: process.ulimits.clone(),
                cgroup_parent: process.cgroup_parent.clone(),
                remove_mount_stubs_recursive: process.remove_mount_stubs_recursive,
                valid_exit_codes: process.valid_exit_codes.clone(),
            }),
            mounts: self.mounts.iter().map(Mount::to_pb).collect(),
            network: self.network.into(),
            security: self.security.into(),
            secretenv: self.secret_env.clone(),
            cdi_devices: self.devices.clone(),
        }
    }
}

/// An index of the wire: -1 for none.
pub(crate) fn index_to_pb(index: Option<usize>) -> i64 {
    index.map_or(-1, |index| i64::try_from(index).unwrap_or(i64::MAX))
}

impl Mount {
    fn from_pb(mount: pb::Mount, inputs: usize) -> Result<Self, ExecError> {
        let dest = mount.dest;
        let kind = known("mount type", mount.mount_type)?;
        let input = match usize::try_from(mount.input) {
            Ok(input) if input < inputs => Some(input),
            // Mounts that take no input leave the index at its default of 0.
            _ if mount.input == pb::EMPTY_INPUT
                || !matches!(kind, MountType::Bind | MountType::Cache) =>
            {
                None
            }
            _ => {
                return Err(ExecError::BadInput {
                    dest,
                    input: mount.input,
                    inputs,
                });
            }
        };
        let output = match usize::try_from(mount.output) {
            Ok(output) => Some(output),
            Err(_) if mount.output == pb::SKIP_OUTPUT => None,
            Err(_) => {
                return Err(ExecError::BadOutput {
                    dest,
                    output: mount.output,
                });
            }
        };
        let kind = match kind {
            MountType::Bind => MountKind::Bind(BindMount {
                input,
                selector: mount.selector,
                readonly: mount.readonly,
                output,
                content_cache: known("content cache mode", mount.content_cache)?,
            }),
            MountType::Cache => {
                let options = mount.cache_opt.ok_or_else(|| no_options(&dest, "cache"))?;
                MountKind::Cache(CacheMount {
                    input,
                    selector: mount.selector,
                    id: options.id,
                    sharing: known("cache sharing mode", options.sharing)?,
                    readonly: mount.readonly,
                    output,
                })
            }
            MountType::Tmpfs => {
                let size = mount.tmpfs_opt.map_or(0, |options| options.size);
                let size = u64::try_from(size)
                    .map_err(|_| ExecError::NegativeSize { dest: dest.clone() })?;
                MountKind::Tmpfs { size }
            }
            MountType::Secret => {
                let options = mount
                    .secret_opt
                    .ok_or_else(|| no_options(&dest, "secret"))?;
                MountKind::Secret(SecretMount {
                    id: options.id,
                    uid: options.uid,
                    gid: options.gid,
                    mode: options.mode,
                    optional: options.optional,
                })
            }
            MountType::Ssh => {
                let options = mount.ssh_opt.ok_or_else(|| no_options(&dest, "ssh"))?;
                MountKind::Ssh(SshMount {
                    id: options.id,
                    uid: options.uid,
                    gid: options.gid,
                    mode: options.mode,
                    optional: options.optional,
                })
            }
        };
        Ok(Self { dest, kind })
    }

    fn to_pb(&self) -> pb::Mount {
        let mut mount = pb::Mount {
            input: pb::EMPTY_INPUT,
            dest: self.dest.clone(),
            ..pb::Mount::default()
        };
        match &self.kind {
            MountKind::Bind(bind) => {
                mount.input = index_to_pb(bind.input);
                mount.selector.clone_from(&bind.selector);
                mount.output = index_to_pb(bind.output);
                mount.readonly = bind.readonly;
                mount.content_cache = bind.content_cache.into();
            }
            MountKind::Cache(cache) => {
                mount.mount_type = MountType::Cache.into();
                mount.input = index_to_pb(cache.input);
                mount.selector.clone_from(&cache.selector);
                mount.output = index_to_pb(cache.output);
                mount.readonly = cache.readonly;
                mount.cache_opt = Some(pb::CacheOpt {
                    id: cache.id.clone(),
                    sharing: cache.sharing.into(),
                });
            }
            MountKind::Tmpfs { size } => {
                mount.mount_type = MountType::Tmpfs.into();
                mount.output = pb::SKIP_OUTPUT;
                mount.tmpfs_opt = Some(pb::TmpfsOpt {
                    size: i64::try_from(*size).unwrap_or(i64::MAX),
                });
            }
            // BuildKit's client leaves the output of these at 0, which no one may use.
            MountKind::Secret(secret) => {
                mount.mount_type = MountType::Secret.into();
                mount.secret_opt = Some(pb::SecretOpt {
                    id: secret.id.clone(),
                    uid: secret.uid,
                    gid: secret.gid,
                    mode: secret.mode,
                    optional: secret.optional,
                });
            }
            MountKind::Ssh(ssh) => {
                mount.mount_type = MountType::Ssh.into();
                mount.ssh_opt = Some(pb::SshOpt {
                    id: ssh.id.clone(),
                    uid: ssh.uid,
                    gid: ssh.gid,
                    mode: ssh.mode,
                    optional: ssh.optional,
                });
            }
        }
        mount
    }
}

fn no_options(dest: &str, kind: &'static str) -> ExecError {
    ExecError::NoOptions {
        dest: dest.to_owned(),
        kind,
    }
}
