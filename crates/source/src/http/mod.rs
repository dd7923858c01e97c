//! Files from HTTP servers: verified, resumed after breaks, and not fetched again as long as the
//! server says that they did not change.

mod attempt;
mod download;
mod error;
mod file_name;
mod request;

pub use download::Download;
pub use error::HttpError;
pub use file_name::safe as safe_file_name;
pub use request::{AuthSecret, HttpRequest};

use std::fs::File;

use reqwest::StatusCode;
use weld_digest::Algorithm;

use crate::progress::Progress;
use crate::pump::Pump;
use crate::retry::RetryPolicy;
use crate::sink::{BlobSink, FileSink};
use crate::transport::{self, Hope, Timeouts, Tls};
use crate::url_text::shown;

use attempt::{Fetch, continues};
use download::{etag, last_modified};
use file_name::file_name;
use request::parse_url;

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
