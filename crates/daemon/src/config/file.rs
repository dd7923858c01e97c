//! `buildkitd.toml`. A key that has no effect here is no error, so that a file can be taken over as
//! it is, but the daemon says so at its start.

mod form;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use weld_engine::{Entitlement, RuntimeKind, SnapshotterKind};
use weld_llb::Platform;

use self::form::{Amount, File, Frontend, Grpc, Limits, Log, Oci, Policy, Rest};
use super::{DaemonConfig, GcPolicy, GcSizes, Space, TlsConfig, default_gc, duration};

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("failed to load config from {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not TOML of the right shape.
    #[error("failed to parse config {path}: {source}", path = path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, and in which line.
        source: Box<toml::de::Error>,
    },
    /// A value cannot be.
    #[error("config {path}: {key}: {reason}", path = path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What is wrong.
        reason: String,
    },
}

/// Where files are that say more of this builder in provenance.
const PROVENANCE_DIRECTORY: &str = "/etc/buildkit/provenance.d";
/// What provenance says of itself.
const OWN_PROVENANCE: [&str; 4] = [
    "buildConfig",
    "builderPlatform",
    "dockerfileVersion",
    "platform",
];

impl DaemonConfig {
    /// Takes over what a file says. A default file that is not there says nothing.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn read(&mut self, path: &Path, must_exist: bool) -> Result<(), FileError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if !must_exist && error.kind() == std::io::ErrorKind::NotFound => {
                String::new()
            }
            Err(source) => {
                return Err(FileError::Read {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        let file: File = toml::from_str(&text).map_err(|source| FileError::Invalid {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        self.warnings.extend(unsupported(&file));
        self.take(file).map_err(|(key, reason)| FileError::Value {
            path: path.to_owned(),
            key,
            reason,
        })
    }

    fn take(&mut self, file: File) -> Result<(), Wrong> {
        if let Some(root) = file.root {
            self.engine.root = root;
        }
        if let Some(names) = &file.entitlements {
            self.set_entitlements(names)
                .map_err(|reason| ("insecure-entitlements", reason))?;
        }
        self.take_log(&file.log, file.debug, file.trace)?;
        self.take_grpc(file.grpc)?;
        self.take_oci(file.worker.oci)?;
        self.engine.registry.hosts.extend(file.registry);
        if let Some(parallel) = file.system.max_registry_concurrency {
            self.engine.registry.parallel =
                at_least_one("system.maxRegistryConcurrency", parallel)?;
        }
        self.take_provenance(file.provenance_directory)?;
        self.engine.devices.disabled = file.cdi.disabled;
        self.engine.devices.auto_allowed = file.cdi.auto_allowed;
        if !file.cdi.spec_dirs.is_empty() {
            self.engine.devices.directories = file.cdi.spec_dirs;
        }
        self.engine.dns.nameservers = file.dns.nameservers;
        self.engine.dns.search = file.dns.search_domains;
        self.engine.dns.options = file.dns.options;
        if let Some(age) = time("history.maxAge", file.history.max_age.as_ref())? {
            self.history.max_age = age;
        }
        if let Some(entries) = file.history.max_entries {
            self.history.max_entries = entries;
        }
        let most = file.history.max_used_space.as_ref();
        if let Some(most) = space("history.maxUsedSpace", most)? {
            self.history.max_used = most;
        }
        let enabled = |frontend: &Frontend| frontend.enabled.unwrap_or(true);
        self.frontends.dockerfile = enabled(&file.frontend.dockerfile);
        self.frontends.gateway = enabled(&file.frontend.gateway);
        self.frontends.gateway_repositories = file.frontend.gateway.allowed_repositories;
        self.take_limits(&file.limits)
    }

    /// Sets what the daemon allows; names that are none are told.
    ///
    /// # Errors
    /// What is wrong with a name.
    pub fn set_entitlements(&mut self, names: &[String]) -> Result<(), String> {
        self.entitlements.clear();
        for name in names {
            let entitlement: Entitlement = name
                .parse()
                .map_err(|_| format!("invalid entitlement : {name}"))?;
            self.entitlements.push(entitlement);
        }
        Ok(())
    }

    /// What provenance says of this builder: the fields of all JSON files of a directory, later files
    /// before earlier ones.
    fn take_provenance(&mut self, directory: Option<PathBuf>) -> Result<(), Wrong> {
        let directory = directory.filter(|directory| !directory.as_os_str().is_empty());
        let directory = directory.unwrap_or_else(|| PathBuf::from(PROVENANCE_DIRECTORY));
        let failed = |error: &dyn std::fmt::Display| {
            let reason = format!("{}: {error}", directory.display());
            ("provenanceEnvDir", reason)
        };
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(&error)),
        };
        let mut files = Vec::new();
        for entry in entries {
            let path = entry.map_err(|error| failed(&error))?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "json")
                && path.is_file()
            {
                files.push(path);
            }
        }
        files.sort();
        for path in files {
            let text = std::fs::read(&path).map_err(|error| failed(&error))?;
            let fields: BTreeMap<String, serde_json::Value> =
                serde_json::from_slice(&text).map_err(|error| failed(&error))?;
            if let Some(own) = OWN_PROVENANCE.iter().find(|key| fields.contains_key(**key)) {
                return Err(failed(&format!(
                    "{own:?} is said by the builder itself and cannot be set"
                )));
            }
            self.engine.provenance_environment.extend(fields);
        }
        Ok(())
    }

    fn take_log(&mut self, log: &Log, debug: bool, trace: bool) -> Result<(), Wrong> {
        let level = match (&log.level, debug, trace) {
            (Some(level), _, _) => level,
            (None, _, true) => "trace",
            (None, true, false) => "debug",
            (None, false, false) => "",
        };
        if !level.is_empty() {
            let level = level.parse();
            self.log.level =
                level.map_err(|error: super::LogError| ("log.level", error.to_string()))?;
        }
        if let Some(format) = &log.format {
            let format = format.parse();
            self.log.format =
                format.map_err(|error: super::LogError| ("log.format", error.to_string()))?;
        }
        Ok(())
    }

    fn take_grpc(&mut self, grpc: Grpc) -> Result<(), Wrong> {
        if !grpc.address.is_empty() {
            self.listen.addresses = grpc.address;
        }
        self.listen.uid = grpc.uid.or(self.listen.uid);
        self.listen.gid = grpc.gid.or(self.listen.gid);
        let set = |text: &String| !text.is_empty();
        self.debug_address = grpc.debug_address.filter(set).or(self.debug_address.take());
        let path = |path: Option<PathBuf>| path.filter(|path| !path.as_os_str().is_empty());
        let tls = grpc.tls;
        self.listen.isolate_clients = tls.isolate_clients;
        self.listen.tls = match (path(tls.cert), path(tls.key)) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some(TlsConfig {
                cert,
                key,
                ca: path(tls.ca),
            }),
            _ => {
                let reason = "you must specify key and cert file if one is specified";
                return Err(("grpc.tls", reason.to_owned()));
            }
        };
        Ok(())
    }

    fn take_oci(&mut self, oci: Oci) -> Result<(), Wrong> {
        self.labels.extend(oci.labels);
        self.set_platforms(&oci.platforms)
            .map_err(|reason| ("worker.oci.platforms", reason))?;
        if let Some(name) = &oci.snapshotter {
            self.set_snapshotter(name)
                .map_err(|reason| ("worker.oci.snapshotter", reason))?;
        }
        if let Some(binary) = oci.binary.filter(|binary| !binary.as_os_str().is_empty()) {
            self.engine.runtime = RuntimeKind::Oci(binary);
        }
        if let Some(parallelism) = oci.max_parallelism.filter(|parallelism| *parallelism > 0) {
            self.engine.max_parallelism = Some(parallelism);
        }
        if let Some(limit) = &oci.disk_limit {
            let limit = Space::parse_limit(&limit.text());
            self.engine.disk_limit =
                Some(limit.map_err(|reason| ("worker.oci.diskLimit", reason))?);
        }
        self.gc = match oci.gc {
            Some(false) => None,
            _ if oci.gcpolicy.is_empty() => Some(default_gc(GcSizes {
                reserved: space("worker.oci.reservedSpace", oci.reserved.as_ref())?.or(space(
                    "worker.oci.gckeepstorage",
                    oci.gckeepstorage.as_ref(),
                )?),
                max_used: space("worker.oci.maxUsedSpace", oci.max_used.as_ref())?,
                min_free: space("worker.oci.minFreeSpace", oci.min_free.as_ref())?,
            })),
            _ => Some(oci.gcpolicy.iter().map(policy).collect::<Result<_, _>>()?),
        };
        Ok(())
    }

    /// Sets what the worker builds for.
    ///
    /// # Errors
    /// If one is no platform.
    pub fn set_platforms(&mut self, platforms: &[String]) -> Result<(), String> {
        let parse = |text: &String| {
            let platform = text.parse::<Platform>();
            let platform = platform.map_err(|error| format!("{text:?}: {error}"))?;
            Ok(platform.normalize())
        };
        self.platforms = platforms.iter().map(parse).collect::<Result<_, String>>()?;
        Ok(())
    }

    /// Sets how snapshots are kept, by BuildKit's names.
    ///
    /// # Errors
    /// If it is none of them.
    pub fn set_snapshotter(&mut self, name: &str) -> Result<(), String> {
        self.engine.snapshotter = match name {
            "" | "auto" => SnapshotterKind::Auto,
            "overlayfs" | "overlay" => SnapshotterKind::Overlay,
            "native" | "copy" => SnapshotterKind::Copy,
            other => return Err(format!("{other:?} is none of auto, overlayfs and native")),
        };
        Ok(())
    }

    fn take_limits(&mut self, limits: &Limits) -> Result<(), Wrong> {
        if let Some(connections) = limits.connections {
            self.limits.connections = at_least_one("limits.connections", connections)?;
        }
        if let Some(builds) = limits.builds {
            self.limits.builds = at_least_one("limits.builds", builds)?;
        }
        if let Some(streams) = limits.streams {
            self.limits.streams = streams.max(1);
        }
        if let Some(space) = space("limits.message", limits.message.as_ref())? {
            self.limits.message = usize::try_from(space.of(0)).unwrap_or(usize::MAX);
        }
        if let Some(space) = space("limits.log", limits.log.as_ref())? {
            self.limits.log = space.of(0);
        }
        if let Some(time) = time("limits.drainTimeout", limits.drain_timeout.as_ref())? {
            self.drain_timeout = time;
        }
        Ok(())
    }
}

