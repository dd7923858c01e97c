//! From what a job hears of its vertices to the progress of a build.

use std::time::SystemTime;

use time::OffsetDateTime;
use weld_op::digest::from_solver;
use weld_progress::{Log, Sender, Stream, TransferStatus, Vertex};
use weld_solver::{ProgressEvent, ProgressStream, VertexUpdate};

/// Passes on all that a job hears until it is discarded; if wanted, also why its steps were not cached.
pub(crate) async fn relay(mut events: ProgressStream, progress: Sender, explain: bool) {
    while let Some(event) = events.next().await {
        match event {
            ProgressEvent::Vertex(update) => progress.vertex(vertex(&update)),
            ProgressEvent::Status { vertex, status } => progress.status(TransferStatus {
                id: if status.name.is_empty() {
                    status.id.to_string()
                } else {
                    status.name.to_string()
                },
                vertex: from_solver(vertex),
                name: status.id.to_string(),
                total: status.total,
                current: status.current,
                timestamp: OffsetDateTime::now_utc(),
                started: status.started.map(moment),
                completed: status.completed.map(moment),
            }),
            ProgressEvent::Log { vertex, chunk } => progress.log(Log {
                vertex: from_solver(vertex),
                stream: if chunk.stream == 2 {
                    Stream::Stderr
                } else {
                    Stream::Stdout
                },
                data: chunk.data,
                timestamp: moment(chunk.at),
            }),
            ProgressEvent::Explained { vertex, why } if explain => progress.log(Log {
                vertex: from_solver(vertex),
                stream: Stream::Stderr,
                data: format!("not cached: {why}\n").into_bytes(),
                timestamp: OffsetDateTime::now_utc(),
            }),
            ProgressEvent::LogsDropped { vertex, bytes } => progress.log(Log {
                vertex: from_solver(vertex),
                stream: Stream::Stderr,
                data: format!("\n[output clipped: {bytes} bytes dropped]\n").into_bytes(),
                timestamp: OffsetDateTime::now_utc(),
            }),
            _ => {}
        }
    }
}

fn vertex(update: &VertexUpdate) -> Vertex {
    Vertex {
        digest: from_solver(update.digest),
        inputs: update
            .inputs
            .iter()
            .map(|digest| from_solver(*digest))
            .collect(),
        name: update.name.to_string(),
        started: update.started.map(moment),
        completed: update.completed.map(moment),
        cached: update.cached,
        error: update.error.as_deref().unwrap_or_default().to_owned(),
        progress_group: None,
    }
}

fn moment(time: SystemTime) -> OffsetDateTime {
    time.into()
}
