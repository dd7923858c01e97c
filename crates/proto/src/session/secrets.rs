//! Secrets of the client (package `moby.buildkit.secrets.v1`).

use std::collections::BTreeMap;

use bytes::Bytes;

/// [`GetSecretRequest`] to [`GetSecretResponse`].
pub const GET_SECRET: &str = "/moby.buildkit.secrets.v1.Secrets/GetSecret";

/// Asks for a secret.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct GetSecretRequest {
    /// Its id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// For the client's information.
    #[prost(btree_map = "string, string", tag = "2")]
    pub annotations: BTreeMap<String, String>,
}

/// A secret's content.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[prost(skip_debug)]
pub struct GetSecretResponse {
    /// The content.
    #[prost(bytes = "bytes", tag = "1")]
    pub data: Bytes,
}

impl std::fmt::Debug for GetSecretResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GetSecretResponse(…)")
    }
}
