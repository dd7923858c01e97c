//! The output of a step, streamed.

use std::io;
use std::os::fd::OwnedFd;

use bytes::{Bytes, BytesMut};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::mpsc;

/// The most that is read at once, in bytes.
const CHUNK: usize = 64 << 10;

/// Which output stream a chunk came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A piece of a step's output as it was read, up to 64 KiB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Where it was written.
    pub stream: Stream,
    /// The bytes.
    pub bytes: Bytes,
}

/// The standard streams of a step.
#[derive(Debug, Default)]
pub struct Stdio {
    output: Option<mpsc::Sender<Chunk>>,
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    terminal: bool,
}

impl Stdio {
    /// Sends the output to `output`. When the channel is full the step waits; when its receiver is
    /// gone the rest of the output is read and dropped.
    #[must_use]
    pub fn stream(output: mpsc::Sender<Chunk>) -> Self {
        Self {
            output: Some(output),
            ..Self::default()
        }
    }

    /// Reads the output and drops it.
    #[must_use]
    pub fn discard() -> Self {
        Self::default()
    }

    /// All three streams are a terminal, of which this is the step's end. The step leads a session
    /// that it controls.
    ///
    /// # Errors
    /// If there are too many open files.
    pub fn terminal(end: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            stdin: Some(end.try_clone()?),
            stdout: Some(end.try_clone()?),
            stderr: Some(end),
            terminal: true,
            ..Self::default()
        })
    }

    /// Standard input is read from here; it is empty otherwise.
    #[must_use]
    pub fn with_stdin(mut self, stdin: OwnedFd) -> Self {
        self.stdin = Some(stdin);
        self
    }

    /// Standard output goes here, to whoever reads it.
    #[must_use]
    pub fn with_stdout(mut self, stdout: OwnedFd) -> Self {
        self.stdout = Some(stdout);
        self
    }

    /// Standard error goes here, to whoever reads it.
    #[must_use]
    pub fn with_stderr(mut self, stderr: OwnedFd) -> Self {
        self.stderr = Some(stderr);
        self
    }
}

/// The ends of a step's streams that it has.
#[derive(Debug)]
pub(crate) struct Streams {
    /// `None` for an empty one.
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
    /// Whether standard input becomes the controlling terminal.
    pub(crate) terminal: bool,
}

/// Carries output from the pipes of a step to its receiver.
pub(crate) struct Pump {
    stdout: Source,
    stderr: Source,
    output: Option<mpsc::Sender<Chunk>>,
}

/// The pipe of one stream.
struct Source {
    stream: Stream,
    /// `None` after its end.
    pipe: Option<Receiver>,
    buffer: BytesMut,
}

/// A pump and the ends that the step has.
pub(crate) fn pump(stdio: Stdio) -> io::Result<(Pump, Streams)> {
    let source = |stream, given: Option<OwnedFd>| {
        if let Some(given) = given {
            let source = Source {
                stream,
                pipe: None,
                buffer: BytesMut::new(),
            };
            return Ok((source, given));
        }
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        let source = Source {
            stream,
            pipe: Some(Receiver::from_owned_fd(read)?),
            buffer: BytesMut::new(),
        };
        Ok::<_, io::Error>((source, write))
    };
    let (stdout, out) = source(Stream::Stdout, stdio.stdout)?;
    let (stderr, err) = source(Stream::Stderr, stdio.stderr)?;
    let output = stdio.output;
    let pump = Pump {
        stdout,
        stderr,
        output,
    };
    let streams = Streams {
        stdin: stdio.stdin,
        stdout: out,
        stderr: err,
        terminal: stdio.terminal,
    };
    Ok((pump, streams))
}

impl Pump {
    /// Carries output until both streams have ended. Nothing is lost when the future is dropped.
    pub(crate) async fn run(&mut self) {
        while self.stdout.pipe.is_some() || self.stderr.pipe.is_some() {
            let permit = reserve(&mut self.output).await;
            let chunk = tokio::select! {
                chunk = self.stdout.next(), if self.stdout.pipe.is_some() => chunk,
                chunk = self.stderr.next(), if self.stderr.pipe.is_some() => chunk,
            };
            if let (Some(chunk), Some(permit)) = (chunk, permit) {
                permit.send(chunk);
            }
        }
    }

    /// Carries what is left in the pipes of a step that has ended.
    pub(crate) async fn drain(&mut self) {
        loop {
            let permit = reserve(&mut self.output).await;
            let chunk = match self.stdout.rest() {
                Some(chunk) => Some(chunk),
                None => self.stderr.rest(),
            };
            match (chunk, permit) {
                (None, _) => return,
                (Some(chunk), Some(permit)) => permit.send(chunk),
                (Some(_), None) => {}
            }
        }
    }
}

/// Room for one chunk; `None` if nobody wants the output.
async fn reserve(output: &mut Option<mpsc::Sender<Chunk>>) -> Option<mpsc::Permit<'_, Chunk>> {
    // Asked twice since the first permit would keep the field borrowed.
    if let Some(sender) = output
        && sender.reserve().await.is_err()
    {
        *output = None;
    }
    output.as_ref()?.reserve().await.ok()
}

impl Source {
    /// The next chunk; `None` at the end of the stream or if there is none after all.
    async fn next(&mut self) -> Option<Chunk> {
        let pipe = self.pipe.as_ref()?;
        if pipe.readable().await.is_err() {
            self.pipe = None;
            return None;
        }
        self.take()
    }

    /// What can be read without waiting.
    fn take(&mut self) -> Option<Chunk> {
        let pipe = self.pipe.as_ref()?;
        self.buffer.reserve(CHUNK);
        let mut limited = bytes::BufMut::limit(&mut self.buffer, CHUNK);
        match pipe.try_read_buf(&mut limited) {
            Ok(read) if read > 0 => Some(Chunk {
                stream: self.stream,
                bytes: self.buffer.split().freeze(),
            }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Ok(_) | Err(_) => {
                self.pipe = None;
                None
            }
        }
    }

    /// What is in the pipe, also if the reactor was not told of it yet: of a step that has ended
    /// nothing more comes, and what is not read now is lost.
    fn rest(&mut self) -> Option<Chunk> {
        let pipe = self.pipe.as_ref()?;
        let mut bytes = BytesMut::zeroed(CHUNK);
        let read = rustix::io::retry_on_intr(|| rustix::io::read(pipe, &mut bytes[..]));
        match read {
            Ok(read) if read > 0 => {
                bytes.truncate(read);
                Some(Chunk {
                    stream: self.stream,
                    bytes: bytes.freeze(),
                })
            }
            Ok(_) | Err(_) => {
                self.pipe = None;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reactor of a runtime with one thread hears nothing between the write and the draining.
    #[tokio::test]
    async fn draining_takes_what_the_reactor_was_not_told_of() {
        let (sender, mut receiver) = mpsc::channel(4);
        let (mut pump, streams) = pump(Stdio::stream(sender)).unwrap();
        rustix::io::write(&streams.stdout, b"out").unwrap();
        rustix::io::write(&streams.stderr, b"err").unwrap();
        drop(streams);
        pump.drain().await;
        drop(pump);
        let mut all = Vec::new();
        while let Some(chunk) = receiver.recv().await {
            all.push((chunk.stream, chunk.bytes.to_vec()));
        }
        let expected = [
            (Stream::Stdout, b"out".to_vec()),
            (Stream::Stderr, b"err".to_vec()),
        ];
        assert_eq!(all, expected);
    }
}
