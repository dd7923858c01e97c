use async_trait::async_trait;

use super::docker_config::DockerConfigError;
use crate::secret::Secret;

/// Who to be at a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// Nobody.
    Anonymous,
    /// A user with a password or an access token.
    Basic {
        /// The name.
        username: String,
        /// The password.
        password: Secret,
    },
    /// A token with which a token server gives out others (OAuth's refresh token).
    IdentityToken(Secret),
    /// A token that the registry itself takes.
    RegistryToken(Secret),
}

/// A token that some registry's token server gives out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRequest {
    /// The registry, `host[:port]`.
    pub host: String,
    /// The token server's URL.
    pub realm: String,
    /// The service that the token is for.
    pub service: String,
    /// What the token shall allow, such as `repository:library/busybox:pull`.
    pub scopes: Vec<String>,
}

/// A token and how long it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedToken {
    /// The token.
    pub token: Secret,
    /// How long it lives, in seconds.
    pub expires_in: u64,
}

/// Why credentials could not be had.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// Docker's configuration cannot be used.
    #[error(transparent)]
    DockerConfig(#[from] DockerConfigError),
    /// The one that was asked, a client's session say, failed.
    #[error("cannot get credentials for {host}: {reason}")]
    Provider {
        /// The registry.
        host: String,
        /// Why.
        reason: String,
    },
}

/// Knows who to be at which registry: docker's configuration, or a client's session.
#[async_trait]
pub trait Credentials: Send + Sync {
    /// Who to be at `host`. Docker Hub's is asked for as `registry-1.docker.io`.
    ///
    /// # Errors
    /// [`CredentialsError`] if they should be there but cannot be had.
    async fn get(&self, host: &str) -> Result<Credential, CredentialsError>;

    /// A token, from one who does not give credentials away but fetches tokens itself, as a
    /// BuildKit client may. `None` lets the registry client fetch it.
    ///
    /// # Errors
    /// [`CredentialsError`] if it fetches tokens but got none.
    async fn token(&self, request: &TokenRequest) -> Result<Option<IssuedToken>, CredentialsError> {
        let _ = request;
        Ok(None)
    }
}

/// Is nobody anywhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct Anonymous;

#[async_trait]
impl Credentials for Anonymous {
    async fn get(&self, _host: &str) -> Result<Credential, CredentialsError> {
        Ok(Credential::Anonymous)
    }
}
