use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use weld_digest::Digest;

use crate::model::{Batch, Log, Stream, Timestamp, TransferStatus, Vertex, Warning};

/// How many bytes of logs wait for a slow reader, over all steps, before lines are dropped.
pub const LOG_LIMIT: usize = 16 << 20;

/// How far apart what is logged as one may have been written.
const AT_ONCE: time::Duration = time::Duration::milliseconds(20);

/// How many warnings wait for a slow reader.
const WARNING_LIMIT: usize = 1000;

/// A pair of ends. What is sent is kept until it is received or until the receiver is dropped.
pub fn channel() -> (Sender, Receiver) {
    let shared = Arc::new(Shared::default());
    (
        Sender(Arc::new(OpenEnd(Arc::clone(&shared)))),
        Receiver(shared),
    )
}

/// The sending end. Sending never waits; equal states coalesce.
#[derive(Clone)]
pub struct Sender(Arc<OpenEnd>);

/// The receiving end.
pub struct Receiver(Arc<Shared>);

#[derive(Default)]
struct Shared {
    pending: Mutex<Pending>,
    changed: Notify,
    /// Apart from `changed`, so that nobody who waits for the end is woken by each change.
    ended: Notify,
}

/// Tells the receiver when the last sender is gone.
struct OpenEnd(Arc<Shared>);

impl Drop for OpenEnd {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_one();
        self.0.ended.notify_one();
    }
}

#[derive(Default)]
struct Pending {
    batch: Batch,
    vertexes: HashMap<Digest, usize>,
    statuses: HashMap<(Digest, String), usize>,
    /// Transfers that have not ended, of steps that have not.
    open: HashMap<Digest, Vec<TransferStatus>>,
    log_bytes: usize,
    dropped: Option<Dropped>,
    closed: bool,
    abandoned: bool,
}

struct Dropped {
    vertex: Digest,
    stream: Stream,
    bytes: usize,
    timestamp: Timestamp,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        // The state is consistent between any two statements: a panic elsewhere does not spoil it.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Pending)) {
        let mut pending = self.lock();
        if !pending.abandoned {
            change(&mut pending);
            drop(pending);
            self.changed.notify_one();
        }
    }
}

impl Sender {
    /// Tells a step's state; a later state replaces an earlier one.
    pub fn vertex(&self, vertex: Vertex) {
        self.0.0.change(|pending| pending.vertex(vertex));
    }

    /// Tells a transfer's state; a later state replaces an earlier one.
    pub fn status(&self, status: TransferStatus) {
        self.0.0.change(|pending| pending.status(status));
    }

    /// Passes on what a step wrote.
    pub fn log(&self, log: Log) {
        self.0.0.change(|pending| pending.log(log));
    }

    /// Passes on a warning.
    pub fn warning(&self, warning: Warning) {
        self.0.0.change(|pending| {
            if pending.batch.warnings.len() < WARNING_LIMIT {
                pending.batch.warnings.push(warning);
            }
        });
    }
}

impl Receiver {
    /// What happened since the last call, as soon as something has; `None` when all senders are
    /// gone and everything was received. Cancel-safe.
    pub async fn receive(&mut self) -> Option<Batch> {
        loop {
            let notified = self.0.changed.notified();
            {
                let mut pending = self.0.lock();
                if !pending.is_empty() {
                    return Some(pending.take());
                }
                if pending.closed {
                    return None;
                }
            }
            notified.await;
        }
    }

    /// Waits until all senders are gone. Cancel-safe.
    pub async fn closed(&self) {
        loop {
            let notified = self.0.ended.notified();
            if self.0.lock().closed {
                return;
            }
            notified.await;
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut pending = self.0.lock();
        pending.take();
        pending.abandoned = true;
    }
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.batch.is_empty() && self.dropped.is_none()
    }

