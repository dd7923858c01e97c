//! What a build is asked for, and the options by which BuildKit's clients say so.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use weld_llb::reference::Reference;
use weld_llb::{HostIp, LinuxResources, NetMode, Platform, ResolveMode, Ulimit, pb};

use super::{Limits, OptionError};
use crate::lint::LintConfig;
use crate::parse_bool;

/// What a build is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The Dockerfile's path in its context.
    pub filename: String,
    /// The main context's URL, if it is not the client's directory.
    pub context: Option<String>,
    /// The directory of a context from elsewhere that is the context proper.
    pub context_subdir: Option<String>,
    /// The name under which the client offers the main context.
    pub context_name: String,
    /// The name under which the client offers the Dockerfile.
    pub dockerfile_name: String,
    /// Whether a frontend that a Dockerfile asked for is at work already, and asks for this one in turn: what Dockerfiles ask for is
    /// passed over.
    pub forwarded: bool,
    /// Whether the Dockerfile is the client's even if the context is from elsewhere.
    pub local_dockerfile: bool,
    /// Whether a context from a git repository keeps its `.git`.
    pub keep_git_dir: bool,
    /// Named contexts: `docker-image://…`, `oci-layout://…`, `local:NAME`, `input:NAME`, git or HTTP URLs.
    /// The names are short image names without the tag
    /// `latest`, maybe followed by `::PLATFORM`; [`Request::add_context`] makes them so.
    pub contexts: BTreeMap<String, String>,
    /// Keys under which transfers of named contexts are shared, by name.
    pub shared_keys: BTreeMap<String, String>,
    /// Definitions that named contexts refer to as `input:NAME`.
    pub inputs: BTreeMap<String, pb::Definition>,
    /// The image configs of such definitions.
    pub input_configs: BTreeMap<String, Vec<u8>>,
    /// Build arguments.
    pub build_args: BTreeMap<String, String>,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
    /// The stage to build; the last one if absent.
    pub target: Option<String>,
    /// Convert stages that the target does not need as well, for what the linter finds in them.
    pub all_stages: bool,
    /// The platforms to build for; that of the build if empty, or what the base image is for.
    pub platforms: Vec<Platform>,
    /// Whether the result is an index even for one platform.
    pub multi_platform: bool,
    /// The platform that steps run on.
    pub build_platform: Platform,
    /// Which stages are built without the cache.
    pub no_cache: NoCache,
    /// When registries are asked.
    pub resolve_mode: ResolveMode,
    /// Additional lines of `/etc/hosts`.
    pub extra_hosts: Vec<HostIp>,
    /// The network of steps that do not say.
    pub network: NetMode,
    /// The size of `/dev/shm` in bytes; the default if 0.
    pub shm_size: u64,
    /// Resource limits of processes.
    pub ulimits: Vec<Ulimit>,
    /// The control group above those of steps; the default if empty.
    pub cgroup_parent: String,
    /// Limits of steps' control groups.
    pub resources: Option<LinuxResources>,
    /// The host's name within steps; the default if empty.
    pub hostname: String,
    /// A prefix of cache mounts' names.
    pub cache_namespace: String,
    /// The linter's options, instead of those in the Dockerfile.
    pub lint: Option<LintConfig>,
    /// The session of the client that offers the contexts.
    pub session: String,
    /// Sessions of contexts that another session offers, by name.
    pub local_sessions: BTreeMap<String, String>,
}

/// Which stages are built without the cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NoCache {
    /// None.
    #[default]
    Never,
    /// All.
    Always,
    /// These, by name in any case.
    Stages(Vec<String>),
}

impl NoCache {
    /// Whether the stage of that name is built without the cache.
    pub fn covers(&self, stage: &str) -> bool {
        match self {
            Self::Never => false,
            Self::Always => true,
            Self::Stages(names) => names.iter().any(|name| name.eq_ignore_ascii_case(stage)),
        }
    }
}

