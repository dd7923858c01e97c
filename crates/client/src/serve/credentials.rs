use std::sync::Arc;

use tonic::{Request, Response, Status};
use weld_op::session::Session;
use weld_proto::session::auth::{
    CredentialsRequest, CredentialsResponse, FetchTokenRequest, FetchTokenResponse,
    GetTokenAuthorityRequest, GetTokenAuthorityResponse, VerifyTokenAuthorityRequest,
    VerifyTokenAuthorityResponse,
};
use weld_proto::session::servers::Auth;
use weld_source::registry::{Credential, CredentialsError, TokenRequest};

/// Who the session's user is at registries.
pub(super) struct Offered(pub(super) Arc<dyn Session>);

/// What daemons understand as the wish that they fetch tokens themselves.
fn no_tokens() -> Status {
    Status::unavailable("this client fetches no tokens")
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
        let credential = self.0.credentials().get(&host).await.map_err(failed)?;
        Ok(Response::new(match credential {
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
        let issued = self.0.credentials().token(&wanted).await.map_err(failed)?;
        let issued = issued.ok_or_else(no_tokens)?;
        Ok(Response::new(FetchTokenResponse {
            token: issued.token.expose().to_owned(),
            expires_in: i64::try_from(issued.expires_in).unwrap_or(i64::MAX),
            issued_at: 0,
        }))
    }

    async fn get_token_authority(
        &self,
        _request: Request<GetTokenAuthorityRequest>,
    ) -> Result<Response<GetTokenAuthorityResponse>, Status> {
        Err(no_tokens())
    }

    async fn verify_token_authority(
        &self,
        _request: Request<VerifyTokenAuthorityRequest>,
    ) -> Result<Response<VerifyTokenAuthorityResponse>, Status> {
        Err(no_tokens())
    }
}
