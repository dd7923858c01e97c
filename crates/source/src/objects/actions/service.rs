//! The service's calls, in both of its versions: which entry a key finds, a key reserved, an entry complete.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde::Deserialize;
use serde_json::json;
use url::Url;
use weld_digest::Digest;

use super::super::ObjectError;
use super::client::{Answer, Call, Clients, MAX_ANSWER};
use crate::Secret;
use crate::objects::ActionsVersion;

/// What entries of BuildKit's have for a version, before it is digested: entries of other versions are not found by their keys.
const ENTRY_VERSION: &str = "|go-actionscache-1.0";
/// The path of the calls of the service's second version, which are Twirp's.
const TWIRP: &str = "twirp/github.actions.results.api.v1.CacheService";
/// The path of those of the first.
const REST: &str = "_apis/artifactcache";
/// What those of the first answer in.
const REST_JSON: &str = "application/json;api-version=6.0-preview.1";

/// An entry that was found.
pub(super) struct Entry {
    /// Its whole key.
    pub(super) key: String,
    /// Where its content is to be had for some minutes, by whoever has this.
    pub(super) url: Secret,
}

/// What came of an attempt to reserve a key.
pub(super) enum Reservation {
    /// It is ours.
    Made(Upload),
    /// There is an entry of this key, or somebody is writing one, or did not finish.
    Taken,
}

/// Where the content of a reserved entry goes.
pub(super) enum Upload {
    /// To the service itself, by the entry's number.
    Service(u64),
    /// To an address that whoever has it may write to.
    Signed(Secret),
}

/// The service, as the holder of a token.
#[derive(Clone)]
pub(super) struct Service {
    url: Url,
    version: ActionsVersion,
    token: Secret,
    authorization: HeaderValue,
    entry_version: String,
    pub(super) clients: Clients,
    patience: Duration,
}

impl Service {
    pub(super) fn new(
        url: &str,
        version: ActionsVersion,
        token: &Secret,
        patience: Duration,
    ) -> Result<Self, ObjectError> {
        let bad = |attribute, reason: String| ObjectError::Setting { attribute, reason };
        let mut url = Url::parse(url).map_err(|error| bad("url", error.to_string()))?;
        let is_plain = url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none()
            && url.host_str().is_some()
            && matches!(url.scheme(), "http" | "https");
        if !is_plain {
            let reason = "must be an http:// or https:// address without a query or a user";
            return Err(bad("url", reason.to_owned()));
        }
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        let authorization = HeaderValue::from_str(&format!("Bearer {}", token.expose()));
        let mut authorization = authorization
            .map_err(|_| bad("token", "has characters that none can have".to_owned()))?;
        authorization.set_sensitive(true);
        Ok(Self {
            url,
            version,
            token: token.clone(),
            authorization,
            entry_version: Digest::sha256_of(ENTRY_VERSION.as_bytes()).hex().to_owned(),
            clients: Clients::new()?,
            patience,
        })
    }

    /// The newest entry whose key is this, or begins with it; `None` if there is none.
    pub(super) async fn find(&self, key: &str) -> Result<Option<Entry>, ObjectError> {
        const ACTION: &str = "look for";
        match self.version {
            ActionsVersion::V1 => {
                #[derive(Deserialize)]
                #[serde(rename_all = "camelCase")]
                struct Found {
                    #[serde(default)]
                    cache_key: String,
                    #[serde(default)]
                    archive_location: String,
                }
                let mut url = self.address(&format!("{REST}/cache"), ACTION, key)?;
                url.query_pairs_mut()
                    .append_pair("keys", key)
                    .append_pair("version", &self.entry_version);
                let call = self.call(ACTION, key, Method::GET, url, Bytes::new());
                let answer = self.clients.ask(&call).await?;
                // 204 says that there is none.
                if answer.status == StatusCode::NOT_FOUND || answer.body.is_empty() {
                    return Ok(None);
                }
                let found: Found = answer.read(&call)?;
                Ok((!found.cache_key.is_empty()).then(|| Entry {
                    key: found.cache_key,
                    url: Secret::new(found.archive_location),
                }))
            }
            ActionsVersion::V2 => {
                #[derive(Deserialize)]
                struct Found {
                    #[serde(default)]
                    ok: bool,
                    #[serde(default, alias = "signedDownloadUrl")]
                    signed_download_url: String,
                    #[serde(default, alias = "matchedKey")]
                    matched_key: String,
                }
                let body = json!({
                    "key": key,
                    "restore_keys": [key],
                    "version": self.entry_version,
                });
                let call = self.twirp(ACTION, key, "GetCacheEntryDownloadURL", &body)?;
                let answer = self.clients.ask(&call).await?;
                if answer.status == StatusCode::NOT_FOUND {
                    return Ok(None);
                }
                let found: Found = answer.read(&call)?;
                Ok(found.ok.then(|| Entry {
                    key: found.matched_key,
                    url: Secret::new(found.signed_download_url),
                }))
            }
        }
    }

