use std::io;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use weld_digest::Digest;

use crate::sink::{BlobSink, Verdict};

/// How many chunks may wait for the sink. A chunk is what the network read at once, at most some
/// 400 KB.
const QUEUE: usize = 8;

/// Writes to a sink on a thread of the blocking pool.
pub(crate) struct Pump<S> {
    commands: mpsc::Sender<Command>,
    thread: JoinHandle<(S, io::Result<()>)>,
}

pub(crate) enum Command {
    Chunk(Bytes),
    Restart,
    Finish(Digest, oneshot::Sender<Verdict>),
}

impl<S: BlobSink> Pump<S> {
    pub(crate) fn start(mut sink: S) -> Self {
        let (commands, mut queue) = mpsc::channel(QUEUE);
        let thread = tokio::task::spawn_blocking(move || {
            let outcome = run(&mut sink, &mut queue);
            (sink, outcome)
        });
        Self { commands, thread }
    }

    /// Hands a command over; whether the sink still takes any.
    pub(crate) async fn send(&self, command: Command) -> bool {
        self.commands.send(command).await.is_ok()
    }

    /// The verdict on what was written, or `None` if the sink failed.
    pub(crate) async fn finish(&self, expected: &Digest) -> Option<Verdict> {
        let (reply, verdict) = oneshot::channel();
        self.send(Command::Finish(expected.clone(), reply)).await;
        verdict.await.ok()
    }

    /// The sink, after the last command, and whether it failed.
    pub(crate) async fn stop(self) -> (S, io::Result<()>) {
        drop(self.commands);
        match self.thread.await {
            Ok(outcome) => outcome,
            // The thread is never aborted: the sink panicked.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

fn run<S: BlobSink>(sink: &mut S, queue: &mut mpsc::Receiver<Command>) -> io::Result<()> {
    while let Some(command) = queue.blocking_recv() {
        match command {
            Command::Chunk(chunk) => sink.write(chunk)?,
            Command::Restart => sink.restart()?,
            Command::Finish(expected, reply) => {
                // Nobody waits for it any more if the fetch was cancelled.
                let _ = reply.send(sink.finish(&expected)?);
            }
        }
    }
    Ok(())
}
