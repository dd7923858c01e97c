//! Where a fetched blob goes.
//!
//! A [`BlobSink`] is written to on a thread of its own while the network delivers, so it may
//! block. It digests what it takes, so that content is digested once however many receivers it
//! has. [`tee`] hands the same chunks, uncopied, to a second reader, such as one that unpacks a
//! layer while it is still being downloaded.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::{Buf, Bytes};
use weld_digest::{Algorithm, Digest, Hasher};

/// Receives a blob in order. What it got may be wrong until [`finish`](Self::finish) says that it
/// is right.
pub trait BlobSink: Send + 'static {
    /// How many bytes it has, from the blob's first: the fetch goes on behind them.
    fn position(&self) -> u64;

    /// Takes the next bytes.
    ///
    /// # Errors
    /// What writing meets; the fetch then fails with it.
    fn write(&mut self, chunk: Bytes) -> io::Result<()>;

    /// Forgets everything: what came was wrong.
    ///
    /// # Errors
    /// What truncating meets.
    fn restart(&mut self) -> io::Result<()>;

    /// Digests all that it has and compares; on a match the blob is complete. It is called when
    /// as many bytes are there as there should be.
    ///
    /// # Errors
    /// What writing the last bytes meets.
    fn finish(&mut self, expected: &Digest) -> io::Result<Verdict>;
}

/// Whether a blob is what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// It is.
    Right,
    /// It is not.
    Wrong {
        /// What it is instead.
        actual: Digest,
    },
}

impl Verdict {
    /// Compares what was digested.
    pub fn of(actual: Digest, expected: &Digest) -> Self {
        if actual == *expected {
            Self::Right
        } else {
            Self::Wrong { actual }
        }
    }
}

impl<S: BlobSink + ?Sized> BlobSink for Box<S> {
    fn position(&self) -> u64 {
        (**self).position()
    }

    fn write(&mut self, chunk: Bytes) -> io::Result<()> {
        (**self).write(chunk)
    }

    fn restart(&mut self) -> io::Result<()> {
        (**self).restart()
    }

    fn finish(&mut self, expected: &Digest) -> io::Result<Verdict> {
        (**self).finish(expected)
    }
}

/// Writes all that a reader has.
///
/// # Errors
/// What reading or writing meets.
pub fn fill(sink: &mut impl BlobSink, from: &mut impl Read) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = from.read(&mut buffer)?;
        match buffer.get(..count).filter(|read| !read.is_empty()) {
            Some(read) => sink.write(Bytes::copy_from_slice(read))?,
            None => return Ok(()),
        }
    }
}

/// Collects a small blob in memory.
#[derive(Debug, Default)]
pub struct MemorySink(Vec<u8>);

impl MemorySink {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// What it got.
    pub fn into_bytes(self) -> Bytes {
        self.0.into()
    }
}

impl BlobSink for MemorySink {
    fn position(&self) -> u64 {
        self.0.len() as u64
    }

    fn write(&mut self, chunk: Bytes) -> io::Result<()> {
        self.0.extend_from_slice(&chunk);
        Ok(())
    }

    fn restart(&mut self) -> io::Result<()> {
        self.0.clear();
        Ok(())
    }

    fn finish(&mut self, expected: &Digest) -> io::Result<Verdict> {
        let mut hasher = Hasher::new(expected.algorithm());
        hasher.update(&self.0);
        Ok(Verdict::of(hasher.finish(), expected))
    }
}

/// Writes a blob into a file, going on behind what the file has.
#[derive(Debug)]
pub struct FileSink {
    file: File,
    algorithm: Algorithm,
    hasher: Box<HasherState>,
    position: u64,
}

struct HasherState(Hasher);

impl std::fmt::Debug for HasherState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hasher")
    }
}

impl FileSink {
    /// Goes on behind what `file`, open for reading and writing, has; that is digested first.
    ///
    /// # Errors
    /// What reading meets.
    pub fn resume(mut file: File, algorithm: Algorithm) -> io::Result<Self> {
        let mut hasher = Hasher::new(algorithm);
        let mut buffer = vec![0; 1 << 20];
        let mut position = 0;
        file.seek(SeekFrom::Start(0))?;
        loop {
            let count = file.read(&mut buffer)?;
            let Some(read) = buffer.get(..count).filter(|read| !read.is_empty()) else {
                break;
            };
            hasher.update(read);
            position += count as u64;
        }
        Ok(Self {
            file,
            algorithm,
            hasher: Box::new(HasherState(hasher)),
            position,
        })
    }

