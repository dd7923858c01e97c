//! The sessions that a running operation may use.

use std::{future::Future, sync::Arc, task::Poll, time::Duration};

use super::{CoreInput, CoreReply, Shared, control::TaskControl};
use crate::{OpError, Session, Value, core::TaskId};

/// How long after a failure of what it served a session may be closed for that to count as the reason.
const CLOSING: Duration = Duration::from_millis(100);

/// Sessions of the jobs that are interested in what an operation works at, to be had while its call runs, and none afterwards. Cheap to
/// clone.
pub struct LentSessions<T: Value> {
    pub(super) task: TaskId,
    pub(super) epoch: u32,
    pub(super) shared: Arc<Shared<T>>,
    pub(super) control: Arc<TaskControl>,
}

impl<T: Value> Clone for LentSessions<T> {
    fn clone(&self) -> Self {
        Self {
            task: self.task,
            epoch: self.epoch,
            shared: Arc::clone(&self.shared),
            control: Arc::clone(&self.control),
        }
    }
}

impl<T: Value> LentSessions<T> {
    /// A live session of an interested job that is not among `tried`; sessions of jobs that loaded this very vertex come first, and those
    /// whose client is away at the moment last.
    pub async fn next(&self, tried: &[Session]) -> Option<Session> {
        let mut tried = self.shared.sessions.numbers(tried);
        let mut away = None;
        loop {
            let ask = tried.clone();
            let input = |ticket| CoreInput::NextSession {
                ticket,
                task: self.task,
                tried: ask,
            };
            let reply = self.shared.inbox.ask(self.epoch, input).await;
            let Ok(CoreReply::Session(Some(number))) = reply else {
                return away;
            };
            let session = self.shared.sessions.get(number);
            match session.filter(|session| !session.is_closed()) {
                Some(session) if session.is_away() => {
                    away.get_or_insert(session);
                }
                Some(session) => return Some(session),
                None => {}
            }
            tried.push(number);
        }
    }

    /// Calls `with` with one session after the other: with the next one when a session closes in the middle or `with` returns
    /// [`OpError::Gone`]. When there is none left, the last error is returned, or [`OpError::Gone`] if there never was one.
    pub async fn with<R, F>(&self, mut with: impl FnMut(Session) -> F) -> Result<R, OpError>
    where
        F: Future<Output = Result<R, OpError>>,
    {
        let mut tried = Vec::new();
        let mut last = None;
        while let Some(session) = self.next(&tried).await {
            let outcome = tokio::select! {
                biased;
                outcome = with(session.clone()) => outcome,
                () = session.closed() => Err(OpError::gone(SessionClosed(session.id().clone()))),
                () = self.control.token().cancelled() => return Err(OpError::Cancelled),
            };
            match outcome {
                Err(error @ OpError::Gone(_)) => last = Some(error),
                // An error of a session that went away is not the operation's own.
                Err(error @ OpError::Failed(_)) if closes(&session).await => last = Some(error),
                other => return other,
            }
            tried.push(session);
        }
        Err(last.map_or_else(|| OpError::gone(NoSession), gone))
    }

    /// Calls `with` with one session after the other, as [`with`](Self::with), but what runs when its session closes goes
    /// on: only what fails then is done again with the next one. Where there never was a session, it is called without one.
    pub async fn with_some<R, F>(
        &self,
        mut with: impl FnMut(Option<Session>) -> F,
    ) -> Result<R, OpError>
    where
        F: Future<Output = Result<R, OpError>>,
    {
        let mut tried = Vec::new();
        let mut last = None;
        loop {
            let session = self.next(&tried).await;
            if let (None, Some(error)) = (&session, last.take()) {
                return Err(gone(error));
            }
            let outcome = tokio::select! {
                biased;
                outcome = with(session.clone()) => outcome,
                () = self.control.token().cancelled() => return Err(OpError::Cancelled),
            };
            match (outcome, session) {
                (Err(error @ OpError::Gone(_)), Some(session)) => {
                    last = Some(error);
                    tried.push(session);
                }
                (Err(error @ OpError::Failed(_)), Some(session)) if closes(&session).await => {
                    last = Some(error);
                    tried.push(session);
                }
                (outcome, _) => return outcome,
            }
        }
    }

    /// Calls `with` with one session, and also with the next one whenever none has answered for that long: for what may be asked of
    /// several. The first success counts, else it is as with [`with`](Self::with).
    pub async fn with_first<R, F>(
        &self,
        patience: Duration,
        mut with: impl FnMut(Session) -> F,
    ) -> Result<R, OpError>
    where
        F: Future<Output = Result<R, OpError>>,
    {
        let (mut tried, mut asked) = (Vec::new(), Vec::new());
        let mut last = None;
        let mut is_next_due = true;
        loop {
            if is_next_due && let Some(session) = self.next(&tried).await {
                tried.push(session.clone());
                let answer = with(session.clone());
                asked.push(Box::pin(async move {
                    let outcome = tokio::select! {
                        biased;
                        outcome = answer => outcome,
                        () = session.closed() => {
                            Err(OpError::gone(SessionClosed(session.id().clone())))
                        }
                    };
                    match outcome {
                        Err(error @ OpError::Failed(_)) if closes(&session).await => {
                            Err(gone(error))
                        }
                        outcome => outcome,
                    }
                }));
            }
            if asked.is_empty() {
                return Err(last.map_or_else(|| OpError::gone(NoSession), gone));
            }
            let answered = std::future::poll_fn(|cx| {
                let ready = asked.iter_mut().enumerate().find_map(|(at, answer)| {
                    match answer.as_mut().poll(cx) {
                        Poll::Ready(outcome) => Some((at, outcome)),
                        Poll::Pending => None,
                    }
                });
                ready.map_or(Poll::Pending, Poll::Ready)
            });
            let answered = tokio::select! {
                biased;
                answered = answered => Some(answered),
                () = self.control.token().cancelled() => return Err(OpError::Cancelled),
                () = tokio::time::sleep(patience) => None,
            };
            is_next_due = match answered {
                None => true,
                Some((at, outcome)) => {
                    drop(asked.swap_remove(at));
                    match outcome {
                        Err(error @ OpError::Gone(_)) => last = Some(error),
                        outcome => return outcome,
                    }
                    asked.is_empty()
                }
            };
        }
    }
}

/// Whether a session that something failed with has closed, or does now: who speaks through it may notice before it is known to be closed.
async fn closes(session: &Session) -> bool {
    if session.is_away() {
        return true;
    }
    let closed = tokio::time::timeout(CLOSING, session.closed()).await;
    closed.is_ok() || session.is_away()
}

/// The error of a session that went away.
fn gone(error: OpError) -> OpError {
    match error {
        OpError::Failed(error) => OpError::Gone(error),
        error => error,
    }
}

/// There is no session that could serve the operation.
#[derive(Debug, thiserror::Error)]
#[error("no client session is left that could serve this step")]
pub struct NoSession;

/// The session that served the operation closed.
#[derive(Debug, thiserror::Error)]
#[error("session {0} closed")]
pub struct SessionClosed(pub Arc<str>);
