//! The one queue into the pump.
//!
//! It is bounded by what can send: every task sends one outcome and at most one waiting wake-up for reports, and every client
//! request is awaited by its client.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::{Notify, oneshot};

use super::{CoreInput, CoreReply};
use crate::{
    SolveError, Value,
    core::{TaskId, Ticket},
};

pub(super) type ReplySender<T> = oneshot::Sender<Result<CoreReply<T>, SolveError<T>>>;

/// What the pump is told.
pub(super) enum Message<T: Value> {
    /// For the core, nobody waits for an answer.
    Tell(CoreInput<T>),
    /// For the core, with the way back.
    Ask {
        ticket: Ticket,
        input: CoreInput<T>,
        reply: ReplySender<T>,
    },
    /// A task has reports for its listeners.
    Reports(TaskId),
    /// The last handle of the solver is gone.
    Stop,
}

pub(super) struct Inbox<T: Value> {
    waiting: Mutex<Vec<Message<T>>>,
    pub(super) wake: Notify,
    tickets: AtomicU64,
}

impl<T: Value> Inbox<T> {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            waiting: Mutex::default(),
            wake: Notify::new(),
            tickets: AtomicU64::new(1),
        })
    }

    pub(super) fn send(&self, message: Message<T>) {
        let first = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.push(message);
            waiting.len() == 1
        };
        if first {
            self.wake.notify_one();
        }
    }

    /// Swaps what waits with the empty `into`.
    pub(super) fn take(&self, into: &mut Vec<Message<T>>) {
        std::mem::swap(
            into,
            &mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner),
        );
    }

    pub(super) fn ticket(&self) -> Ticket {
        self.tickets.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends a request and waits for its answer. Dropping the future cancels the request.
    pub(super) async fn ask(
        self: &Arc<Self>,
        input: impl FnOnce(Ticket) -> CoreInput<T>,
    ) -> Result<CoreReply<T>, SolveError<T>> {
        let ticket = self.ticket();
        let (reply, answer) = oneshot::channel();
        let mut guard = CancelOnDrop {
            inbox: self,
            ticket,
            armed: true,
        };
        self.send(Message::Ask {
            ticket,
            input: input(ticket),
            reply,
        });
        let answer = answer.await;
        guard.armed = false;
        answer.unwrap_or(Err(SolveError::Shutdown))
    }
}

struct CancelOnDrop<'a, T: Value> {
    inbox: &'a Inbox<T>,
    ticket: Ticket,
    armed: bool,
}

impl<T: Value> Drop for CancelOnDrop<'_, T> {
    fn drop(&mut self) {
        if self.armed {
            self.inbox.send(Message::Tell(CoreInput::Cancel {
                ticket: self.ticket,
            }));
        }
    }
}
