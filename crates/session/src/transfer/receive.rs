//! A tree of the other end's, as one that can be asked.
//!
//! One task reads what comes and hands it on; those who ask are threads, which may block. A file
//! that a thread reads holds the others up once enough of it waits; files that are asked for ahead
//! of that are small, so all that was asked for fits in memory and nobody waits for another.

mod state;

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{self, Read};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;
use weld_proto::Message;
use weld_proto::fsutil::{Packet, PacketType};
use weld_source::local::wire::{StatFormError, from_wire};
use weld_source::local::{ProviderError, Stat, TreeIndex, TreeProvider};

use self::state::{File, FileReader, Shared, State, lock};

/// How much of a file that is being read may wait, in bytes.
const WINDOW: usize = 512 << 10;
/// How large the files may be together that are asked for before they are read, in bytes.
const AHEAD: u64 = 16 << 20;
/// How many they may be.
const AHEAD_FILES: usize = 512;
/// By how much files may turn out larger than was said, in bytes: they may grow meanwhile.
const GROWTH: u64 = 64 << 20;
/// How many stats are handed on at a time.
const BATCH: usize = 512;
/// How many batches may wait.
const BATCHES: usize = 64;
/// How much of the other end's error text is kept, in characters.
const MAX_ERROR: usize = 4096;
/// How many files are read at a time.
const PARALLEL: usize = 8;

/// What the other end may do.
#[derive(Clone, Debug)]
pub struct ReceiveOptions {
    /// How long it may be silent when it is its turn.
    pub stall: Duration,
    /// How many paths its tree may have.
    pub max_paths: u32,
    /// How large all its stats may be together, in bytes.
    pub max_stats: u64,
}

impl Default for ReceiveOptions {
    fn default() -> Self {
        Self {
            stall: Duration::from_secs(600),
            max_paths: 8 << 20,
            max_stats: 1 << 30,
        }
    }
}

