use std::sync::atomic::{AtomicU8, Ordering};

use super::config::{Capability, ConfigError, HostConfig, RegistryConfig};
use crate::reference::Repository;
use crate::transport;

/// One place where a registry's API is served: the registry itself or a mirror.
pub(super) struct Endpoint {
    /// `host[:port]`.
    pub(super) host: String,
    /// Between the host and a repository's path: `/v2` or `/v2/prefix`.
    prefix: String,
    /// The registry as references name it, if this is a mirror of it.
    namespace: Option<String>,
    capabilities: Vec<Capability>,
    pub(super) client: reqwest::Client,
    scheme: Scheme,
}

/// How an endpoint is spoken to.
struct Scheme {
    /// Whether HTTPS may be given up for HTTP.
    may_fall_back: bool,
    state: AtomicU8,
}

/// Docker Hub, as references name it, and the host that serves it.
pub(super) const HUB: &str = "docker.io";
pub(super) const HUB_HOST: &str = "registry-1.docker.io";

const HTTPS: u8 = 0;
const HTTP: u8 = 1;

impl Endpoint {
    /// The endpoints of a registry, mirrors first.
    pub(super) fn of(domain: &str, config: &RegistryConfig) -> Result<Vec<Self>, ConfigError> {
        let none = HostConfig::default();
        let own = config.hosts.get(domain).unwrap_or(&none);
        let mut endpoints = Vec::with_capacity(own.mirrors.len() + 1);
        for mirror in &own.mirrors {
            endpoints.push(Self::mirror(domain, mirror, config)?);
        }
        let host = match domain {
            HUB => HUB_HOST,
            other => other,
        };
        let all = vec![Capability::Pull, Capability::Resolve, Capability::Push];
        endpoints.push(Self::new(host, "/v2".to_owned(), None, all, own, config)?);
        Ok(endpoints)
    }

    fn mirror(domain: &str, mirror: &str, config: &RegistryConfig) -> Result<Self, ConfigError> {
        let bad = || ConfigError::Mirror {
            registry: domain.to_owned(),
            mirror: mirror.to_owned(),
        };
        let bare = mirror
            .strip_prefix("https://")
            .or_else(|| mirror.strip_prefix("http://"))
            .unwrap_or(mirror)
            .trim_end_matches('/');
        let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
        if url::Url::parse(&format!("http://{host}/")).is_err() || host.contains('@') {
            return Err(bad());
        }
        // A mirror that serves below a path may write its API's version into it.
        let path = path.strip_prefix("v2").unwrap_or(path).trim_matches('/');
        let prefix = match path {
            "" => "/v2".to_owned(),
            path => format!("/v2/{path}"),
        };
        let none = HostConfig::default();
        let own = config.hosts.get(host).unwrap_or(&none);
        let default = vec![Capability::Pull, Capability::Resolve];
        let namespace = Some(domain.to_owned());
        Self::new(host, prefix, namespace, default, own, config)
    }

    fn new(
        host: &str,
        prefix: String,
        namespace: Option<String>,
        capabilities: Vec<Capability>,
        own: &HostConfig,
        config: &RegistryConfig,
    ) -> Result<Self, ConfigError> {
        let client =
            transport::client(host, &own.tls(host)?, &config.timeouts).map_err(|source| {
                ConfigError::Transport {
                    registry: host.to_owned(),
                    source,
                }
            })?;
        let http = own.http.unwrap_or_else(|| transport::is_loopback(host));
        let insecure = own.insecure.unwrap_or(false);
        Ok(Self {
            host: host.to_owned(),
            prefix,
            namespace,
            capabilities: own.capabilities.clone().unwrap_or(capabilities),
            client,
            scheme: Scheme {
                may_fall_back: http && insecure,
                state: AtomicU8::new(if http && !insecure { HTTP } else { HTTPS }),
            },
        })
    }

    pub(super) fn can(&self, capability: Capability) -> bool {
        self.capabilities.contains(&capability)
    }

    pub(super) fn is_mirror(&self) -> bool {
        self.namespace.is_some()
    }

    /// The URL of something in a repository, such as `manifests/latest`.
    pub(super) fn url(&self, repository: &Repository, object: &str) -> String {
        let scheme = match self.scheme.state.load(Ordering::Relaxed) {
            HTTP => "http",
            _ => "https",
        };
        let (host, prefix, path) = (&self.host, &self.prefix, repository.path());
        let mut url = format!("{scheme}://{host}{prefix}/{path}/{object}");
        if let Some(namespace) = &self.namespace {
            url.push(if object.contains('?') { '&' } else { '?' });
            url.push_str("ns=");
            url.extend(percent_encoding::utf8_percent_encode(
                namespace,
                percent_encoding::NON_ALPHANUMERIC,
            ));
        }
        url
    }

    /// Goes over to plain HTTP if that is allowed; whether a request that met no TLS is to be made
    /// again. Another one may have gone over before it.
    pub(super) fn fall_back_to_http(&self) -> bool {
        if self.scheme.may_fall_back {
            self.scheme.state.store(HTTP, Ordering::Relaxed);
        }
        self.scheme.may_fall_back
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(hosts: &[(&str, HostConfig)]) -> RegistryConfig {
        RegistryConfig {
            hosts: hosts
                .iter()
                .map(|(host, config)| ((*host).to_owned(), config.clone()))
                .collect(),
            ..RegistryConfig::default()
        }
    }

    fn urls(domain: &str, config: &RegistryConfig) -> Vec<String> {
        let repository: Repository = format!("{domain}/a/b").parse().unwrap();
        Endpoint::of(domain, config)
            .unwrap()
            .iter()
            .map(|endpoint| endpoint.url(&repository, "manifests/x"))
            .collect()
    }

    #[test]
    fn loopback_is_plain_unless_told_otherwise() {
        for host in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:5000",
            "127.8.8.8",
            "[::1]:5000",
        ] {
            assert_eq!(
                urls(host, &config(&[])),
                [format!("http://{host}/v2/a/b/manifests/x")]
            );
        }
        let no = HostConfig {
            http: Some(false),
            ..HostConfig::default()
        };
        assert_eq!(
            urls("localhost", &config(&[("localhost", no)])),
            ["https://localhost/v2/a/b/manifests/x"]
        );
        assert_eq!(
            urls("ghcr.io", &config(&[])),
            ["https://ghcr.io/v2/a/b/manifests/x"]
        );
        assert_eq!(
            urls("docker.io", &config(&[])),
            ["https://registry-1.docker.io/v2/a/b/manifests/x"]
        );
    }

    #[test]
    fn mirrors_come_first_with_the_registry_as_namespace() {
        let hub = HostConfig {
            mirrors: vec!["m1:5000".to_owned(), "https://m2/v2/hub/".to_owned()],
            ..HostConfig::default()
        };
        let plain = HostConfig {
            http: Some(true),
            ..HostConfig::default()
        };
        assert_eq!(
            urls(
                "docker.io",
                &config(&[("docker.io", hub), ("m1:5000", plain)])
            ),
            [
                "http://m1:5000/v2/a/b/manifests/x?ns=docker%2Eio",
                "https://m2/v2/hub/a/b/manifests/x?ns=docker%2Eio",
                "https://registry-1.docker.io/v2/a/b/manifests/x",
            ]
        );
        let bad = HostConfig {
            mirrors: vec!["a b".to_owned()],
            ..HostConfig::default()
        };
        let error = Endpoint::of("x", &config(&[("x", bad)])).err().unwrap();
        assert_eq!(
            error.to_string(),
            "registry x: \"a b\" is not a mirror's host[:port][/path]"
        );
    }
}
