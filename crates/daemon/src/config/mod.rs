//! What a daemon is told at its start.

pub mod duration;
mod file;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use weld_engine::Entitlement;
use weld_llb::Platform;

pub use crate::history::HistoryConfig;
pub use crate::session::SessionConfig;
pub use crate::telemetry::{ForwardError, OtlpConfig, OtlpProtocol};
pub use file::FileError;
pub use weld_engine::DiskSpace as Space;

/// Everything that a daemon is told once, at its start.
#[derive(Clone, Debug)]
pub struct DaemonConfig {
    /// The engine's part.
    pub engine: weld_engine::Config,
    /// Where clients connect.
    pub listen: ListenConfig,
    /// Where metrics and what is for debugging is served, such as `127.0.0.1:6060`.
    pub debug_address: Option<String>,
    /// What steps may do if the client allows it as well.
    pub entitlements: Vec<Entitlement>,
    /// What clients read of the worker.
    pub labels: BTreeMap<String, String>,
    /// What the worker builds for, instead of what this machine can run.
    pub platforms: Vec<Platform>,
    /// Rules for deleting what no build uses; `None` deletes nothing by itself.
    pub gc: Option<Vec<GcPolicy>>,
    /// What is remembered of builds.
    pub history: HistoryConfig,
    /// How clients' sessions are kept.
    pub sessions: SessionConfig,
    /// Which frontends there are.
    pub frontends: FrontendConfig,
    /// How much clients may ask for.
    pub limits: Limits,
    /// How long running builds may go on after the daemon was told to end.
    pub drain_timeout: Duration,
    /// What is logged.
    pub log: LogConfig,
    /// Where spans of builds and clients are passed on to.
    pub otlp: Option<OtlpConfig>,
    /// What was asked for and has no effect: to be told at the start.
    pub warnings: Vec<String>,
}

/// Where clients connect.
#[derive(Clone, Debug, Default)]
pub struct ListenConfig {
    /// Addresses: `unix://PATH`, `tcp://HOST:PORT`, `fd://`.
    pub addresses: Vec<String>,
    /// The owner of unix sockets.
    pub uid: Option<u32>,
    /// The group of unix sockets, which may connect.
    pub gid: Option<u32>,
    /// The server's certificate, for TCP.
    pub tls: Option<TlsConfig>,
    /// Whether TCP may go without TLS.
    pub allow_plain_tcp: bool,
    /// Whether clients with different certificates share no cache.
    pub isolate_clients: bool,
}

impl ListenConfig {
    /// Whether a socket lies in a directory, or below.
    pub(crate) fn lies_beneath(&self, directory: &Path) -> bool {
        let paths = self.addresses.iter();
        let mut paths = paths.filter_map(|address| address.strip_prefix("unix://"));
        paths.any(|path| Path::new(path).starts_with(directory))
    }
}

/// Files of certificates, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// The server's certificate, with those that lead to a root.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Who signs clients' certificates; without it clients need none.
    pub ca: Option<PathBuf>,
}

/// A rule for deleting what no build uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GcPolicy {
    /// Also what frontends and internals use.
    pub all: bool,
    /// Only what matches one of these.
    pub filters: Vec<String>,
    /// Keep what was used within this time.
    pub keep_duration: Option<Duration>,
    /// Keep at least this much.
    pub reserved: Option<Space>,
    /// Keep at most this much.
    pub max_used: Option<Space>,
    /// Leave this much of the disk free.
    pub min_free: Option<Space>,
}

/// Which frontends there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontendConfig {
    /// Whether there is `dockerfile.v0`.
    pub dockerfile: bool,
    /// Whether there is `gateway.v0`.
    pub gateway: bool,
    /// The repositories that `gateway.v0` runs images of; empty for all.
    pub gateway_repositories: Vec<String>,
}

impl Default for FrontendConfig {
    fn default() -> Self {
        Self {
            dockerfile: true,
            gateway: true,
            gateway_repositories: Vec::new(),
        }
    }
}