/// Why a tree does not come.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TransferError {
    /// The other end says so.
    #[error("{0}")]
    Remote(String),
    /// The call failed.
    #[error("{}", .0.message())]
    Call(Status),
    /// One of its stats is that of no file.
    #[error(transparent)]
    Stat(#[from] StatFormError),
    /// It has too many files.
    #[error("the tree is larger than allowed ({0})")]
    TooLarge(&'static str),
    /// A packet came that has no place there.
    #[error("an unexpected {0} packet came")]
    Unexpected(&'static str),
    /// Content came that nobody asked for.
    #[error("content of file {0} came, which was not asked for")]
    Unasked(u32),
    /// A file has far more content than was said.
    #[error("file {0} is far larger than its stat says")]
    Grown(u32),
    /// It ended too early.
    #[error("the transfer ended before it was complete")]
    Truncated,
    /// Nothing came for too long.
    #[error("nothing came for {0:?}")]
    Stalled(Duration),
    /// It was asked for the same file twice.
    #[error("file {0} can be read only once")]
    Again(usize),
    /// Nobody wants it any more.
    #[error("the transfer was cancelled")]
    Cancelled,
}

impl From<TransferError> for io::Error {
    fn from(error: TransferError) -> Self {
        Self::other(error)
    }
}

/// A tree that the other end has. Dropped, it breaks the transfer off.
pub struct RemoteTree {
    shared: Arc<Shared>,
    batches: Mutex<Option<mpsc::Receiver<Vec<Stat>>>>,
    asking: Mutex<Asking>,
    outgoing: mpsc::Sender<Packet>,
    over: CancellationToken,
    _task: AbortOnDropHandle<()>,
}

/// What has been asked for, and what will be.
#[derive(Default)]
struct Asking {
    sizes: Vec<u64>,
    asked: HashSet<usize>,
    announced: VecDeque<usize>,
}

impl RemoteTree {
    /// A tree that comes over a call: what `incoming` gives, and what is to be sent to
    /// `outgoing`.
    pub fn start<S>(incoming: S, outgoing: mpsc::Sender<Packet>, options: ReceiveOptions) -> Self
    where
        S: Stream<Item = Result<Packet, Status>> + Send + Unpin + 'static,
    {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                files: HashMap::new(),
                ahead: 0,
                failure: None,
                listed: false,
                finishing: false,
                done: false,
                since: Instant::now(),
            }),
            ended: Condvar::new(),
            room: Notify::new(),
        });
        let over = CancellationToken::new();
        let (sender, batches) = mpsc::channel(BATCHES);
        let task = Receiving {
            shared: Arc::clone(&shared),
            batches: Some(sender),
            batch: Vec::new(),
            paths: 0,
            stats_size: 0,
            options,
        };
        let cancelled = over.clone();
        let task = tokio::spawn(async move { task.run(incoming, cancelled).await });
        Self {
            shared,
            batches: Mutex::new(Some(batches)),
            asking: Mutex::default(),
            outgoing,
            over,
            _task: AbortOnDropHandle::new(task),
        }
    }

    fn ask(&self, asking: &mut Asking, number: usize, opened: bool) -> Result<(), TransferError> {
        // As many as there may be fit.
        let id = u32::try_from(number).map_err(|_| TransferError::TooLarge("paths"))?;
        {
            let mut state = self.shared.lock();
            // First: whatever failed is why a file that was asked for is not there any more.
            state.alive()?;
            if !asking.asked.insert(number) {
                return Err(TransferError::Again(number));
            }
            state.since = Instant::now();
            let file = File {
                pieces: VecDeque::new(),
                waiting: 0,
                received: 0,
                size: asking.sizes.get(number).copied().unwrap_or(0),
                opened,
                complete: false,
                abandoned: false,
                arrived: Arc::default(),
            };
            state.files.insert(id, file);
        }
        self.send(Packet {
            r#type: PacketType::Req.into(),
            id,
            ..Packet::default()
        })
    }

    /// Asks for announced files before they are read, as far as they fit.
    fn ask_ahead(&self, asking: &mut Asking) -> Result<(), TransferError> {
        let (mut files, mut bytes) = {
            let state = self.shared.lock();
            let ahead = state.files.values().filter(|file| !file.opened);
            ahead.fold((0, 0), |(files, bytes), file| {
                (files + 1, bytes + file.size)
            })
        };
        while let Some(number) = asking.announced.front().copied() {
            if asking.asked.contains(&number) {
                asking.announced.pop_front();
                continue;
            }
            let size = asking.sizes.get(number).copied().unwrap_or(0);
            if files >= AHEAD_FILES || bytes + size > AHEAD {
                break;
            }
            asking.announced.pop_front();
            self.ask(asking, number, false)?;
            files += 1;
            bytes += size;
        }
        Ok(())
    }

    fn send(&self, packet: Packet) -> Result<(), TransferError> {
        let sent = self.outgoing.blocking_send(packet);
        sent.map_err(|_| self.shared.failure())
    }

    /// Begins to read a file that was asked for ahead.
    fn begin(&self, id: u32) -> Option<FileReader> {
        let mut state = self.shared.lock();
        let file = state.files.get_mut(&id).filter(|file| !file.opened)?;
        file.opened = true;
        let waiting = file.waiting as u64;
        state.ahead -= waiting;
        Some(self.reader(id))
    }

    fn reader(&self, id: u32) -> FileReader {
        FileReader {
            shared: Arc::clone(&self.shared),
            id,
            piece: Bytes::new(),
            ended: false,
        }
    }

    fn open_file(&self, number: usize) -> Result<FileReader, TransferError> {
        let id = u32::try_from(number).map_err(|_| TransferError::TooLarge("paths"))?;
        let reader = match self.begin(id) {
            Some(reader) => reader,
            None => {
                let mut asking = lock(&self.asking);
                // Another thread may have asked for it meanwhile.
                match self.begin(id) {
                    Some(reader) => reader,
                    None => {
                        self.ask(&mut asking, number, true)?;
                        self.reader(id)
                    }
                }
            }
        };
        // Whoever has it asks for what is next.
        if let Ok(mut asking) = self.asking.try_lock() {
            self.ask_ahead(&mut asking)?;
        }
        Ok(reader)
    }

    fn take_stats(&self) -> Result<Vec<Stat>, TransferError> {
        let mut batches = lock(&self.batches);
        let mut batches = batches.take().ok_or(TransferError::Unexpected("stat"))?;
        let mut stats = Vec::new();
        while let Some(batch) = batches.blocking_recv() {
            stats.extend(batch);
        }
        let state = self.shared.lock();
        if !state.listed {
            return Err(state.failure.clone().unwrap_or(TransferError::Truncated));
        }
        drop(state);
        lock(&self.asking).sizes = stats.iter().map(|stat| stat.size).collect();
        Ok(stats)
    }

    fn end(&self) -> Result<(), TransferError> {
        {
            let mut state = self.shared.lock();
            state.alive()?;
            state.finishing = true;
            state.since = Instant::now();
        }
        self.send(Packet {
            r#type: PacketType::Fin.into(),
            ..Packet::default()
        })?;
        let mut state = self.shared.lock();
        while !state.done {
            state.alive()?;
            let waited = self.shared.ended.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }
}

