//! What an operation is given while it is called.

use std::{
    future::Future,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::{
    CoreInput, CoreReply, Shared,
    inbox::Message,
    slots::{Holder, Slot, Slots},
};
use crate::{
    Built, LogChunk, OpDefinition, OpError, ResultRef, Session, SolveError, Status, Value,
    core::{TaskId, Ticket},
    progress::{Report, Reports},
};

/// The execution slot of an operation: taken while it executes, given back while it waits for a build of its own.
pub(super) struct ExecSlot {
    slots: Option<Arc<Slots>>,
    holder: Holder,
    held: Mutex<Option<Slot>>,
}

impl ExecSlot {
    pub(super) fn new(slots: Option<Arc<Slots>>, holder: Holder) -> Self {
        Self {
            slots,
            holder,
            held: Mutex::new(None),
        }
    }

    pub(super) async fn take(&self) {
        let Some(slots) = &self.slots else {
            return;
        };
        let slot = slots.take(self.holder).await;
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(slot);
    }

    fn give_back(&self) {
        drop(
            self.held
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
    }
}

/// What the pump and a running task share.
#[derive(Default)]
pub(super) struct TaskControl {
    cancelled: AtomicBool,
    /// Made when an operation asks for it.
    token: OnceLock<CancellationToken>,
    pub(super) reports: Reports,
    /// Set when the task did not end at once.
    pub(super) abort: OnceLock<AbortHandle>,
    /// Ends the task some time after its cancellation; of no use once the task has ended.
    pub(super) grace: OnceLock<AbortHandle>,
}

impl TaskControl {
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        if let Some(token) = self.token.get() {
            token.cancel();
        }
    }

    /// The task has ended.
    pub(super) fn end(&self) {
        if let Some(grace) = self.grace.get() {
            grace.abort();
        }
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    fn token(&self) -> &CancellationToken {
        let token = self.token.get_or_init(CancellationToken::new);
        if self.is_cancelled() {
            token.cancel();
        }
        token
    }
}

/// The surroundings of one call of an operation.
pub struct OpContext<T: Value> {
    pub(super) task: TaskId,
    pub(super) epoch: u32,
    pub(super) shared: Arc<Shared<T>>,
    pub(super) control: Arc<TaskControl>,
    pub(super) slot: ExecSlot,
    /// Builds that this call waits for; the slot is taken again when the last one ends.
    pub(super) waiting: Mutex<u32>,
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
                Err(error @ OpError::Failed(_)) if session.is_closed() => last = Some(error),
                other => return other,
            }
            tried.push(session);
        }
        Err(match last {
            Some(OpError::Failed(error)) => OpError::Gone(error),
            Some(error) => error,
            None => OpError::gone(NoSession),
        })
    }

    /// Builds another graph and waits for its result. The execution slot is given back meanwhile, so this cannot deadlock. The graph
    /// lives as long as the vertex of this operation.
    pub async fn build(
        &self,
        definition: OpDefinition<T>,
    ) -> Result<Built<ResultRef<T>>, SolveError<T>> {
        let waiting = Waiting::enter(self);
        let reply = self
            .ask(|ticket| CoreInput::SubBuild {
                ticket,
                task: self.task,
                definition,
            })
            .await;
        drop(waiting);
        let last = *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) == 0;
        if last && !self.is_cancelled() {
            self.slot.take().await;
        }
        match reply? {
            CoreReply::Built(built) => Ok(built),
            _ => Err(SolveError::Shutdown),
        }
    }
}

/// An operation that waits for a build of its own.
struct Waiting<'a>(&'a Mutex<u32>);

impl<'a> Waiting<'a> {
    fn enter<T: Value>(context: &'a OpContext<T>) -> Self {
        *context
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner) += 1;
        context.slot.give_back();
        Self(&context.waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
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
