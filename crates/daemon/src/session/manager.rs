use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status};
use weld_proto::session::BytesMessage;
use weld_session::{Tunnel, caller_over};

use super::connection::{Connection, ConnectionError, Offer, SessionConfig};

/// The sessions of clients, as those of one isolation domain see them. Cheap to clone.
#[derive(Clone)]
pub struct SessionManager {
    shared: Arc<Shared>,
    domain: Option<Arc<str>>,
}

/// A session's domain and id.
type Key = (Option<Arc<str>>, String);

struct Shared {
    config: SessionConfig,
    /// Held by their connections and by whoever uses them.
    sessions: Mutex<HashMap<Key, Weak<ClientSession>>>,
    /// Counts connections, so that those who wait look again.
    arrivals: watch::Sender<u64>,
}

/// A client's session. It outlives the connection: what is asked of it meanwhile waits for the
/// client to come back, but not for long.
pub struct ClientSession {
    id: String,
    pub(super) config: SessionConfig,
    connection: watch::Sender<Option<Arc<Connection>>>,
}

/// Why there is no session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lookup {
    /// None came in time.
    #[error("no active session for {id}: none came within {waited:?}")]
    Absent {
        /// The session's id.
        id: String,
        /// For how long it was waited for.
        waited: Duration,
    },
}

impl From<Lookup> for Status {
    fn from(error: Lookup) -> Self {
        Self::not_found(error.to_string())
    }
}

/// What goes to the client. The session is over when it is dropped.
pub struct SessionStream {
    outgoing: mpsc::Receiver<BytesMessage>,
    _end: DropGuard,
    /// What keeps the session connected, which ends with the stream.
    _connection: AbortOnDropHandle<()>,
}

impl Stream for SessionStream {
    type Item = Result<BytesMessage, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.outgoing.poll_recv(cx).map(|item| item.map(Ok))
    }
}

impl SessionManager {
    /// No sessions yet.
    pub fn new(config: SessionConfig) -> Self {
        Self {
            shared: Arc::new(Shared {
                config,
                sessions: Mutex::default(),
                arrivals: watch::Sender::new(0),
            }),
            domain: None,
        }
    }

    /// The sessions of a domain's clients: other clients neither find nor take them over.
    #[must_use]
    pub fn in_domain(&self, domain: Option<&str>) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            domain: domain.map(Arc::from),
        }
    }

    fn key(&self, id: &str) -> Key {
        (self.domain.clone(), id.to_owned())
    }

    /// Serves a stream of `Control.Session` until either end leaves. A session of the same id
    /// that is there already gets the new connection.
    ///
    /// # Errors
    /// [`ConnectionError`] as a status.
    pub fn serve<S>(&self, request: Request<S>) -> Result<Response<SessionStream>, Status>
    where
        S: Stream<Item = Result<BytesMessage, Status>> + Send + Unpin + 'static,
    {
        let offer = Offer::read(request.metadata())?;
        let session = self.session(&offer.id)?;
        let over = CancellationToken::new();
        let incoming = Watched {
            inner: request.into_inner(),
            gone: Box::pin(over.clone().cancelled_owned()),
            over: over.clone(),
            _end: over.clone().drop_guard(),
        };
        let (tunnel, outgoing) = Tunnel::new(incoming);
        let shared = Arc::clone(&self.shared);
        let ended = over.clone();
        let connection = tokio::spawn(async move {
            let connected = async {
                match caller_over(tunnel).await {
                    Ok(caller) => {
                        let connection = Arc::new(Connection {
                            caller,
                            offer,
                            over: ended.clone(),
                        });
                        shared.hold(&session, connection).await;
                    }
                    Err(error) => tracing::debug!("a session cannot be connected: {error}"),
                }
            };
            tokio::select! {
                () = connected => {}
                () = ended.cancelled() => {}
            }
            ended.cancel();
        });
        Ok(Response::new(SessionStream {
            outgoing,
            _end: over.drop_guard(),
            _connection: AbortOnDropHandle::new(connection),
        }))
    }

    /// The session of that id; waits for it for as long as the configuration says.
    ///
    /// # Errors
    /// [`Lookup::Absent`].
    pub async fn get(&self, id: &str) -> Result<Arc<ClientSession>, Lookup> {
        self.get_within(id, self.shared.config.wait).await
    }

    /// The session of that id; waits for it for that long.
    ///
    /// # Errors
    /// [`Lookup::Absent`].
    pub async fn get_within(&self, id: &str, wait: Duration) -> Result<Arc<ClientSession>, Lookup> {
        let id = without_prefix(id);
        let mut arrivals = self.shared.arrivals.subscribe();
        let arrival = async {
            loop {
                arrivals.mark_unchanged();
                if let Some(session) = self.connected(id) {
                    return Some(session);
                }
                // Never an error: the sender is in `self`.
                if arrivals.changed().await.is_err() {
                    return None;
                }
            }
        };
        match tokio::time::timeout(wait, arrival).await {
            Ok(Some(session)) => Ok(session),
            _ => Err(Lookup::Absent {
                id: id.to_owned(),
                waited: wait,
            }),
        }
    }

    /// The session of that id if its client is there now.
    pub fn connected(&self, id: &str) -> Option<Arc<ClientSession>> {
        let session = self
            .shared
            .lock()
            .get(&self.key(without_prefix(id)))?
            .upgrade()?;
        let connected = session.connection.borrow().is_some();
        connected.then_some(session)
    }

    /// How many sessions, of all domains, have their client now.
    pub fn count(&self) -> usize {
        let sessions: Vec<_> = self
            .shared
            .lock()
            .values()
            .filter_map(Weak::upgrade)
            .collect();
        let connected = |session: &&Arc<ClientSession>| session.connection.borrow().is_some();
        sessions.iter().filter(connected).count()
    }

    /// Finds or makes the session that a new connection is of.
    fn session(&self, id: &str) -> Result<Arc<ClientSession>, ConnectionError> {
        let mut sessions = self.shared.lock();
        let key = self.key(id);
        if let Some(session) = sessions.get(&key).and_then(Weak::upgrade) {
            return Ok(session);
        }
        sessions.retain(|_, session| session.strong_count() > 0);
        if sessions.len() >= self.shared.config.max_sessions {
            return Err(ConnectionError::TooMany(sessions.len()));
        }
        let session = Arc::new(ClientSession {
            id: id.to_owned(),
            config: self.shared.config.clone(),
            connection: watch::Sender::new(None),
        });
        sessions.insert(key, Arc::downgrade(&session));
        Ok(session)
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Weak<ClientSession>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lends a session its connection until its client does not answer any more.
    async fn hold(&self, session: &Arc<ClientSession>, connection: Arc<Connection>) {
        let lent = Lent {
            session,
            connection: Arc::clone(&connection),
        };
        if let Some(before) = session
            .connection
            .send_replace(Some(Arc::clone(&connection)))
        {
            before.over.cancel();
        }
        self.arrivals.send_modify(|count| *count += 1);
        connection.watch(self.config.clone()).await;
        drop(lent);
    }
}

