use std::fmt;

use url::Url;
use weld_digest::Digest;

use super::HttpError;
use crate::secret::Secret;
use crate::url_text::shown;

/// What to fetch.
#[derive(Clone)]
pub struct HttpRequest {
    /// The URL, `http` or `https`.
    pub url: String,
    /// The digest that the file must have.
    pub checksum: Option<Digest>,
    /// The name that the file shall have, whatever the server says.
    pub filename: Option<String>,
    /// The value of the `Authorization` header; it is not sent to other hosts.
    pub authorization: Option<Secret>,
    /// Further headers. Those but `Accept` and `User-Agent` are left out, as in BuildKit.
    pub headers: Vec<(String, String)>,
}

impl fmt::Debug for HttpRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = Url::parse(&self.url).map_or_else(|_| "…".to_owned(), |url| shown(&url));
        f.debug_struct("HttpRequest")
            .field("url", &url)
            .field("checksum", &self.checksum)
            .finish_non_exhaustive()
    }
}

impl HttpRequest {
    /// A plain request for `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            checksum: None,
            filename: None,
            authorization: None,
            headers: Vec::new(),
        }
    }
}

/// A secret that may authorize a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthSecret {
    /// Its name in the client's session.
    pub name: String,
    /// Whether its value is a bearer token rather than the whole header.
    pub is_token: bool,
}

impl AuthSecret {
    /// The secrets to look for, in order: the stated one, which must be there, else those that
    /// BuildKit names after the host, which need not.
    pub fn candidates(url: &str, stated: Option<&str>) -> Vec<Self> {
        if let Some(name) = stated {
            return vec![Self {
                name: name.to_owned(),
                is_token: false,
            }];
        }
        let parsed = Url::parse(url).ok();
        let host = parsed.as_ref().and_then(Url::host_str);
        let secret = |prefix: &str, is_token| {
            host.map(|host| Self {
                name: format!("{prefix}{host}"),
                is_token,
            })
        };
        [
            secret("HTTP_AUTH_TOKEN_", true),
            secret("HTTP_AUTH_HEADER_", false),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// The header that the secret's value makes.
    pub fn header(&self, value: &Secret) -> Secret {
        let value = value.expose().trim();
        match self.is_token {
            true => Secret::new(format!("Bearer {value}")),
            false => Secret::new(value),
        }
    }
}

pub(super) fn parse_url(text: &str) -> Result<Url, HttpError> {
    let bad = |url: &str, reason: String| HttpError::Url {
        url: url.to_owned(),
        reason,
    };
    // What does not parse may hold a password all the same.
    let url = Url::parse(text).map_err(|error| bad("…", error.to_string()))?;
    match url.scheme() {
        "http" | "https" => Ok(url),
        other => Err(bad(
            &shown(&url),
            format!("scheme {other:?} is not http or https"),
        )),
    }
}