/// How much clients may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Builds at once.
    pub builds: usize,
    /// Calls at once on one connection.
    pub streams: u32,
    /// Bytes of one message that a client sends.
    pub message: usize,
    /// Bytes of one message that a client is sent.
    pub answer: usize,
    /// Bytes that the steps of one build may write before no more is kept.
    pub log: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            builds: 4096,
            streams: 1024,
            // As BuildKit's clients have it.
            message: 16 << 20,
            answer: 16 << 20,
            log: 1 << 30,
        }
    }
}

/// What is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogConfig {
    /// How.
    pub format: LogFormat,
    /// How much.
    pub level: LogLevel,
}

/// How something is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// What failed.
    Error,
    /// And what should be looked at.
    Warn,
    /// And what happens.
    #[default]
    Info,
    /// And what helps to find a fault.
    Debug,
    /// And all the rest.
    Trace,
}

/// A text that names no format or level.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unsupported log {what} {value:?}: known are {known}")]
pub struct LogError {
    what: &'static str,
    value: String,
    known: &'static str,
}

impl std::str::FromStr for LogFormat {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, LogError> {
        match text {
            "" | "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(LogError {
                what: "format",
                value: text.to_owned(),
                known: "text and json",
            }),
        }
    }
}

impl std::str::FromStr for LogLevel {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, LogError> {
        match text.to_ascii_lowercase().as_str() {
            "panic" | "fatal" | "error" => Ok(Self::Error),
            "warn" | "warning" => Ok(Self::Warn),
            "" | "info" => Ok(Self::Info),
            "debug" => Ok(Self::Debug),
            "trace" => Ok(Self::Trace),
            _ => Err(LogError {
                what: "level",
                value: text.to_owned(),
                known: "error, warn, info, debug and trace",
            }),
        }
    }
}

impl DaemonConfig {
    /// The defaults, with the state in `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            engine: weld_engine::Config::new(root),
            listen: ListenConfig::default(),
            debug_address: None,
            entitlements: Vec::new(),
            labels: BTreeMap::new(),
            platforms: Vec::new(),
            gc: Some(default_gc(GcSizes::default())),
            history: HistoryConfig::default(),
            sessions: SessionConfig::default(),
            frontends: FrontendConfig::default(),
            limits: Limits::default(),
            drain_timeout: Duration::from_secs(60),
            log: LogConfig::default(),
            otlp: None,
            warnings: Vec::new(),
        }
    }
}

/// The sizes that the default rules keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcSizes {
    /// Keep at least this much.
    pub reserved: Option<Space>,
    /// Keep at most this much.
    pub max_used: Option<Space>,
    /// Leave this much of the disk free.
    pub min_free: Option<Space>,
}

/// The rules that BuildKit has where none are configured: first what is made again most easily,
/// then what was not used for two months, then everything, then internals.
pub fn default_gc(sizes: GcSizes) -> Vec<GcPolicy> {
    let sizes = match sizes {
        GcSizes {
            reserved: None,
            max_used: None,
            min_free: None,
        } => GcSizes {
            reserved: Some(Space::AtMost(10, 10_000_000_000)),
            max_used: Some(Space::AtMost(60, 100_000_000_000)),
            min_free: Some(Space::Percent(20)),
        },
        sizes => sizes,
    };
    let keep = GcPolicy {
        reserved: sizes.reserved,
        max_used: sizes.max_used,
        min_free: sizes.min_free,
        ..GcPolicy::default()
    };
    vec![
        GcPolicy {
            filters: ["source.local", "exec.cachemount", "source.git.checkout"]
                .map(|kind| format!("type=={kind}"))
                .to_vec(),
            keep_duration: Some(Duration::from_secs(48 * 3600)),
            max_used: Some(Space::Bytes(512_000_000)),
            ..GcPolicy::default()
        },
        GcPolicy {
            keep_duration: Some(Duration::from_secs(60 * 24 * 3600)),
            ..keep.clone()
        },
        keep.clone(),
        GcPolicy { all: true, ..keep },
    ]
}
