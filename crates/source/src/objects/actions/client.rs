//! Requests to the service and to where it keeps content: made again where that can help, and told without what is secret of them.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode};
use serde::Deserialize;
use url::Url;

use super::super::ObjectError;
use super::super::error::element;
use crate::Secret;
use crate::retry::{RetryPolicy, retry_after};
use crate::transport::{self, Hope, NetworkError, Timeouts, TransportError};

/// How much of an answer is read, in bytes.
pub(super) const MAX_ANSWER: usize = 64 << 10;
/// The first wait where the service is asked too often; it doubles up to [`LONGEST`].
const THROTTLED: Duration = Duration::from_secs(1);
/// The longest.
const LONGEST: Duration = Duration::from_secs(90);
/// How often a host that cannot be reached is tried.
const UNREACHABLE: u32 = 2;

/// One request, which may be made several times.
pub(super) struct Call<'a> {
    /// What is done with the key, in words.
    pub(super) action: &'static str,
    pub(super) key: String,
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// Masked in what the server says.
    pub(super) secret: Option<&'a Secret>,
    /// Until when it is made again where the server is asked too often.
    pub(super) until: Instant,
}

/// What came of it.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

/// Connections: by the environment's proxies, or to this machine. No redirects: the requests have secrets.
#[derive(Clone)]
pub(super) struct Clients {
    outside: reqwest::Client,
    loopback: reqwest::Client,
}

impl Clients {
    pub(super) fn new() -> Result<Self, TransportError> {
        let client = |host| transport::direct_client(host, &Timeouts::default());
        Ok(Self {
            outside: client("")?,
            loopback: client("localhost")?,
        })
    }

    /// Makes a request and reads the answer, whatever its status.
    pub(super) async fn ask(&self, call: &Call<'_>) -> Result<Answer, ObjectError> {
        let response = self.send(call).await?;
        let status = response.status();
        let body = read_answer(response).await;
        let body = body.map_err(|error| call.failed(error.to_string(), None))?;
        Ok(Answer { status, body })
    }

    /// Makes a request until the server answers something that another try would not change.
    pub(super) async fn send(&self, call: &Call<'_>) -> Result<reqwest::Response, ObjectError> {
        let policy = RetryPolicy::default();
        let mut attempts = policy.start();
        let mut unreachable = 0;
        let mut throttled = THROTTLED;
        loop {
            let error = match self.once(call).await {
                Ok(response) if response.status() == StatusCode::TOO_MANY_REQUESTS => {
                    let wait = retry_after(response.headers()).unwrap_or(throttled);
                    let wait = wait.clamp(THROTTLED, LONGEST);
                    throttled = (throttled * 2).min(LONGEST);
                    if Instant::now() + wait > call.until {
                        return Ok(response);
                    }
                    tokio::time::sleep(wait).await;
                    continue;
                }
                Ok(response) if is_transient(response.status()) => {
                    let wait = retry_after(response.headers());
                    match attempts.again(wait).await {
                        true => continue,
                        false => return Ok(response),
                    }
                }
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            let again = match error.hope() {
                Hope::None => false,
                Hope::Transient => attempts.again(None).await,
                Hope::Unreachable => {
                    unreachable += 1;
                    unreachable < UNREACHABLE && attempts.again(None).await
                }
            };
            if !again {
                return Err(call.failed(error.to_string(), None));
            }
        }
    }

    async fn once(&self, call: &Call<'_>) -> Result<reqwest::Response, NetworkError> {
        let host = call.url.host_str().unwrap_or_default();
        let client = match transport::is_loopback(host) {
            true => &self.loopback,
            false => &self.outside,
        };
        let request = client.request(call.method.clone(), call.url.clone());
        let request = request.headers(call.headers.clone());
        // Servers want its length, also where there is nothing.
        let request = match call.method {
            Method::GET | Method::HEAD => request,
            _ => request.body(call.body.clone()),
        };
        Ok(request.send().await?)
    }
}

const fn is_transient(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 500 | 502 | 503 | 504)
}

/// The beginning of what a server says.
pub(super) async fn read_answer(mut response: reqwest::Response) -> Result<Bytes, NetworkError> {
    let mut body = BytesMut::new();
    while let Some(piece) = response.chunk().await? {
        let room = MAX_ANSWER - body.len();
        body.extend_from_slice(&piece[..piece.len().min(room)]);
        if body.len() == MAX_ANSWER {
            break;
        }
    }
    Ok(body.freeze())
}

impl Call<'_> {
    pub(super) fn failed(&self, reason: String, status: Option<StatusCode>) -> ObjectError {
        let reason = match self.secret {
            Some(secret) if !secret.is_empty() => reason.replace(secret.expose(), "…"),
            _ => reason,
        };
        ObjectError::Request {
            action: self.action,
            key: self.key.clone(),
            reason,
            status,
        }
    }
}

impl Answer {
    /// What the server says is wrong: `403 Forbidden: …`.
    pub(super) fn refused(&self, call: &Call<'_>) -> ObjectError {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Problem {
            /// As the service's first version has it.
            message: String,
            /// As Twirp has it.
            msg: String,
        }
        let problem: Problem = serde_json::from_slice(&self.body).unwrap_or_default();
        let text = String::from_utf8_lossy(&self.body);
        let told = [problem.message, problem.msg];
        let told = told.into_iter().find(|told| !told.is_empty());
        let message = told.or_else(|| element(&text, "Message"));
        let line = message.and_then(|message| message.lines().next().map(str::to_owned));
        let shown = line.map(|line| line.chars().filter(|c| !c.is_control()).take(200).collect());
        let reason = match shown {
            None => self.status.to_string(),
            Some::<String>(shown) => format!("{}: {shown}", self.status),
        };
        call.failed(reason, Some(self.status))
    }
}