/// The key of a named context: a short image name without the tag `latest`, or the name as it is where it is
/// no image's. A platform behind `::` stays.
pub(super) fn context_key(name: &str) -> String {
    let (name, platform) = match name.split_once("::") {
        Some((name, platform)) => (name, Some(platform)),
        None => (name, None),
    };
    let key = match name.parse::<Reference>() {
        Ok(reference) => {
            let short = reference.familiar();
            short.strip_suffix(":latest").unwrap_or(&short).to_owned()
        }
        Err(_) => name.to_owned(),
    };
    match platform {
        Some(platform) => format!("{key}::{platform}"),
        None => key,
    }
}

impl Request {
    /// A build of the client's directory with everything at its default.
    pub fn new(session: impl Into<String>, build_platform: Platform) -> Self {
        Self {
            filename: "Dockerfile".to_owned(),
            context: None,
            context_subdir: None,
            context_name: "context".to_owned(),
            dockerfile_name: "dockerfile".to_owned(),
            forwarded: false,
            local_dockerfile: false,
            keep_git_dir: false,
            contexts: BTreeMap::new(),
            shared_keys: BTreeMap::new(),
            inputs: BTreeMap::new(),
            input_configs: BTreeMap::new(),
            build_args: BTreeMap::new(),
            labels: BTreeMap::new(),
            target: None,
            all_stages: false,
            platforms: Vec::new(),
            multi_platform: false,
            build_platform,
            no_cache: NoCache::Never,
            resolve_mode: ResolveMode::Default,
            extra_hosts: Vec::new(),
            network: NetMode::Unset,
            shm_size: 0,
            ulimits: Vec::new(),
            cgroup_parent: String::new(),
            resources: None,
            hostname: String::new(),
            cache_namespace: String::new(),
            lint: None,
            session: session.into(),
            local_sessions: BTreeMap::new(),
        }
    }

    /// The request that a client's options make. Options that are not known are passed over: other parts
    /// of the engine read them.
    pub fn from_options(
        options: &BTreeMap<String, String>,
        session: impl Into<String>,
        build_platform: Platform,
    ) -> Result<Self, OptionError> {
        let options = Options(options);
        let mut request = Self::new(session, build_platform);
        request.read_context(&options)?;
        request.read_prefixed(&options)?;
        request.read_platforms(&options)?;
        request.read_sandbox(&options)?;
        request.target = options.text("target").map(str::to_owned);
        request.resolve_mode = options.resolve_mode()?;
        request.no_cache = options.no_cache();
        request.lint = options.lint()?;
        request.forwarded = options.0.contains_key("cmdline");
        Ok(request)
    }

    /// Adds a named context.
    pub fn add_context(&mut self, name: &str, value: impl Into<String>) {
        self.contexts.insert(context_key(name), value.into());
    }

    fn read_context(&mut self, options: &Options<'_>) -> Result<(), OptionError> {
        if let Some(filename) = options.text("filename") {
            self.filename = filename.to_owned();
        }
        let key = options.text("contextkey").unwrap_or("context");
        self.context = options.text(key).map(str::to_owned);
        self.context_subdir = options.text("contextsubdir").map(str::to_owned);
        if let Some(name) = options.text("dockerfilekey") {
            self.dockerfile_name = name.to_owned();
            self.local_dockerfile = true;
        }
        let keep = options.text("build-arg:BUILDKIT_CONTEXT_KEEP_GIT_DIR");
        self.keep_git_dir = keep.and_then(parse_bool).unwrap_or(false);
        Ok(())
    }

    fn read_prefixed(&mut self, options: &Options<'_>) -> Result<(), OptionError> {
        self.build_args = options.with_prefix("build-arg:");
        self.labels = options.with_prefix("label:");
        self.local_sessions = options.with_prefix("local-sessionid:");
        let by_key = |names: BTreeMap<String, String>| {
            names
                .into_iter()
                .map(|(name, value)| (context_key(&name), value))
                .collect()
        };
        self.contexts = by_key(options.with_prefix("context:"));
        self.shared_keys = by_key(options.with_prefix("sharedkey:localdir:"));
        for (name, metadata) in options.with_prefix("input-metadata:") {
            let config = input_config(&metadata).map_err(|reason| OptionError {
                name: format!("input-metadata:{name}"),
                value: metadata.clone(),
                reason,
            })?;
            if let Some(config) = config {
                self.input_configs.insert(name, config);
            }
        }
        Ok(())
    }

