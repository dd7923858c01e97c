//! Running one task: a call of an operation, or the load of a record.

use std::{
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use super::{
    CoreInput, Shared, context::OpContext, control::TaskControl, inbox::Message, slot::ExecSlot,
    slots::Holder,
};
use crate::{
    CacheSourceId, LoadError, Op, OpError, Record, ResultRef, ResultStore, Value,
    core::{Call, LoadFailure, Outcome, TaskId},
};

pub(super) type DriverCall<T> = Call<Arc<dyn Op<T>>, ResultRef<T>>;
type DriverOutcome<T> = Outcome<ResultRef<T>>;

/// How long an outcome may wait for other tasks to be polled.
const HELD_BACK: Duration = Duration::from_micros(100);

/// A task that is to be started.
pub(super) struct Start<T: Value> {
    pub(super) task: TaskId,
    pub(super) epoch: u32,
    pub(super) call: DriverCall<T>,
    pub(super) control: Arc<TaskControl>,
    /// The job that it is for.
    pub(super) holder: Holder,
    /// See [`OpContext::is_after_loss`].
    pub(super) after_loss: bool,
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

/// Makes sure that a task has an outcome, also where its future is dropped.
struct Guard<'a, T: Value> {
    context: &'a OpContext<T>,
    kind: Kind,
    ended: bool,
}

impl<T: Value> Guard<'_, T> {
    fn outcome(mut self, outcome: DriverOutcome<T>) -> Message<T> {
        self.ended = true;
        self.message(outcome)
    }

    fn message(&self, outcome: DriverOutcome<T>) -> Message<T> {
        let task = self.context.task;
        Message::Tell(self.context.epoch, CoreInput::Finished { task, outcome })
    }
}

impl<T: Value> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        if !self.ended {
            let cancelled = self.message(self.kind.failed(OpError::Cancelled));
            self.context.shared.inbox.tell_pump(cancelled);
        }
    }
}

impl Kind {
    fn failed<V>(self, error: OpError) -> Outcome<V> {
        match self {
            Self::CacheMap => Outcome::CacheMap(Err(error)),
            Self::Preprocess => Outcome::Preprocess(Err(error)),
            Self::SlowKey => Outcome::SlowKey(Err(error)),
            Self::Load => Outcome::Load(Err(LoadFailure {
                gone: false,
                reason: error.to_string().into(),
            })),
            Self::Exec => Outcome::Exec(Err(error)),
        }
    }
}

/// An operation panicked.
#[derive(Debug, thiserror::Error)]
#[error("the operation panicked: {0}")]
struct Panicked(String);

/// Starts tasks on a tokio task of their own.
pub(super) fn spawn_all<T: Value>(starts: Vec<Start<T>>, shared: &Arc<Shared<T>>) {
    tokio::spawn(run_all(starts, Arc::clone(shared)));
}

/// Polls every task once, so that what ends at once costs no task of its own; spawns the others. Outcomes that nobody else takes care
/// of are handled here, and what is to be started then is run here as well: a chain of short calls never changes threads.
async fn run_all<T: Value>(mut starts: Vec<Start<T>>, shared: Arc<Shared<T>>) {
    let mut outcomes = Vec::new();
    let mut place = None;
    while !starts.is_empty() {
        let mut since = Instant::now();
        for start in starts {
            let control = Arc::clone(&start.control);
            let future = run(start, Arc::clone(&shared));
            let mut future: Pin<Box<_>> = match place.take() {
                Some(mut place) => {
                    Pin::set(&mut place, future);
                    place
                }
                None => Box::pin(future),
            };
            match poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await {
                Poll::Ready(outcome) => {
                    outcomes.push(outcome);
                    place = Some(future);
                }
                Poll::Pending => {
                    let handle = tokio::spawn(run_on(future, Arc::clone(&shared)));
                    control.runs_on(handle.abort_handle());
                }
            }
            // What ended does not wait for what takes its time.
            if since.elapsed() > HELD_BACK {
                shared.inbox.tell_pump_all(&mut outcomes);
                since = Instant::now();
            }
        }
        if !shared.inbox.send_all(&mut outcomes) {
            return;
        }
        starts = shared.pump().drain(&shared);
        tokio::task::consume_budget().await;
    }
}

/// Runs a task that did not end at once, and what follows from its outcome.
async fn run_on<T: Value>(task: impl Future<Output = Message<T>>, shared: Arc<Shared<T>>) {
    let outcome = task.await;
    if shared.inbox.send(outcome) {
        let starts = shared.pump().drain(&shared);
        if !starts.is_empty() {
            spawn_all(starts, &shared);
        }
    }
}

async fn run<T: Value>(start: Start<T>, shared: Arc<Shared<T>>) -> Message<T> {
    let Start {
        task,
        epoch,
        call,
        control,
        holder,
        after_loss,
    } = start;
    let kind = match &call {
        Call::CacheMap { .. } => Kind::CacheMap,
        Call::Preprocess { .. } => Kind::Preprocess,
        Call::SlowKey { .. } => Kind::SlowKey,
        Call::Load { .. } => Kind::Load,
        Call::Exec { .. } => Kind::Exec,
    };
    let slots = if matches!(kind, Kind::Exec) {
        shared.slots.clone()
    } else {
        None
    };
    let context = OpContext {
        task,
        epoch,
        shared,
        control,
        slot: ExecSlot::new(slots, holder),
        after_loss,
    };
    let guard = Guard {
        context: &context,
        kind,
        ended: false,
    };
    let mut future = std::pin::pin!(perform(call, &context));
    let outcome = poll_fn(
        |cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(Poll::Ready(outcome)) => Poll::Ready(Ok(outcome)),
            Ok(Poll::Pending) => Poll::Pending,
            Err(payload) => Poll::Ready(Err(panic_text(payload.as_ref()))),
        },
    );
    let outcome = outcome.await;
    guard.outcome(outcome.unwrap_or_else(|text| kind.failed(OpError::failed(Panicked(text)))))
}

pub(super) fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "unknown panic".to_owned())
}

async fn perform<T: Value>(call: DriverCall<T>, context: &OpContext<T>) -> DriverOutcome<T> {
    let shared = &context.shared;
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
            context.take_slot().await;
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
