//! Who the client is at registries (package `moby.filesync.v1`, service `Auth`).

use bytes::Bytes;

/// [`CredentialsRequest`] to [`CredentialsResponse`].
pub const CREDENTIALS: &str = "/moby.filesync.v1.Auth/Credentials";
/// [`FetchTokenRequest`] to [`FetchTokenResponse`].
pub const FETCH_TOKEN: &str = "/moby.filesync.v1.Auth/FetchToken";
/// [`GetTokenAuthorityRequest`] to [`GetTokenAuthorityResponse`].
pub const GET_TOKEN_AUTHORITY: &str = "/moby.filesync.v1.Auth/GetTokenAuthority";
/// [`VerifyTokenAuthorityRequest`] to [`VerifyTokenAuthorityResponse`].
pub const VERIFY_TOKEN_AUTHORITY: &str = "/moby.filesync.v1.Auth/VerifyTokenAuthority";

/// Asks who to be at a registry.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CredentialsRequest {
    /// The registry, `host[:port]`.
    #[prost(string, tag = "1")]
    pub host: String,
}

/// A user's name and password, or an identity token without a name.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[prost(skip_debug)]
pub struct CredentialsResponse {
    /// The name.
    #[prost(string, tag = "1")]
    pub username: String,
    /// The password or token.
    #[prost(string, tag = "2")]
    pub secret: String,
}

impl std::fmt::Debug for CredentialsResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CredentialsResponse(…)")
    }
}

/// Asks for a token, which the client gets from a token server.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct FetchTokenRequest {
    /// Who asks.
    #[prost(string, tag = "1")]
    pub client_id: String,
    /// The registry.
    #[prost(string, tag = "2")]
    pub host: String,
    /// The token server's URL.
    #[prost(string, tag = "3")]
    pub realm: String,
    /// The service that it is for.
    #[prost(string, tag = "4")]
    pub service: String,
    /// What it shall allow.
    #[prost(string, repeated, tag = "5")]
    pub scopes: Vec<String>,
}

/// A token.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[prost(skip_debug)]
pub struct FetchTokenResponse {
    /// The token.
    #[prost(string, tag = "1")]
    pub token: String,
    /// How long it lives, in seconds.
    #[prost(int64, tag = "2")]
    pub expires_in: i64,
    /// When it was issued, in seconds since 1970.
    #[prost(int64, tag = "3")]
    pub issued_at: i64,
}

impl std::fmt::Debug for FetchTokenResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FetchTokenResponse(…)")
    }
}

/// Asks for the key that shows that a client has the same credentials as another.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct GetTokenAuthorityRequest {
    /// The registry.
    #[prost(string, tag = "1")]
    pub host: String,
    /// Of this run of the daemon, so that keys mean nothing to another.
    #[prost(bytes = "bytes", tag = "2")]
    pub salt: Bytes,
}

/// An ed25519 public key.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct GetTokenAuthorityResponse {
    /// The key, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub public_key: Bytes,
}

/// Asks to sign with the private half of that key.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct VerifyTokenAuthorityRequest {
    /// The registry.
    #[prost(string, tag = "1")]
    pub host: String,
    /// What to sign.
    #[prost(bytes = "bytes", tag = "2")]
    pub payload: Bytes,
    /// As in [`GetTokenAuthorityRequest`].
    #[prost(bytes = "bytes", tag = "3")]
    pub salt: Bytes,
}

/// A signed message.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct VerifyTokenAuthorityResponse {
    /// The signature, 64 bytes, and the payload behind it.
    #[prost(bytes = "bytes", tag = "1")]
    pub signed: Bytes,
}
