//! What is told of calls that wait while they execute.

use std::{future::Future, pin::pin, task::Poll};

use super::{context::OpContext, inbox::Message};
use crate::{Value, WaitReason};

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

impl<T: Value> OpContext<T> {
    /// Waits with `take`. A trace is told of a wait that is one: where a slot is free, nothing is told.
    pub(super) async fn traced_wait<R>(
        &self,
        reason: WaitReason,
        take: impl Future<Output = R>,
    ) -> R {
        let mut take = pin!(take);
        let at_once = std::future::poll_fn(|cx| {
            Poll::Ready(match take.as_mut().poll(cx) {
                Poll::Ready(taken) => Some(taken),
                Poll::Pending => None,
            })
        });
        if let Some(taken) = at_once.await {
            return taken;
        }
        let waiting = Waiting::begin(self, reason);
        let taken = take.await;
        drop(waiting);
        taken
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
