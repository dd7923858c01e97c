//! The shape of the file, key by key; what else stands in a table has no effect.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use weld_source::registry::HostConfig;

/// Keys that have no effect, with what they are set to.
pub(super) type Rest = BTreeMap<String, toml::Value>;

#[derive(Default, Deserialize)]
pub(super) struct File {
    pub(super) root: Option<PathBuf>,
    #[serde(default)]
    pub(super) debug: bool,
    #[serde(default)]
    pub(super) trace: bool,
    #[serde(rename = "insecure-entitlements")]
    pub(super) entitlements: Option<Vec<String>>,
    #[serde(default)]
    pub(super) log: Log,
    #[serde(default)]
    pub(super) grpc: Grpc,
    #[serde(default)]
    pub(super) worker: Worker,
    #[serde(default)]
    pub(super) registry: BTreeMap<String, HostConfig>,
    #[serde(default)]
    pub(super) cdi: Cdi,
    #[serde(default)]
    pub(super) dns: Dns,
    #[serde(default)]
    pub(super) history: History,
    #[serde(default)]
    pub(super) frontend: Frontends,
    #[serde(default)]
    pub(super) system: System,
    #[serde(rename = "provenanceEnvDir")]
    pub(super) provenance_directory: Option<PathBuf>,
    /// Ours.
    #[serde(default)]
    pub(super) limits: Limits,
    #[serde(flatten)]
    pub(super) rest: Rest,
}

#[derive(Default, Deserialize)]
pub(super) struct Log {
    pub(super) format: Option<String>,
    pub(super) level: Option<String>,
    #[serde(flatten)]
    pub(super) rest: Rest,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Grpc {
    #[serde(default)]
    pub(super) address: Vec<String>,
    pub(super) debug_address: Option<String>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    #[serde(default)]
    pub(super) tls: Tls,
    #[serde(flatten)]
    pub(super) rest: Rest,
}

#[derive(Default, Deserialize)]
pub(super) struct Tls {
    pub(super) cert: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
    pub(super) ca: Option<PathBuf>,
    /// Ours.
    #[serde(default, rename = "isolateClients")]
    pub(super) isolate_clients: bool,
    #[serde(flatten)]
    pub(super) rest: Rest,
}

#[derive(Default, Deserialize)]
pub(super) struct Worker {
    #[serde(default)]
    pub(super) oci: Oci,
    pub(super) containerd: Option<Containerd>,
    #[serde(flatten)]
    pub(super) rest: Rest,
}

#[derive(Default, Deserialize)]
pub(super) struct Containerd {
    pub(super) enabled: Option<bool>,
    #[serde(flatten)]
    pub(super) rest: Rest,
}

#[derive(Default, Deserialize)]
pub(super) struct Oci {
    pub(super) enabled: Option<bool>,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) platforms: Vec<String>,
    pub(super) snapshotter: Option<String>,
    pub(super) binary: Option<PathBuf>,
    #[serde(rename = "max-parallelism")]
    pub(super) max_parallelism: Option<usize>,
    pub(super) gc: Option<bool>,
    pub(super) gckeepstorage: Option<Amount>,
    #[serde(rename = "diskLimit")]
    pub(super) disk_limit: Option<Amount>,
    #[serde(rename = "reservedSpace")]
    pub(super) reserved: Option<Amount>,
    #[serde(rename = "maxUsedSpace")]
    pub(super) max_used: Option<Amount>,
    #[serde(rename = "minFreeSpace")]
    pub(super) min_free: Option<Amount>,
    #[serde(default)]
    pub(super) gcpolicy: Vec<Policy>,
    #[serde(rename = "networkMode")]
    pub(super) network_mode: Option<String>,
    #[serde(flatten)]
    pub(super) rest: Rest,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Policy {
    #[serde(default)]
    pub(super) all: bool,
    #[serde(default)]
    pub(super) filters: Vec<String>,
    pub(super) keep_duration: Option<Amount>,
    pub(super) keep_bytes: Option<Amount>,
    pub(super) reserved_space: Option<Amount>,
    pub(super) max_used_space: Option<Amount>,
    pub(super) min_free_space: Option<Amount>,
    #[serde(flatten)]
    pub(super) rest: Rest,
}

/// A number, or a text with a unit.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Amount {
    Number(u64),
    Text(String),
}

impl Amount {
    pub(super) fn text(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.clone(),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Cdi {
    #[serde(default)]
    pub(super) disabled: bool,
    #[serde(default)]
    pub(super) spec_dirs: Vec<PathBuf>,
    #[serde(default)]
    pub(super) auto_allowed: Vec<String>,
    #[serde(flatten)]
    pub(super) rest: Rest,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Dns {
    #[serde(default)]
    pub(super) nameservers: Vec<std::net::IpAddr>,
    #[serde(default)]
    pub(super) search_domains: Vec<String>,
    #[serde(default)]
    pub(super) options: Vec<String>,
    #[serde(flatten)]
    pub(super) rest: Rest,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct History {
    pub(super) max_age: Option<Amount>,
    pub(super) max_entries: Option<usize>,
    pub(super) max_used_space: Option<Amount>,
    #[serde(flatten)]
    pub(super) rest: Rest,
}

#[derive(Default, Deserialize)]
pub(super) struct Frontends {
    #[serde(default, rename = "dockerfile.v0")]
    pub(super) dockerfile: Frontend,
    #[serde(default, rename = "gateway.v0")]
    pub(super) gateway: Frontend,
    #[serde(flatten)]
    pub(super) rest: Rest,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Frontend {
    pub(super) enabled: Option<bool>,
    #[serde(default)]
    pub(super) allowed_repositories: Vec<String>,
    #[serde(flatten)]
    pub(super) rest: Rest,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct System {
    pub(super) max_registry_concurrency: Option<usize>,
    #[serde(flatten)]
    pub(super) rest: Rest,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Limits {
    pub(super) connections: Option<usize>,
    pub(super) builds: Option<usize>,
    pub(super) streams: Option<u32>,
    pub(super) message: Option<Amount>,
    pub(super) log: Option<Amount>,
    pub(super) drain_timeout: Option<Amount>,
    #[serde(flatten)]
    pub(super) rest: Rest,
}
