//! The output of a step, streamed.

use bytes::Bytes;
use tokio::sync::mpsc;

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

/// The standard streams of a step. Standard input is always empty.
#[derive(Clone, Debug)]
pub struct Stdio {
    output: Option<mpsc::Sender<Chunk>>,
}

impl Stdio {
    /// Sends the output to `output`. When the channel is full the step waits; when its receiver is
    /// gone the rest of the output is read and dropped.
    #[must_use]
    pub fn stream(output: mpsc::Sender<Chunk>) -> Self {
        Self {
            output: Some(output),
        }
    }

    /// Reads the output and drops it.
    #[must_use]
    pub fn discard() -> Self {
        Self { output: None }
    }
}
