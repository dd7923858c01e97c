//! Files from HTTP servers: verified, resumed after breaks, and not fetched again as long as the
//! server says that they did not change.

mod file_name;

pub use file_name::safe as safe_file_name;

use std::fmt;
use std::fs::{File, FileTimes};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_RANGE, ETAG, HeaderMap, HeaderName,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE, USER_AGENT,
};
use reqwest::{RequestBuilder, Response, StatusCode};
use serde::{Deserialize, Serialize};
use url::Url;
use weld_digest::{Algorithm, Digest};
use weld_llb::FileAttributes;

use crate::progress::{Progress, Transfer};
use crate::pump::{Command, Pump};
use crate::retry::{RetryPolicy, retry_after};
use crate::secret::Secret;
use crate::sink::{BlobSink, FileSink};
use crate::transport::{self, Hope, NetworkError, Timeouts, Tls, TransportError};
use crate::url_text::shown;

use file_name::file_name;

/// The permissions of a file for which none are stated.
const DEFAULT_MODE: u32 = 0o600;

/// Fetches files.
#[derive(Clone, Debug)]
pub struct HttpSource {
    /// Goes through the proxies that the environment names.
    client: reqwest::Client,
    /// For this machine, which no proxy reaches.
    loopback: reqwest::Client,
    config: HttpConfig,
}

/// How files are fetched.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// When failed requests are made again.
    pub retry: RetryPolicy,
    /// How long to wait for a server.
    pub timeouts: Timeouts,
    /// The largest file that is fetched, in bytes.
    pub max_size: u64,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            retry: RetryPolicy::default(),
            timeouts: Timeouts::default(),
            max_size: 1 << 40,
        }
    }
}

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

/// What is known of a file that was fetched: to be kept with it, and given to the next fetch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Download {
    /// The digest of the content.
    pub digest: Digest,
    /// The length, in bytes.
    pub size: u64,
    /// The name that the file should have: never empty, without slashes.
    pub filename: String,
    /// When the server says that it changed last, in seconds since 1970.
    pub last_modified: Option<i64>,
    /// The server's name for this state of the file.
    pub etag: Option<String>,
}

impl Download {
    /// Sets owner, permissions and time of the file as BuildKit does: 0600 unless stated, and
    /// 1970 if the server told no time.
    ///
    /// # Errors
    /// What setting meets.
    pub fn set_attributes(&self, file: &File, attributes: &FileAttributes) -> io::Result<()> {
        let (uid, gid) = (attributes.uid.unwrap_or(0), attributes.gid.unwrap_or(0));
        if attributes.uid.is_some()
            || attributes.gid.is_some()
            || rustix::process::geteuid().is_root()
        {
            let (uid, gid) = (
                rustix::fs::Uid::from_raw(uid),
                rustix::fs::Gid::from_raw(gid),
            );
            rustix::fs::fchown(file.as_fd(), Some(uid), Some(gid))?;
        }
        let mode = attributes.mode.unwrap_or(DEFAULT_MODE) & 0o7777;
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        let since = self
            .last_modified
            .and_then(|seconds| u64::try_from(seconds).ok());
        let time = UNIX_EPOCH + Duration::from_secs(since.unwrap_or(0));
        file.set_times(FileTimes::new().set_accessed(time).set_modified(time))
    }
}

/// What a fetch came to.
#[derive(Debug)]
pub enum Fetched {
    /// One of the files that were fetched before is still current.
    Unchanged {
        /// Its place in the list.
        index: usize,
        /// The name that the file should have now.
        filename: String,
    },
    /// It was fetched into the file.
    Fetched {
        /// The file, at its end.
        file: File,
        /// What is known of it.
        download: Download,
    },
}

