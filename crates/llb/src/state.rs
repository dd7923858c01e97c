//! What a build has come to: a file system, and how a process in it runs.

use weld_proto::pb::{
    CacheSharingOpt, CdiDevice, HostIp, MountContentCache, NetMode, ProxyEnv, SecretEnv,
    SecurityMode, Ulimit,
};

use crate::{
    BindMount, BuildError, Builder, CacheMount, Constraints, EnvList, ExecOp, FileAction,
    FileChange, FileInput, FileOp, Mount, MountKind, Op, Output, Owner, Platform, Process,
    SecretMount, SshMount, UserRef, path,
};

/// A file system, and how a process in it runs.
#[derive(Clone, Debug)]
pub struct State {
    /// The file system; an empty one if absent.
    pub output: Option<Output>,
    /// The working directory; relative paths are beneath it.
    pub dir: String,
    /// Environment variables.
    pub env: EnvList,
    /// The user; root if empty.
    pub user: String,
    /// The host's name; the default if empty.
    pub hostname: String,
    /// The platform; the definition's if absent.
    pub platform: Option<Platform>,
    /// The network.
    pub network: NetMode,
    /// The privileges.
    pub security: SecurityMode,
    /// Additional lines of `/etc/hosts`.
    pub extra_hosts: Vec<HostIp>,
    /// Resource limits.
    pub ulimits: Vec<Ulimit>,
    /// The control group above the container's own; the default if empty.
    pub cgroup_parent: String,
    /// Exit codes that mean success; 0 only if empty.
    pub valid_exit_codes: Vec<i32>,
}

/// A process to run, beside what a [`State`] says.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// What is mounted beside the root.
    pub mounts: Vec<MountSpec>,
    /// Secrets, in files or in environment variables.
    pub secrets: Vec<Secret>,
    /// SSH agents.
    pub ssh: Vec<Ssh>,
    /// Proxy settings, which the cache does not see.
    pub proxy: Option<ProxyEnv>,
    /// Whether the root is read-only.
    pub readonly_root: bool,
    /// Devices.
    pub devices: Vec<CdiDevice>,
    /// What the operation needs.
    pub constraints: Constraints,
}

/// A mount beside the root.
#[derive(Clone, Debug)]
pub enum MountSpec {
    /// A file system.
    Bind {
        /// The mount point.
        target: String,
        /// The file system; an empty one if absent.
        source: Option<Output>,
        /// The path within it; empty for all of it.
        selector: String,
        /// Whether it is read-only.
        readonly: bool,
        /// Whether what becomes of it is of no use to anyone.
        no_output: bool,
        /// Whether it is compared by content when the cache is asked.
        content_cache: MountContentCache,
    },
    /// A directory that outlives the build.
    Cache {
        /// The mount point.
        target: String,
        /// What it starts with; nothing if absent.
        source: Option<Output>,
        /// The path within it; empty for all of it.
        selector: String,
        /// Names the directory.
        id: String,
        /// What happens to concurrent users.
        sharing: CacheSharingOpt,
        /// Whether it is read-only.
        readonly: bool,
    },
    /// A file system in memory.
    Tmpfs {
        /// The mount point.
        target: String,
        /// The size limit in bytes; 0 for none.
        size: u64,
    },
}

/// A secret for a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// The secret.
    pub id: String,
    /// The file that holds it, if one is to.
    pub target: Option<String>,
    /// The environment variable that holds it, if one is to.
    pub env: Option<String>,
    /// The file's owner.
    pub uid: u32,
    /// The file's group.
    pub gid: u32,
    /// The file's permission bits.
    pub mode: u32,
    /// Whether the secret may lack.
    pub optional: bool,
}

/// An SSH agent for a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ssh {
    /// The agent.
    pub id: String,
    /// The socket; one in `/run/buildkit` if absent.
    pub target: Option<String>,
    /// The socket's owner.
    pub uid: u32,
    /// The socket's group.
    pub gid: u32,
    /// The socket's permission bits.
    pub mode: u32,
    /// Whether the agent may lack.
    pub optional: bool,
}

/// What a process leaves behind.
#[derive(Clone, Debug)]
pub struct RunOutputs {
    /// The root.
    pub root: State,
    /// What becomes of each mount: itself if it is read-only, nothing if no one may use it.
    pub mounts: Vec<(String, Option<Output>)>,
}

impl State {
    /// An empty file system.
    pub fn scratch() -> Self {
        Self::new(None)
    }

