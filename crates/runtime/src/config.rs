//! What a [`Runtime`](crate::Runtime) is told once, at its start.

use std::net::IpAddr;
use std::path::PathBuf;

/// How steps are run, and where the runtime keeps its few files.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// Which runtime runs the steps.
    pub kind: RuntimeKind,
    /// A directory that this runtime alone uses: an empty mount point, the lock, and the bundles of
    /// an external runtime. Created if missing.
    pub state_dir: PathBuf,
    /// Where the cgroups of the steps are made.
    pub cgroup: CgroupConfig,
    /// Name resolution of the steps.
    pub dns: DnsConfig,
    /// The out-of-memory score adjustment of the steps (-1000 to 1000); `None` inherits.
    pub oom_score_adj: Option<i16>,
}

impl RuntimeConfig {
    /// The embedded runtime with default settings, keeping its state in `state_dir`.
    #[must_use]
    pub fn embedded(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            kind: RuntimeKind::Embedded,
            state_dir: state_dir.into(),
            cgroup: CgroupConfig::default(),
            dns: DnsConfig::default(),
            oom_score_adj: None,
        }
    }
}

/// The program that sets up the sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeKind {
    /// This crate's own code.
    Embedded,
    /// An OCI runtime with runc's command line, as a path or a name looked up in `$PATH`.
    Oci(PathBuf),
}

/// Where the cgroups of the steps are made.
#[derive(Clone, Debug)]
pub struct CgroupConfig {
    /// Whether steps get cgroups.
    pub mode: CgroupMode,
    /// The cgroup below which the steps' cgroups are made, relative to the root of each hierarchy,
    /// for steps that do not name one themselves.
    pub parent: PathBuf,
}

impl Default for CgroupConfig {
    fn default() -> Self {
        Self {
            mode: CgroupMode::Auto,
            parent: PathBuf::from("/"),
        }
    }
}

/// Whether steps get cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupMode {
    /// Where the system lets us make them. Without them a step still dies with its PID namespace,
    /// but limits cannot be set and an out-of-memory kill is not told from another kill.
    Auto,
    /// Never.
    Off,
}

/// Name resolution of the steps: what `/etc/resolv.conf` says in the sandbox. Empty fields are
/// taken from the host's file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsConfig {
    /// Name servers.
    pub nameservers: Vec<IpAddr>,
    /// Search domains.
    pub search: Vec<String>,
    /// Resolver options such as `ndots:1`.
    pub options: Vec<String>,
}
