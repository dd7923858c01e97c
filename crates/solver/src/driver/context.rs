//! What an operation is given while it is called.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio_util::sync::CancellationToken;

use super::{CoreInput, CoreReply, Shared, control::TaskControl, inbox::Message, slot::ExecSlot};
use crate::{
    Built, LogChunk, OpDefinition, OpError, ResultRef, Session, SolveError, Status, Value,
    core::{TaskId, Ticket},
    progress::Report,
};

/// How long after a failure of what it served a session may be closed for that to count as the reason.
const CLOSING: Duration = Duration::from_millis(100);

/// The surroundings of one call of an operation.
pub struct OpContext<T: Value> {
    pub(super) task: TaskId,
    pub(super) epoch: u32,
    pub(super) shared: Arc<Shared<T>>,
    pub(super) control: Arc<TaskControl>,
    pub(super) slot: ExecSlot,
    pub(super) after_loss: bool,
}

impl<T: Value> OpContext<T> {
    /// Fires when nobody waits for this call any more. The operation should then clean up and return soon.
    pub fn cancellation(&self) -> &CancellationToken {
        self.control.token()
    }

    /// Whether nobody waits for this call any more.
    pub fn is_cancelled(&self) -> bool {
        self.control.is_cancelled()
    }

    /// Shows a progress bar to every interested job. Never blocks; states that nobody read in time are replaced.
    pub fn status(&self, status: Status) {
        self.report(Report::Status(status));
    }

    /// Passes output on to every interested job. Never blocks; what nobody reads in time is dropped, with a marker.
    pub fn log(&self, stream: u8, data: impl Into<Vec<u8>>) {
        self.report(Report::Log(LogChunk {
            stream,
            data: data.into(),
            at: SystemTime::now(),
        }));
    }

    /// Whether the operation runs although a record was found for it: none could be loaded, or what it gave turned out to be lost.
    pub fn is_after_loss(&self) -> bool {
        self.after_loss
    }

    /// Tells every interested job, and the trace, why the operation has to run.
    pub fn explain(&self, why: impl Into<Arc<str>>) {
        self.report(Report::Explained(why.into()));
    }

    fn report(&self, report: Report) {
        if self.control.reports.push(report) {
            self.shared
                .inbox
                .tell_pump(Message::Reports(self.epoch, self.task));
        }
    }

    async fn ask(
        &self,
        input: impl FnOnce(Ticket) -> CoreInput<T>,
    ) -> Result<CoreReply<T>, SolveError<T>> {
        self.shared.inbox.ask(self.epoch, input).await
    }

    /// A live session of an interested job that is not among `tried`; sessions of jobs that loaded this very vertex come first.
    pub async fn next_session(&self, tried: &[Session]) -> Option<Session> {
        let mut tried = self.shared.sessions.numbers(tried);
        loop {
            let ask = tried.clone();
            let reply = self.ask(|ticket| CoreInput::NextSession {
                ticket,
                task: self.task,
                tried: ask,
            });
            let Ok(CoreReply::Session(Some(number))) = reply.await else {
                return None;
            };
            match self
                .shared
                .sessions
                .get(number)
                .filter(|session| !session.is_closed())
            {
                Some(session) => return Some(session),
                None => tried.push(number),
            }
        }
    }

    /// Calls `with` with one session after the other: with the next one when a session closes in the middle or `with` returns
    /// [`OpError::Gone`]. When there is none left, the last error is returned, or [`OpError::Gone`] if there never was one.
    pub async fn with_session<R, F>(&self, mut with: impl FnMut(Session) -> F) -> Result<R, OpError>
    where
        F: Future<Output = Result<R, OpError>>,
    {
        let mut tried = Vec::new();
        let mut last = None;
        while let Some(session) = self.next_session(&tried).await {
            let outcome = tokio::select! {
                biased;
                outcome = with(session.clone()) => outcome,
                () = session.closed() => Err(OpError::gone(SessionClosed(session.id().clone()))),
                () = self.cancellation().cancelled() => return Err(OpError::Cancelled),
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

    /// Calls `with` with one session after the other, as [`with_session`](Self::with_session), but what runs when its session closes goes
    /// on: only what fails then is done again with the next one. Where there never was a session, it is called without one.
    pub async fn with_some_session<R, F>(
        &self,
        mut with: impl FnMut(Option<Session>) -> F,
    ) -> Result<R, OpError>
    where
        F: Future<Output = Result<R, OpError>>,
    {
        let mut tried = Vec::new();
        let mut last = None;
        loop {
            let session = self.next_session(&tried).await;
            if let (None, Some(error)) = (&session, last.take()) {
                return Err(gone(error));
            }
            let outcome = tokio::select! {
                biased;
                outcome = with(session.clone()) => outcome,
                () = self.cancellation().cancelled() => return Err(OpError::Cancelled),
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

    /// Builds another graph and waits for its result. The execution slot is given back meanwhile, so this cannot deadlock. The graph
    /// lives as long as the vertex of this operation.
    pub async fn build(
        &self,
        definition: OpDefinition<T>,
    ) -> Result<Built<ResultRef<T>>, SolveError<T>> {
        let ask = self.ask(|ticket| CoreInput::SubBuild {
            ticket,
            task: self.task,
            definition,
        });
        match self.without_slot(ask).await? {
            CoreReply::Built(built) => Ok(built),
            _ => Err(SolveError::Shutdown),
        }
    }

    /// Waits for something that other operations may have to run for, such as an answer of a client that has a job build meanwhile.
    /// The execution slot is given back, so this cannot deadlock.
    pub async fn without_slot<R>(&self, wait: impl Future<Output = R>) -> R {
        let waiting = self.slot.wait();
        let outcome = wait.await;
        drop(waiting);
        self.take_slot().await;
        outcome
    }

    /// Takes the execution slot, unless nobody waits for this call any more: then there is nothing to queue for.
    pub(super) async fn take_slot(&self) {
        let take = async {
            tokio::select! {
                biased;
                () = self.cancellation().cancelled() => {}
                () = self.slot.take() => {}
            }
        };
        self.traced_wait(take).await;
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
