//! One step as data: what to run, on which file system, with which rights.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crate::agent::AgentSocket;

/// The hostname of a step that names none.
pub const DEFAULT_HOSTNAME: &str = "buildkitsandbox";

/// One step to run in a sandbox.
#[derive(Debug)]
pub struct StepSpec {
    /// A name for the step, unique among the running ones: letters, digits, `_`, `-`, `.`, at most
    /// 128 bytes, first a letter or digit.
    pub id: String,
    /// The root file system.
    pub root: Source,
    /// Whether the root file system is mounted read-only.
    pub read_only_root: bool,
    /// More mounts, made in this order. Of two with the same target the later one counts. A target
    /// such as `/dev/shm` or `/etc/hosts` replaces the sandbox's own mount there.
    pub mounts: Vec<StepMount>,
    /// Whether directories created above a missing mount target are removed after the step like the
    /// target itself, if they are still empty.
    pub remove_stub_parents: bool,
    /// Secrets, each a read-only file that exists in memory and inside the sandbox only.
    pub secrets: Vec<Secret>,
    /// Sockets that lead to SSH agents or other services outside of the sandbox.
    pub agents: Vec<AgentSocket>,
    /// The program and its arguments. A name without `/` is looked up in the `PATH` of `env`.
    pub args: Vec<String>,
    /// `NAME=value` entries. `HOME` is added from the image's passwd file when missing.
    pub env: Vec<String>,
    /// The working directory, absolute. Created, owned by the step's user, if missing.
    pub cwd: PathBuf,
    /// Who runs the program.
    pub user: User,
    /// Groups that it is in beyond those of its user.
    pub extra_groups: Vec<u32>,
    /// The hostname; empty for [`DEFAULT_HOSTNAME`].
    pub hostname: String,
    /// Lines added to `/etc/hosts`.
    pub extra_hosts: Vec<(String, IpAddr)>,
    /// The network that the step sees.
    pub network: Network,
    /// The rights of the step.
    pub security: Security,
    /// Resource limits of the process (`setrlimit`).
    pub ulimits: Vec<Ulimit>,
    /// The size of `/dev/shm` in bytes; `None` for 64 MiB.
    pub shm_size: Option<u64>,
    /// Limits of the step's cgroup.
    pub resources: Resources,
    /// The cgroup below which the step's own is made; `None` for the configured one.
    pub cgroup_parent: Option<PathBuf>,
    /// Device nodes beyond the standard ones.
    pub devices: Vec<Device>,
}

impl StepSpec {
    /// A step with default settings: root in a sandbox with the host's network, in `/`.
    #[must_use]
    pub fn new(id: impl Into<String>, root: Source, args: Vec<String>) -> Self {
        Self {
            id: id.into(),
            root,
            read_only_root: false,
            mounts: Vec::new(),
            remove_stub_parents: false,
            secrets: Vec::new(),
            agents: Vec::new(),
            args,
            env: Vec::new(),
            cwd: PathBuf::from("/"),
            user: User::default(),
            extra_groups: Vec::new(),
            hostname: String::new(),
            extra_hosts: Vec::new(),
            network: Network::Host,
            security: Security::Sandbox,
            ulimits: Vec::new(),
            shm_size: None,
            resources: Resources::default(),
            cgroup_parent: None,
            devices: Vec::new(),
        }
    }

    /// The hostname that the step gets.
    pub(crate) fn hostname(&self) -> &str {
        match self.hostname.as_str() {
            "" => DEFAULT_HOSTNAME,
            name => name,
        }
    }
}

/// A file tree described as data; mounted inside the step's own mount namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountPlan {
    /// An overlay mount.
    Overlay(Overlay),
    /// The tree below a host path, with the mounts in it.
    Bind(PathBuf),
}

/// An overlay mount as data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// Lower directories, topmost first. At least one.
    pub lowers: Vec<PathBuf>,
    /// The upper and the work directory; without them the mount is read-only.
    pub upper: Option<UpperDirs>,
    /// Further options as `(name, value)`, e.g. `("volatile", None)` or `("index", Some("off"))`.
    pub options: Vec<(String, Option<String>)>,
}