    fn read_platforms(&mut self, options: &Options<'_>) -> Result<(), OptionError> {
        if let Some(platforms) = options.text("platform") {
            self.platforms = platforms
                .split(',')
                .map(|text| Ok(parsed::<Platform>("platform", text)?.normalize()))
                .collect::<Result<_, OptionError>>()?;
        }
        self.multi_platform = self.platforms.len() > 1;
        let asked = ["build-arg:BUILDKIT_MULTI_PLATFORM", "multi-platform"]
            .into_iter()
            .find_map(|name| Some((name, options.text(name)?)));
        if let Some((name, value)) = asked {
            let wanted = parse_bool(value)
                .ok_or_else(|| malformed(name, value, "true or false is needed"))?;
            if !wanted && self.multi_platform {
                let reason = "several platforms make an index";
                return Err(malformed(name, value, reason));
            }
            self.multi_platform = wanted;
        }
        Ok(())
    }

    fn read_sandbox(&mut self, options: &Options<'_>) -> Result<(), OptionError> {
        self.extra_hosts = options.list("add-hosts", parse_host)?;
        let limits = Limits::read(options)?;
        self.ulimits = limits.ulimits;
        self.shm_size = limits.shm_size;
        self.resources = limits.resources;
        self.network = match options.text("force-network-mode") {
            None | Some("sandbox") => NetMode::Unset,
            Some("host") => NetMode::Host,
            Some("none") => NetMode::None,
            Some(mode) => {
                let reason = "expected host, none or sandbox";
                return Err(malformed("force-network-mode", mode, reason));
            }
        };
        let text = |name| options.text(name).unwrap_or_default().to_owned();
        self.cgroup_parent = text("cgroup-parent");
        self.cache_namespace = text("build-arg:BUILDKIT_CACHE_MOUNT_NS");
        self.hostname = text("hostname");
        if let Some(hostname) = options.text("build-arg:BUILDKIT_SANDBOX_HOSTNAME") {
            self.hostname = hostname.to_owned();
        }
        Ok(())
    }
}

/// The `containerimage.config` of an input's metadata, whose values are in base 64.
fn input_config(metadata: &str) -> Result<Option<Vec<u8>>, String> {
    let values: BTreeMap<String, String> =
        serde_json::from_str(metadata).map_err(|error| error.to_string())?;
    let Some(config) = values.get("containerimage.config") else {
        return Ok(None);
    };
    BASE64_STANDARD
        .decode(config)
        .map(Some)
        .map_err(|error| format!("containerimage.config: {error}"))
}

pub(super) fn malformed(name: &str, value: &str, reason: impl Into<String>) -> OptionError {
    OptionError {
        name: name.to_owned(),
        value: value.to_owned(),
        reason: reason.into(),
    }
}

fn parsed<T: FromStr<Err: std::fmt::Display>>(name: &str, text: &str) -> Result<T, OptionError> {
    text.parse()
        .map_err(|error: T::Err| malformed(name, text, error.to_string()))
}

/// A client's options; an empty value is as good as none.
pub(super) struct Options<'a>(pub(super) &'a BTreeMap<String, String>);

impl<'a> Options<'a> {
    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    fn with_prefix(&self, prefix: &str) -> BTreeMap<String, String> {
        self.0
            .iter()
            .filter_map(|(name, value)| {
                let name = name.strip_prefix(prefix)?;
                Some((name.to_owned(), value.clone()))
            })
            .collect()
    }

    pub(super) fn number<T: FromStr<Err: std::fmt::Display>>(
        &self,
        name: &str,
    ) -> Result<Option<T>, OptionError> {
        self.text(name).map(|text| parsed(name, text)).transpose()
    }

