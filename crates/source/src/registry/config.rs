use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::retry::RetryPolicy;
use crate::transport::{Timeouts, Tls, TransportError};

/// How registries are reached. [`hosts`](Self::hosts) has the form of `[registry."host"]` in
/// `buildkitd.toml`.
#[derive(Clone, Debug)]
pub struct RegistryConfig {
    /// What is particular to a registry, by its name in references, or to a mirror, by its host.
    pub hosts: BTreeMap<String, HostConfig>,
    /// How many blobs are transferred at a time.
    pub parallel: usize,
    /// When failed requests are made again.
    pub retry: RetryPolicy,
    /// How long to wait for a registry.
    pub timeouts: Timeouts,
    /// Uploads in pieces of this size, in bytes, for registries that limit requests; in one
    /// piece if `None`.
    pub upload_chunk: Option<u64>,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            hosts: BTreeMap::new(),
            parallel: 6,
            retry: RetryPolicy::default(),
            timeouts: Timeouts::default(),
            upload_chunk: None,
        }
    }
}

/// What is particular to one registry or mirror.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostConfig {
    /// Registries to ask first, in this order: `host[:port][/path]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<String>,
    /// Whether to speak plain HTTP. Loopback addresses do unless this says no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<bool>,
    /// Whether to accept any certificate; with [`http`](Self::http), to fall back to plain HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub insecure: Option<bool>,
    /// Files of certificates to trust beside the system's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ca: Vec<PathBuf>,
    /// The client's own certificate, at most one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keypair: Vec<KeyPair>,
    /// Directories with `*.crt`, `*.cert` and `*.key` files, as docker's `certs.d` has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tlsconfigdir: Vec<PathBuf>,
    /// What it may be used for; by default all, for a mirror all but pushing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Vec<Capability>>,
}

/// Files of a client's certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyPair {
    /// The private key, PEM.
    pub key: PathBuf,
    /// The certificate, PEM.
    pub cert: PathBuf,
}

/// What a registry or mirror may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Capability {
    /// To fetch by digest.
    Pull,
    /// To look up what a tag means.
    Resolve,
    /// To push.
    Push,
}

/// Why a registry's settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A mirror is no `host[:port][/path]`.
    #[error("registry {registry}: {mirror:?} is not a mirror's host[:port][/path]")]
    Mirror {
        /// The registry that has it.
        registry: String,
        /// The mirror.
        mirror: String,
    },
    /// There are several key pairs.
    #[error("registry {registry}: more than one keypair is not supported")]
    KeyPairs {
        /// The registry that has them.
        registry: String,
    },
    /// A directory of certificates cannot be read.
    #[error("registry {registry}: cannot read {path}: {source}", path = path.display())]
    Directory {
        /// The registry that has it.
        registry: String,
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The client could not be set up.
    #[error("registry {registry}: {source}")]
    Transport {
        /// The registry that has it.
        registry: String,
        /// Why.
        source: TransportError,
    },
}

impl HostConfig {
    pub(super) fn tls(&self, registry: &str) -> Result<Tls, ConfigError> {
        let mut ca = self.ca.clone();
        let mut pairs = self.keypair.clone();
        for directory in &self.tlsconfigdir {
            let files = files_of(directory).map_err(|source| ConfigError::Directory {
                registry: registry.to_owned(),
                path: directory.clone(),
                source,
            })?;
            for file in files {
                match file.extension().and_then(|extension| extension.to_str()) {
                    Some("crt") => ca.push(file),
                    Some("cert") => pairs.push(KeyPair {
                        key: file.with_extension("key"),
                        cert: file,
                    }),
                    _ => {}
                }
            }
        }
        if pairs.len() > 1 {
            return Err(ConfigError::KeyPairs {
                registry: registry.to_owned(),
            });
        }
        Ok(Tls {
            insecure: self.insecure.unwrap_or(false),
            ca,
            identity: pairs.pop().map(|pair| (pair.cert, pair.key)),
        })
    }
}

/// The files of a directory, sorted; none if it is not there.
fn files_of(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut files = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()?;
    files.sort();
    Ok(files)
}
