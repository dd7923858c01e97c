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
    KeyMatches, SolveError, Value, WaitReason,
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
    /// A task waits for this from now on, or no more. Only sent while there is a trace.
    Slot {
        epoch: u32,
        task: TaskId,
        waits: Option<WaitReason>,
    },
    /// A job's progress is to go into this channel.
    Subscribe(u32, JobId, Arc<Channel>),
    /// Somebody wants to know how much is alive.
    Census(oneshot::Sender<Census>),
    /// Answered once nothing is live.
    Settled(oneshot::Sender<()>),
    /// The last handle of the solver is gone.
    Stop,
}

pub(super) struct Inbox<T: Value> {
    waiting: Mutex<Waiting<Message<T>>>,
    pub(super) wake: Notify,
    tickets: AtomicU64,
    /// Grows when the core is replaced because it broke an invariant.
    epoch: AtomicU32,
}

/// What waits, and whose turn it is to see to it: the protocol, without the lock around it.
struct Waiting<M> {
    messages: Vec<M>,
    /// Somebody drains the inbox, or is about to.
    attended: bool,
    /// The pump has ended: nothing will be answered.
    closed: bool,
}

impl<M> Waiting<M> {
    const EMPTY: Self = Self {
        messages: Vec::new(),
        attended: false,
        closed: false,
    };

    /// Adds messages. Returns whether it is the caller's turn to see to it that the inbox is drained: nobody else does.
    #[must_use]
    fn add(&mut self, messages: impl IntoIterator<Item = M>) -> bool {
        self.messages.extend(messages);
        !self.messages.is_empty() && !std::mem::replace(&mut self.attended, true)
    }

    /// Swaps what waits with the empty `into`. Returns whether there was anything; if not, it is nobody's turn any more.
    #[must_use]
    fn take(&mut self, into: &mut Vec<M>) -> bool {
        std::mem::swap(into, &mut self.messages);
        self.attended = !into.is_empty();
        self.attended
    }
}

impl<T: Value> Inbox<T> {
    pub(super) fn new() -> Self {
        Self {
            waiting: Mutex::new(Waiting::EMPTY),
            wake: Notify::new(),
            tickets: AtomicU64::new(1),
            epoch: AtomicU32::new(0),
        }
    }

    /// Adds a message. Returns whether it is the caller's turn to drain the inbox, or to have it drained.
    #[must_use]
    pub(super) fn send(&self, message: Message<T>) -> bool {
        let mut waiting = self.lock();
        !waiting.closed && waiting.add([message])
    }

    /// Adds messages, as [`send`](Self::send) does.
    #[must_use]
    pub(super) fn send_all(&self, messages: &mut Vec<Message<T>>) -> bool {
        let mut waiting = self.lock();
        !waiting.closed && waiting.add(messages.drain(..))
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

    /// For the one whose turn it is: see [`Waiting::take`].
    #[must_use]
    pub(super) fn take(&self, into: &mut Vec<Message<T>>) -> bool {
        self.lock().take(into)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<Message<T>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops what waits and whatever comes.
    pub(super) fn close(&self) {
        let mut waiting = self.lock();
        waiting.closed = true;
        let messages = std::mem::take(&mut waiting.messages);
        drop(waiting);
        drop(messages);
        // It may be another than the pump's own task that was told to stop.
        self.wake.notify_one();
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

    pub(super) async fn settled(&self) -> Result<(), SolveError<T>> {
        let (reply, answer) = oneshot::channel();
        self.tell_pump(Message::Settled(reply));
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

#[cfg(test)]
mod tests {
    use loom::{
        sync::{Arc, Condvar, Mutex},
        thread,
    };

    use super::Waiting;

    /// The inbox with the locks of the model checker. The pump's list is what was handled.
    struct Model {
        waiting: Mutex<Waiting<u32>>,
        pump: Mutex<Vec<u32>>,
        /// A permit to wake up, as `Notify` keeps it.
        permit: Mutex<bool>,
        wake: Condvar,
    }

    impl Model {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                waiting: Mutex::new(Waiting::EMPTY),
                pump: Mutex::new(Vec::new()),
                permit: Mutex::new(false),
                wake: Condvar::new(),
            })
        }

        fn send(&self, message: u32) -> bool {
            self.waiting.lock().unwrap().add([message])
        }

        fn drain(&self) {
            let mut pump = self.pump.lock().unwrap();
            let mut batch = Vec::new();
            while self.waiting.lock().unwrap().take(&mut batch) {
                pump.append(&mut batch);
            }
        }

        fn notify(&self) {
            *self.permit.lock().unwrap() = true;
            self.wake.notify_one();
        }

        /// The pump's own task, which is woken to handle what nobody else does, until it has seen `count` messages.
        fn pump(&self, count: usize) {
            while self.pump.lock().unwrap().len() < count {
                let mut permit = self.permit.lock().unwrap();
                while !std::mem::take(&mut *permit) {
                    permit = self.wake.wait(permit).unwrap();
                }
                drop(permit);
                self.drain();
            }
        }

        fn check(&self, count: u32) {
            let waiting = self.waiting.lock().unwrap();
            assert!(waiting.messages.is_empty(), "nothing is forgotten");
            assert!(!waiting.attended, "it is nobody's turn");
            let mut handled = self.pump.lock().unwrap().clone();
            handled.sort_unstable();
            assert_eq!(handled, (0..count).collect::<Vec<_>>(), "each once");
        }
    }

    /// In every interleaving of two tasks that drain the inbox themselves when it is their turn.
    #[test]
    fn what_tasks_send_is_handled_once_by_one_of_them() {
        loom::model(|| {
            let model = Model::new();
            let other = Arc::clone(&model);
            let task = thread::spawn(move || {
                for message in [0, 1] {
                    if other.send(message) {
                        other.drain();
                    }
                }
            });
            for message in [2, 3] {
                if model.send(message) {
                    model.drain();
                }
            }
            task.join().unwrap();
            model.check(4);
        });
    }

    /// In every interleaving of a client, which wakes the pump, with a task, which drains the inbox itself. A lost wake-up would leave
    /// the pump waiting, which the model checker reports.
    #[test]
    fn no_wake_up_is_lost_between_clients_and_tasks() {
        loom::model(|| {
            let model = Model::new();
            let task = Arc::clone(&model);
            let task = thread::spawn(move || {
                if task.send(0) {
                    task.drain();
                }
            });
            let client = Arc::clone(&model);
            let client = thread::spawn(move || {
                if client.send(1) {
                    client.notify();
                }
            });
            task.join().unwrap();
            client.join().unwrap();
            // Whoever's turn it was has drained it, or has left a permit.
            if *model.permit.lock().unwrap() {
                model.pump(2);
            }
            model.check(2);
        });
    }
}