    pub(super) fn list<T, R: Into<String>>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, R>,
    ) -> Result<Vec<T>, OptionError> {
        let Some(value) = self.text(name) else {
            return Ok(Vec::new());
        };
        value
            .split(',')
            .map(|field| parse(field).map_err(|reason| malformed(name, field, reason)))
            .collect()
    }

    fn resolve_mode(&self) -> Result<ResolveMode, OptionError> {
        let name = "image-resolve-mode";
        let Some(value) = self.text(name) else {
            return Ok(ResolveMode::Default);
        };
        ResolveMode::from_name(value)
            .ok_or_else(|| malformed(name, value, "expected default, pull or local"))
    }

    fn no_cache(&self) -> NoCache {
        match self.0.get("no-cache").map(String::as_str) {
            None => NoCache::Never,
            Some("") => NoCache::Always,
            Some(stages) => NoCache::Stages(stages.split(',').map(str::to_owned).collect()),
        }
    }

    fn lint(&self) -> Result<Option<LintConfig>, OptionError> {
        let name = "build-arg:BUILDKIT_DOCKERFILE_CHECK";
        self.0
            .get(name)
            .map(|value| {
                LintConfig::parse(value).map_err(|kind| malformed(name, value, kind.to_string()))
            })
            .transpose()
    }
}

/// `HOST=ADDRESS`.
fn parse_host(field: &str) -> Result<HostIp, &'static str> {
    let (host, address) = field.split_once('=').ok_or("expected HOST=ADDRESS")?;
    let address: IpAddr = address
        .parse()
        .map_err(|_| "the address is no IP address")?;
    Ok(HostIp {
        host: host.to_lowercase(),
        ip: address.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(options: &[(&str, &str)]) -> Result<Request, OptionError> {
        let options = options
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Request::from_options(&options, "s", Platform::new("linux", "amd64", ""))
    }

    #[test]
    fn options_make_a_request() {
        let request = request(&[
            ("filename", "a/Dockerfile"),
            ("target", "t"),
            ("build-arg:A", "1"),
            ("label:l", "2"),
            ("platform", "linux/amd64,linux/arm64/v8"),
            ("no-cache", "a,B"),
            ("add-hosts", "h=1.2.3.4,i=::1"),
            ("ulimit", "nofile=1024:2048,core=0"),
            ("shm-size", "65536"),
            ("context:docker.io/library/base:latest", "docker-image://x"),
            ("context:other::linux/arm64", "local:o"),
            ("cpusetcpus", "0-3,7"),
            ("image-resolve-mode", "pull"),
            ("input-metadata:i", r#"{"containerimage.config":"e30="}"#),
        ])
        .unwrap();
        assert_eq!(request.filename, "a/Dockerfile");
        assert_eq!(request.build_args["A"], "1");
        assert!(request.multi_platform);
        assert_eq!(request.platforms[1], Platform::new("linux", "arm64", ""));
        assert!(request.no_cache.covers("b") && !request.no_cache.covers("c"));
        assert_eq!(request.extra_hosts[1].ip, "::1");
        assert_eq!(
            (request.ulimits[0].soft, request.ulimits[0].hard),
            (1024, 2048)
        );
        assert_eq!(request.contexts["base"], "docker-image://x");
        assert_eq!(request.contexts["other::linux/arm64"], "local:o");
        assert_eq!(request.input_configs["i"], b"{}");
        assert_eq!(request.resolve_mode, ResolveMode::ForcePull);
    }

    #[test]
    fn malformed_options_are_refused_by_name() {
        for (name, value) in [
            ("platform", "a/b/c/d"),
            ("add-hosts", "h=x"),
            ("ulimit", "x=1"),
            ("ulimit", "nofile=2:1"),
            ("shm-size", "64m"),
            ("force-network-mode", "x"),
            ("image-resolve-mode", "x"),
            ("memory", "0"),
            ("cpusetcpus", "3-0"),
            ("multi-platform", "x"),
            ("build-arg:BUILDKIT_DOCKERFILE_CHECK", "x"),
        ] {
            let error = request(&[(name, value)]).unwrap_err();
            assert_eq!(error.name, name);
        }
    }
}
