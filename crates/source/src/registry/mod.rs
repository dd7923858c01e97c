//! The registry client: resolves, fetches and pushes by the OCI distribution protocol.
//!
//! A [`Registry`] is configured once and cloned freely. Requests go to a registry's mirrors
//! first; a mirror that fails in any way is passed over. What breaks on the way is tried again
//! with growing waits, and a blob goes on where it broke off. Everything that is fetched by
//! digest is verified.

mod auth;
mod challenge;
mod config;
mod credentials;
mod docker_config;
mod endpoint;
mod error;
mod fetch;
mod patience;
mod push;
mod referrers;
mod resolve;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use reqwest::header::AUTHORIZATION;
use reqwest::{RequestBuilder, Response, StatusCode};
use tokio::sync::Semaphore;

use auth::{Authorizer, Scopes};
use challenge::Challenge;
use endpoint::Endpoint;

use crate::reference::Repository;
use crate::retry::Attempts;
use crate::secret::Secret;
use crate::transport::Hope;

pub use crate::transport::{NetworkError, Timeouts, TransportError};
pub use config::{Capability, ConfigError, HostConfig, KeyPair, RegistryConfig};
pub use credentials::{
    Anonymous, Credential, Credentials, CredentialsError, IssuedToken, TokenRequest,
};
pub use docker_config::{DockerConfig, DockerConfigError};
pub use error::{Action, EndpointError, Failure, RegistryError};
pub use push::{BlobReader, BlobUpload, Pushed};
pub use resolve::Resolved;

/// A client of all registries. Clones share connections, limits and tokens.
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
    authorizer: Arc<Authorizer>,
    /// How long an answer, or the next bytes of one, are waited for before the registry counts as silent.
    patience: Option<Duration>,
    /// A blob is asked for once: whoever wants it so tries again as it sees fit.
    asks_once: bool,
}

struct Shared {
    config: RegistryConfig,
    endpoints: Mutex<HashMap<String, Arc<[Endpoint]>>>,
    transfers: Semaphore,
}

