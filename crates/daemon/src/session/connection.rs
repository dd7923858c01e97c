//! One connection of a session, for as long as it lasts.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};
use weld_proto::session::health::{self, HealthCheckRequest, HealthCheckResponse};
use weld_proto::session::{HEADER_HEALTH_TIMEOUT, HEADER_ID, HEADER_METHOD, HEADER_SHARED_KEY};
use weld_session::Caller;

/// The longest id, name or key that a session may have, in bytes.
const MAX_TEXT: usize = 1024;
/// The most methods that a session may name.
const MAX_METHODS: usize = 256;
/// The shortest time between two questions that a client may ask for.
const MIN_CUSTOM_INTERVAL: Duration = Duration::from_secs(1);

/// How sessions are kept.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// How long a build waits for its session to come, or to come back.
    pub wait: Duration,
    /// How often a client is asked whether it is alive.
    pub health_interval: Duration,
    /// How long its answer may take.
    pub health_timeout: Duration,
    /// After how many answers in a row that did not come it is given up.
    pub health_failures: u32,
    /// How long a transfer of files may stand still.
    pub stall: Duration,
    /// The most sessions at once.
    pub max_sessions: usize,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            wait: Duration::from_secs(5),
            health_interval: Duration::from_secs(5),
            health_timeout: Duration::from_secs(15),
            health_failures: 2,
            stall: Duration::from_secs(600),
            max_sessions: 4096,
        }
    }
}

/// Why a stream cannot be a session's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionError {
    /// It has no id.
    #[error("a session's stream has no {HEADER_ID} in its metadata")]
    NoId,
    /// Something in its metadata is too long.
    #[error("{0} in a session's metadata is too long")]
    TooLong(&'static str),
    /// There are too many sessions.
    #[error("there are {0} sessions already")]
    TooMany(usize),
}

impl From<ConnectionError> for Status {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::TooMany(_) => Self::resource_exhausted(error.to_string()),
            _ => Self::invalid_argument(error.to_string()),
        }
    }
}

/// What a session's stream says of it in its metadata.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    pub(crate) id: String,
    pub(crate) shared_key: String,
    /// Lower case, as clients do not agree on the case.
    methods: HashSet<String>,
    /// What the client asks for instead of the usual questions.
    health: Option<Duration>,
}

impl Offer {
    pub(crate) fn read(metadata: &MetadataMap) -> Result<Self, ConnectionError> {
        let text = |key: &'static str| {
            let value = metadata.get(key).and_then(|value| value.to_str().ok());
            let value = value.unwrap_or_default();
            match value.len() <= MAX_TEXT {
                true => Ok(value.to_owned()),
                false => Err(ConnectionError::TooLong(key)),
            }
        };
        let id = text(HEADER_ID)?;
        if id.is_empty() {
            return Err(ConnectionError::NoId);
        }
        let methods = metadata.get_all(HEADER_METHOD).iter();
        let methods: HashSet<String> = methods
            .filter_map(|method| Some(method.to_str().ok()?.to_ascii_lowercase()))
            .take(MAX_METHODS + 1)
            .collect();
        if methods.len() > MAX_METHODS {
            return Err(ConnectionError::TooLong(HEADER_METHOD));
        }
        let health = text(HEADER_HEALTH_TIMEOUT)?.parse().ok();
        Ok(Self {
            id,
            shared_key: text(HEADER_SHARED_KEY)?,
            methods,
            health: health
                .filter(|milliseconds| *milliseconds > 0)
                .map(|milliseconds| Duration::from_millis(milliseconds).max(MIN_CUSTOM_INTERVAL)),
        })
    }
}

/// A client that is there.
pub(crate) struct Connection {
    pub(crate) caller: Caller,
    pub(crate) offer: Offer,
    /// Cancelled when it is over.
    pub(crate) over: CancellationToken,
}

impl Connection {
    /// Whether the client serves a method.
    pub(crate) fn serves(&self, method: &str) -> bool {
        self.offer.methods.contains(&method.to_ascii_lowercase())
    }

    /// Asks the client again and again whether it is alive; returns when it is not.
    pub(crate) async fn watch(self: Arc<Self>, config: SessionConfig) {
        let (interval, timeout, limit) = match self.offer.health {
            Some(custom) => (custom, custom, 1),
            None => (
                config.health_interval,
                config.health_timeout,
                config.health_failures,
            ),
        };
        let mut failures = 0;
        let mut last = Duration::ZERO;
        loop {
            tokio::time::sleep(interval).await;
            // A client that is busy answers late: what it took the last time may grow by half.
            let timeout = timeout.max(last.mul_f64(1.5));
            let asked = tokio::time::Instant::now();
            let alive = tokio::time::timeout(timeout, self.ask()).await;
            last = asked.elapsed();
            match alive {
                Ok(Ok(())) => failures = 0,
                outcome => {
                    failures += 1;
                    tracing::debug!(session = %self.offer.id, ?outcome, "a client does not answer");
                }
            }
            if failures >= limit {
                tracing::warn!(session = %self.offer.id, "a client does not answer any more");
                return;
            }
        }
    }

    async fn ask(&self) -> Result<(), Status> {
        let request = Request::new(HealthCheckRequest::default());
        let answer = self
            .caller
            .unary::<_, HealthCheckResponse>(health::CHECK, request)
            .await;
        match answer {
            Ok(_) => Ok(()),
            // It answered, if only that it does not know the question.
            Err(status) if status.code() == tonic::Code::Unimplemented => Ok(()),
            Err(status) => Err(status),
        }
    }
}
