//! Running one task: a call of an operation, or the load of a record.

use std::{
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, Mutex},
    task::Poll,
};

use super::{
    CoreInput, Shared,
    context::{ExecSlot, OpContext, TaskControl},
    inbox::Message,
};
use crate::{
    CacheSourceId, LoadError, Op, OpError, Record, ResultRef, ResultStore, Value,
    core::{Call, LoadFailure, Outcome, TaskId},
};

pub(super) type DriverCall<T> = Call<Arc<dyn Op<T>>, ResultRef<T>>;
type DriverOutcome<T> = Outcome<ResultRef<T>>;

/// A task that is to be started.
pub(super) struct Start<T: Value> {
    pub(super) task: TaskId,
    pub(super) epoch: u32,
    pub(super) call: DriverCall<T>,
    pub(super) control: Arc<TaskControl>,
}

/// The kind of a call, for the outcome of one that does not end by itself.
#[derive(Clone, Copy)]
enum Kind {
    CacheMap,
    Preprocess,
    SlowKey,
    Load,
    Exec,
}

/// Sends the outcome of a task exactly once, whatever becomes of its future.
struct Outbox<T: Value> {
    shared: Arc<Shared<T>>,
    task: TaskId,
    epoch: u32,
    kind: Kind,
    sent: bool,
}

impl<T: Value> Outbox<T> {
    fn send(&mut self, outcome: DriverOutcome<T>) {
        self.sent = true;
        let input = CoreInput::Finished {
            task: self.task,
            outcome,
        };
        self.shared.inbox.send(Message::Tell(self.epoch, input));
    }

    fn fail(&mut self, error: OpError) {
        self.send(match self.kind {
            Kind::CacheMap => Outcome::CacheMap(Err(error)),
            Kind::Preprocess => Outcome::Preprocess(Err(error)),
            Kind::SlowKey => Outcome::SlowKey(Err(error)),
            Kind::Load => Outcome::Load(Err(LoadFailure {
                gone: false,
                reason: error.to_string().into(),
            })),
            Kind::Exec => Outcome::Exec(Err(error)),
        });
    }
}

impl<T: Value> Drop for Outbox<T> {
    fn drop(&mut self) {
        if !self.sent {
            self.fail(OpError::Cancelled);
        }
    }
}

/// An operation panicked.
#[derive(Debug, thiserror::Error)]
#[error("the operation panicked: {0}")]
struct Panicked(String);

/// Polls every task once, so that what ends at once costs no task of its own; spawns the others.
pub(super) async fn run_all<T: Value>(starts: Vec<Start<T>>, shared: Arc<Shared<T>>) {
    for start in starts {
        let control = Arc::clone(&start.control);
        let mut future: Pin<Box<dyn Future<Output = ()> + Send>> =
            Box::pin(run(start, Arc::clone(&shared)));
        let ended = poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_ready())).await;
        if !ended {
            let handle = tokio::spawn(future).abort_handle();
            // Set once: a task is started once.
            let _ = control.abort.set(handle);
        }
    }
}

async fn run<T: Value>(start: Start<T>, shared: Arc<Shared<T>>) {
    let Start {
        task,
        epoch,
        call,
        control,
    } = start;
    let kind = match &call {
        Call::CacheMap { .. } => Kind::CacheMap,
        Call::Preprocess { .. } => Kind::Preprocess,
        Call::SlowKey { .. } => Kind::SlowKey,
        Call::Load { .. } => Kind::Load,
        Call::Exec { .. } => Kind::Exec,
    };
    let mut outbox = Outbox {
        shared: Arc::clone(&shared),
        task,
        epoch,
        kind,
        sent: false,
    };
    let semaphore = if matches!(kind, Kind::Exec) {
        shared.semaphore.clone()
    } else {
        None
    };
    let context = OpContext {
        task,
        epoch,
        shared: Arc::clone(&shared),
        control,
        slot: ExecSlot::new(semaphore),
        waiting: Mutex::new(0),
    };
    let mut future = std::pin::pin!(perform(call, &context, &shared));
    let outcome = poll_fn(
        |cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(Poll::Ready(outcome)) => Poll::Ready(Ok(outcome)),
            Ok(Poll::Pending) => Poll::Pending,
            Err(payload) => Poll::Ready(Err(panic_text(payload.as_ref()))),
        },
    );
    match outcome.await {
        Ok(outcome) => outbox.send(outcome),
        Err(text) => outbox.fail(OpError::failed(Panicked(text))),
    }
}

pub(super) fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "unknown panic".to_owned())
}

async fn perform<T: Value>(
    call: DriverCall<T>,
    context: &OpContext<T>,
    shared: &Arc<Shared<T>>,
) -> DriverOutcome<T> {
    match call {
        Call::CacheMap { op, index } => Outcome::CacheMap(op.cache_map(context, index).await),
        Call::Preprocess { op, input, value } => {
            Outcome::Preprocess(op.preprocess(context, input, &value).await)
        }
        Call::SlowKey { op, input, value } => {
            Outcome::SlowKey(op.slow_key(context, input, &value).await)
        }
        Call::Load { record } => Outcome::Load(load(record, shared).await),
        Call::Exec { op, inputs } => {
            context.slot.take().await;
            if context.is_cancelled() {
                return Outcome::Exec(Err(OpError::Cancelled));
            }
            let values = op.exec(context, inputs).await;
            let store = &shared.sources.local.results;
            Outcome::Exec(values.map(|values| {
                values
                    .into_iter()
                    .map(|value| ResultRef::new(value, Arc::clone(store)))
                    .collect()
            }))
        }
    }
}

async fn load<T: Value>(
    record: Record,
    shared: &Arc<Shared<T>>,
) -> Result<ResultRef<T>, LoadFailure> {
    if record.source == CacheSourceId::LOCAL {
        let value = load_from(&shared.sources.local.results, record).await?;
        value.set_record(record.id);
        return Ok(value);
    }
    match shared.sources.get(record.source) {
        Some(source) => load_from(&source.results, record).await,
        None => Err(LoadFailure {
            gone: false,
            reason: "the cache source was removed".into(),
        }),
    }
}

async fn load_from<T: Value>(
    results: &Arc<dyn ResultStore<T>>,
    record: Record,
) -> Result<ResultRef<T>, LoadFailure> {
    match results.load(record.id).await {
        Ok(value) => Ok(ResultRef::new(value, Arc::clone(results))),
        Err(error) => Err(LoadFailure {
            gone: matches!(error, LoadError::Gone(_)),
            reason: error.to_string().into(),
        }),
    }
}
