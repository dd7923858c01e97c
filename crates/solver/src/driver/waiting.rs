//! What a trace tells of calls that wait for a slot to execute in.

use std::{future::Future, pin::pin, task::Poll};

use super::{context::OpContext, inbox::Message};
use crate::Value;

impl<T: Value> OpContext<T> {
    /// Waits for a slot with `take`. While there is a trace, it tells of a wait that is one: where a slot is free, nothing is told.
    pub(super) async fn traced_wait<R>(&self, take: impl Future<Output = R>) -> R {
        let mut take = pin!(take);
        let sink = self.shared.options.trace.as_ref();
        if sink.is_none_or(|sink| sink.recording() == 0) {
            return take.await;
        }
        let at_once = std::future::poll_fn(|cx| {
            Poll::Ready(match take.as_mut().poll(cx) {
                Poll::Ready(taken) => Some(taken),
                Poll::Pending => None,
            })
        });
        if let Some(taken) = at_once.await {
            return taken;
        }
        self.tell_of_slot(true);
        let taken = take.await;
        self.tell_of_slot(false);
        taken
    }

    fn tell_of_slot(&self, waits: bool) {
        self.shared.inbox.tell_pump(Message::Slot {
            epoch: self.epoch,
            task: self.task,
            waits,
        });
    }
}