impl TreeProvider for RemoteTree {
    fn stats(&self, _known: &TreeIndex) -> Result<Vec<Stat>, ProviderError> {
        self.take_stats().map_err(ProviderError::new)
    }

    fn announce(&self, wanted: &[usize]) {
        let mut asking = lock(&self.asking);
        asking.announced.extend(wanted);
        // Whoever opens a file meets the error again.
        drop(self.ask_ahead(&mut asking));
    }

    fn open(&self, number: usize, _stat: &Stat) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(self.open_file(number)?))
    }

    fn finish(&self) -> Result<(), ProviderError> {
        self.end().map_err(ProviderError::new)
    }

    fn cancel(&self) {
        self.over.cancel();
    }

    fn parallel(&self) -> usize {
        PARALLEL
    }
}

impl Drop for RemoteTree {
    fn drop(&mut self) {
        // A reader may outlive the tree, and wait.
        self.shared.fail(TransferError::Cancelled);
    }
}

/// The task that reads what comes.
struct Receiving {
    shared: Arc<Shared>,
    batches: Option<mpsc::Sender<Vec<Stat>>>,
    batch: Vec<Stat>,
    paths: u32,
    stats_size: u64,
    options: ReceiveOptions,
}

impl Receiving {
    async fn run<S>(mut self, incoming: S, over: CancellationToken)
    where
        S: Stream<Item = Result<Packet, Status>> + Send + Unpin,
    {
        let outcome = tokio::select! {
            outcome = self.receive(incoming) => outcome,
            () = over.cancelled() => Err(TransferError::Cancelled),
        };
        if let Err(error) = outcome {
            self.shared.fail(error);
        }
        // Only now may whoever waits for stats see that there are no more.
        self.batches = None;
    }

