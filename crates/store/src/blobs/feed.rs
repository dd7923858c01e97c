use std::io;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{BlobError, BlobInfo, BlobRef, Ingest};

/// How many pieces may wait to be hashed and written; more make the sender wait.
const QUEUE_LEN: usize = 16;

/// An [`Ingest`] that is fed from asynchronous code: pieces are hashed and written on a thread
/// for blocking work while the next ones arrive.
///
/// As with an ingest, one that is dropped keeps what was written for a later one with its
/// reference.
#[must_use]
pub struct Feed {
    pieces: mpsc::Sender<Bytes>,
    writer: JoinHandle<Result<Ingest, BlobError>>,
    name: String,
}

impl Ingest {
    /// Feeds it from asynchronous code. Must be called within a runtime.
    pub fn feed(mut self) -> Feed {
        let (pieces, mut waiting) = mpsc::channel::<Bytes>(QUEUE_LEN);
        let name = self.name().to_owned();
        let writer = tokio::task::spawn_blocking(move || {
            while let Some(piece) = waiting.blocking_recv() {
                self.append(&piece)?;
            }
            Ok(self)
        });
        Feed {
            pieces,
            writer,
            name,
        }
    }
}

impl Feed {
    /// Takes the next bytes; waits while too much is waiting to be written.
    pub async fn append(&mut self, piece: Bytes) -> Result<(), BlobError> {
        if self.pieces.send(piece).await.is_ok() {
            return Ok(());
        }
        // The writer ended, which only an error makes it do before the sender is dropped.
        match (&mut self.writer).await {
            Ok(Err(error)) => Err(error),
            Ok(Ok(_)) => Err(self.stopped("it ended early")),
            Err(stopped) => Err(self.stopped(stopped)),
        }
    }

    /// Waits until all is written, and gives the ingest back.
    pub async fn finish(self) -> Result<Ingest, BlobError> {
        let Self {
            pieces,
            writer,
            name,
        } = self;
        drop(pieces);
        writer.await.unwrap_or_else(|stopped| {
            Err(BlobError::Write {
                name,
                action: "write",
                source: io::Error::other(stopped),
            })
        })
    }

    /// Waits until all is written, then commits as [`Ingest::commit`] does.
    pub async fn commit(self, info: BlobInfo) -> Result<BlobRef, BlobError> {
        let name = self.name.clone();
        let ingest = self.finish().await?;
        tokio::task::spawn_blocking(move || ingest.commit(info))
            .await
            .unwrap_or_else(|stopped| {
                Err(BlobError::Write {
                    name,
                    action: "commit",
                    source: io::Error::other(stopped),
                })
            })
    }

    fn stopped(&self, reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> BlobError {
        BlobError::Write {
            name: self.name.clone(),
            action: "write",
            source: io::Error::other(reason),
        }
    }
}