/// Why a file could not be fetched. The URL is shown without credentials.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The URL is none of a file.
    #[error("invalid URL {url:?}: {reason}")]
    Url {
        /// What was given, if it can be shown.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// A header's value cannot be sent.
    #[error("cannot fetch {url}: header {name} has a value that cannot be sent")]
    Header {
        /// The URL.
        url: String,
        /// The header's name.
        name: String,
    },
    /// The client could not be set up.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The server refused.
    #[error("cannot fetch {url}: {status}")]
    Status {
        /// The URL.
        url: String,
        /// The server's answer.
        status: StatusCode,
        /// How long it asked to wait.
        retry_after: Option<Duration>,
    },
    /// There was no usable answer.
    #[error("cannot fetch {url}: {source}")]
    Network {
        /// The URL.
        url: String,
        /// Why.
        source: NetworkError,
    },
    /// The content is not what it should be.
    #[error("checksum mismatch for {url}: expected {expected}, got {actual}")]
    Checksum {
        /// The URL.
        url: String,
        /// What was stated.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// The content is larger than is allowed.
    #[error("cannot fetch {url}: it is larger than the limit of {limit} bytes")]
    TooLarge {
        /// The URL.
        url: String,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The file cannot be written.
    #[error("cannot store {url}: {source}")]
    Write {
        /// The URL.
        url: String,
        /// Why.
        source: io::Error,
    },
}

impl HttpError {
    fn hope(&self) -> (Hope, Option<Duration>) {
        match self {
            Self::Status {
                status,
                retry_after,
                ..
            } if status.is_server_error()
                || matches!(
                    *status,
                    StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
                ) =>
            {
                (Hope::Transient, *retry_after)
            }
            Self::Network { source, .. } => (source.hope(), None),
            _ => (Hope::None, None),
        }
    }
}

impl HttpSource {
    /// A source with this configuration.
    ///
    /// # Errors
    /// [`HttpError::Transport`].
    pub fn new(config: HttpConfig) -> Result<Self, HttpError> {
        let client = |host| transport::client(host, &Tls::default(), &config.timeouts);
        Ok(Self {
            client: client("")?,
            loopback: client("localhost")?,
            config,
        })
    }

    /// What a file of a stated checksum will be called, without asking the server.
    ///
    /// # Errors
    /// [`HttpError::Url`].
    pub fn filename(request: &HttpRequest) -> Result<String, HttpError> {
        let url = parse_url(&request.url)?;
        Ok(file_name(request.filename.as_deref(), None, &url))
    }

    /// Fetches a file into `file`, which must be empty, unless one of `before` is still current.
    /// What `before` holds beyond the stated checksum is not considered.
    ///
    /// Dropped, it stops.
    ///
    /// # Errors
    /// [`HttpError`]; what is in `file` then means nothing.
    pub async fn fetch(
        &self,
        request: &HttpRequest,
        before: &[Download],
        file: File,
        progress: &Progress,
    ) -> Result<Fetched, HttpError> {
        let url = parse_url(&request.url)?;
        let algorithm = match &request.checksum {
            Some(checksum) => checksum.algorithm(),
            None => Algorithm::Sha256,
        };
        let text = shown(&url);
        let sink = FileSink::resume(file, algorithm).map_err(|source| HttpError::Write {
            url: text.clone(),
            source,
        })?;
        let mut fetch = Fetch {
            request,
            before,
            algorithm,
            position: sink.position(),
            headers: None,
            transfer: progress.start(&text, &text, None),
            pump: Pump::start(sink),
            text,
            url,
        };
        let outcome = self.fetch_with_retry(&mut fetch).await;
        let (sink, written) = fetch.pump.stop().await;
        written.map_err(|source| HttpError::Write {
            url: fetch.text.clone(),
            source,
        })?;
        if let Some(unchanged) = outcome? {
            fetch.transfer.complete();
            return Ok(unchanged);
        }
        let digest = sink.digest();
        if let Some(expected) = &request.checksum
            && digest != *expected
        {
            return Err(HttpError::Checksum {
                url: fetch.text,
                expected: expected.clone(),
                actual: digest,
            });
        }
        let headers = fetch.headers.unwrap_or_default();
        let download = Download {
            digest,
            size: sink.position(),
            filename: file_name(request.filename.as_deref(), Some(&headers), &fetch.url),
            last_modified: last_modified(&headers),
            etag: etag(&headers),
        };
        fetch.transfer.complete();
        Ok(Fetched::Fetched {
            file: sink.into_file(),
            download,
        })
    }

    async fn fetch_with_retry(&self, fetch: &mut Fetch<'_>) -> Result<Option<Fetched>, HttpError> {
        let mut attempts = self.config.retry.start();
        loop {
            let before = fetch.position;
            let error = match self.fetch_once(fetch).await {
                Ok(outcome) => return Ok(outcome),
                Err(error) => error,
            };
            if fetch.position > before {
                attempts.progressed();
            }
            match error.hope() {
                (Hope::None, _) => return Err(error),
                (_, wait) if !attempts.again(wait).await => return Err(error),
                _ => tracing::debug!(%error, position = fetch.position, "trying again"),
            }
        }
    }

    async fn fetch_once(&self, fetch: &mut Fetch<'_>) -> Result<Option<Fetched>, HttpError> {
        let is_local = fetch.url.host_str().is_some_and(transport::is_loopback);
        let client = if is_local {
            &self.loopback
        } else {
            &self.client
        };
        let request = fetch.with_headers(client.get(fetch.url.clone()))?;
        let response = request.send().await.map_err(|error| fetch.network(error))?;
        match response.status() {
            StatusCode::NOT_MODIFIED => fetch.not_modified(response.headers()).map(Some),
            StatusCode::OK => {
                if let Some(unchanged) = fetch.same_etag(response.headers()) {
                    return Ok(Some(unchanged));
                }
                fetch.restart().await;
                fetch.headers = Some(response.headers().clone());
                fetch.receive(response, self.config.max_size).await?;
                Ok(None)
            }
            StatusCode::PARTIAL_CONTENT if continues(&response, fetch.position) => {
                fetch.receive(response, self.config.max_size).await?;
                Ok(None)
            }
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE
                if fetch.position > 0 =>
            {
                fetch.restart().await;
                Err(fetch.refused(&response))
            }
            _ => Err(fetch.refused(&response)),
        }
    }
}

/// The state of a fetch over all its attempts.
struct Fetch<'a> {
    request: &'a HttpRequest,
    before: &'a [Download],
    algorithm: Algorithm,
    url: Url,
    /// The URL as it may be shown.
    text: String,
    /// How much of the content is there.
    position: u64,
    /// Of the response that the content is from.
    headers: Option<HeaderMap>,
    pump: Pump<FileSink>,
    transfer: Transfer,
}

impl Fetch<'_> {
    fn with_headers(&self, mut request: RequestBuilder) -> Result<RequestBuilder, HttpError> {
        request = request.header(ACCEPT_ENCODING, "identity");
        for (name, value) in &self.request.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).ok();
            if let Some(name) = name.filter(|name| [ACCEPT, USER_AGENT].contains(name)) {
                request = request.header(name.clone(), self.checked(name.as_str(), value)?);
            }
        }
        if let Some(authorization) = &self.request.authorization {
            let value = self.checked("authorization", authorization.expose())?;
            request = request.header(AUTHORIZATION, value);
        }
        match &self.headers {
            Some(headers) if self.position > 0 => Ok(self.with_range(request, headers)),
            _ => Ok(self.with_conditions(request)),
        }
    }

    fn checked<'v>(&self, name: &str, value: &'v str) -> Result<&'v str, HttpError> {
        if reqwest::header::HeaderValue::from_str(value).is_ok() {
            return Ok(value);
        }
        Err(HttpError::Header {
            url: self.text.clone(),
            name: name.to_owned(),
        })
    }

    /// Goes on behind what is there, provided that it is still of the same file.
    fn with_range(&self, request: RequestBuilder, headers: &HeaderMap) -> RequestBuilder {
        let strong = headers
            .get(ETAG)
            .filter(|etag| !etag.as_bytes().starts_with(b"W/"));
        match strong.or_else(|| headers.get(LAST_MODIFIED)) {
            Some(validator) => request
                .header(RANGE, format!("bytes={}-", self.position))
                .header(IF_RANGE, validator.clone()),
            // From the start: nothing tells whether it is the same file.
            None => request,
        }
    }

    /// Asks only for what differs from what was fetched before.
    fn with_conditions(&self, request: RequestBuilder) -> RequestBuilder {
        let etags: Vec<_> = self
            .usable()
            .filter_map(|(_, download)| Some(format!("\"{}\"", download.etag.as_ref()?)))
            .collect();
        if !etags.is_empty() {
            return request.header(IF_NONE_MATCH, etags.join(", "));
        }
        let mut times = self
            .usable()
            .filter_map(|(_, download)| download.last_modified);
        match (times.next(), times.next()) {
            (Some(time), None) => {
                let seconds = u64::try_from(time).unwrap_or(0);
                let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
                request.header(IF_MODIFIED_SINCE, date)
            }
            _ => request,
        }
    }

    /// What was fetched before and would do now.
    fn usable(&self) -> impl Iterator<Item = (usize, &Download)> {
        let checksum = self.request.checksum.as_ref();
        let downloads = self.before.iter().enumerate();
        downloads.filter(move |(_, download)| {
            checksum.is_none_or(|checksum| *checksum == download.digest)
                && download.digest.algorithm() == self.algorithm
        })
    }

    fn not_modified(&self, headers: &HeaderMap) -> Result<Fetched, HttpError> {
        if let Some(unchanged) = self.same_etag(headers) {
            return Ok(unchanged);
        }
        // Without a name it can only be the one that was asked about.
        let mut asked = self
            .usable()
            .filter(|(_, download)| download.etag.is_some() || download.last_modified.is_some());
        match (asked.next(), asked.next()) {
            (Some((index, _)), None) => Ok(self.unchanged(index, headers)),
            _ => Err(HttpError::Status {
                url: self.text.clone(),
                status: StatusCode::NOT_MODIFIED,
                retry_after: None,
            }),
        }
    }

    fn same_etag(&self, headers: &HeaderMap) -> Option<Fetched> {
        let etag = etag(headers)?;
        let same = self
            .usable()
            .find(|(_, download)| download.etag.as_ref() == Some(&etag));
        same.map(|(index, _)| self.unchanged(index, headers))
    }

    fn unchanged(&self, index: usize, headers: &HeaderMap) -> Fetched {
        Fetched::Unchanged {
            index,
            filename: file_name(self.request.filename.as_deref(), Some(headers), &self.url),
        }
    }

    async fn restart(&mut self) {
        if self.position > 0 {
            self.position = 0;
            self.pump.send(Command::Restart).await;
        }
    }

    async fn receive(&mut self, mut response: Response, limit: u64) -> Result<(), HttpError> {
        if let Some(length) = response.content_length() {
            let total = self.position.saturating_add(length);
            if total > limit {
                return Err(self.too_large(limit));
            }
            self.transfer.set_total(total);
        }
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.network(error))?
        {
            let position = self.position + chunk.len() as u64;
            if position > limit {
                return Err(self.too_large(limit));
            }
            if !self.pump.send(Command::Chunk(chunk)).await {
                break;
            }
            self.position = position;
            self.transfer.set(position);
        }
        Ok(())
    }

    fn too_large(&self, limit: u64) -> HttpError {
        HttpError::TooLarge {
            url: self.text.clone(),
            limit,
        }
    }

    fn network(&self, error: reqwest::Error) -> HttpError {
        HttpError::Network {
            url: self.text.clone(),
            source: error.into(),
        }
    }

    fn refused(&self, response: &Response) -> HttpError {
        HttpError::Status {
            url: self.text.clone(),
            status: response.status(),
            retry_after: retry_after(response.headers()),
        }
    }
}

fn parse_url(text: &str) -> Result<Url, HttpError> {
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

/// Whether a partial response starts where it should.
fn continues(response: &Response, position: u64) -> bool {
    let header = response.headers().get(CONTENT_RANGE);
    let text = header.and_then(|value| value.to_str().ok()).unwrap_or("");
    position > 0 && text.starts_with(&format!("bytes {position}-"))
}

/// The entity tag without quotes and weakness: servers are not consistent about them.
fn etag(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(ETAG)?.to_str().ok()?.trim();
    let bare = text.strip_prefix("W/").unwrap_or(text).trim_matches('"');
    (!bare.is_empty()).then(|| bare.to_owned())
}

fn last_modified(headers: &HeaderMap) -> Option<i64> {
    let text = headers.get(LAST_MODIFIED)?.to_str().ok()?;
    let time: SystemTime = httpdate::parse_http_date(text).ok()?;
    let seconds = time.duration_since(UNIX_EPOCH).ok()?.as_secs();
    i64::try_from(seconds).ok()
}
