use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt};
use tokio::sync::mpsc;
use tonic::Status;
use weld_proto::fsutil::{Packet, PacketType};
use weld_source::local::wire::{StatFormError, to_wire};
use weld_source::local::{ProviderError, Stat, TreeIndex, TreeProvider};

use super::packets::{Batch, Left, PacketSender};

/// How many threads read files at a time.
const PARALLEL: usize = 4;
/// How many files one of them reads before it gives way, if so many are asked for.
const FILES_AT_ONCE: usize = 32;
/// How many requests may wait.
const QUEUE: usize = 128;
/// How much of a file goes into one packet, in bytes.
const PIECE: usize = 128 << 10;
/// How much of the other end's error text is kept, in characters.
const MAX_ERROR: usize = 4096;

/// What was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// How many paths the tree has.
    pub paths: usize,
    /// How many files were asked for.
    pub files: u64,
    /// How many bytes they have.
    pub bytes: u64,
}

/// Why a tree was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Nobody knows what is in it.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// A path of it cannot be sent.
    #[error(transparent)]
    Stat(#[from] StatFormError),
    /// A file cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The other end failed.
    #[error("{0}")]
    Remote(String),
    /// The call failed.
    #[error("{}", .0.message())]
    Call(Status),
    /// The other end asked for something that is no file, or for the same file twice.
    #[error("file {0} was asked for, which there is not to be had")]
    Request(u32),
    /// A packet came that has no place there.
    #[error("an unexpected {0} packet came")]
    Unexpected(&'static str),
    /// The other end left.
    #[error("the transfer ended before it was complete")]
    Truncated,
}

impl From<Left> for SendError {
    fn from(_: Left) -> Self {
        Self::Truncated
    }
}

/// Sends a tree: what the other end asks comes from `incoming`, and `outgoing` leads to it.
///
/// # Errors
/// [`SendError`]; the other end was told.
pub async fn send<S>(
    provider: Arc<dyn TreeProvider>,
    incoming: S,
    outgoing: PacketSender,
) -> Result<Sent, SendError>
where
    S: Stream<Item = Result<Packet, Status>> + Send + Unpin,
{
    let sent = send_packets(provider, incoming, &outgoing).await;
    match &sent {
        Ok(_) | Err(SendError::Remote(_) | SendError::Call(_) | SendError::Truncated) => {}
        Err(error) => {
            let packet = Packet {
                r#type: PacketType::Err.into(),
                data: Bytes::from(error.to_string()),
                ..Packet::default()
            };
            // It may be gone.
            drop(outgoing.send(vec![packet]).await);
        }
    }
    sent
}

async fn send_packets<S>(
    provider: Arc<dyn TreeProvider>,
    incoming: S,
    outgoing: &PacketSender,
) -> Result<Sent, SendError>
where
    S: Stream<Item = Result<Packet, Status>> + Send + Unpin,
{
    let asked = Arc::clone(&provider);
    let stats = match tokio::task::spawn_blocking(move || asked.stats(&TreeIndex::empty())).await {
        Ok(stats) => stats?,
        // Never aborted: the provider panicked.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    };
    let sending = Sending {
        provider: &provider,
        asked: stats.iter().map(|_| AtomicBool::new(false)).collect(),
        stats: &stats,
        listed: AtomicUsize::new(0),
        files: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        outgoing,
    };
    let (queue, requests) = mpsc::channel(QUEUE);
    tokio::try_join!(
        sending.list(),
        sending.take_requests(incoming, queue),
        sending.serve(requests),
    )?;
    let end = Packet {
        r#type: PacketType::Fin.into(),
        ..Packet::default()
    };
    outgoing.send(vec![end]).await?;
    Ok(Sent {
        paths: stats.len(),
        files: sending.files.into_inner(),
        bytes: sending.bytes.into_inner(),
    })
}

struct Sending<'a> {
    provider: &'a Arc<dyn TreeProvider>,
    stats: &'a [Stat],
    asked: Vec<AtomicBool>,
    /// How many stats were sent.
    listed: AtomicUsize,
    files: AtomicU64,
    bytes: AtomicU64,
    outgoing: &'a PacketSender,
}

impl Sending<'_> {
    async fn list(&self) -> Result<(), SendError> {
        let mut batch = Batch::default();
        for stat in self.stats {
            let packet = Packet {
                r#type: PacketType::Stat.into(),
                stat: Some(to_wire(stat)?),
                ..Packet::default()
            };
            // Before it is sent: it may be asked for at once.
            self.listed.fetch_add(1, Ordering::Release);
            if let Some(batch) = batch.push(packet) {
                self.outgoing.send(batch).await?;
            }
        }
        let end = Packet {
            r#type: PacketType::Stat.into(),
            ..Packet::default()
        };
        let mut rest = batch.take();
        rest.push(end);
        Ok(self.outgoing.send(rest).await?)
    }

    async fn take_requests<S>(
        &self,
        mut incoming: S,
        queue: mpsc::Sender<usize>,
    ) -> Result<(), SendError>
    where
        S: Stream<Item = Result<Packet, Status>> + Send + Unpin,
    {
        loop {
            let packet = match incoming.next().await {
                Some(packet) => packet.map_err(SendError::Call)?,
                None => return Err(SendError::Truncated),
            };
            match PacketType::try_from(packet.r#type) {
                Ok(PacketType::Req) => {
                    let number = self.requested(packet.id)?;
                    // Whoever serves it failed, which is told by itself.
                    if queue.send(number).await.is_err() {
                        return Ok(());
                    }
                }
                Ok(PacketType::Fin) => return Ok(()),
                Ok(PacketType::Err) => {
                    let text = String::from_utf8_lossy(&packet.data);
                    return Err(SendError::Remote(text.chars().take(MAX_ERROR).collect()));
                }
                Ok(PacketType::Stat) => return Err(SendError::Unexpected("stat")),
                Ok(PacketType::Data) => return Err(SendError::Unexpected("data")),
                Err(_) => return Err(SendError::Unexpected("unknown")),
            }
        }
    }

    fn requested(&self, id: u32) -> Result<usize, SendError> {
        let number = usize::try_from(id).unwrap_or(usize::MAX);
        let known = number < self.listed.load(Ordering::Acquire)
            && self.stats.get(number).is_some_and(Stat::has_content);
        let asked = self.asked.get(number);
        match asked {
            Some(asked) if known && !asked.swap(true, Ordering::Relaxed) => Ok(number),
            _ => Err(SendError::Request(id)),
        }
    }

    async fn serve(&self, requests: mpsc::Receiver<usize>) -> Result<(), SendError> {
        let requests = futures_util::stream::unfold(requests, |mut requests| async move {
            Some((requests.recv().await?, requests))
        });
        requests
            .ready_chunks(FILES_AT_ONCE)
            .map(Ok)
            .try_for_each_concurrent(PARALLEL, |numbers| self.files(numbers))
            .await
    }

    async fn files(&self, numbers: Vec<usize>) -> Result<(), SendError> {
        let asked = numbers.into_iter();
        let mut reading = Reading {
            provider: Arc::clone(self.provider),
            files: asked
                .filter_map(|number| Some((number, self.stats.get(number)?.clone())))
                .collect(),
            outgoing: self.outgoing.clone(),
            batch: Batch::default(),
            bytes: 0,
        };
        let files = reading.files.len() as u64;
        let sent = tokio::task::spawn_blocking(move || reading.run());
        let bytes = match sent.await {
            Ok(sent) => sent?,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        self.files.fetch_add(files, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }
}

/// Files that one thread reads, one after the other.
struct Reading {
    provider: Arc<dyn TreeProvider>,
    files: Vec<(usize, Stat)>,
    outgoing: PacketSender,
    batch: Batch,
    bytes: u64,
}

impl Reading {
    fn run(&mut self) -> Result<u64, SendError> {
        for (number, stat) in std::mem::take(&mut self.files) {
            self.file(number, &stat)?;
        }
        let rest = self.batch.take();
        if !rest.is_empty() {
            self.outgoing.blocking_send(rest)?;
        }
        Ok(self.bytes)
    }

    fn file(&mut self, number: usize, stat: &Stat) -> Result<(), SendError> {
        let unreadable = |source| SendError::Read {
            path: stat.path.clone(),
            source,
        };
        let mut content = self.provider.open(number, stat).map_err(unreadable)?;
        // Most files are small: no more is allocated than they need.
        let expected = usize::try_from(stat.size).unwrap_or(PIECE).min(PIECE);
        loop {
            let data = piece(&mut *content, expected).map_err(unreadable)?;
            let last = data.len() < PIECE;
            self.bytes += data.len() as u64;
            if !data.is_empty() {
                self.data(number, data)?;
            }
            if last {
                return self.data(number, Bytes::new());
            }
        }
    }

    fn data(&mut self, number: usize, data: Bytes) -> Result<(), SendError> {
        let packet = Packet {
            r#type: PacketType::Data.into(),
            // As it was asked for.
            id: u32::try_from(number).unwrap_or(u32::MAX),
            data,
            ..Packet::default()
        };
        match self.batch.push(packet) {
            Some(batch) => Ok(self.outgoing.blocking_send(batch)?),
            None => Ok(()),
        }
    }
}

/// As much as fits in a packet; less only at the end.
fn piece(content: &mut dyn Read, expected: usize) -> io::Result<Bytes> {
    let mut piece = Vec::with_capacity(expected);
    content.take(PIECE as u64).read_to_end(&mut piece)?;
    Ok(piece.into())
}
