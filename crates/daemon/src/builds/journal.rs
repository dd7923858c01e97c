//! What happened in one build: a file of status messages that any number of readers follow, each
//! at its own pace.
//!
//! The file has no name and is gone with its last user. Its form is that of the logs in BuildKit's
//! history: the length of each message in four bytes, the lowest first, then the message.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use prost::Message;
use tokio::sync::watch;
use weld_progress::{Batch, Log, Receiver, Timestamp, TransferStatus, Vertex};
use weld_proto::control::StatusResponse;

use super::messages::from_batch;
use crate::telemetry::StepSpan;

/// How much is read at once.
const CHUNK: usize = 256 << 10;
/// The longest message that is read: what is written is far below.
const MAX_MESSAGE: usize = 64 << 20;
/// How many steps are counted; a definition has fewer.
const MAX_STEPS: usize = 1 << 20;
/// How many characters of a step's name, or error, are kept for its span.
const MAX_NAME: usize = 256;

/// A build's progress, told and kept.
pub(crate) struct Journal {
    file: Arc<File>,
    end: watch::Sender<End>,
    log_limit: u64,
    counts: Mutex<Counts>,
}

/// How far a journal goes.
#[derive(Clone, Copy, Default)]
struct End {
    bytes: u64,
    finished: bool,
}

#[derive(Default)]
struct Counts {
    steps: HashMap<weld_digest::Digest, Step>,
    warnings: usize,
    log_bytes: u64,
    clipped: bool,
}

#[derive(Default)]
struct Step {
    name: String,
    cached: bool,
    started: Option<Timestamp>,
    completed: Option<Timestamp>,
    error: String,
    /// What it said last that it does, and has not ended.
    doing: String,
}

/// A step that goes on.
pub(crate) struct StepUnderWay {
    pub(crate) name: String,
    pub(crate) started: SystemTime,
    /// What it does, where it says so: `waiting for the cache mount /c` or `pulling sha256:…`.
    pub(crate) doing: String,
}

/// The numbers of a build.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) total: i32,
    pub(crate) cached: i32,
    pub(crate) completed: i32,
    pub(crate) warnings: i32,
}

impl Journal {
    /// An empty journal in a file in `directory`, which keeps at most `log_limit` bytes of what
    /// steps write.
    pub(crate) fn create(directory: &Path, log_limit: u64) -> io::Result<Arc<Self>> {
        let file = match tempfile::tempfile_in(directory) {
            // Somebody tidied up the state directory.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir_all(directory)?;
                tempfile::tempfile_in(directory)?
            }
            file => file?,
        };
        Ok(Arc::new(Self {
            file: Arc::new(file),
            end: watch::Sender::default(),
            log_limit,
            counts: Mutex::default(),
        }))
    }

    /// Takes in all that is received, until all senders are gone.
    pub(crate) async fn record(&self, mut receiver: Receiver) -> io::Result<()> {
        while let Some(batch) = receiver.receive().await {
            let batch = self.count(batch);
            self.append(from_batch(batch)).await?;
        }
        Ok(())
    }

    /// No more will come.
    pub(crate) fn finish(&self) {
        self.end.send_modify(|end| end.finished = true);
    }

    /// A reader from the beginning.
    pub(crate) fn follow(&self) -> Follower {
        Follower {
            tail: Tail::new(Arc::clone(&self.file)),
            end: self.end.subscribe(),
        }
    }

    /// The file's content so far, for a blob.
    pub(crate) fn content(&self) -> (Arc<File>, u64) {
        (Arc::clone(&self.file), self.end.borrow().bytes)
    }

    /// The numbers so far.
    pub(crate) fn summary(&self) -> Summary {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let steps = |wanted: fn(&Step) -> bool| {
            number(counts.steps.values().filter(|step| wanted(step)).count())
        };
        Summary {
            total: number(counts.steps.len()),
            cached: steps(|step| step.cached),
            completed: steps(|step| step.completed.is_some()),
            warnings: number(counts.warnings),
        }
    }

    /// The steps that go on, those that began first before the others.
    pub(crate) fn under_way(&self) -> Vec<StepUnderWay> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let steps = counts.steps.values();
        let steps = steps.filter(|step| step.completed.is_none());
        let mut steps: Vec<_> = steps
            .filter_map(|step| {
                Some(StepUnderWay {
                    name: step.name.clone(),
                    started: step.started?.into(),
                    doing: step.doing.clone(),
                })
            })
            .collect();
        steps.sort_by_key(|step| step.started);
        steps
    }

    /// The steps that have begun and ended, as spans.
    pub(crate) fn steps(&self) -> Vec<StepSpan> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let steps = counts.steps.iter().filter_map(|(digest, step)| {
            Some(StepSpan {
                digest: digest.to_string(),
                name: step.name.clone(),
                started: step.started?.into(),
                completed: step.completed?.into(),
                cached: step.cached,
                error: step.error.clone(),
            })
        });
        let mut steps: Vec<_> = steps.collect();
        steps.sort_by_key(|step| step.started);
        steps
    }

    /// Counts what is in a batch, and takes out of it the logs that are too many.
    fn count(&self, mut batch: Batch) -> Batch {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.warnings += batch.warnings.len();
        for vertex in &batch.vertexes {
            if counts.steps.len() < MAX_STEPS || counts.steps.contains_key(&vertex.digest) {
                let step = counts.steps.entry(vertex.digest.clone()).or_default();
                step.take(vertex);
            }
        }
        for status in &batch.statuses {
            if let Some(step) = counts.steps.get_mut(&status.vertex) {
                step.hear(status);
            }
        }
        let limit = self.log_limit;
        batch.logs.retain_mut(|log| counts.keep(log, limit));
        batch
    }

    async fn append(&self, messages: Vec<StatusResponse>) -> io::Result<()> {
        let mut bytes = Vec::new();
        for message in &messages {
            let length = u32::try_from(message.encoded_len()).map_err(io::Error::other)?;
            bytes.extend_from_slice(&length.to_le_bytes());
            message.encode(&mut bytes).map_err(io::Error::other)?;
        }
        let (file, offset) = self.content();
        let length = bytes.len() as u64;
        blocking(move || file.write_all_at(&bytes, offset)).await?;
        self.end.send_modify(|end| end.bytes = offset + length);
        Ok(())
    }
}

