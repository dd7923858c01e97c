//! The engine's configuration: where its state is, how steps run, how registries are reached.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use weld_op::DeviceConfig;
use weld_source::registry::{HostConfig, RegistryConfig};

use crate::disk_space::DiskSpace;

/// Everything an engine is told once, at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// The state directory.
    pub root: PathBuf,
    /// What runs the steps.
    pub runtime: RuntimeKind,
    /// How snapshots are kept.
    pub snapshotter: SnapshotterKind,
    /// How registries are reached.
    pub registry: RegistryConfig,
    /// How many steps run at once; `None` for four for each processor: most of them wait for
    /// disks and networks.
    pub max_parallelism: Option<usize>,
    /// How much the state directory may take of its disk; `None` for all that there is.
    pub disk_limit: Option<DiskSpace>,
    /// Where devices are described that steps may ask for.
    pub devices: DeviceConfig,
    /// Name resolution of steps.
    pub dns: weld_runtime::DnsConfig,
    /// What provenance says of this builder beside what it knows itself.
    pub provenance_environment: BTreeMap<String, serde_json::Value>,
    /// What to do if the disk of the state directory is full.
    pub on_full_disk: weld_store::OnFullDisk,
    /// What to do if its database is damaged.
    pub on_damage: weld_store::OnDamage,
    /// Whether to look for damage in all of the database.
    pub verify_database: bool,
}

/// What runs the steps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RuntimeKind {
    /// Weldkit's own runtime.
    #[default]
    Embedded,
    /// An OCI runtime: `runc`, `crun`, or a path.
    Oci(PathBuf),
}

/// How snapshots are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SnapshotterKind {
    /// With overlayfs where it can be had, else as copies.
    #[default]
    Auto,
    /// With overlayfs.
    Overlay,
    /// As copies.
    Copy,
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML of the right shape.
    #[error("the configuration {path} is not valid: {source}", path = path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, and in which line.
        source: Box<toml::de::Error>,
    },
    /// A value that cannot be.
    #[error("the configuration {path}: {key}: {reason}", path = path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// There is no home directory to keep state in.
    #[error(
        "neither XDG_DATA_HOME nor HOME is set: name a state directory with --root or WELD_ROOT"
    )]
    NoHome,
}

