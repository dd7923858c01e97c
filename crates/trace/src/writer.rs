//! The writer: takes events from a solver's thread without ever blocking it, and writes them from a thread of its own.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use weld_solver::{TraceEvent, TraceSink, TraceStamp};

use crate::encode::{Encoder, encode_end, encode_lost, encode_start};

/// Events that may wait to be written; what comes on top is counted and lost.
const LIMIT: usize = 1 << 19;
/// How long the writer lets events gather, so that the solver need not wake it for each; what gathers of a busy solver is still in a
/// processor's cache.
const GATHER: Duration = Duration::from_millis(1);
/// How often it looks for events by itself before it waits to be woken.
const PATIENCE: u32 = 100;
/// Events that there is room for from the beginning; a solver does not wait for memory that it does not need more of.
const ROOM: usize = 1 << 12;
/// Bytes that are written at once.
const BUFFER: usize = 1 << 18;

/// Why a trace could not be written.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file cannot be made.
    #[error("cannot create the trace {path}: {source}", path = path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be written to; what came before is there.
    #[error("cannot write the trace {path}: {source}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No thread could be had.
    #[error("cannot start the writer of the trace {path}: {source}", path = path.display())]
    Thread {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A trace is being written already.
    #[error("a trace is being written already, to {path}", path = .0.display())]
    Busy(PathBuf),
    /// The writer ended before its time.
    #[error("the writer of the trace {path} panicked", path = .0.display())]
    Panicked(PathBuf),
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Events.
    pub lines: u64,
    /// Events that came faster than they could be written.
    pub lost: u64,
}

/// Writes a solver's events to a file while it is switched on. Cheap to clone; the last clone that is dropped ends the file.
///
/// Give it to the solver as its sink from the beginning: while it is off, the solver makes no events. It may be switched on and off at
/// any time, and each time to another file.
#[derive(Clone, Default)]
pub struct Tracer(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// Number of the file that is being written; 0 for none.
    recording: AtomicU64,
    shared: Arc<Shared>,
    writer: Mutex<Option<Writer>>,
    files: AtomicU64,
}

struct Writer {
    path: PathBuf,
    thread: JoinHandle<Result<Written, io::Error>>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Default)]
struct Queue {
    events: Events,
    /// Events that found no room since the last batch.
    lost: u64,
    /// The writer waits to be woken.
    waiting: bool,
    /// No more events come.
    closed: bool,
    /// The writer is gone; events are for nobody.
    dead: bool,
}

/// Events in their order, and at which moment how many of them happened.
#[derive(Default)]
struct Events {
    moments: Vec<(TraceStamp, usize)>,
    events: Vec<TraceEvent>,
}

impl Events {
    /// Nothing, in memory that the process has got already.
    fn with_room() -> Self {
        let mut events = Self {
            moments: vec![(TraceStamp::default(), 0); ROOM],
            events: vec![TraceEvent::Resumed; ROOM],
        };
        events.clear();
        events
    }

    fn clear(&mut self) {
        self.moments.clear();
        self.events.clear();
    }

    /// Each moment with its events.
    fn by_moment(&self) -> impl Iterator<Item = (TraceStamp, &[TraceEvent])> {
        let mut rest = self.events.as_slice();
        self.moments.iter().map(move |(at, count)| {
            let (events, later) = rest.split_at_checked(*count).unwrap_or((rest, &[]));
            rest = later;
            (*at, events)
        })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tracer {
    fn take(&self, recording: u64, at: TraceStamp, events: &mut Vec<TraceEvent>) {
        let mut queue = self.0.shared.lock();
        if queue.closed || queue.dead || recording != self.recording() {
            return events.clear();
        }
        let room = LIMIT.saturating_sub(queue.events.events.len());
        queue.lost += events.len().saturating_sub(room) as u64;
        events.truncate(room);
        if !events.is_empty() {
            queue.events.moments.push((at, events.len()));
            match queue.events.events.is_empty() {
                true => std::mem::swap(&mut queue.events.events, events),
                false => queue.events.events.append(events),
            }
        }
        if queue.waiting {
            queue.waiting = false;
            self.0.shared.wake.notify_one();
        }
    }

    /// A tracer that is off.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins to write to a new file, compressed if its name ends in `.zst`.
    ///
    /// # Errors
    /// [`TraceError`].
    pub fn start(&self, path: &Path) -> Result<(), TraceError> {
        let mut writer = self.writer();
        if let Some(writer) = &*writer {
            return Err(TraceError::Busy(writer.path.clone()));
        }
        let create = |source| TraceError::Create {
            path: path.to_owned(),
            source,
        };
        let output = Output::create(path).map_err(create)?;
        *self.0.shared.lock() = Queue {
            events: Events::with_room(),
            ..Queue::default()
        };
        let shared = Arc::clone(&self.0.shared);
        let thread = std::thread::Builder::new()
            .name("weld-trace".into())
            .spawn(move || write(&shared, output))
            .map_err(|source| TraceError::Thread {
                path: path.to_owned(),
                source,
            })?;
        *writer = Some(Writer {
            path: path.to_owned(),
            thread,
        });
        let number = self.0.files.fetch_add(1, Ordering::Relaxed) + 1;
        self.0.recording.store(number, Ordering::Release);
        Ok(())
    }

    /// Whether a trace is being written.
    pub fn is_on(&self) -> bool {
        self.recording() != 0
    }

    /// Ends the file and tells what is in it; nothing where it is off. Blocks until all is written.
    ///
    /// # Errors
    /// [`TraceError`] if not everything could be written.
    pub fn stop(&self) -> Result<Option<Written>, TraceError> {
        let mut writer = self.writer();
        self.0.recording.store(0, Ordering::Release);
        let Some(Writer { path, thread }) = writer.take() else {
            return Ok(None);
        };
        self.0.shared.lock().closed = true;
        self.0.shared.wake.notify_one();
        match thread.join() {
            Ok(Ok(written)) => Ok(Some(written)),
            Ok(Err(source)) => Err(TraceError::Write { path, source }),
            Err(_) => Err(TraceError::Panicked(path)),
        }
    }

    fn writer(&self) -> MutexGuard<'_, Option<Writer>> {
        self.0.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_one();
        let writer = self
            .writer
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        // Nobody is left to tell an error to.
        if let Some(writer) = writer {
            drop(writer.thread.join());
        }
    }
}

impl TraceSink for Tracer {
    fn event(&self, recording: u64, at: TraceStamp, event: TraceEvent) {
        self.take(recording, at, &mut vec![event]);
    }