/// Takes the connection from its session when dropped, unless there is a newer one.
struct Lent<'a> {
    session: &'a Arc<ClientSession>,
    connection: Arc<Connection>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.connection.over.cancel();
        self.session.connection.send_if_modified(|current| {
            let own = current
                .as_ref()
                .is_some_and(|current| Arc::ptr_eq(current, &self.connection));
            if own {
                *current = None;
            }
            own
        });
    }
}

impl ClientSession {
    /// Tells the session from all others.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What tells this client's directories from others'; empty if the client does not say or is
    /// not there.
    pub fn shared_key(&self) -> String {
        let connection = self.connection.borrow();
        let connection = connection.as_ref();
        connection.map_or_else(String::new, |connection| {
            connection.offer.shared_key.clone()
        })
    }

    /// Whether the client serves a method; waits for it to come back if it is away.
    ///
    /// # Errors
    /// If it does not.
    pub async fn serves(&self, method: &str) -> Result<bool, Status> {
        Ok(self.connection().await?.serves(method))
    }

    /// The connection; waits for the client to come back if it is away.
    pub(super) async fn connection(&self) -> Result<Arc<Connection>, Status> {
        let mut current = self.connection.subscribe();
        let back = current.wait_for(Option::is_some);
        let connection = match tokio::time::timeout(self.config.wait, back).await {
            Ok(Ok(connection)) => connection.clone(),
            _ => None,
        };
        connection.ok_or_else(|| {
            Status::unavailable(format!("the client of session {} is gone", self.id))
        })
    }

    /// Whether the client is there now. Whoever was told by its connection that that is broken finds it away.
    pub(super) fn is_connected(&self) -> bool {
        let connection = self.connection.borrow();
        connection
            .as_ref()
            .is_some_and(|connection| !connection.over.is_cancelled())
    }

    /// Ends when the client has been away for as long as one waits for it.
    pub async fn gone(&self) {
        let mut current = self.connection.subscribe();
        loop {
            // Neither fails: the sender is in `self`.
            let away = current.wait_for(Option::is_none).await.is_ok();
            let back = current.wait_for(Option::is_some);
            if !away || tokio::time::timeout(self.config.wait, back).await.is_err() {
                return;
            }
        }
    }
}

/// Ids may be preceded by what tells vertices of different contexts apart.
fn without_prefix(id: &str) -> &str {
    match id.split_once(':') {
        Some((_, rest)) if !rest.is_empty() => rest,
        _ => id,
    }
}

/// Ends the session when the client's half of the stream does, and the other way round: a client
/// that was given up may never end its half, and whoever waits for an answer would wait for ever.
struct Watched<S> {
    inner: S,
    gone: Pin<Box<WaitForCancellationFutureOwned>>,
    over: CancellationToken,
    _end: DropGuard,
}

impl<S: Stream<Item = Result<BytesMessage, Status>> + Unpin> Stream for Watched<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.gone.as_mut().poll(cx).is_ready() {
            let gone = Status::unavailable("the client of the session does not answer any more");
            return Poll::Ready(Some(Err(gone)));
        }
        let next = self.inner.poll_next_unpin(cx);
        if matches!(next, Poll::Ready(None | Some(Err(_)))) {
            // Before anything that goes over it fails.
            self.over.cancel();
        }
        next
    }
}
