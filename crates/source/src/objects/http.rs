//! The connections of object stores: those of all other sources, and no redirects, since a signature holds for one address.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService,
};
use object_store::{ClientOptions, Error};
use url::Url;

use crate::transport::{self, Hope, NetworkError, Timeouts, TransportError};

/// How long a connection may take. Where this machine has no identity of its own, nobody answers who would know it.
const CONNECT: Duration = Duration::from_secs(5);

/// Connections to one host, and to whoever gives credentials for it.
#[derive(Clone)]
pub(super) struct Connection(reqwest::Client);

impl Connection {
    /// Connections to the host of an address.
    pub(super) fn to(url: &Url) -> Result<Self, TransportError> {
        let host = url.host_str().unwrap_or_default();
        let timeouts = Timeouts {
            connect: CONNECT,
            ..Timeouts::default()
        };
        let client = transport::direct_client(host, &timeouts)?;
        Ok(Self(client))
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connection")
    }
}

#[async_trait]
impl HttpService for Connection {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let url = Url::parse(&parts.uri.to_string());
        let url = url.map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        let mut request = reqwest::Request::new(parts.method, url);
        *request.headers_mut() = parts.headers;
        let length = body.content_length();
        *request.body_mut() = match body.as_bytes() {
            Some(bytes) => Some(bytes.clone().into()),
            None => Some(reqwest::Body::wrap(body)),
        };
        // Servers want to know it, also where there is nothing.
        if length > 0 || request.method() == http::Method::PUT {
            request
                .headers_mut()
                .insert(http::header::CONTENT_LENGTH, length.into());
        }
        let response = self.0.execute(request).await.map_err(failed)?;
        let response: http::Response<reqwest::Body> = response.into();
        let (parts, body) = response.into_parts();
        let body = http_body_util::BodyExt::map_err(body, failed);
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)))
    }
}

impl HttpConnector for Connection {
    fn connect(&self, _: &ClientOptions) -> Result<HttpClient, Error> {
        Ok(HttpClient::new(self.clone()))
    }
}

fn failed(error: reqwest::Error) -> HttpError {
    let timed_out = error.is_timeout();
    let error = NetworkError::from(error);
    let kind = match error.hope() {
        Hope::Unreachable => HttpErrorKind::Connect,
        Hope::Transient if timed_out => HttpErrorKind::Timeout,
        Hope::Transient => HttpErrorKind::Interrupted,
        Hope::None => HttpErrorKind::Unknown,
    };
    HttpError::new(kind, error)
}