impl Registry {
    /// A client with this configuration that is at each registry who `credentials` say.
    pub fn new(config: RegistryConfig, credentials: Arc<dyn Credentials>) -> Self {
        let parallel = config.parallel.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            shared: Arc::new(Shared {
                config,
                endpoints: Mutex::default(),
                transfers: Semaphore::new(parallel),
            }),
            authorizer: Arc::new(Authorizer::new(credentials)),
            patience: None,
            asks_once: false,
        }
    }

    /// The same client as somebody else: connections and limits are shared, tokens are not.
    #[must_use]
    pub fn with_credentials(&self, credentials: Arc<dyn Credentials>) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            authorizer: Arc::new(Authorizer::new(credentials)),
            ..self.clone()
        }
    }

    /// The same client, but one that gives a registry up that says or takes nothing for so long, or no more than a trickle of a blob.
    /// Other failures are tried again.
    #[must_use]
    pub fn impatient(&self, patience: Duration) -> Self {
        Self {
            patience: Some(patience),
            ..self.clone()
        }
    }

    /// The same client for one who tries again by itself: a blob is asked for once.
    #[must_use]
    pub fn once(&self) -> Self {
        Self {
            asks_once: true,
            ..self.clone()
        }
    }

    /// How many blobs are transferred at a time.
    pub fn parallel(&self) -> usize {
        self.shared.config.parallel.clamp(1, Semaphore::MAX_PERMITS)
    }

    /// The same client, but one that takes any certificate of registry `host`, or plain HTTP where
    /// that speaks no TLS. It has limits of its own.
    #[must_use]
    pub fn trusting(&self, host: &str) -> Self {
        let mut config = self.shared.config.clone();
        let settings = config.hosts.entry(host.to_owned()).or_default();
        settings.insecure = Some(true);
        settings.http = Some(true);
        let parallel = config.parallel.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            shared: Arc::new(Shared {
                config,
                endpoints: Mutex::default(),
                transfers: Semaphore::new(parallel),
            }),
            authorizer: Arc::clone(&self.authorizer),
            ..self.clone()
        }
    }

    /// A token from a registry's token server, as who we are: for one who may have the token and
    /// not the credentials.
    ///
    /// # Errors
    /// [`CredentialsError`] if there is none.
    pub async fn issue_token(
        &self,
        request: &TokenRequest,
    ) -> Result<IssuedToken, CredentialsError> {
        let failed = |reason: String| CredentialsError::Provider {
            host: request.host.clone(),
            reason,
        };
        let domain = match request.host.as_str() {
            endpoint::HUB_HOST => endpoint::HUB,
            host => host,
        };
        let endpoints = self.all_endpoints(domain).await;
        let endpoints = endpoints.map_err(|error| failed(error.to_string()))?;
        let own = endpoints.iter().find(|endpoint| !endpoint.is_mirror());
        let own = own.ok_or_else(|| failed("there is no such registry".to_owned()))?;
        let issued = auth::issue(&*self.authorizer.credentials, &own.client, request).await;
        issued.map_err(|failure| failed(failure.to_string()))
    }

    /// The endpoints of a registry that may be used for `capability`, mirrors first.
    async fn endpoints(
        &self,
        repository: &Repository,
        capability: Capability,
        action: &Action,
    ) -> Result<Candidates, RegistryError> {
        let all = self.all_endpoints(repository.domain()).await?;
        let usable: Vec<_> = (0..all.len())
            .filter(|index| all[*index].can(capability))
            .collect();
        if usable.is_empty() {
            return Err(RegistryError::NotCapable {
                action: action.clone(),
                registry: repository.domain().to_owned(),
            });
        }
        Ok(Candidates { all, usable })
    }

    async fn all_endpoints(&self, domain: &str) -> Result<Arc<[Endpoint]>, RegistryError> {
        let known = |shared: &Shared| {
            let endpoints = shared.endpoints.lock();
            let endpoints = endpoints.unwrap_or_else(PoisonError::into_inner);
            endpoints.get(domain).cloned()
        };
        if let Some(endpoints) = known(&self.shared) {
            return Ok(endpoints);
        }
        // Certificates are read from files.
        let (shared, domain) = (Arc::clone(&self.shared), domain.to_owned());
        let made = tokio::task::spawn_blocking(move || {
            let made: Arc<[Endpoint]> = Endpoint::of(&domain, &shared.config)?.into();
            let mut endpoints = shared
                .endpoints
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            Ok(Arc::clone(endpoints.entry(domain).or_insert(made)))
        });
        match made.await {
            Ok(endpoints) => endpoints.map_err(RegistryError::Config),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// Sends a request as who we are, as long as the client's patience lasts.
    async fn send(
        &self,
        endpoint: &Endpoint,
        scopes: &Scopes,
        make: &(dyn Fn(&reqwest::Client) -> RequestBuilder + Send + Sync),
    ) -> Result<Response, Failure> {
        // Boxed, or the types of what waits for it grow too deep.
        let answer = self.send_at_leisure(endpoint, scopes, make).boxed();
        patience::answer(self.patience, answer).await
    }

    /// Sends a request as who we are, answering the registry's challenge. `make` may be called
    /// several times.
    async fn send_at_leisure(
        &self,
        endpoint: &Endpoint,
        scopes: &Scopes,
        make: &(dyn Fn(&reqwest::Client) -> RequestBuilder + Send + Sync),
    ) -> Result<Response, Failure> {
        let (client, host) = (&endpoint.client, endpoint.host.as_str());
        let mut header = self.authorizer.header(client, host, scopes).await?;
        // The token may have just expired, and the new one may lack a scope: no more than that.
        for _ in 0..3 {
            let response = self.send_once(endpoint, header.as_ref(), make).await?;
            if response.status() != StatusCode::UNAUTHORIZED {
                return Ok(response);
            }
            let Some(challenge) = Challenge::of(response.headers()) else {
                return Ok(response);
            };
            let next = self
                .authorizer
                .answer(client, host, scopes, header.as_ref(), challenge)
                .await?;
            if next.is_none() {
                return Ok(response);
            }
            header = next;
        }
        self.send_once(endpoint, header.as_ref(), make).await
    }

    async fn send_once(
        &self,
        endpoint: &Endpoint,
        header: Option<&Secret>,
        make: &(dyn Fn(&reqwest::Client) -> RequestBuilder + Send + Sync),
    ) -> Result<Response, Failure> {
        let request = || {
            let request = make(&endpoint.client);
            match header {
                Some(header) => request.header(AUTHORIZATION, header.expose()),
                None => request,
            }
        };
        match request().send().await.map_err(NetworkError::from) {
            Err(error) if error.is_not_tls() && endpoint.fall_back_to_http() => request()
                .send()
                .await
                .map_err(|error| Failure::Network(error.into())),
            other => other.map_err(Failure::Network),
        }
    }

    /// Does something at an endpoint, again and again while there is hope.
    async fn with_retry<'a, T>(
        &self,
        // Boxed, since it cannot be said of an async closure that its futures are `Send`.
        mut attempt: impl FnMut() -> BoxFuture<'a, Result<T, Failure>> + Send,
    ) -> Result<T, Failure> {
        let mut attempts = self.shared.config.retry.start();
        let mut unreachable = 0;
        loop {
            match attempt().await {
                Ok(done) => return Ok(done),
                Err(failure) if !hopeful(&failure, &mut attempts, &mut unreachable).await => {
                    return Err(failure);
                }
                Err(failure) => tracing::debug!(%failure, "trying again"),
            }
        }
    }
}