    /// The digest of what is there.
    pub fn digest(&self) -> Digest {
        self.hasher.0.clone().finish()
    }

    /// The file.
    pub fn into_file(self) -> File {
        self.file
    }
}

impl BlobSink for FileSink {
    fn position(&self) -> u64 {
        self.position
    }

    fn write(&mut self, chunk: Bytes) -> io::Result<()> {
        self.file.write_all(&chunk)?;
        self.hasher.0.update(&chunk);
        self.position += chunk.len() as u64;
        Ok(())
    }

    fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.hasher.0 = Hasher::new(self.algorithm);
        self.position = 0;
        Ok(())
    }

    fn finish(&mut self, expected: &Digest) -> io::Result<Verdict> {
        Ok(Verdict::of(self.digest(), expected))
    }
}

/// How many chunks a [`TeeReader`] may lag behind. A chunk is what the network read at once, at
/// most some 400 KB.
const TEE_CHUNKS: usize = 16;

/// Passes a blob on to `sink` and to a reader, which sees each byte once, in order, and the end
/// only after the blob proved right. If it proves wrong, the reader fails, and so must what was
/// made of what it read: make a new tee for the next try.
///
/// `sink` must be empty, or what it has must be given to the reader's consumer some other way.
pub fn tee<S: BlobSink>(sink: S) -> (Tee<S>, TeeReader) {
    let (sender, receiver) = sync_channel(TEE_CHUNKS);
    let tee = Tee {
        sink,
        sender: Some(sender),
    };
    let reader = TeeReader {
        receiver,
        chunk: Bytes::new(),
        state: ReaderState::Open,
    };
    (tee, reader)
}

/// The writing end of a [`tee`].
pub struct Tee<S> {
    sink: S,
    /// Gone once the reader does not listen any more.
    sender: Option<SyncSender<Message>>,
}

enum Message {
    Chunk(Bytes),
    Complete,
    Wrong(Arc<str>),
}

impl<S> Tee<S> {
    /// The sink.
    pub fn into_inner(self) -> S {
        self.sink
    }

    fn send(&mut self, message: Message) {
        // A reader that went away found its own error; the blob may be stored all the same.
        if let Some(sender) = &self.sender
            && sender.send(message).is_err()
        {
            self.sender = None;
        }
    }
}

impl<S: BlobSink> BlobSink for Tee<S> {
    fn position(&self) -> u64 {
        self.sink.position()
    }

    fn write(&mut self, chunk: Bytes) -> io::Result<()> {
        self.send(Message::Chunk(chunk.clone()));
        self.sink.write(chunk)
    }

    fn restart(&mut self) -> io::Result<()> {
        self.send(Message::Wrong(
            "the content was wrong and is fetched again".into(),
        ));
        self.sender = None;
        self.sink.restart()
    }

    fn finish(&mut self, expected: &Digest) -> io::Result<Verdict> {
        let verdict = self.sink.finish(expected)?;
        match &verdict {
            Verdict::Right => self.send(Message::Complete),
            Verdict::Wrong { actual } => {
                let text = format!("the content has digest {actual} instead of {expected}");
                self.send(Message::Wrong(text.into()));
            }
        }
        self.sender = None;
        Ok(verdict)
    }
}

/// The reading end of a [`tee`]; it blocks until bytes are there.
#[derive(Debug)]
pub struct TeeReader {
    receiver: Receiver<Message>,
    chunk: Bytes,
    state: ReaderState,
}

#[derive(Debug)]
enum ReaderState {
    Open,
    Complete,
    Failed(Arc<str>),
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Chunk(chunk) => write!(f, "Chunk({} bytes)", chunk.len()),
            Self::Complete => f.write_str("Complete"),
            Self::Wrong(reason) => write!(f, "Wrong({reason})"),
        }
    }
}