    fn vertex(&mut self, vertex: Vertex) {
        // With a step all in it ends: clients show no end, and no error, of one in which something goes on.
        if let Some(completed) = vertex.completed {
            for status in self.open.remove(&vertex.digest).into_iter().flatten() {
                self.status(TransferStatus {
                    completed: Some(completed),
                    ..status
                });
            }
        }
        let known = self.vertexes.get(&vertex.digest);
        let known = known.map(|index| &mut self.batch.vertexes[*index]);
        match known {
            // What began again is told of with what became of it before: each beginning has an end.
            Some(last) if last.started.is_none() || last.started == vertex.started => {
                *last = vertex;
            }
            _ => {
                self.vertexes
                    .insert(vertex.digest.clone(), self.batch.vertexes.len());
                self.batch.vertexes.push(vertex);
            }
        }
    }

    fn status(&mut self, status: TransferStatus) {
        self.note_open(&status);
        let key = (status.vertex.clone(), status.id.clone());
        match self.statuses.get(&key) {
            Some(&index) => self.batch.statuses[index] = status,
            None => {
                self.statuses.insert(key, self.batch.statuses.len());
                self.batch.statuses.push(status);
            }
        }
    }

    fn note_open(&mut self, status: &TransferStatus) {
        let ends = status.completed.is_some();
        let Some(open) = self.open.get_mut(&status.vertex) else {
            if !ends {
                let all = vec![status.clone()];
                self.open.insert(status.vertex.clone(), all);
            }
            return;
        };
        match open.iter().position(|known| known.id == status.id) {
            Some(at) if ends => drop(open.swap_remove(at)),
            Some(at) => open[at] = status.clone(),
            None if ends => {}
            None => open.push(status.clone()),
        }
        if open.is_empty() {
            self.open.remove(&status.vertex);
        }
    }

    fn log(&mut self, log: Log) {
        if self.log_bytes + log.data.len() <= LOG_LIMIT && self.dropped.is_none() {
            self.log_bytes += log.data.len();
            match self.batch.logs.last_mut() {
                // One allocation for many small writes; but what comes late keeps its times.
                Some(last)
                    if last.vertex == log.vertex
                        && last.stream == log.stream
                        && last.data.len() < 4096
                        && log.timestamp - last.timestamp < AT_ONCE =>
                {
                    last.data.extend_from_slice(&log.data);
                }
                _ => self.batch.logs.push(log),
            }
            return;
        }
        let bytes = log.data.len();
        self.dropped
            .get_or_insert(Dropped {
                vertex: log.vertex,
                stream: log.stream,
                bytes: 0,
                timestamp: log.timestamp,
            })
            .bytes += bytes;
    }

