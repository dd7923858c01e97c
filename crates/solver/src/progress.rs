//! Progress: what a job hears of its vertices, and the bounded stream that it hears it by.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use tokio::sync::Notify;

use crate::Digest;

/// Most bytes of log that wait for a reader of one job; what comes on top is dropped and counted.
const LOG_LIMIT: usize = 1 << 20;
/// Most different statuses that one operation call may have waiting.
const STATUS_LIMIT: usize = 1 << 12;
/// Most different bars and vertices that wait for a reader of one job before further bars are dropped.
const WAITING_LIMIT: usize = 1 << 20;

/// State of a vertex, as the job that hears of it loaded it. Each update replaces the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VertexUpdate {
    /// Digest that the job loaded.
    pub digest: Digest,
    /// Name that the job loaded.
    pub name: Arc<str>,
    /// Digests of the inputs, in order.
    pub inputs: Arc<[Digest]>,
    /// When the operation started.
    pub started: Option<SystemTime>,
    /// When it ended.
    pub completed: Option<SystemTime>,
    /// Whether the result came from a record, or was not needed because a result further up did.
    pub cached: bool,
    /// Why it failed.
    pub error: Option<Arc<str>>,
}

/// A progress bar of an operation. Each report with the same `id` replaces the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Identifies the bar within its vertex.
    pub id: Arc<str>,
    /// What is shown; the id where empty.
    pub name: Arc<str>,
    /// Units done.
    pub current: u64,
    /// Units in all; 0 where not known.
    pub total: u64,
    /// When the work began.
    pub started: Option<SystemTime>,
    /// When it ended.
    pub completed: Option<SystemTime>,
}

/// What an operation wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogChunk {
    /// 1 for standard output, 2 for standard error.
    pub stream: u8,
    /// The bytes, in the order in which they were written.
    pub data: Vec<u8>,
    /// When they were written.
    pub at: SystemTime,
}

/// What a job's progress stream yields.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProgressEvent {
    /// The newest state of a vertex.
    Vertex(VertexUpdate),
    /// The newest state of a progress bar.
    Status {
        /// The vertex.
        vertex: Digest,
        /// The bar.
        status: Status,
    },
    /// Output of an operation.
    Log {
        /// The vertex.
        vertex: Digest,
        /// The output.
        chunk: LogChunk,
    },
    /// Why an operation has to run.
    Explained {
        /// The vertex.
        vertex: Digest,
        /// Why, for a person.
        why: Arc<str>,
    },
    /// Output was dropped because nobody read it in time.
    LogsDropped {
        /// The vertex.
        vertex: Digest,
        /// How many bytes.
        bytes: u64,
    },
}

/// A report of an operation about itself.
#[derive(Clone, Debug)]
pub(crate) enum Report {
    Status(Status),
    Log(LogChunk),
    Dropped(u64),
    Explained(Arc<str>),
}

impl Report {
    /// When that was which it tells of, where it says so.
    pub(crate) fn since(&self) -> Option<SystemTime> {
        match self {
            Self::Status(status) => status.started,
            Self::Log(chunk) => Some(chunk.at),
            Self::Dropped(_) | Self::Explained(_) => None,
        }
    }

    pub(crate) fn explanation(&self) -> Option<&Arc<str>> {
        if let Self::Explained(why) = self {
            Some(why)
        } else {
            None
        }
    }
}

/// Reports of one operation call on their way to the listeners: statuses coalesce, logs are bounded.
#[derive(Default)]
pub(crate) struct Reports {
    inner: Mutex<Vec<Report>>,
}

impl Reports {
    /// Adds a report; returns whether the listeners must be woken.
    pub(crate) fn push(&self, report: Report) -> bool {
        let mut waiting = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let wake = waiting.is_empty();
        match report {
            Report::Status(status) => {
                let mut statuses = 0;
                for old in waiting.iter_mut() {
                    if let Report::Status(old) = old {
                        if old.id == status.id {
                            *old = status;
                            return false;
                        }
                        statuses += 1;
                    }
                }
                if statuses < STATUS_LIMIT {
                    waiting.push(Report::Status(status));
                }
            }
            Report::Log(chunk) => {
                let held: usize = waiting
                    .iter()
                    .map(|r| {
                        if let Report::Log(chunk) = r {
                            chunk.data.len()
                        } else {
                            0
                        }
                    })
                    .sum();
                let room = held + chunk.data.len() <= LOG_LIMIT;
                match (waiting.last_mut(), room) {
                    (Some(Report::Log(last)), true) if last.stream == chunk.stream => {
                        last.data.extend(chunk.data)
                    }
                    (_, true) => waiting.push(Report::Log(chunk)),
                    (Some(Report::Dropped(bytes)), false) => *bytes += chunk.data.len() as u64,
                    (_, false) => waiting.push(Report::Dropped(chunk.data.len() as u64)),
                }
            }
            Report::Dropped(_) | Report::Explained(_) => waiting.push(report),
        }
        wake
    }

