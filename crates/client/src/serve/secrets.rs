use std::sync::Arc;

use bytes::Bytes;
use tonic::{Request, Response, Status};
use weld_op::session::Session;
use weld_proto::session::secrets::{GetSecretRequest, GetSecretResponse};
use weld_proto::session::servers::Secrets;

/// The session's secrets.
pub(super) struct Offered(pub(super) Arc<dyn Session>);

#[tonic::async_trait]
impl Secrets for Offered {
    async fn get_secret(
        &self,
        request: Request<GetSecretRequest>,
    ) -> Result<Response<GetSecretResponse>, Status> {
        let id = request.into_inner().id;
        let secret = self.0.secret(&id).await;
        let secret = secret.map_err(|error| Status::internal(error.to_string()))?;
        let secret = secret.ok_or_else(|| Status::not_found(format!("secret {id}: not found")))?;
        Ok(Response::new(GetSecretResponse {
            data: Bytes::copy_from_slice(secret.expose()),
        }))
    }
}