/// How often somebody who is not there is tried to be reached.
const UNREACHABLE_ATTEMPTS: u32 = 3;

/// Waits before the next attempt, or says that there should be none.
async fn hopeful(failure: &Failure, attempts: &mut Attempts<'_>, unreachable: &mut u32) -> bool {
    match failure.hope() {
        (Hope::None, _) => false,
        (Hope::Unreachable, wait) => {
            *unreachable += 1;
            *unreachable < UNREACHABLE_ATTEMPTS && attempts.again(wait).await
        }
        (Hope::Transient, wait) => attempts.again(wait).await,
    }
}

/// The endpoints that a request may go to.
struct Candidates {
    all: Arc<[Endpoint]>,
    usable: Vec<usize>,
}

impl Candidates {
    fn iter(&self) -> impl Iterator<Item = &Endpoint> {
        self.usable.iter().filter_map(|index| self.all.get(*index))
    }
}

/// Collects what endpoints said until one does what it should.
struct Failures {
    action: Action,
    mirrors: Vec<EndpointError>,
    origin: Option<EndpointError>,
}

impl Failures {
    fn new(action: Action) -> Self {
        Self {
            action,
            mirrors: Vec::new(),
            origin: None,
        }
    }

    fn add(&mut self, endpoint: &Endpoint, failure: Failure) {
        let error = failure.at(&self.action, &endpoint.host);
        if endpoint.is_mirror() {
            tracing::debug!(%error, "mirror passed over");
            self.mirrors.push(error);
        } else {
            self.origin = Some(error);
        }
    }

    fn into_error(mut self, registry: &str) -> RegistryError {
        // A registry of mirrors alone: the last one speaks for it.
        match self.origin.or_else(|| self.mirrors.pop()) {
            Some(origin) if self.mirrors.is_empty() => RegistryError::Endpoint(origin),
            Some(origin) => RegistryError::All {
                origin: Box::new(origin),
                mirrors: self.mirrors,
            },
            None => RegistryError::NotCapable {
                action: self.action,
                registry: registry.to_owned(),
            },
        }
    }
}

/// The body of a response that must not be large.
async fn read_limited(mut response: Response, limit: usize) -> Result<Vec<u8>, Failure> {
    let too_large = || Failure::TooLarge {
        limit: limit as u64,
    };
    let announced = response.content_length().unwrap_or(0);
    if announced > limit as u64 {
        return Err(too_large());
    }
    let mut body = Vec::with_capacity(usize::try_from(announced).unwrap_or(0));
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| Failure::Network(error.into()))?
    {
        if body.len() + chunk.len() > limit {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