/// A key, and what is wrong with its value.
type Wrong = (&'static str, String);

fn at_least_one(key: &'static str, number: usize) -> Result<usize, Wrong> {
    match number {
        0 => Err((key, "must be at least 1".to_owned())),
        number => Ok(number),
    }
}

fn time(key: &'static str, amount: Option<&Amount>) -> Result<Option<Duration>, Wrong> {
    let parse =
        |text: String| duration::parse(&text).ok_or((key, format!("invalid duration {text}")));
    amount.map(|amount| parse(amount.text())).transpose()
}

fn space(key: &'static str, amount: Option<&Amount>) -> Result<Option<Space>, Wrong> {
    let parse =
        |text: String| Space::parse(&text).ok_or((key, format!("invalid disk space {text}")));
    amount.map(|amount| parse(amount.text())).transpose()
}

fn policy(policy: &Policy) -> Result<GcPolicy, Wrong> {
    let keep = policy
        .reserved_space
        .as_ref()
        .or(policy.keep_bytes.as_ref());
    Ok(GcPolicy {
        all: policy.all,
        filters: policy.filters.clone(),
        keep_duration: time(
            "worker.oci.gcpolicy.keepDuration",
            policy.keep_duration.as_ref(),
        )?
        .filter(|time| !time.is_zero()),
        reserved: space("worker.oci.gcpolicy.reservedSpace", keep)?,
        max_used: space(
            "worker.oci.gcpolicy.maxUsedSpace",
            policy.max_used_space.as_ref(),
        )?,
        min_free: space(
            "worker.oci.gcpolicy.minFreeSpace",
            policy.min_free_space.as_ref(),
        )?,
    })
}

/// A line for each key that has no effect.
fn unsupported(file: &File) -> Vec<String> {
    let mut keys = Vec::new();
    let mut add = |section: &str, rest: &Rest| {
        let dot = if section.is_empty() { "" } else { "." };
        keys.extend(rest.keys().map(|key| format!("{section}{dot}{key}")));
    };
    add("", &file.rest);
    add("log", &file.log.rest);
    add("grpc", &file.grpc.rest);
    add("grpc.tls", &file.grpc.tls.rest);
    add("worker", &file.worker.rest);
    add("worker.oci", &file.worker.oci.rest);
    for policy in &file.worker.oci.gcpolicy {
        add("worker.oci.gcpolicy", &policy.rest);
    }
    add("cdi", &file.cdi.rest);
    add("dns", &file.dns.rest);
    add("history", &file.history.rest);
    add("frontend", &file.frontend.rest);
    add("frontend.\"dockerfile.v0\"", &file.frontend.dockerfile.rest);
    add("frontend.\"gateway.v0\"", &file.frontend.gateway.rest);
    add("system", &file.system.rest);
    add("limits", &file.limits.rest);
    // A worker that is switched off does without its keys.
    if let Some(containerd) = &file.worker.containerd
        && containerd.enabled != Some(false)
    {
        keys.push("worker.containerd".to_owned());
        keys.extend(
            containerd
                .rest
                .keys()
                .map(|key| format!("worker.containerd.{key}")),
        );
    }
    if file.worker.oci.enabled == Some(false) {
        keys.push("worker.oci.enabled=false".to_owned());
    }
    let mode = file.worker.oci.network_mode.as_deref();
    if mode.is_some_and(|mode| !matches!(mode, "" | "auto" | "host")) {
        keys.push("worker.oci.networkMode".to_owned());
    }
    keys.iter()
        .map(|key| format!("configuration: {key} has no effect in weld"))
        .collect()
}

#[cfg(test)]
mod tests;