    fn events(&self, recording: u64, at: TraceStamp, events: &mut Vec<TraceEvent>) {
        self.take(recording, at, events);
    }

    fn recording(&self) -> u64 {
        self.0.recording.load(Ordering::Acquire)
    }
}

/// Where lines go.
enum Output {
    Plain(BufWriter<File>),
    Compressed(Box<zstd::stream::write::Encoder<'static, BufWriter<File>>>),
}

impl Output {
    fn create(path: &Path) -> io::Result<Self> {
        let file = BufWriter::with_capacity(BUFFER, File::create(path)?);
        if path.extension().is_some_and(|extension| extension == "zst") {
            let mut encoder = zstd::stream::write::Encoder::new(file, 3)?;
            encoder.include_checksum(true)?;
            Ok(Self::Compressed(Box::new(encoder)))
        } else {
            Ok(Self::Plain(file))
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(file) => file.write_all(bytes),
            Self::Compressed(encoder) => encoder.write_all(bytes),
        }
    }

    /// Lets a reader see all that was written.
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(file) => file.flush(),
            Self::Compressed(encoder) => encoder.flush(),
        }
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Self::Plain(mut file) => file.flush(),
            Self::Compressed(encoder) => encoder.finish()?.flush(),
        }
    }
}

fn write(shared: &Shared, output: Output) -> io::Result<Written> {
    let written = write_all(shared, output);
    let mut queue = shared.lock();
    queue.dead = true;
    queue.events = Events::default();
    written
}

fn write_all(shared: &Shared, mut output: Output) -> io::Result<Written> {
    let mut written = Written::default();
    let mut lines = Vec::with_capacity(BUFFER + BUFFER / 8);
    let mut encoder = Encoder::default();
    let mut batch = Events::with_room();
    encode_start(&mut lines, now());
    output.write(&lines)?;
    let mut last = 0;
    loop {
        let (lost, closed) = take(shared, &mut batch, &mut output)?;
        lines.clear();
        for (at, events) in batch.by_moment() {
            last = last.max(at.position);
            for event in events {
                encoder.encode(&mut lines, at, event);
                if lines.len() >= BUFFER {
                    output.write(&lines)?;
                    lines.clear();
                }
            }
        }
        written.lines += batch.events.len() as u64;
        if batch.events.capacity() > LIMIT / 8 {
            batch = Events::with_room();
        }
        batch.clear();
        if lost > 0 {
            // They were lost behind the batch that filled the queue.
            written.lost += lost;
            encode_lost(
                &mut lines,
                TraceStamp {
                    position: last,
                    ..now()
                },
                lost,
            );
        }
        if closed {
            let at = TraceStamp {
                position: last,
                ..now()
            };
            encode_end(&mut lines, at, written.lines, written.lost);
        }
        output.write(&lines)?;
        if closed {
            output.finish()?;
            return Ok(written);
        }
    }
}

/// Waits for events; returns how many were lost after them, and whether they are the last.
fn take(shared: &Shared, batch: &mut Events, output: &mut Output) -> io::Result<(u64, bool)> {
    let mut idle = 0;
    let mut queue = shared.lock();
    while queue.events.moments.is_empty() && !queue.closed {
        if idle == PATIENCE {
            queue.waiting = true;
            queue = shared
                .wake
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
            continue;
        }
        if idle == 1 {
            drop(queue);
            output.flush()?;
            queue = shared.lock();
        }
        idle += 1;
        let waited = shared.wake.wait_timeout(queue, GATHER);
        queue = waited.unwrap_or_else(PoisonError::into_inner).0;
    }
    std::mem::swap(&mut queue.events, batch);
    Ok((std::mem::take(&mut queue.lost), queue.closed))
}

fn now() -> TraceStamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    TraceStamp {
        position: 0,
        micros: since.map_or(0, |since| since.as_micros() as u64),
    }
}