    pub(crate) fn take(&self) -> Vec<Report> {
        std::mem::take(&mut *self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What an event is about; there is at most one event of each subject waiting, except for logs.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Subject {
    Vertex(Digest),
    Status(Digest, Arc<str>),
    Dropped(Digest),
    Explained(Digest),
}

/// What waits for the reader of one job, in order.
#[derive(Default)]
struct Queue {
    events: BTreeMap<u64, ProgressEvent>,
    next: u64,
    places: HashMap<Subject, u64>,
    /// Vertices of which reports wait, and whether a state of theirs was left in front of these.
    said: HashMap<Digest, bool>,
    log_bytes: usize,
    closed: bool,
}

/// The sending and the receiving side of one job's progress.
#[derive(Default)]
pub(crate) struct Channel {
    queue: Mutex<Queue>,
    wake: Notify,
}

impl Channel {
    pub(crate) fn send_vertex(&self, update: VertexUpdate) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        // The newest state goes behind what was written meanwhile: an end is not heard of before the last words. A state before the first
        // words stays: whoever reads them must know whose they are.
        if let Some(old) = queue.places.remove(&Subject::Vertex(update.digest)) {
            match queue.said.get_mut(&update.digest) {
                Some(is_left @ false) => *is_left = true,
                _ => drop(queue.events.remove(&old)),
            }
        }
        queue.push(
            Some(Subject::Vertex(update.digest)),
            ProgressEvent::Vertex(update),
        );
        drop(queue);
        self.wake.notify_one();
    }

    pub(crate) fn send_report(&self, vertex: Digest, report: Report) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.said.entry(vertex).or_default();
        match report {
            Report::Status(status) => {
                let subject = Subject::Status(vertex, status.id.clone());
                let event = ProgressEvent::Status { vertex, status };
                let room = queue.places.len() < WAITING_LIMIT;
                match queue.waiting(&subject) {
                    Some(old) => *old = event,
                    None if room => queue.push(Some(subject), event),
                    None => {}
                }
            }
            Report::Log(chunk) if queue.log_bytes + chunk.data.len() <= LOG_LIMIT => {
                queue.log_bytes += chunk.data.len();
                queue.push(None, ProgressEvent::Log { vertex, chunk });
            }
            Report::Log(chunk) => queue.drop_log(vertex, chunk.data.len() as u64),
            Report::Dropped(bytes) => queue.drop_log(vertex, bytes),
            Report::Explained(why) => {
                let subject = Subject::Explained(vertex);
                let event = ProgressEvent::Explained { vertex, why };
                match queue.waiting(&subject) {
                    Some(old) => *old = event,
                    None => queue.push(Some(subject), event),
                }
            }
        }
        drop(queue);
        self.wake.notify_one();
    }

    pub(crate) fn close(&self) {
        self.queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .closed = true;
        self.wake.notify_one();
    }
}

impl Queue {
    fn push(&mut self, subject: Option<Subject>, event: ProgressEvent) {
        self.events.insert(self.next, event);
        if let Some(subject) = subject {
            self.places.insert(subject, self.next);
        }
        self.next += 1;
    }

    fn waiting(&mut self, subject: &Subject) -> Option<&mut ProgressEvent> {
        self.places
            .get(subject)
            .and_then(|at| self.events.get_mut(at))
    }

    fn drop_log(&mut self, vertex: Digest, more: u64) {
        match self.waiting(&Subject::Dropped(vertex)) {
            Some(ProgressEvent::LogsDropped { bytes, .. }) => *bytes += more,
            _ => self.push(
                Some(Subject::Dropped(vertex)),
                ProgressEvent::LogsDropped {
                    vertex,
                    bytes: more,
                },
            ),
        }
    }

    fn pop(&mut self) -> Option<ProgressEvent> {
        let (place, event) = self.events.pop_first()?;
        if self.events.is_empty() {
            self.said.clear();
        }
        let subject = match &event {
            ProgressEvent::Vertex(update) => Subject::Vertex(update.digest),
            ProgressEvent::Status { vertex, status } => Subject::Status(*vertex, status.id.clone()),
            ProgressEvent::LogsDropped { vertex, .. } => Subject::Dropped(*vertex),
            ProgressEvent::Explained { vertex, .. } => Subject::Explained(*vertex),
            ProgressEvent::Log { chunk, .. } => {
                self.log_bytes -= chunk.data.len();
                return Some(event);
            }
        };
        if self.places.get(&subject) == Some(&place) {
            self.places.remove(&subject);
        }
        Some(event)
    }
}

/// Everything that a job hears of its vertices, from the first one that it loaded.
///
/// A reader that is slow or gone holds nobody up: states coalesce, logs are dropped beyond a limit with a marker.
pub struct ProgressStream(pub(crate) Arc<Channel>);

impl ProgressStream {
    /// The next event; `None` once the job is discarded and everything was read. Cancel-safe.
    pub async fn next(&mut self) -> Option<ProgressEvent> {
        loop {
            let woken = self.0.wake.notified();
            {
                let mut queue = self.0.queue.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(event) = queue.pop() {
                    return Some(event);
                }
                if queue.closed {
                    // Other readers of the same stream wait for the same end.
                    self.0.wake.notify_one();
                    return None;
                }
            }
            woken.await;
        }
    }

    /// An event that waits already.
    pub fn try_next(&mut self) -> Option<ProgressEvent> {
        self.0
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
    }
}