    fn take(&mut self) -> Batch {
        if let Some(dropped) = self.dropped.take() {
            self.batch.logs.push(Log {
                vertex: dropped.vertex,
                stream: dropped.stream,
                data: format!(
                    "\n[output clipped: {} bytes dropped, the reader is too slow]\n",
                    dropped.bytes
                )
                .into_bytes(),
                timestamp: dropped.timestamp,
            });
        }
        self.vertexes.clear();
        self.statuses.clear();
        self.log_bytes = 0;
        std::mem::take(&mut self.batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(name: &str) -> Digest {
        Digest::sha256_of(name)
    }

    fn log(text: &[u8]) -> Log {
        Log {
            vertex: digest("a"),
            stream: Stream::Stdout,
            data: text.to_vec(),
            timestamp: Timestamp::UNIX_EPOCH,
        }
    }

    #[tokio::test]
    async fn states_coalesce_and_the_end_is_told() {
        let (sender, mut receiver) = channel();
        for name in ["first", "second"] {
            sender.vertex(Vertex::new(digest("a"), name));
        }
        sender.clone().vertex(Vertex::new(digest("b"), "other"));
        drop(sender);
        let batch = receiver.receive().await.unwrap();
        let names: Vec<_> = batch
            .vertexes
            .iter()
            .map(|vertex| vertex.name.as_str())
            .collect();
        assert_eq!(names, ["second", "other"]);
        assert_eq!(receiver.receive().await, None);
    }

    #[tokio::test]
    async fn what_goes_on_in_a_step_ends_with_it() {
        let (sender, mut receiver) = channel();
        let at = |seconds| Timestamp::UNIX_EPOCH + time::Duration::seconds(seconds);
        let status = |id: &str, completed| TransferStatus {
            id: id.to_owned(),
            vertex: digest("a"),
            name: String::new(),
            total: 10,
            current: 3,
            timestamp: at(1),
            started: Some(at(1)),
            completed,
        };
        sender.status(status("done", Some(at(2))));
        sender.status(status("open", None));
        receiver.receive().await.unwrap();
        let ended = Vertex {
            started: Some(at(1)),
            completed: Some(at(3)),
            error: "404".to_owned(),
            ..Vertex::new(digest("a"), "a")
        };
        sender.vertex(ended.clone());
        let batch = receiver.receive().await.unwrap();
        assert_eq!(batch.statuses, [status("open", Some(at(3)))]);
        // Once.
        sender.vertex(ended);
        assert_eq!(receiver.receive().await.unwrap().statuses, []);
    }

    #[tokio::test]
    async fn what_began_twice_ends_twice() {
        let (sender, mut receiver) = channel();
        let at = |seconds| Timestamp::UNIX_EPOCH + time::Duration::seconds(seconds);
        let vertex = |started, completed| Vertex {
            started: Some(at(started)),
            completed,
            ..Vertex::new(digest("a"), "load metadata")
        };
        for (started, completed) in [(1, None), (2, None), (1, Some(at(3))), (2, Some(at(4)))] {
            sender.vertex(vertex(started, completed));
        }
        let told = receiver.receive().await.unwrap().vertexes;
        for (started, completed) in [(1, 3), (2, 4)] {
            assert!(
                told.contains(&vertex(started, Some(at(completed)))),
                "{told:?}"
            );
        }
    }

    #[tokio::test]
    async fn what_is_written_later_keeps_its_time() {
        let (sender, mut receiver) = channel();
        let late = |text, milliseconds| Log {
            timestamp: Timestamp::UNIX_EPOCH + time::Duration::milliseconds(milliseconds),
            ..log(text)
        };
        for (text, milliseconds) in [(b"1", 0), (b"2", 10), (b"3", 500)] {
            sender.log(late(text, milliseconds));
        }
        let told = receiver.receive().await.unwrap().logs;
        assert_eq!(told, [late(b"12", 0), late(b"3", 500)]);
    }

    #[tokio::test]
    async fn logs_are_bounded_and_the_gap_is_marked() {
        let (sender, mut receiver) = channel();
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..40 {
            sender.log(log(&piece));
        }
        let batch = receiver.receive().await.unwrap();
        let kept: usize = batch.logs.iter().map(|log| log.data.len()).sum();
        assert!(kept < LOG_LIMIT + 1000, "{kept}");
        let last = String::from_utf8_lossy(&batch.logs.last().unwrap().data).into_owned();
        assert!(
            last.contains(&format!("{} bytes dropped", 24 << 20)),
            "{last}"
        );
        sender.log(log(b"after"));
        assert_eq!(receiver.receive().await.unwrap().logs, [log(b"after")]);
    }

    #[tokio::test]
    async fn a_gone_reader_keeps_nothing() {
        let (sender, receiver) = channel();
        drop(receiver);
        sender.log(log(b"nobody reads this"));
        assert!(sender.0.0.lock().is_empty());
    }

    #[tokio::test]
    async fn a_waiting_reader_is_woken() {
        let (sender, mut receiver) = channel();
        let reader = tokio::spawn(async move { receiver.receive().await });
        tokio::task::yield_now().await;
        sender.log(log(b"hello"));
        assert_eq!(reader.await.unwrap().unwrap().logs, [log(b"hello")]);
    }
}