/// Where an overlay mount writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpperDirs {
    /// The upper directory.
    pub upper: PathBuf,
    /// The work directory, empty, on the same file system.
    pub work: PathBuf,
}

/// Where a mount's content comes from.
#[derive(Debug)]
pub enum Source {
    /// Mounted by the runtime. Equal plans in one step share one mount.
    Plan(MountPlan),
    /// A detached mount (`fsmount`, `open_tree`), consumed by the step.
    Detached(OwnedFd),
    /// An empty file system in memory.
    Tmpfs {
        /// The largest size in bytes; `None` for the kernel's default, half of the memory.
        size: Option<u64>,
    },
}

/// One mount of a step besides its root.
#[derive(Debug)]
pub struct StepMount {
    /// What is mounted.
    pub source: Source,
    /// The file or directory within the source, resolved without leaving it; empty or `/` for all.
    pub sub_path: PathBuf,
    /// Where in the sandbox, absolute; resolved without leaving it. Created if missing, and what was
    /// created is removed again after the step if it is still empty.
    pub target: PathBuf,
    /// Whether the mount is read-only.
    pub read_only: bool,
    /// Whether programs on it run without the rights that their set-user-id bits would give.
    pub no_suid: bool,
}

/// A secret file.
#[derive(Clone)]
pub struct Secret {
    /// Where in the sandbox, absolute.
    pub target: PathBuf,
    /// The content.
    pub data: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret")
            .field("target", &self.target)
            .field("len", &self.data.len())
            .field("mode", &self.mode)
            .field("uid", &self.uid)
            .field("gid", &self.gid)
            .finish()
    }
}

/// Who runs a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum User {
    /// Numeric ids, used as they are.
    Ids(UserIds),
    /// `name`, `uid`, `name:group`, `uid:gid`, … as in `USER`, looked up in the files of the root
    /// file system. Empty for root.
    Named(String),
}

impl Default for User {
    fn default() -> Self {
        Self::Named(String::new())
    }
}

/// The numeric identity of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserIds {
    /// The user.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// The network that a step sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// The network of this process.
    Host,
    /// A loopback interface of its own and nothing else.
    None,
}

/// The rights of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// Docker's default capabilities, system call filter, devices and masked paths.
    Sandbox,
    /// All capabilities and devices of this process, no filter, nothing masked.
    Insecure,
}

/// One resource limit of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ulimit {
    /// The name as in `ulimit` options of docker, e.g. `nofile`.
    pub name: String,
    /// The soft limit; -1 for none.
    pub soft: i64,
    /// The hard limit; -1 for none.
    pub hard: i64,
}

/// Limits of a step's cgroup; zero or empty leaves a limit unset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Memory in bytes.
    pub memory: i64,
    /// Memory plus swap in bytes; -1 for unlimited swap.
    pub memory_swap: i64,
    /// Relative CPU weight, 1024 by default.
    pub cpu_shares: u64,
    /// CPU time in microseconds per period.
    pub cpu_quota: i64,
    /// The period in microseconds.
    pub cpu_period: u64,
    /// CPUs, e.g. `0-2,4`.
    pub cpuset_cpus: String,
    /// Memory nodes.
    pub cpuset_mems: String,
}

impl Resources {
    /// Whether no limit is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A device node made in the sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Where, below `/dev`.
    pub path: PathBuf,
    /// Character or block device.
    pub kind: DeviceKind,
    /// The major number.
    pub major: u32,
    /// The minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// What the step may do with it.
    pub access: DeviceAccess,
}

/// What a step may do with a device, whatever the bits of its node say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceAccess {
    /// Whether it may be read.
    pub read: bool,
    /// Whether it may be written.
    pub write: bool,
}

impl DeviceAccess {
    /// Everything.
    pub const FULL: Self = Self {
        read: true,
        write: true,
    };

    /// As cgroups have it; nodes may be made of all devices.
    pub(crate) const fn letters(self) -> &'static str {
        match (self.read, self.write) {
            (true, true) => "rwm",
            (true, false) => "rm",
            (false, true) => "wm",
            (false, false) => "m",
        }
    }
}

/// The kind of a device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// A character device.
    Char,
    /// A block device.
    Block,
}
