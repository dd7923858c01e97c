//! The cache service of GitHub Actions in memory, in both of its versions, as far as build caches use it.
//!
//! Tokens are signed and say what they are good for; entries belong to a scope, are found by whole keys first and by what their keys begin
//! with after that, in the order of a token's scopes, and are never changed. What content is read from and written to are addresses whose
//! signatures are checked.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::http::{self, Answer, Request, decoded};
use crate::objects::{hex, hmac};

/// What tokens and addresses are signed with.
const KEY: &[u8] = b"the service's own key";
const TWIRP: &str = "/twirp/github.actions.results.api.v1.CacheService/";
const REST: &str = "/_apis/artifactcache/";
const READ: u64 = 1;
const WRITE: u64 = 2;

/// The service, with one repository.
#[derive(Debug)]
pub struct ActionsServer {
    port: u16,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// The host that addresses of content name.
    host: String,
    entries: Vec<Entry>,
    requests: Vec<String>,
    /// How many calls are yet to be told that there are too many.
    throttled: usize,
}

/// An entry; its number is its place.
#[derive(Debug)]
struct Entry {
    scope: String,
    key: String,
    version: String,
    blocks: BTreeMap<String, Vec<u8>>,
    content: Option<Arc<Vec<u8>>>,
    is_complete: bool,
    is_gone: bool,
}

/// A part of a token's claims.
struct Scope {
    name: String,
    permission: u64,
}

