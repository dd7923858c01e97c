//! The one queue into the pump.
//!
//! It is bounded by what can send: every task sends one outcome and has at most one wake-up for reports waiting, and every client
//! request is awaited by its client.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

use tokio::sync::{Notify, oneshot};

use super::{CoreInput, CoreReply};
use crate::{
    SolveError, Value,
    core::{Census, JobId, TaskId, Ticket},
    progress::Channel,
};

pub(super) type ReplySender<T> = oneshot::Sender<Result<CoreReply<T>, SolveError<T>>>;

/// What the pump is told.
pub(super) enum Message<T: Value> {
    /// For the core of this epoch, nobody waits for an answer.
    Tell(u32, CoreInput<T>),
    /// For the core of this epoch, with the way back.
    Ask {
        epoch: u32,
        ticket: Ticket,
        input: CoreInput<T>,
        reply: ReplySender<T>,
    },
    /// A task has reports for its listeners.
    Reports(u32, TaskId),
    /// A job's progress is to go into this channel.
    Subscribe(u32, JobId, Arc<Channel>),
    /// Somebody wants to know how much is alive.
    Census(oneshot::Sender<Census>),
    /// The last handle of the solver is gone.
    Stop,
}

pub(super) struct Inbox<T: Value> {
    waiting: Mutex<Waiting<T>>,
    pub(super) wake: Notify,
    tickets: AtomicU64,
    /// Grows when the core is replaced because it broke an invariant.
    epoch: AtomicU32,
}

struct Waiting<T: Value> {
    messages: Vec<Message<T>>,
    /// The pump has ended: nothing will be answered.
    closed: bool,
}

impl<T: Value> Inbox<T> {
    pub(super) fn new() -> Self {
        Self {
            waiting: Mutex::new(Waiting {
                messages: Vec::new(),
                closed: false,
            }),
            wake: Notify::new(),
            tickets: AtomicU64::new(1),
            epoch: AtomicU32::new(0),
        }
    }

    pub(super) fn send(&self, message: Message<T>) {
        let first = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.closed {
                return;
            }
            waiting.messages.push(message);
            waiting.messages.len() == 1
        };
        if first {
            self.wake.notify_one();
        }
    }

    /// Swaps what waits with the empty `into`.
    pub(super) fn take(&self, into: &mut Vec<Message<T>>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(into, &mut waiting.messages);
    }

    /// Drops what waits and whatever comes.
    pub(super) fn close(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.closed = true;
        let messages = std::mem::take(&mut waiting.messages);
        drop(waiting);
        drop(messages);
    }

    pub(super) fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Acquire)
    }

    pub(super) fn next_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn ticket(&self) -> Ticket {
        self.tickets.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) async fn census(&self) -> Result<Census, SolveError<T>> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Census(reply));
        answer.await.map_err(|_| SolveError::Shutdown)
    }

    /// Sends a request and waits for its answer. Dropping the future cancels the request.
    pub(super) async fn ask(
        &self,
        epoch: u32,
        input: impl FnOnce(Ticket) -> CoreInput<T>,
    ) -> Result<CoreReply<T>, SolveError<T>> {
        let ticket = self.ticket();
        let (reply, answer) = oneshot::channel();
        let mut guard = CancelOnDrop {
            inbox: self,
            epoch,
            ticket,
            armed: true,
        };
        self.send(Message::Ask {
            epoch,
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
    epoch: u32,
    ticket: Ticket,
    armed: bool,
}

impl<T: Value> Drop for CancelOnDrop<'_, T> {
    fn drop(&mut self) {
        if self.armed {
            self.inbox.send(Message::Tell(
                self.epoch,
                CoreInput::Cancel {
                    ticket: self.ticket,
                },
            ));
        }
    }
}
