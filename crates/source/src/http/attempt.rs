//! One fetch over all its attempts: what it asks, and what it makes of the answers.

use std::time::Duration;

use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_RANGE, DATE, ETAG, HeaderMap, HeaderName,
    HeaderValue, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE, USER_AGENT,
};
use reqwest::{RequestBuilder, Response, StatusCode};
use url::Url;
use weld_digest::Algorithm;

use super::download::{bare, etag};
use super::file_name::file_name;
use super::{Download, Fetched, HttpError, HttpRequest};
use crate::progress::Transfer;
use crate::pump::{Command, Pump};
use crate::retry::retry_after;
use crate::sink::FileSink;

/// How long before the response a file has to have been written for its time to tell it from later ones.
const SETTLED_AFTER: Duration = Duration::from_secs(60);

/// The state of a fetch over all its attempts.
pub(super) struct Fetch<'a> {
    pub(super) request: &'a HttpRequest,
    pub(super) before: &'a [Download],
    pub(super) algorithm: Algorithm,
    pub(super) url: Url,
    /// The URL as it may be shown.
    pub(super) text: String,
    /// How much of the content is there.
    pub(super) position: u64,
    /// Of the response that the content is from.
    pub(super) headers: Option<HeaderMap>,
    pub(super) pump: Pump<FileSink>,
    pub(super) transfer: Transfer,
}

impl Fetch<'_> {
    pub(super) fn with_headers(
        &self,
        mut request: RequestBuilder,
    ) -> Result<RequestBuilder, HttpError> {
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
        if HeaderValue::from_str(value).is_ok() {
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
        match strong.or_else(|| settled_time(headers)) {
            Some(validator) => request
                .header(RANGE, format!("bytes={}-", self.position))
                .header(IF_RANGE, validator.clone()),
            // From the start: nothing tells whether it is the same file.
            None => request,
        }
    }

    /// Asks only for what differs from what was fetched before. A time would not do: a file that is put back to an older one, or
    /// is written twice in a second, was "not modified since".
    fn with_conditions(&self, request: RequestBuilder) -> RequestBuilder {
        let etags: Vec<_> = self
            .usable()
            .filter_map(|(_, download)| download.etag.clone())
            .collect();
        match etags.is_empty() {
            true => request,
            false => request.header(IF_NONE_MATCH, etags.join(", ")),
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

    pub(super) fn not_modified(&self, headers: &HeaderMap) -> Result<Fetched, HttpError> {
        if let Some(unchanged) = self.same_etag(headers) {
            return Ok(unchanged);
        }
        // Without a name it can only be the one that was asked about.
        let mut asked = self
            .usable()
            .filter(|(_, download)| download.etag.is_some());
        match (asked.next(), asked.next()) {
            (Some((index, _)), None) => Ok(self.unchanged(index, headers)),
            _ => Err(HttpError::Status {
                url: self.text.clone(),
                status: StatusCode::NOT_MODIFIED,
                retry_after: None,
            }),
        }
    }

    pub(super) fn same_etag(&self, headers: &HeaderMap) -> Option<Fetched> {
        let etag = etag(headers)?;
        let is_same = |kept: &String| bare(kept) == bare(&etag);
        let same = self
            .usable()
            .find(|(_, download)| download.etag.as_ref().is_some_and(is_same));
        same.map(|(index, _)| self.unchanged(index, headers))
    }

    fn unchanged(&self, index: usize, headers: &HeaderMap) -> Fetched {
        Fetched::Unchanged {
            index,
            filename: file_name(self.request.filename.as_deref(), Some(headers), &self.url),
        }
    }

    pub(super) async fn restart(&mut self) {
        if self.position > 0 {
            self.position = 0;
            self.pump.send(Command::Restart).await;
        }
    }

    pub(super) async fn receive(
        &mut self,
        mut response: Response,
        limit: u64,
    ) -> Result<(), HttpError> {
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

    pub(super) fn network(&self, error: reqwest::Error) -> HttpError {
        HttpError::Network {
            url: self.text.clone(),
            source: error.into(),
        }
    }

    pub(super) fn refused(&self, response: &Response) -> HttpError {
        HttpError::Status {
            url: self.text.clone(),
            status: response.status(),
            retry_after: retry_after(response.headers()),
        }
    }
}

/// Whether a partial response starts where it should.
pub(super) fn continues(response: &Response, position: u64) -> bool {
    let header = response.headers().get(CONTENT_RANGE);
    let text = header.and_then(|value| value.to_str().ok()).unwrap_or("");
    position > 0 && text.starts_with(&format!("bytes {position}-"))
}

/// The time of a file where it names just that state of it (RFC 9110, 8.8.2.2): within a second, another could have been written.
fn settled_time(headers: &HeaderMap) -> Option<&HeaderValue> {
    let time = |name| httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok();
    let age = time(DATE)?.duration_since(time(LAST_MODIFIED)?).ok()?;
    headers.get(LAST_MODIFIED).filter(|_| age >= SETTLED_AFTER)
}