impl Step {
    fn take(&mut self, vertex: &Vertex) {
        if self.name.is_empty() {
            self.name = vertex.name.chars().take(MAX_NAME).collect();
        }
        self.cached |= vertex.cached;
        self.started = self.started.or(vertex.started);
        self.completed = vertex.completed.or(self.completed);
        if !vertex.error.is_empty() {
            self.error = vertex.error.chars().take(MAX_NAME).collect();
        }
    }

    fn hear(&mut self, status: &TransferStatus) {
        // A blob alone is one that is fetched; of what else is done with blobs it is said what.
        let verb = match status.id.parse::<weld_digest::Digest>() {
            Ok(_) => "pulling ",
            Err(_) => "",
        };
        let doing = verb.chars().chain(status.id.chars());
        let doing: String = doing.take(MAX_NAME).collect();
        if status.completed.is_none() {
            self.doing = doing;
        } else if self.doing == doing {
            self.doing.clear();
        }
    }
}

impl Counts {
    /// Whether a log is kept. The first that is not tells so.
    fn keep(&mut self, log: &mut Log, limit: u64) -> bool {
        self.log_bytes = self.log_bytes.saturating_add(log.data.len() as u64);
        if self.log_bytes <= limit {
            return true;
        }
        if std::mem::replace(&mut self.clipped, true) {
            return false;
        }
        log.data =
            format!("\n[output clipped: this build has written {limit} bytes]\n").into_bytes();
        true
    }
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}

/// Reads a journal as it grows.
pub(crate) struct Follower {
    tail: Tail,
    end: watch::Receiver<End>,
}

impl Follower {
    /// The next message; `None` when the build is over and all was read. Cancel-safe.
    pub(crate) async fn next(&mut self) -> io::Result<Option<StatusResponse>> {
        loop {
            let end = *self.end.borrow_and_update();
            if let Some(message) = self.tail.next(end.bytes).await? {
                return Ok(Some(message));
            }
            if end.finished || self.end.changed().await.is_err() {
                // What came with the end.
                let end = *self.end.borrow();
                return self.tail.next(end.bytes).await;
            }
        }
    }
}

/// Reads messages of a file one after another.
pub(crate) struct Tail {
    file: Arc<File>,
    /// What was read and not told yet.
    buffer: Vec<u8>,
    /// How much of the buffer was told.
    told: usize,
    offset: u64,
}

impl Tail {
    pub(crate) const fn new(file: Arc<File>) -> Self {
        Self {
            file,
            buffer: Vec::new(),
            told: 0,
            offset: 0,
        }
    }

