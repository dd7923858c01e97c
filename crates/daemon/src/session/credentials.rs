//! Who clients are at registries.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tonic::{Code, Request, Status};
use weld_proto::session::auth::{
    CREDENTIALS, CredentialsRequest, CredentialsResponse, FETCH_TOKEN, FetchTokenRequest,
    FetchTokenResponse, GET_TOKEN_AUTHORITY, GetTokenAuthorityRequest, GetTokenAuthorityResponse,
};
use weld_source::Secret;
use weld_source::registry::{Credential, Credentials, CredentialsError, IssuedToken, TokenRequest};

use super::manager::ClientSession;
use super::offers::reason;

/// How long a client may take: its user may have to type something.
const TIMEOUT: Duration = Duration::from_secs(60);
/// By what name token servers know who asks.
const CLIENT_ID: &str = "weld";
/// How long a token lives if the client does not say.
const DEFAULT_LIFETIME: u64 = 60;

/// What a client says of itself. It is asked each time: what it says is not kept for another.
pub(super) struct ClientCredentials {
    session: Arc<ClientSession>,
}

impl ClientCredentials {
    pub(super) const fn new(session: Arc<ClientSession>) -> Self {
        Self { session }
    }

    async fn ask<Q, A>(&self, method: &'static str, question: Q) -> Result<Option<A>, Status>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let connection = self.session.connection().await?;
        if !connection.serves(method) {
            return Ok(None);
        }
        let call = connection.caller.unary(method, Request::new(question));
        match tokio::time::timeout(TIMEOUT, call).await {
            Ok(Ok(answer)) => Ok(Some(answer.into_inner())),
            Ok(Err(status)) if status.code() == Code::Unimplemented => Ok(None),
            Ok(Err(status)) => Err(status),
            Err(_) => Err(Status::deadline_exceeded("the client does not answer")),
        }
    }

    /// Whether the client wants to fetch tokens itself rather than give its credentials away.
    async fn fetches_tokens(&self, host: &str) -> Result<bool, Status> {
        let request = GetTokenAuthorityRequest {
            host: host.to_owned(),
            salt: salt(),
        };
        let answer = self
            .ask::<_, GetTokenAuthorityResponse>(GET_TOKEN_AUTHORITY, request)
            .await;
        match answer {
            Ok(None) => Ok(false),
            Ok(Some(key)) if key.public_key.len() == 32 => Ok(true),
            Ok(Some(_)) => Err(Status::invalid_argument("the client's key is malformed")),
            // Clients say so that they do not want to.
            Err(status) if status.code() == Code::Unavailable => Ok(false),
            Err(status) => Err(status),
        }
    }
}

#[async_trait]
impl Credentials for ClientCredentials {
    async fn get(&self, host: &str) -> Result<Credential, CredentialsError> {
        let request = CredentialsRequest {
            host: host.to_owned(),
        };
        let answer = self
            .ask::<_, CredentialsResponse>(CREDENTIALS, request)
            .await;
        let answer = answer.map_err(provider(host))?.unwrap_or_default();
        Ok(
            match (answer.username.is_empty(), answer.secret.is_empty()) {
                (_, true) => Credential::Anonymous,
                (true, false) => Credential::IdentityToken(Secret::new(answer.secret)),
                (false, false) => Credential::Basic {
                    username: answer.username,
                    password: Secret::new(answer.secret),
                },
            },
        )
    }

    async fn token(&self, request: &TokenRequest) -> Result<Option<IssuedToken>, CredentialsError> {
        let error = provider(&request.host);
        if !self.fetches_tokens(&request.host).await.map_err(&error)? {
            return Ok(None);
        }
        let question = FetchTokenRequest {
            client_id: CLIENT_ID.to_owned(),
            host: request.host.clone(),
            realm: request.realm.clone(),
            service: request.service.clone(),
            scopes: request.scopes.clone(),
        };
        let answer = self
            .ask::<_, FetchTokenResponse>(FETCH_TOKEN, question)
            .await
            .map_err(error)?;
        Ok(answer.map(|answer| IssuedToken {
            token: Secret::new(answer.token),
            expires_in: u64::try_from(answer.expires_in)
                .ok()
                .filter(|seconds| *seconds > 0)
                .unwrap_or(DEFAULT_LIFETIME),
        }))
    }
}

fn provider(host: &str) -> impl Fn(Status) -> CredentialsError {
    move |status| CredentialsError::Provider {
        host: host.to_owned(),
        reason: reason(&status),
    }
}

/// Of this run of the daemon, so that clients' keys mean nothing to another.
fn salt() -> Bytes {
    static SALT: OnceLock<Bytes> = OnceLock::new();
    let salt = SALT.get_or_init(|| {
        let mut salt = vec![0; 32];
        // Without randomness keys are the same for every daemon, which gives nothing away.
        let flags = rustix::rand::GetRandomFlags::empty();
        if let Err(error) = rustix::rand::getrandom(&mut salt, flags) {
            tracing::warn!("there is no randomness to be had: {error}");
        }
        salt.into()
    });
    salt.clone()
}
