//! The one queue into the pump.
//!
//! It is bounded by what can send: every task sends one outcome and has at most one wake-up for reports waiting, and every client
//! request is awaited by its client.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

use tokio::sync::{Notify, oneshot};

use super::{CoreInput, CoreReply};
use crate::{
    KeyMatches, SolveError, Value,
    core::{Census, JobId, QueryId, TaskId, Ticket},
    progress::Channel,
};

pub(super) type ReplySender<T> = oneshot::Sender<Result<CoreReply<T>, SolveError<T>>>;

/// What the pump is told.
pub(super) enum Message<T: Value> {
    /// For the core of this epoch, nobody waits for an answer.
    Tell(u32, CoreInput<T>),
    /// A query that took its time is answered.
    Answered {
        epoch: u32,
        number: u64,
        query: QueryId,
        matches: KeyMatches,
    },
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
    /// Somebody drains the inbox, or is about to.
    attended: bool,
    /// The pump has ended: nothing will be answered.
    closed: bool,
}

impl<T: Value> Inbox<T> {
    pub(super) fn new() -> Self {
        Self {
            waiting: Mutex::new(Waiting {
                messages: Vec::new(),
                attended: false,
                closed: false,
            }),
            wake: Notify::new(),
            tickets: AtomicU64::new(1),
            epoch: AtomicU32::new(0),
        }
    }

    /// Adds a message. Returns whether it is the caller's turn to see to it that the inbox is drained: nobody else does.
    #[must_use]
    pub(super) fn send(&self, message: Message<T>) -> bool {
        let mut waiting = self.lock();
        if waiting.closed {
            return false;
        }
        waiting.messages.push(message);
        !std::mem::replace(&mut waiting.attended, true)
    }

    /// Adds messages, as [`send`](Self::send) does.
    #[must_use]
    pub(super) fn send_all(&self, messages: &mut Vec<Message<T>>) -> bool {
        if messages.is_empty() {
            return false;
        }
        let mut waiting = self.lock();
        if waiting.closed {
            drop(waiting);
            messages.clear();
            return false;
        }
        waiting.messages.append(messages);
        !std::mem::replace(&mut waiting.attended, true)
    }

    /// Adds messages, as [`tell_pump`](Self::tell_pump) does.
    pub(super) fn tell_pump_all(&self, messages: &mut Vec<Message<T>>) {
        if self.send_all(messages) {
            self.wake.notify_one();
        }
    }

    /// Adds a message, and wakes the pump's own task where nobody drains the inbox.
    pub(super) fn tell_pump(&self, message: Message<T>) {
        if self.send(message) {
            self.wake.notify_one();
        }
    }

    /// Swaps what waits with the empty `into`, for the one who drains the inbox. Returns whether there was anything; if not, it is
    /// nobody's turn any more.
    #[must_use]
    pub(super) fn take(&self, into: &mut Vec<Message<T>>) -> bool {
        let mut waiting = self.lock();
        std::mem::swap(into, &mut waiting.messages);
        waiting.attended = !into.is_empty();
        waiting.attended
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<T>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops what waits and whatever comes.
    pub(super) fn close(&self) {
        let mut waiting = self.lock();
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
        self.tell_pump(Message::Census(reply));
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
        self.tell_pump(Message::Ask {
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
            self.inbox.tell_pump(Message::Tell(
                self.epoch,
                CoreInput::Cancel {
                    ticket: self.ticket,
                },
            ));
        }
    }
}
