//! What is told of calls that wait.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::{Duration, SystemTime},
};

use super::{context::OpContext, inbox::Message};
use crate::{Status, Value, WaitReason};

/// How long a wait lasts before people hear of it.
const SLOW: Duration = Duration::from_millis(300);
/// What they hear.
const AWAITS_SLOT: &str = "waiting for a free slot";

/// A call waits until this is dropped.
struct Waiting<'a, T: Value>(&'a OpContext<T>);

impl<'a, T: Value> Waiting<'a, T> {
    fn begin(context: &'a OpContext<T>, reason: WaitReason) -> Self {
        context.tell_of_wait(Some(reason));
        Self(context)
    }
}

impl<T: Value> Drop for Waiting<'_, T> {
    fn drop(&mut self) {
        self.0.tell_of_wait(None);
    }
}

/// What a future gives without waiting.
async fn at_once<R>(mut future: Pin<&mut impl Future<Output = R>>) -> Option<R> {
    std::future::poll_fn(|cx| {
        Poll::Ready(match future.as_mut().poll(cx) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        })
    })
    .await
}

impl<T: Value> OpContext<T> {
    /// Waits with `take`. A trace is told of a wait that is one: where a slot is free, nothing is told.
    pub(super) async fn traced_wait<R>(
        &self,
        reason: WaitReason,
        take: impl Future<Output = R>,
    ) -> R {
        let mut take = pin!(take);
        if let Some(taken) = at_once(take.as_mut()).await {
            return taken;
        }
        let waiting = Waiting::begin(self, reason);
        let taken = take.await;
        drop(waiting);
        taken
    }

    /// Waits with `take` for a slot. Where that takes long, people see it beside the step, with a time of its own: that of the step has
    /// begun, and clients take it badly where it begins once more.
    pub(super) async fn told_of_slot<R>(&self, take: impl Future<Output = R>) -> R {
        let mut take = pin!(take);
        // Most do not wait, and need no clock.
        match at_once(take.as_mut()).await {
            Some(taken) => taken,
            None => self.told_when_slow(|| AWAITS_SLOT, take).await,
        }
    }

    /// Waits for `work`. Where that takes longer than 300 ms, people see what it is, such as `resolve alpine:3`.
    pub async fn told_when_slow<F: Future, W: Into<Arc<str>>>(
        &self,
        what: impl FnOnce() -> W,
        work: F,
    ) -> F::Output {
        let started = SystemTime::now();
        let mut work = pin!(work);
        tokio::select! {
            biased;
            output = &mut work => return output,
            () = tokio::time::sleep(SLOW) => {}
        }
        self.told(what(), started, work).await
    }

    /// Waits for `work`, which began then, and has people see what it is.
    pub async fn told<F: Future>(
        &self,
        what: impl Into<Arc<str>>,
        started: SystemTime,
        work: F,
    ) -> F::Output {
        let id: Arc<str> = what.into();
        let tell = |completed| {
            self.status(Status {
                id: Arc::clone(&id),
                name: "".into(),
                current: 0,
                total: 0,
                started: Some(started),
                completed,
            });
        };
        tell(None);
        let output = work.await;
        tell(Some(SystemTime::now()));
        output
    }

    fn tell_of_wait(&self, waits: Option<WaitReason>) {
        // A trace that begins meanwhile looks here, and is not told twice.
        self.control.wait_for(waits);
        let sink = self.shared.options.trace.as_ref();
        if sink.is_none_or(|sink| sink.recording() == 0) {
            return;
        }
        self.shared.inbox.tell_pump(Message::Slot {
            epoch: self.epoch,
            task: self.task,
            waits,
        });
    }
}