    /// The next message of the first `end` bytes. Cancel-safe.
    pub(crate) async fn next(&mut self, end: u64) -> io::Result<Option<StatusResponse>> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            if self.offset >= end {
                return Ok(None);
            }
            self.fill(end).await?;
        }
    }

    fn take(&mut self) -> io::Result<Option<StatusResponse>> {
        let waiting = self.buffer.get(self.told..).unwrap_or_default();
        let Some((length, rest)) = waiting.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length > MAX_MESSAGE {
            let reason = format!("a status message of {length} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        let Some(message) = rest.get(..length) else {
            return Ok(None);
        };
        let message = StatusResponse::decode(message)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.told += 4 + length;
        Ok(Some(message))
    }

    async fn fill(&mut self, end: u64) -> io::Result<()> {
        let wanted = usize::try_from(end - self.offset)
            .unwrap_or(CHUNK)
            .min(CHUNK);
        let (file, offset) = (Arc::clone(&self.file), self.offset);
        let piece = blocking(move || {
            let mut piece = vec![0; wanted];
            file.read_exact_at(&mut piece, offset)?;
            Ok(piece)
        })
        .await?;
        self.buffer.drain(..self.told);
        self.told = 0;
        self.offset += piece.len() as u64;
        self.buffer.extend_from_slice(&piece);
        Ok(())
    }
}

/// Reads the first bytes of a file, whose position is not used.
pub(crate) struct Section {
    file: Arc<File>,
    offset: u64,
    end: u64,
}

impl Section {
    pub(crate) fn new((file, end): (Arc<File>, u64)) -> Self {
        Self {
            file,
            offset: 0,
            end,
        }
    }
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.offset).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        let piece = buffer.get_mut(..wanted).unwrap_or_default();
        let count = self.file.read_at(piece, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weld_digest::Digest;
    use weld_progress::{Stream, channel};

    fn log(data: &str) -> Log {
        Log {
            vertex: Digest::sha256_of("a"),
            stream: Stream::Stdout,
            data: data.into(),
            timestamp: Timestamp::UNIX_EPOCH,
        }
    }

    async fn logs(mut follower: Follower) -> String {
        let mut text = String::new();
        while let Some(message) = follower.next().await.unwrap() {
            for log in message.logs {
                text.push_str(std::str::from_utf8(&log.msg).unwrap());
            }
        }
        text
    }

    #[tokio::test]
    async fn readers_of_any_time_read_all() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::create(directory.path(), 1 << 20).unwrap();
        let early = tokio::spawn(logs(journal.follow()));
        let (sender, receiver) = channel();
        let recorder = {
            let journal = Arc::clone(&journal);
            tokio::spawn(async move { journal.record(receiver).await })
        };
        let mut written = String::new();
        for number in 0..1000 {
            let line = format!("line {number}\n");
            sender.log(log(&line));
            written.push_str(&line);
            if number % 100 == 0 {
                tokio::task::yield_now().await;
            }
        }
        let between = tokio::spawn(logs(journal.follow()));
        drop(sender);
        recorder.await.unwrap().unwrap();
        journal.finish();
        assert_eq!(early.await.unwrap(), written);
        assert_eq!(between.await.unwrap(), written);
        assert_eq!(logs(journal.follow()).await, written);
    }

    #[tokio::test]
    async fn a_step_that_goes_on_says_what_it_does() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::create(directory.path(), 10).unwrap();
        let blob = Digest::sha256_of("blob").to_string();
        let pulling = format!("pulling {blob}");
        for (id, told) in [
            ("waiting for a free slot", "waiting for a free slot"),
            (blob.as_str(), pulling.as_str()),
        ] {
            for (completed, doing) in [(None, told), (Some(Timestamp::UNIX_EPOCH), "")] {
                let (sender, receiver) = channel();
                sender.vertex(Vertex {
                    started: Some(Timestamp::UNIX_EPOCH),
                    ..Vertex::new(Digest::sha256_of("a"), "step")
                });
                sender.status(TransferStatus {
                    id: id.to_owned(),
                    vertex: Digest::sha256_of("a"),
                    name: String::new(),
                    total: 0,
                    current: 0,
                    timestamp: Timestamp::UNIX_EPOCH,
                    started: Some(Timestamp::UNIX_EPOCH),
                    completed,
                });
                drop(sender);
                journal.record(receiver).await.unwrap();
                assert_eq!(journal.under_way()[0].doing, doing);
            }
        }
    }

    #[tokio::test]
    async fn logs_beyond_the_limit_are_clipped_and_this_is_told_once() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::create(directory.path(), 10).unwrap();
        let (sender, receiver) = channel();
        sender.vertex(Vertex::new(Digest::sha256_of("a"), "step"));
        sender.log(log("12345"));
        for _ in 0..3 {
            let mut other = log("0123456789");
            other.vertex = Digest::sha256_of("b");
            sender.log(other);
            sender.log(log("x"));
        }
        drop(sender);
        journal.record(receiver).await.unwrap();
        journal.finish();
        let text = logs(journal.follow()).await;
        assert_eq!(text.matches("output clipped").count(), 1, "{text}");
        assert!(text.starts_with("12345"));
        let summary = journal.summary();
        assert_eq!((summary.total, summary.completed), (1, 0));
    }
}