    /// Reserves a key, which nobody else can have from then on.
    pub(super) async fn reserve(&self, key: &str) -> Result<Reservation, ObjectError> {
        const ACTION: &str = "reserve";
        let body = json!({ "key": key, "version": self.entry_version });
        let call = match self.version {
            ActionsVersion::V1 => {
                let url = self.address(&format!("{REST}/caches"), ACTION, key)?;
                self.call(ACTION, key, Method::POST, url, encoded(&body))
            }
            ActionsVersion::V2 => self.twirp(ACTION, key, "CreateCacheEntry", &body)?,
        };
        let answer = self.clients.ask(&call).await?;
        if answer.says_taken() {
            return Ok(Reservation::Taken);
        }
        let upload = match self.version {
            ActionsVersion::V1 => {
                #[derive(Deserialize)]
                struct Reserved {
                    #[serde(rename = "cacheId", alias = "cacheID")]
                    id: u64,
                }
                Upload::Service(answer.read::<Reserved>(&call)?.id)
            }
            ActionsVersion::V2 => {
                #[derive(Deserialize)]
                struct Reserved {
                    #[serde(default)]
                    ok: bool,
                    #[serde(default, alias = "signedUploadUrl")]
                    signed_upload_url: String,
                }
                let reserved: Reserved = answer.read(&call)?;
                if !reserved.ok {
                    return Err(call.failed("the service does not let it".to_owned(), None));
                }
                Upload::Signed(Secret::new(reserved.signed_upload_url))
            }
        };
        Ok(Reservation::Made(upload))
    }

    /// Sends a piece of an entry's content to the service.
    pub(super) async fn send(
        &self,
        key: &str,
        entry: u64,
        offset: u64,
        piece: Bytes,
    ) -> Result<(), ObjectError> {
        const ACTION: &str = "write";
        let url = self.address(&format!("{REST}/caches/{entry}"), ACTION, key)?;
        let last = (offset + piece.len() as u64).saturating_sub(1);
        let mut call = self.call(ACTION, key, Method::PATCH, url, piece);
        let range = HeaderValue::from_str(&format!("bytes {offset}-{last}/*"));
        let range = range.map_err(|error| call.failed(error.to_string(), None))?;
        call.headers.insert(CONTENT_RANGE, range);
        let octets = HeaderValue::from_static("application/octet-stream");
        call.headers.insert(CONTENT_TYPE, octets);
        self.clients.ask(&call).await?.done(&call)
    }

    /// Makes an entry known whose content is there, and is this long.
    pub(super) async fn finish(
        &self,
        key: &str,
        upload: &Upload,
        size: u64,
    ) -> Result<(), ObjectError> {
        const ACTION: &str = "complete";
        match upload {
            Upload::Service(entry) => {
                let url = self.address(&format!("{REST}/caches/{entry}"), ACTION, key)?;
                let body = encoded(&json!({ "size": size }));
                let call = self.call(ACTION, key, Method::POST, url, body);
                self.clients.ask(&call).await?.done(&call)
            }
            Upload::Signed(_) => {
                #[derive(Deserialize)]
                struct Finished {
                    #[serde(default)]
                    ok: bool,
                }
                let body = json!({
                    "key": key,
                    "size_bytes": size,
                    "version": self.entry_version,
                });
                let call = self.twirp(ACTION, key, "FinalizeCacheEntryUpload", &body)?;
                let finished: Finished = self.clients.ask(&call).await?.read(&call)?;
                match finished.ok {
                    true => Ok(()),
                    false => Err(call.failed("the service does not let it".to_owned(), None)),
                }
            }
        }
    }

    pub(super) const fn patience(&self) -> Duration {
        self.patience
    }

    fn address(&self, path: &str, action: &'static str, key: &str) -> Result<Url, ObjectError> {
        self.url.join(path).map_err(|error| ObjectError::Request {
            action,
            key: key.to_owned(),
            reason: error.to_string(),
            status: None,
        })
    }

    fn twirp(
        &self,
        action: &'static str,
        key: &str,
        method: &str,
        body: &serde_json::Value,
    ) -> Result<Call<'_>, ObjectError> {
        let url = self.address(&format!("{TWIRP}/{method}"), action, key)?;
        Ok(self.call(action, key, Method::POST, url, encoded(body)))
    }

    fn call(
        &self,
        action: &'static str,
        key: &str,
        method: Method,
        url: Url,
        body: Bytes,
    ) -> Call<'_> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, self.authorization.clone());
        let accepted = match self.version {
            ActionsVersion::V1 => REST_JSON,
            ActionsVersion::V2 => "application/json",
        };
        headers.insert(ACCEPT, HeaderValue::from_static(accepted));
        if method == Method::POST {
            let json = HeaderValue::from_static("application/json");
            headers.insert(CONTENT_TYPE, json);
        }
        Call {
            action,
            key: key.to_owned(),
            method,
            url,
            headers,
            body,
            secret: Some(&self.token),
            until: Instant::now() + self.patience,
        }
    }
}

fn encoded(body: &serde_json::Value) -> Bytes {
    body.to_string().into()
}

impl Answer {
    /// What the service says, in JSON.
    fn read<'a, T: Deserialize<'a>>(&'a self, call: &Call<'_>) -> Result<T, ObjectError> {
        if !self.status.is_success() {
            return Err(self.refused(call));
        }
        serde_json::from_slice(&self.body).map_err(|error| {
            // What was answered may have an address in it that is as good as a password.
            let at = format!("line {}, column {}", error.line(), error.column());
            let reason = format!("the service's answer is no JSON as it should be, at {at}");
            call.failed(reason, None)
        })
    }

    pub(super) fn done(&self, call: &Call<'_>) -> Result<(), ObjectError> {
        match self.status.is_success() {
            true => Ok(()),
            false => Err(self.refused(call)),
        }
    }

    /// Whether the service says that there is an entry of the key already.
    fn says_taken(&self) -> bool {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct Problem {
            code: String,
            type_key: String,
            message: String,
        }
        if self.status.is_success() || self.body.len() > MAX_ANSWER {
            return false;
        }
        if self.status == StatusCode::CONFLICT {
            return true;
        }
        let problem: Problem = serde_json::from_slice(&self.body).unwrap_or_default();
        problem.code == "already_exists"
            || problem.type_key.contains("AlreadyExists")
            || problem.message.to_lowercase().contains("already exists")
    }
}