    /// A file system, with no settings.
    pub fn new(output: Option<Output>) -> Self {
        Self {
            output,
            dir: "/".to_owned(),
            env: EnvList::new(),
            user: String::new(),
            hostname: String::new(),
            platform: None,
            network: NetMode::Unset,
            security: SecurityMode::Sandbox,
            extra_hosts: Vec::new(),
            ulimits: Vec::new(),
            cgroup_parent: String::new(),
            valid_exit_codes: Vec::new(),
        }
    }

    /// These settings with another file system.
    #[must_use]
    pub fn with_output(&self, output: Option<Output>) -> Self {
        Self {
            output,
            ..self.clone()
        }
    }

    /// Changes the working directory, relative to the present one.
    pub fn change_dir(&mut self, dir: &str) {
        self.dir = if path::is_absolute(dir) {
            dir.to_owned()
        } else {
            path::join(&[if self.dir.is_empty() { "/" } else { &self.dir }, dir])
        };
    }

    /// The file system as an action's input.
    pub fn file_input(&self) -> FileInput<Output> {
        self.output.map_or(FileInput::Empty, FileInput::Input)
    }

    /// The owner that a text names: `user`, `user:group`, by names of this file system or by numbers.
    pub fn owner(&self, text: &str) -> Owner<Output> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        Owner {
            user: Some(self.user_ref(user)),
            group: group.map(|group| self.user_ref(group)),
        }
    }

    fn user_ref(&self, name: &str) -> UserRef<Output> {
        if name == "root" {
            return UserRef::Id(0);
        }
        match name
            .parse::<i32>()
            .ok()
            .and_then(|id| u32::try_from(id).ok())
        {
            Some(id) => UserRef::Id(id),
            None if name.is_empty() => UserRef::Id(0),
            None => UserRef::Name {
                name: name.to_owned(),
                input: self.file_input(),
            },
        }
    }

    /// Changes files, one change after the other. Relative paths are beneath the working directory.
    pub fn file(
        &self,
        builder: &mut Builder,
        changes: Vec<FileChange<Output>>,
        constraints: Constraints,
    ) -> Result<Self, BuildError> {
        if changes.is_empty() {
            return Err(BuildError::NoActions);
        }
        let last = changes.len() - 1;
        let actions = changes
            .into_iter()
            .enumerate()
            .map(|(index, change)| FileAction {
                input: match index {
                    0 => self.file_input(),
                    index => FileInput::Action(index - 1),
                },
                output: (index == last).then_some(0),
                change: self.absolute(change),
            })
            .collect();
        let output = builder.add(Op::File(FileOp { actions }), constraints);
        Ok(self.with_output(Some(output)))
    }

    fn absolute(&self, mut change: FileChange<Output>) -> FileChange<Output> {
        match &mut change {
            FileChange::Copy(copy) => {
                copy.src = path::join(&["/", &path::clean(&copy.src)]);
                copy.dest = path::normalize(&self.dir, &copy.dest, true);
            }
            FileChange::Mkfile(mkfile) => {
                mkfile.path = path::normalize(&self.dir, &mkfile.path, false);
            }
            FileChange::Mkdir(mkdir) => {
                mkdir.path = path::normalize(&self.dir, &mkdir.path, false);
            }
            FileChange::Rm(rm) => rm.path = path::normalize(&self.dir, &rm.path, false),
            FileChange::Symlink(_) => {}
        }
        change
    }

    /// Runs a process.
    pub fn run(&self, builder: &mut Builder, run: Run) -> Result<RunOutputs, BuildError> {
        if run.args.is_empty() {
            return Err(BuildError::NoArgs);
        }
        if self.dir.is_empty() {
            return Err(BuildError::NoDirectory);
        }
        let mut mounts = self.mounts(&run);
        let mut env = self.env.clone();
        let ssh = ssh_mounts(&run.ssh);
        if let Some(first) = ssh.first()
            && env.get("SSH_AUTH_SOCK").is_none()
        {
            env.set("SSH_AUTH_SOCK", first.dest.clone());
        }
        number_outputs(&mut mounts);
        let left = outputs_by_target(&mounts);
        mounts.extend(secret_mounts(&run.secrets));
        mounts.extend(ssh);
        let exec = ExecOp {
            process: self.process(run.args, &env, run.proxy),
            mounts,
            network: self.network,
            security: self.security,
            secret_env: secret_env(&run.secrets),
            devices: run.devices,
        };
        let mut constraints = run.constraints;
        if constraints.platform.is_none() {
            constraints.platform.clone_from(&self.platform);
        }
        let output = builder.add(Op::Exec(Box::new(exec)), constraints);
        let mounts: Vec<_> = left
            .into_iter()
            .map(|(target, left)| (target, left.output(output)))
            .collect();
        let root = mounts.iter().find(|(target, _)| target == "/");
        let root = self.with_output(root.and_then(|(_, output)| *output));
        Ok(RunOutputs { root, mounts })
    }

    fn process(&self, args: Vec<String>, env: &EnvList, proxy: Option<ProxyEnv>) -> Process {
        Process {
            args,
            env: env.to_vec(),
            cwd: self.dir.clone(),
            user: self.user.clone(),
            proxy,
            extra_hosts: self.extra_hosts.clone(),
            hostname: self.hostname.clone(),
            ulimits: self.ulimits.clone(),
            cgroup_parent: self.cgroup_parent.clone(),
            remove_mount_stubs_recursive: true,
            valid_exit_codes: self.valid_exit_codes.clone(),
        }
    }

    /// The root and the mounts beside it, ordered by mount point.
    fn mounts(&self, run: &Run) -> Vec<Mount<Output>> {
        let root = MountSpec::Bind {
            target: "/".to_owned(),
            source: self.output,
            selector: String::new(),
            readonly: run.readonly_root,
            no_output: false,
            content_cache: MountContentCache::Default,
        };
        let mut mounts: Vec<Mount<Output>> = std::iter::once(&root)
            .chain(&run.mounts)
            .map(mount)
            .collect();
        mounts.sort_by(|a, b| a.dest.cmp(&b.dest));
        mounts
    }
}