impl ActionsServer {
    /// Starts it, with no entries.
    ///
    /// # Errors
    /// If there is no port to be had.
    pub fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(Mutex::new(State {
            host: format!("127.0.0.1:{port}"),
            ..State::default()
        }));
        let shared = Arc::clone(&state);
        // It ends with the test's process.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                // A client that goes away in the middle is what some tests are about.
                std::thread::spawn(move || {
                    drop(http::serve(&client, |request| {
                        lock(&state).answer_and_note(request)
                    }));
                });
            }
        });
        Ok(Self { port, state })
    }

    /// Its address: `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Has content read and written through another host, such as a proxy.
    pub fn serve_content_at(&self, host: &str) {
        lock(&self.state).host = host.to_owned();
    }

    /// A token for these scopes, with permissions as GitHub has them: 1 to read, 2 to write.
    pub fn token(scopes: &[(&str, u64)]) -> String {
        let scopes: Vec<Value> = scopes
            .iter()
            .map(|(name, permission)| json!({ "Scope": name, "Permission": permission }))
            .collect();
        let claims = json!({
            "ac": Value::from(scopes).to_string(),
            "nbf": 1_600_000_000,
            "exp": 4_000_000_000_u64,
        });
        let encoded = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!(
            "{}.{}",
            encoded(json!({ "alg": "HS256", "typ": "JWT" })),
            encoded(claims)
        );
        let signature = URL_SAFE_NO_PAD.encode(hmac(KEY, &signed));
        format!("{signed}.{signature}")
    }

    /// The requests since this was asked last, such as `POST /twirp/…/CreateCacheEntry 200`, without what signs addresses.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.state).requests)
    }

    /// The keys of all complete entries, with their scopes.
    pub fn keys(&self) -> Vec<(String, String)> {
        let state = lock(&self.state);
        let complete = state.entries.iter().filter(|entry| entry.is_there());
        complete
            .map(|entry| (entry.scope.clone(), entry.key.clone()))
            .collect()
    }

    /// The content of the newest complete entry whose key begins with this.
    pub fn content(&self, prefix: &str) -> Option<Vec<u8>> {
        let state = lock(&self.state);
        let mut found = state.entries.iter().rev();
        let found = found.find(|entry| entry.is_there() && entry.key.starts_with(prefix))?;
        found.content.as_deref().cloned()
    }

    /// Drops the entries whose keys begin with this, as GitHub does with what is old. Their keys are free again.
    pub fn evict(&self, prefix: &str) {
        for entry in &mut lock(&self.state).entries {
            entry.is_gone |= entry.key.starts_with(prefix);
        }
    }

    /// Makes the entries whose keys begin with this as if their writers had gone away before they were complete.
    pub fn abandon(&self, prefix: &str) {
        for entry in &mut lock(&self.state).entries {
            entry.is_complete &= !entry.key.starts_with(prefix);
        }
    }

    /// Has so many calls told that there are too many.
    pub fn throttle(&self, calls: usize) {
        lock(&self.state).throttled = calls;
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Entry {
    fn is_there(&self) -> bool {
        self.is_complete && !self.is_gone
    }
}

impl State {
    fn answer_and_note(&mut self, request: &Request) -> Answer {
        let answer = self.answer(request);
        let path = request.path();
        let part = request
            .parameter("comp")
            .map(|comp| format!("?comp={comp}"));
        let told = format!(
            "{} {path}{} {}",
            request.method,
            part.unwrap_or_default(),
            answer.status
        );
        self.requests.push(told);
        answer
    }

    fn answer(&mut self, request: &Request) -> Answer {
        let path = request.decoded_path();
        if let Some(number) = path.strip_prefix("/content/") {
            return self.content(number, request);
        }
        let Some(scopes) = scopes(request) else {
            return problem(401, "unauthenticated", "the token is not valid");
        };
        if self.throttled > 0 {
            self.throttled -= 1;
            let answer = problem(429, "resource_exhausted", "too many requests");
            return answer.with("Retry-After", "1".to_owned());
        }
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        if let Some(method) = path.strip_prefix(TWIRP) {
            if request.method != "POST"
                || request.header("content-type") != Some("application/json")
            {
                return problem(404, "bad_route", "no such route");
            }
            return self.twirp(method, &scopes, &body);
        }
        match path.strip_prefix(REST) {
            Some(rest) => self.rest(rest, &scopes, request, &body),
            None => problem(404, "bad_route", "no such route"),
        }
    }

    fn twirp(&mut self, method: &str, scopes: &[Scope], body: &Value) -> Answer {
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        let (key, version) = (text("key"), text("version"));
        match method {
            "CreateCacheEntry" => match self.reserve(scopes, key, version) {
                Ok(number) => said(&json!({
                    "ok": true,
                    "signed_upload_url": self.address(number, "w"),
                })),
                Err(answer) => answer,
            },
            "FinalizeCacheEntryUpload" => {
                let size = &body["size_bytes"];
                let size = size.as_u64().or_else(|| size.as_str()?.parse().ok());
                let number = self.entries.iter().position(|entry| {
                    entry.key == key
                        && entry.version == version
                        && !entry.is_gone
                        && !entry.is_complete
                        && may_write(scopes, &entry.scope)
                });
                match number.map(|number| self.complete(number, scopes, size)) {
                    None => problem(404, "not_found", "no such entry is being written"),
                    Some(Err(answer)) => answer,
                    Some(Ok(())) => said(&json!({ "ok": true, "entry_id": "1" })),
                }
            }
            "GetCacheEntryDownloadURL" => {
                let restore = body["restore_keys"].as_array().cloned().unwrap_or_default();
                let restore = restore.iter().filter_map(Value::as_str);
                let mut keys = vec![key.as_str()];
                keys.extend(restore);
                match self.find(scopes, &keys, &version) {
                    None => {
                        said(&json!({ "ok": false, "signed_download_url": "", "matched_key": "" }))
                    }
                    Some(number) => said(&json!({
                        "ok": true,
                        "signed_download_url": self.address(number, "r"),
                        "matched_key": self.entries[number].key,
                    })),
                }
            }
            _ => problem(404, "bad_route", "no such method"),
        }
    }

    fn rest(&mut self, path: &str, scopes: &[Scope], request: &Request, body: &Value) -> Answer {
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        let number = path
            .strip_prefix("caches/")
            .and_then(|number| number.parse::<usize>().ok());
        match (request.method.as_str(), path, number) {
            ("GET", "cache", _) => {
                let keys = request.parameter("keys").unwrap_or_default();
                let keys: Vec<&str> = keys.split(',').collect();
                let version = request.parameter("version").unwrap_or_default();
                match self.find(scopes, &keys, &version) {
                    None => Answer::new(204, Vec::new()),
                    Some(number) => said(&json!({
                        "cacheKey": self.entries[number].key,
                        "scope": self.entries[number].scope,
                        "archiveLocation": self.address(number, "r"),
                    })),
                }
            }
            ("POST", "caches", _) => match self.reserve(scopes, text("key"), text("version")) {
                Ok(number) => said(&json!({ "cacheId": number + 1 })),
                Err(answer) => answer,
            },
            ("PATCH", _, Some(number)) => {
                let range = request.header("content-range").unwrap_or_default();
                let range = range
                    .strip_prefix("bytes ")
                    .and_then(|range| range.strip_suffix("/*"));
                let range = range.and_then(|range| {
                    let (first, last) = range.split_once('-')?;
                    Some((first.parse::<usize>().ok()?, last.parse::<usize>().ok()?))
                });
                let Some((first, last)) = range else {
                    return problem(400, "invalid_argument", "a range is needed");
                };
                let entry = number
                    .checked_sub(1)
                    .and_then(|number| self.entries.get_mut(number));
                let Some(entry) =
                    entry.filter(|entry| !entry.is_complete && may_write(scopes, &entry.scope))
                else {
                    return problem(404, "not_found", "no such entry is being written");
                };
                if last + 1 != first + request.body.len() {
                    return problem(
                        400,
                        "invalid_argument",
                        "the range is not as long as the content",
                    );
                }
                let content = entry.content.get_or_insert_default();
                let content = Arc::make_mut(content);
                content.resize(content.len().max(last + 1), 0);
                content[first..=last].copy_from_slice(&request.body);
                Answer::new(204, Vec::new())
            }
            ("POST", _, Some(number)) => {
                let completed = number
                    .checked_sub(1)
                    .map(|number| self.complete(number, scopes, body["size"].as_u64()));
                match completed {
                    Some(Ok(())) => Answer::new(204, Vec::new()),
                    Some(Err(answer)) => answer,
                    None => problem(404, "not_found", "no such entry is being written"),
                }
            }
            _ => problem(404, "bad_route", "no such route"),
        }
    }

    /// The entry that a token finds: in each scope the whole key, then the newest of those that begin with one.
    fn find(&self, scopes: &[Scope], keys: &[&str], version: &str) -> Option<usize> {
        let there = |scope: &Scope| {
            let name = scope.name.clone();
            let entries = self.entries.iter().enumerate().rev();
            entries.filter(move |(_, entry)| {
                entry.is_there() && entry.scope == name && entry.version == version
            })
        };
        let readable = scopes.iter().filter(|scope| scope.permission & READ != 0);
        let found = readable.filter_map(|scope| {
            let exact = keys
                .first()
                .and_then(|key| there(scope).find(|(_, entry)| entry.key == *key));
            let mut keys = keys.iter();
            let begins =
                || keys.find_map(|key| there(scope).find(|(_, entry)| entry.key.starts_with(key)));
            exact.or_else(begins)
        });
        found.map(|(number, _)| number).next()
    }

    fn reserve(&mut self, scopes: &[Scope], key: String, version: String) -> Result<usize, Answer> {
        let mut written = scopes.iter().rev();
        let scope = written.find(|scope| scope.permission & WRITE != 0);
        let Some(scope) = scope else {
            return Err(problem(
                403,
                "permission_denied",
                "the token does not let it be written",
            ));
        };
        if key.is_empty() || key.len() > 512 || key.contains(',') || version.is_empty() {
            return Err(problem(
                400,
                "invalid_argument",
                "there is no such key or version",
            ));
        }
        let is_taken = self.entries.iter().any(|entry| {
            entry.scope == scope.name
                && entry.key == key
                && entry.version == version
                && !entry.is_gone
        });
        if is_taken {
            return Err(problem(
                409,
                "already_exists",
                "an entry of this key already exists",
            ));
        }
        self.entries.push(Entry {
            scope: scope.name.clone(),
            key,
            version,
            blocks: BTreeMap::new(),
            content: None,
            is_complete: false,
            is_gone: false,
        });
        Ok(self.entries.len() - 1)
    }

    fn complete(
        &mut self,
        number: usize,
        scopes: &[Scope],
        size: Option<u64>,
    ) -> Result<(), Answer> {
        let entry = self
            .entries
            .get_mut(number)
            .filter(|entry| may_write(scopes, &entry.scope));
        let Some(entry) = entry.filter(|entry| !entry.is_complete) else {
            return Err(problem(404, "not_found", "no such entry is being written"));
        };
        let length = entry.content.as_ref().map(|content| content.len() as u64);
        if length.is_none() || length != size {
            return Err(problem(
                400,
                "invalid_argument",
                "the size is not the content's",
            ));
        }
        entry.is_complete = true;
        Ok(())
    }

    fn address(&self, number: usize, permission: &str) -> String {
        let signature = signature(number, permission);
        format!(
            "http://{}/content/{number}?sp={permission}&sig={signature}",
            self.host
        )
    }

    /// What Azure does, at addresses that are signed.
    fn content(&mut self, number: &str, request: &Request) -> Answer {
        let parsed = number.parse::<usize>().ok();
        let permission = request.parameter("sp").unwrap_or_default();
        let signed = parsed.map(|number| signature(number, &permission));
        if signed.is_none() || request.parameter("sig") != signed {
            return Answer::error(403, "AuthenticationFailed");
        }
        let Some(entry) = parsed.and_then(|number| self.entries.get_mut(number)) else {
            return Answer::error(404, "BlobNotFound");
        };
        let comp = request.parameter("comp");
        let answer = match (
            request.method.as_str(),
            permission.as_str(),
            comp.as_deref(),
        ) {
            ("GET" | "HEAD", "r", None) => match &entry.content {
                Some(content) if entry.is_there() => read(content, request),
                _ => Answer::error(404, "BlobNotFound"),
            },
            ("PUT", "w", _) if entry.is_complete => Answer::error(409, "BlobImmutableDueToPolicy"),
            ("PUT", "w", None) if request.header("x-ms-blob-type") == Some("BlockBlob") => {
                entry.content = Some(Arc::new(request.body.clone()));
                Answer::new(201, Vec::new())
            }
            ("PUT", "w", Some("block")) => match request.parameter("blockid") {
                Some(id) if STANDARD.decode(&id).is_ok() => {
                    entry.blocks.insert(id, request.body.clone());
                    Answer::new(201, Vec::new())
                }
                _ => Answer::error(400, "InvalidQueryParameterValue"),
            },
            ("PUT", "w", Some("blocklist")) => {
                let list = String::from_utf8_lossy(&request.body).into_owned();
                let mut content = Vec::new();
                for piece in list.split("<Latest>").skip(1) {
                    let id = decoded(piece.split('<').next().unwrap_or_default());
                    match entry.blocks.get(&id) {
                        Some(block) => content.extend_from_slice(block),
                        None => return Answer::error(400, "InvalidBlockList"),
                    }
                }
                entry.content = Some(Arc::new(content));
                Answer::new(201, Vec::new())
            }
            _ => Answer::error(403, "AuthorizationPermissionMismatch"),
        };
        // Azure's own clients count on it.
        answer.with("x-ms-request-id", "1".to_owned())
    }
}

fn read(content: &Arc<Vec<u8>>, request: &Request) -> Answer {
    let range = request.header("x-ms-range").or(request.header("range"));
    let first = range.and_then(|range| {
        let (first, _) = range.strip_prefix("bytes=")?.split_once('-')?;
        first.parse::<usize>().ok()
    });
    match first {
        None => Answer::new(200, content.to_vec()),
        Some(first) if first < content.len() => {
            let length = content.len();
            let range = format!("bytes {first}-{}/{length}", length - 1);
            Answer::new(206, content[first..].to_vec()).with("Content-Range", range)
        }
        Some(_) => Answer::error(416, "InvalidRange"),
    }
}

fn signature(number: usize, permission: &str) -> String {
    hex(&hmac(KEY, &format!("{number} {permission}")))
}

fn may_write(scopes: &[Scope], name: &str) -> bool {
    let mut scopes = scopes.iter();
    scopes.any(|scope| scope.name == name && scope.permission & WRITE != 0)
}

/// What the request's token is good for; `None` if it is none of ours.
fn scopes(request: &Request) -> Option<Vec<Scope>> {
    let token = request.header("authorization")?.strip_prefix("Bearer ")?;
    let (signed, signature) = token.rsplit_once('.')?;
    if URL_SAFE_NO_PAD.encode(hmac(KEY, signed)) != signature {
        return None;
    }
    let (_, claims) = signed.split_once('.')?;
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    let access: Vec<Value> = serde_json::from_str(claims["ac"].as_str()?).ok()?;
    let scope = |scope: &Value| {
        Some(Scope {
            name: scope["Scope"].as_str()?.to_owned(),
            permission: scope["Permission"].as_u64()?,
        })
    };
    access.iter().map(scope).collect()
}

fn said(body: &Value) -> Answer {
    Answer::new(200, body.to_string().into_bytes())
        .with("Content-Type", "application/json".to_owned())
}

/// As Twirp tells it, and as the first version does.
fn problem(status: u16, code: &str, message: &str) -> Answer {
    let type_key = match code {
        "already_exists" => "ArtifactCacheItemAlreadyExistsException",
        other => other,
    };
    let body = json!({ "code": code, "msg": message, "message": message, "typeKey": type_key });
    Answer::new(status, body.to_string().into_bytes())
}
