//! An object store in memory that speaks S3's protocol or Azure's, as far as a build cache needs it. It takes no request whose signature
//! is not right, so that what passes here passes where signatures are checked.

mod azure;
mod s3;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::http::{self, Answer, Request};

/// A server with one bucket and one account.
#[derive(Debug)]
pub struct ObjectServer {
    port: u16,
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Copy, Debug)]
enum Protocol {
    S3,
    Azure,
}

#[derive(Debug)]
struct State {
    protocol: Protocol,
    /// Whether the bucket or container is there.
    bucket: bool,
    objects: BTreeMap<String, Object>,
    /// Parts of what is not complete, by the upload or the object and the part.
    parts: BTreeMap<(String, String), Vec<u8>>,
    uploads: u64,
    requests: Vec<String>,
}

#[derive(Clone, Debug)]
struct Object {
    content: Arc<Vec<u8>>,
    modified: SystemTime,
}

impl ObjectServer {
    /// The bucket, or the container.
    pub const BUCKET: &str = "cache-bucket";
    /// The region.
    pub const REGION: &str = "eu-test-1";
    /// The id of the key that S3's requests are signed with.
    pub const KEY_ID: &str = "AKIDEXAMPLE";
    /// That key.
    pub const KEY: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
    /// The account of Azure's.
    pub const ACCOUNT: &str = "testaccount";
    /// Its key.
    pub const ACCOUNT_KEY: &str = "c2VjcmV0IGtleSBvZiBhIHRlc3QgYWNjb3VudCE=";

    /// Starts one that speaks S3's protocol, with an empty bucket.
    ///
    /// # Errors
    /// If there is no port to be had.
    pub fn start_s3() -> io::Result<Self> {
        Self::start(Protocol::S3)
    }

    /// Starts one that speaks Azure's protocol, with no container.
    ///
    /// # Errors
    /// If there is no port to be had.
    pub fn start_azure() -> io::Result<Self> {
        Self::start(Protocol::Azure)
    }

    fn start(protocol: Protocol) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(Mutex::new(State {
            protocol,
            bucket: matches!(protocol, Protocol::S3),
            objects: BTreeMap::new(),
            parts: BTreeMap::new(),
            uploads: 0,
            requests: Vec::new(),
        }));
        let shared = Arc::clone(&state);
        // It ends with the test's process.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                // A client that goes away in the middle is what some tests are about.
                std::thread::spawn(move || {
                    drop(http::serve(&client, |request| lock(&state).answer(request)));
                });
            }
        });
        Ok(Self { port, state })
    }

    /// Its address: `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The requests since this was asked last, such as `GET /cache-bucket/blobs/sha256:…`, with the statuses of their answers.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.state).requests)
    }

    /// The keys of all objects.
    pub fn keys(&self) -> Vec<String> {
        lock(&self.state).objects.keys().cloned().collect()
    }

    /// The content of an object.
    pub fn object(&self, key: &str) -> Option<Vec<u8>> {
        let state = lock(&self.state);
        state.objects.get(key).map(|object| object.content.to_vec())
    }

    /// How many parts are there of what was not completed.
    pub fn parts(&self) -> usize {
        lock(&self.state).parts.len()
    }

    /// Removes an object.
    pub fn remove(&self, key: &str) {
        lock(&self.state).objects.remove(key);
    }

    /// Makes all objects older.
    pub fn grow_older(&self, by: Duration) {
        for object in lock(&self.state).objects.values_mut() {
            object.modified = object.modified.checked_sub(by).unwrap_or(object.modified);
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn answer(&mut self, request: &Request) -> Answer {
        let answer = match self.protocol {
            Protocol::S3 => s3::answer(self, request),
            Protocol::Azure => azure::answer(self, request),
        };
        let told = format!("{} {} {}", request.method, request.target, answer.status);
        self.requests.push(told);
        answer
    }

    fn keep(&mut self, key: &str, content: Vec<u8>) {
        let object = Object {
            content: Arc::new(content),
            modified: SystemTime::now(),
        };
        self.objects.insert(key.to_owned(), object);
    }

    /// Whether a request's conditions allow that it puts something in an object's place.
    fn may_replace(&self, key: &str, request: &Request) -> bool {
        let there = self.objects.get(key).map(|object| etag(&object.content));
        if request.header("if-none-match") == Some("*") && there.is_some() {
            return false;
        }
        match request.header("if-match") {
            None => true,
            Some(wanted) => there.as_deref() == Some(wanted),
        }
    }

    /// An object, or the part of it that was asked for.
    fn read(&self, key: &str, request: &Request, missing: &str) -> Answer {
        let Some(object) = self.objects.get(key) else {
            return Answer::error(404, missing);
        };
        let content = &object.content;
        let range = request.header("x-ms-range").or(request.header("range"));
        let first = range.and_then(|range| {
            let (first, _) = range.strip_prefix("bytes=")?.split_once('-')?;
            first.parse::<usize>().ok()
        });
        let mut answer = match first {
            None => Answer::new(200, content.to_vec()),
            Some(first) if first < content.len() => {
                let length = content.len();
                Answer::new(206, content[first..].to_vec()).with(
                    "Content-Range",
                    format!("bytes {first}-{}/{length}", length - 1),
                )
            }
            Some(_) => return Answer::error(416, "InvalidRange"),
        };
        answer = answer.with("ETag", etag(content));
        answer.with("Last-Modified", httpdate::fmt_http_date(object.modified))
    }
}

fn etag(content: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, content);
    format!("\"{}\"", hex(&digest.as_ref()[..16]))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key);
    ring::hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
}
