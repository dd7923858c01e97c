use std::sync::Arc;

use bytes::Bytes;
use tonic::{Request, Response, Status};
use weld_op::session::Session;
use weld_proto::session::auth::{
    CredentialsRequest, CredentialsResponse, FetchTokenRequest, FetchTokenResponse,
    GetTokenAuthorityRequest, GetTokenAuthorityResponse, VerifyTokenAuthorityRequest,
    VerifyTokenAuthorityResponse,
};
use weld_proto::session::servers::Auth;
use weld_source::registry::{
    Credential, CredentialsError, DockerConfig, Registry, RegistryConfig, TokenRequest,
};

use super::token_authority::{self, AuthorityError, TokenAuthority};

/// The variable by which users want their daemon to fetch tokens, with their credentials.
const NO_CLIENT_TOKEN: &str = "BUILDKIT_NO_CLIENT_TOKEN";

/// Who the session's user is at registries. Tokens are fetched here, so that credentials need not
/// leave the client.
pub(super) struct Offered {
    session: Arc<dyn Session>,
    registry: Registry,
}

impl Offered {
    pub(super) fn new(session: Arc<dyn Session>) -> Self {
        Self {
            registry: Registry::new(RegistryConfig::default(), session.credentials()),
            session,
        }
    }

    async fn authority(&self, host: String, salt: Bytes) -> Result<TokenAuthority, Status> {
        let fetches_none = std::env::var(NO_CLIENT_TOKEN).is_ok_and(|value| {
            matches!(value.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True")
        });
        if fetches_none {
            // What daemons understand as the wish that they fetch tokens themselves.
            return Err(Status::unavailable("this client fetches no tokens"));
        }
        let credential = self.session.credentials().get(&host).await;
        let anonymous = credential.map_err(failed)? == Credential::Anonymous;
        let made = tokio::task::spawn_blocking(move || {
            if anonymous {
                return TokenAuthority::new(&salt, None);
            }
            let config = DockerConfig::of_user();
            let seed = match config.directory() {
                Some(directory) => token_authority::seed(directory, &host)?,
                None => return Err(AuthorityError::Key),
            };
            TokenAuthority::new(&salt, Some(&seed))
        });
        let made = made
            .await
            .map_err(|error| Status::internal(error.to_string()))?;
        made.map_err(|error| Status::internal(error.to_string()))
    }
}

fn failed(error: CredentialsError) -> Status {
    Status::internal(error.to_string())
}

#[tonic::async_trait]
impl Auth for Offered {
    async fn credentials(
        &self,
        request: Request<CredentialsRequest>,
    ) -> Result<Response<CredentialsResponse>, Status> {
        let host = request.into_inner().host;
        let credential = self.session.credentials().get(&host).await;
        Ok(Response::new(match credential.map_err(failed)? {
            Credential::Anonymous => CredentialsResponse::default(),
            Credential::Basic { username, password } => CredentialsResponse {
                username,
                secret: password.expose().to_owned(),
            },
            Credential::IdentityToken(token) => CredentialsResponse {
                username: String::new(),
                secret: token.expose().to_owned(),
            },
            Credential::RegistryToken(_) => {
                return Err(Status::unimplemented(format!(
                    "{host}: a registry token is configured, which a daemon cannot be given"
                )));
            }
        }))
    }

    async fn fetch_token(
        &self,
        request: Request<FetchTokenRequest>,
    ) -> Result<Response<FetchTokenResponse>, Status> {
        let request = request.into_inner();
        let wanted = TokenRequest {
            host: request.host,
            realm: request.realm,
            service: request.service,
            scopes: request.scopes,
        };
        let issued = self.registry.issue_token(&wanted).await.map_err(failed)?;
        Ok(Response::new(FetchTokenResponse {
            token: issued.token.expose().to_owned(),
            expires_in: i64::try_from(issued.expires_in).unwrap_or(i64::MAX),
            issued_at: 0,
        }))
    }

    async fn get_token_authority(
        &self,
        request: Request<GetTokenAuthorityRequest>,
    ) -> Result<Response<GetTokenAuthorityResponse>, Status> {
        let GetTokenAuthorityRequest { host, salt } = request.into_inner();
        let authority = self.authority(host, salt).await?;
        Ok(Response::new(GetTokenAuthorityResponse {
            public_key: Bytes::copy_from_slice(authority.public_key()),
        }))
    }

    async fn verify_token_authority(
        &self,
        request: Request<VerifyTokenAuthorityRequest>,
    ) -> Result<Response<VerifyTokenAuthorityResponse>, Status> {
        let request = request.into_inner();
        let authority = self.authority(request.host, request.salt).await?;
        Ok(Response::new(VerifyTokenAuthorityResponse {
            signed: authority.sign(&request.payload).into(),
        }))
    }
}
