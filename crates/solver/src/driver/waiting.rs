//! What is told of calls that wait for a slot to execute in.

use std::{future::Future, pin::pin, task::Poll};

use super::{context::OpContext, inbox::Message};
use crate::Value;

/// A call waits for a slot until this is dropped.
struct Waiting<'a, T: Value>(&'a OpContext<T>);

impl<'a, T: Value> Waiting<'a, T> {
    fn begin(context: &'a OpContext<T>) -> Self {
        context.tell_of_slot(true);
        Self(context)
    }
}

impl<T: Value> Drop for Waiting<'_, T> {
    fn drop(&mut self) {
        self.0.tell_of_slot(false);
    }
}

impl<T: Value> OpContext<T> {
    /// Waits for a slot with `take`. A trace is told of a wait that is one: where a slot is free, nothing is told.
    pub(super) async fn traced_wait<R>(&self, take: impl Future<Output = R>) -> R {
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
        let waiting = Waiting::begin(self);
        let taken = take.await;
        drop(waiting);
        taken
    }

    fn tell_of_slot(&self, waits: bool) {
        // A trace that begins meanwhile looks here, and is not told twice.
        self.control.wait_for_slot(waits);
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
