//! What an operation is given while it is called.

use std::{future::Future, sync::Arc, time::SystemTime};

use tokio_util::sync::CancellationToken;

use super::{
    CoreInput, CoreReply, Shared, control::TaskControl, inbox::Message, lent::LentSessions,
    slot::ExecSlot,
};
use crate::{
    Built, LogChunk, OpDefinition, OpError, ResultRef, Session, SolveError, Status, Value,
    WaitReason,
    core::{TaskId, Ticket},
    progress::Report,
};

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

    /// The sessions that are lent to the operation while this call runs.
    pub fn sessions(&self) -> LentSessions<T> {
        LentSessions {
            task: self.task,
            epoch: self.epoch,
            shared: Arc::clone(&self.shared),
            control: Arc::clone(&self.control),
        }
    }

    /// As [`LentSessions::next`].
    pub async fn next_session(&self, tried: &[Session]) -> Option<Session> {
        self.sessions().next(tried).await
    }

    /// As [`LentSessions::with`].
    pub async fn with_session<R, F>(&self, with: impl FnMut(Session) -> F) -> Result<R, OpError>
    where
        F: Future<Output = Result<R, OpError>>,
    {
        self.sessions().with(with).await
    }

    /// As [`LentSessions::with_some`].
    pub async fn with_some_session<R, F>(
        &self,
        with: impl FnMut(Option<Session>) -> F,
    ) -> Result<R, OpError>
    where
        F: Future<Output = Result<R, OpError>>,
    {
        self.sessions().with_some(with).await
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

    /// As [`without_slot`](Self::without_slot), for what another operation holds: traces tell of the wait.
    pub async fn wait_for_lock<R>(&self, wait: impl Future<Output = R>) -> R {
        self.without_slot(self.traced_wait(WaitReason::Lock, wait))
            .await
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
        self.traced_wait(WaitReason::Slot, self.told_of_slot(take))
            .await;
    }
}