impl TeeReader {
    /// The next chunk as it came, without a copy; `None` at the end of a blob that proved right.
    ///
    /// # Errors
    /// If the blob proved wrong or its fetch failed.
    pub fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        if !self.chunk.is_empty() {
            return Ok(Some(std::mem::take(&mut self.chunk)));
        }
        if let ReaderState::Open = self.state {
            match self.receiver.recv() {
                Ok(Message::Chunk(chunk)) => return Ok(Some(chunk)),
                Ok(Message::Complete) => self.state = ReaderState::Complete,
                Ok(Message::Wrong(reason)) => self.state = ReaderState::Failed(reason),
                Err(_) => self.state = ReaderState::Failed("the fetch was broken off".into()),
            }
        }
        match &self.state {
            ReaderState::Failed(reason) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                reason.to_string(),
            )),
            ReaderState::Open | ReaderState::Complete => Ok(None),
        }
    }

    /// Reads to the end, so that what a consumer left unread does not hold the fetch up.
    ///
    /// # Errors
    /// As [`next_chunk`](Self::next_chunk).
    pub fn drain(mut self) -> io::Result<()> {
        while self.next_chunk()?.is_some() {}
        Ok(())
    }
}

impl io::BufRead for TeeReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.chunk.is_empty() {
            match self.next_chunk()? {
                Some(chunk) => self.chunk = chunk,
                None => break,
            }
        }
        Ok(&self.chunk)
    }

    fn consume(&mut self, amount: usize) {
        self.chunk.advance(amount.min(self.chunk.len()));
    }
}

impl Read for TeeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = io::BufRead::fill_buf(self)?;
        let count = available.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), available.get(..count)) {
            to.copy_from_slice(from);
        }
        io::BufRead::consume(self, count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tee_gives_the_end_only_to_right_content() {
        let content = Bytes::from_static(b"some content");
        let right = Digest::sha256_of(&content);
        for (expected, is_right) in [(right, true), (Digest::sha256_of(b"other"), false)] {
            let (mut tee, mut reader) = tee(MemorySink::new());
            tee.write(content.slice(..5)).unwrap();
            tee.write(content.slice(5..)).unwrap();
            assert_eq!(tee.finish(&expected).unwrap() == Verdict::Right, is_right);
            let mut read = Vec::new();
            assert_eq!(reader.read_to_end(&mut read).is_ok(), is_right);
            assert_eq!(read, content);
        }
    }

    #[test]
    fn a_tee_whose_fetch_ends_early_fails_its_reader() {
        let (mut dropped, mut reader) = tee(MemorySink::new());
        dropped.write(Bytes::from_static(b"abc")).unwrap();
        drop(dropped);
        let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "the fetch was broken off");
        let (mut restarted, mut reader) = tee(MemorySink::new());
        restarted.write(Bytes::from_static(b"abc")).unwrap();
        restarted.restart().unwrap();
        let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("fetched again"));
    }

    #[test]
    fn a_reader_that_went_away_does_not_hold_the_sink_up() {
        let (mut tee, reader) = tee(MemorySink::new());
        drop(reader);
        for _ in 0..100 {
            tee.write(Bytes::from_static(b"abc")).unwrap();
        }
        assert_eq!(tee.into_inner().position(), 300);
    }

    #[test]
    fn a_file_is_resumed_and_restarted() {
        let content = b"0123456789";
        let digest = Digest::sha256_of(content);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content[..4]).unwrap();
        let mut sink = FileSink::resume(file, Algorithm::Sha256).unwrap();
        assert_eq!(sink.position(), 4);
        sink.write(Bytes::from_static(&content[4..])).unwrap();
        assert_eq!(sink.finish(&digest).unwrap(), Verdict::Right);
        sink.write(Bytes::from_static(b"x")).unwrap();
        assert_ne!(sink.finish(&digest).unwrap(), Verdict::Right);
        sink.restart().unwrap();
        sink.write(Bytes::from_static(content)).unwrap();
        assert_eq!(sink.finish(&digest).unwrap(), Verdict::Right);
        assert_eq!(sink.into_file().metadata().unwrap().len(), 10);
    }
}