    async fn receive<S>(&mut self, mut incoming: S) -> Result<(), TransferError>
    where
        S: Stream<Item = Result<Packet, Status>> + Send + Unpin,
    {
        loop {
            let packet = self.next(&mut incoming).await?;
            let kind = PacketType::try_from(packet.r#type)
                .map_err(|_| TransferError::Unexpected("unknown"))?;
            match kind {
                PacketType::Stat => self.stat(packet).await?,
                PacketType::Data => self.data(packet.id, packet.data).await?,
                PacketType::Err => return Err(TransferError::Remote(error_text(&packet.data))),
                PacketType::Req => return Err(TransferError::Unexpected("request")),
                PacketType::Fin => {
                    let mut state = self.shared.lock();
                    if !state.finishing {
                        return Err(TransferError::Unexpected("final"));
                    }
                    state.done = true;
                    self.shared.ended.notify_all();
                    break;
                }
            }
        }
        // The call is over when the other end says so, which it does at once.
        let rest = async { while incoming.next().await.is_some() {} };
        // What it says behind its last packet changes nothing.
        drop(tokio::time::timeout(self.options.stall.min(Duration::from_secs(5)), rest).await);
        Ok(())
    }

    async fn next<S>(&mut self, incoming: &mut S) -> Result<Packet, TransferError>
    where
        S: Stream<Item = Result<Packet, Status>> + Send + Unpin,
    {
        let came = loop {
            match tokio::time::timeout(self.options.stall, incoming.next()).await {
                Ok(came) => break came,
                Err(_) => {
                    let state = self.shared.lock();
                    // It may have been nobody's turn, or be its turn since just now.
                    if state.expects() && state.since.elapsed() >= self.options.stall {
                        return Err(TransferError::Stalled(self.options.stall));
                    }
                }
            }
        };
        self.shared.lock().since = Instant::now();
        match came {
            Some(Ok(packet)) => Ok(packet),
            Some(Err(status)) => Err(TransferError::Call(status)),
            None => Err(TransferError::Truncated),
        }
    }

    async fn stat(&mut self, packet: Packet) -> Result<(), TransferError> {
        let Some(batches) = &self.batches else {
            return Err(TransferError::Unexpected("stat"));
        };
        if let Some(stat) = packet.stat {
            self.paths += 1;
            self.stats_size += stat.encoded_len() as u64;
            if self.paths > self.options.max_paths {
                return Err(TransferError::TooLarge("paths"));
            }
            if self.stats_size > self.options.max_stats {
                return Err(TransferError::TooLarge("stats"));
            }
            self.batch.push(from_wire(stat)?);
            if self.batch.len() < BATCH {
                return Ok(());
            }
            let batch = std::mem::take(&mut self.batch);
            let sent = batches.send(batch).await;
            return sent.map_err(|_| TransferError::Cancelled);
        }
        let batch = std::mem::take(&mut self.batch);
        let sent = batches.send(batch).await;
        sent.map_err(|_| TransferError::Cancelled)?;
        self.shared.lock().listed = true;
        self.batches = None;
        Ok(())
    }

    async fn data(&self, id: u32, data: Bytes) -> Result<(), TransferError> {
        {
            let mut state = self.shared.lock();
            let state = &mut *state;
            let file = state.files.get_mut(&id).filter(|file| !file.complete);
            let file = file.ok_or(TransferError::Unasked(id))?;
            if data.is_empty() {
                file.complete = true;
                file.arrived.notify_all();
                if file.abandoned {
                    state.files.remove(&id);
                }
                return Ok(());
            }
            file.received += data.len() as u64;
            if file.received > file.size.saturating_add(GROWTH) {
                return Err(TransferError::Grown(id));
            }
            if file.abandoned {
                return Ok(());
            }
            file.waiting += data.len();
            if !file.opened {
                state.ahead += data.len() as u64;
                if state.ahead > AHEAD + GROWTH {
                    return Err(TransferError::Grown(id));
                }
            }
            file.pieces.push_back(data);
            file.arrived.notify_all();
        }
        self.wait_for_room(id).await
    }

    /// Waits until enough of a file that is being read was read.
    async fn wait_for_room(&self, id: u32) -> Result<(), TransferError> {
        loop {
            let room = self.shared.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            {
                let state = self.shared.lock();
                state.alive()?;
                let full = state
                    .files
                    .get(&id)
                    .is_some_and(|file| file.opened && file.waiting > WINDOW);
                if !full {
                    return Ok(());
                }
            }
            room.await;
        }
    }
}

fn error_text(data: &[u8]) -> String {
    let text = String::from_utf8_lossy(data);
    text.chars().take(MAX_ERROR).collect()
}