/// What becomes of a mount.
enum Left {
    Output(usize),
    Unchanged(Option<Output>),
    Nothing,
}

impl Left {
    fn output(self, of: Output) -> Option<Output> {
        match self {
            Self::Output(index) => Some(Builder::output_at(of, index)),
            Self::Unchanged(source) => source,
            Self::Nothing => None,
        }
    }
}

/// A mount whose output, if it has one, is numbered 0 for now.
fn mount(spec: &MountSpec) -> Mount<Output> {
    match spec.clone() {
        MountSpec::Bind {
            target,
            source,
            selector,
            readonly,
            no_output,
            content_cache,
        } => Mount {
            dest: target,
            kind: MountKind::Bind(BindMount {
                input: source,
                selector,
                readonly,
                output: (!readonly && !no_output).then_some(0),
                content_cache,
            }),
        },
        MountSpec::Cache {
            target,
            source,
            selector,
            id,
            sharing,
            readonly,
        } => Mount {
            dest: target,
            kind: MountKind::Cache(CacheMount {
                input: source,
                selector,
                id,
                sharing,
                readonly,
                output: None,
            }),
        },
        MountSpec::Tmpfs { target, size } => Mount {
            dest: target,
            kind: MountKind::Tmpfs { size },
        },
    }
}

fn number_outputs(mounts: &mut [Mount<Output>]) {
    let mut next = 0;
    for mount in mounts {
        if let MountKind::Bind(BindMount {
            output: Some(output),
            ..
        }) = &mut mount.kind
        {
            *output = next;
            next += 1;
        }
    }
}

fn outputs_by_target(mounts: &[Mount<Output>]) -> Vec<(String, Left)> {
    mounts
        .iter()
        .map(|mount| {
            let left = match &mount.kind {
                MountKind::Bind(bind) => match bind.output {
                    Some(index) => Left::Output(index),
                    None if bind.readonly => Left::Unchanged(bind.input),
                    None => Left::Nothing,
                },
                MountKind::Cache(cache) if cache.readonly => Left::Unchanged(cache.input),
                _ => Left::Nothing,
            };
            (mount.dest.clone(), left)
        })
        .collect()
}

fn secret_mounts(secrets: &[Secret]) -> Vec<Mount<Output>> {
    secrets
        .iter()
        .filter_map(|secret| {
            Some(Mount {
                dest: secret.target.clone()?,
                kind: MountKind::Secret(SecretMount {
                    id: secret.id.clone(),
                    uid: secret.uid,
                    gid: secret.gid,
                    mode: secret.mode,
                    optional: secret.optional,
                }),
            })
        })
        .collect()
}

fn secret_env(secrets: &[Secret]) -> Vec<SecretEnv> {
    secrets
        .iter()
        .filter_map(|secret| {
            Some(SecretEnv {
                id: secret.id.clone(),
                name: secret.env.clone()?,
                optional: secret.optional,
            })
        })
        .collect()
}

fn ssh_mounts(agents: &[Ssh]) -> Vec<Mount<Output>> {
    agents
        .iter()
        .enumerate()
        .map(|(index, agent)| Mount {
            dest: agent
                .target
                .clone()
                .unwrap_or_else(|| format!("/run/buildkit/ssh_agent.{index}")),
            kind: MountKind::Ssh(SshMount {
                id: agent.id.clone(),
                uid: agent.uid,
                gid: agent.gid,
                mode: agent.mode,
                optional: agent.optional,
            }),
        })
        .collect()
}