/// The file's shape; the keys are those of `buildkitd.toml` where it has them.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    root: Option<PathBuf>,
    #[serde(default)]
    worker: Worker,
    #[serde(default)]
    cdi: Cdi,
    #[serde(default)]
    dns: Dns,
    #[serde(default)]
    registry: BTreeMap<String, HostConfig>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Worker {
    #[serde(default)]
    oci: Oci,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Oci {
    /// An OCI runtime in place of the embedded one.
    binary: Option<PathBuf>,
    /// `auto`, `overlayfs` or `native`.
    snapshotter: Option<String>,
    #[serde(rename = "max-parallelism")]
    max_parallelism: Option<usize>,
    /// How much the state directory may hold.
    #[serde(rename = "diskLimit")]
    disk_limit: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cdi {
    #[serde(default)]
    disabled: bool,
    #[serde(rename = "specDirs")]
    directories: Option<Vec<PathBuf>>,
    #[serde(default, rename = "autoAllowed")]
    auto_allowed: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Dns {
    #[serde(default)]
    nameservers: Vec<std::net::IpAddr>,
    #[serde(default, rename = "searchDomains")]
    search_domains: Vec<String>,
    #[serde(default)]
    options: Vec<String>,
}

impl Config {
    /// The defaults, with `root` as the state directory.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            runtime: RuntimeKind::default(),
            snapshotter: SnapshotterKind::default(),
            registry: RegistryConfig::default(),
            max_parallelism: None,
            disk_limit: None,
            devices: DeviceConfig::default(),
            dns: weld_runtime::DnsConfig::default(),
            provenance_environment: BTreeMap::new(),
            on_full_disk: weld_store::OnFullDisk::default(),
            // It is a cache: a build that takes longer is better than none.
            on_damage: weld_store::OnDamage::StartAnew,
            verify_database: false,
        }
    }

    /// Reads `file`, or the first of the default places where there is one, or none.
    ///
    /// # Errors
    /// [`ConfigError`] if a named file is not there, or if any is not valid.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let found = match file {
            Some(path) => Some((path.to_owned(), read(path)?)),
            None => default_files()
                .into_iter()
                .find_map(|path| Some((path.clone(), read(&path).ok()?))),
        };
        let Some((path, text)) = found else {
            return Ok(Self::new(default_root()?));
        };
        let file: File = toml::from_str(&text).map_err(|source| ConfigError::Invalid {
            path: path.clone(),
            source: Box::new(source),
        })?;
        Self::from_file(file, &path)
    }

    fn from_file(file: File, path: &Path) -> Result<Self, ConfigError> {
        let mut config = Self::new(match file.root {
            Some(root) => root,
            None => default_root()?,
        });
        let value = |key, reason| ConfigError::Value {
            path: path.to_owned(),
            key,
            reason,
        };
        config.snapshotter = match file.worker.oci.snapshotter.as_deref() {
            None | Some("auto") => SnapshotterKind::Auto,
            Some("overlayfs" | "overlay") => SnapshotterKind::Overlay,
            Some("native" | "copy") => SnapshotterKind::Copy,
            Some(other) => {
                let reason = format!("{other:?} is none of auto, overlayfs and native");
                return Err(value("worker.oci.snapshotter", reason));
            }
        };
        if let Some(binary) = file.worker.oci.binary {
            config.runtime = RuntimeKind::Oci(binary);
        }
        if file.worker.oci.max_parallelism == Some(0) {
            return Err(value(
                "worker.oci.max-parallelism",
                "must be at least 1".into(),
            ));
        }
        config.max_parallelism = file.worker.oci.max_parallelism;
        if let Some(text) = file.worker.oci.disk_limit {
            let limit = DiskSpace::parse_limit(&text)
                .map_err(|reason| value("worker.oci.diskLimit", reason))?;
            config.disk_limit = Some(limit);
        }
        config.devices.disabled = file.cdi.disabled;
        config.devices.auto_allowed = file.cdi.auto_allowed;
        if let Some(directories) = file.cdi.directories {
            config.devices.directories = directories;
        }
        config.dns = weld_runtime::DnsConfig {
            nameservers: file.dns.nameservers,
            search: file.dns.search_domains,
            options: file.dns.options,
        };
        config.registry.hosts = file.registry;
        Ok(config)
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn default_files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    if !is_root() {
        let home = std::env::var_os("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".config")));
        files.extend(home.map(|home| home.join("weld/weld.toml")));
    }
    files.push("/etc/weld/weld.toml".into());
    files
}

fn default_root() -> Result<PathBuf, ConfigError> {
    if is_root() {
        return Ok("/var/lib/weld".into());
    }
    std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/share")))
        .map(|data| data.join("weld"))
        .ok_or(ConfigError::NoHome)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Config::load(Some(file.path())).map_err(|error| error.to_string())
    }

    #[test]
    fn a_full_file() {
        let config = load(
            r#"
            root = "/state"
            [worker.oci]
            binary = "crun"
            snapshotter = "native"
            max-parallelism = 3
            diskLimit = "20GB"
            [dns]
            nameservers = ["10.0.0.1"]
            searchDomains = ["example.org"]
            [registry."docker.io"]
            mirrors = ["mirror.example:5000"]
            [registry."mirror.example:5000"]
            http = true
            insecure = true
            "#,
        )
        .unwrap();
        assert_eq!(config.root, Path::new("/state"));
        assert_eq!(config.runtime, RuntimeKind::Oci("crun".into()));
        assert_eq!(config.snapshotter, SnapshotterKind::Copy);
        assert_eq!(config.max_parallelism, Some(3));
        assert_eq!(config.disk_limit, Some(DiskSpace::Bytes(20 << 30)));
        assert_eq!(
            config.registry.hosts["docker.io"].mirrors,
            ["mirror.example:5000"]
        );
        assert_eq!(
            config.registry.hosts["mirror.example:5000"].http,
            Some(true)
        );
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        for (text, part) in [
            ("rot = \"/x\"", "unknown field `rot`"),
            (
                "[worker.oci]\nsnapshotter = \"zfs\"",
                "worker.oci.snapshotter: \"zfs\" is none of",
            ),
            ("[worker.oci]\nmax-parallelism = 0", "at least 1"),
            (
                "[worker.oci]\ndiskLimit = \"much\"",
                "worker.oci.diskLimit: invalid disk space much",
            ),
            ("[worker.oci]\ndiskLimit = \"1MB\"", "at least 64 MiB"),
            (
                "[registry.\"a\"]\nmirror = [\"b\"]",
                "unknown field `mirror`",
            ),
        ] {
            let error = load(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        let error = Config::load(Some(Path::new("/nowhere/weld.toml")))
            .unwrap_err()
            .to_string();
        assert!(error.contains("/nowhere/weld.toml"), "{error}");
    }
}
