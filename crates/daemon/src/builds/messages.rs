//! Progress as status messages.

use std::borrow::Cow;

use bytes::Bytes;
use prost_types::Timestamp;
use weld_engine::mask_secrets;
use weld_progress as progress;
use weld_proto::control::{StatusResponse, Vertex, VertexLog, VertexStatus, VertexWarning};
use weld_proto::pb;

/// How many bytes of logs one message has at most, so that it stays well below what clients take.
const MAX_LOGS: usize = 1 << 20;

/// What a batch says, in messages that clients take.
pub(crate) fn from_batch(batch: progress::Batch) -> Vec<StatusResponse> {
    let mut messages = in_order(batch.vertexes.into_iter().map(vertex));
    let mut last = messages.pop().unwrap_or_default();
    last.statuses = batch.statuses.into_iter().map(status).collect();
    last.warnings = batch.warnings.into_iter().map(warning).collect();
    messages.push(last);
    let mut room = MAX_LOGS;
    for log in batch.logs {
        let (digest, timestamp) = (log.vertex.to_string(), moment(log.timestamp));
        let stream = match log.stream {
            progress::Stream::Stdout => 1,
            progress::Stream::Stderr => 2,
        };
        let mut data = Bytes::from(log.data);
        while !data.is_empty() {
            if room == 0 {
                messages.push(StatusResponse::default());
                room = MAX_LOGS;
            }
            let msg = data.split_to(data.len().min(room));
            room -= msg.len();
            if let Some(message) = messages.last_mut() {
                message.logs.push(VertexLog {
                    vertex: digest.clone(),
                    timestamp: Some(timestamp),
                    stream,
                    msg,
                });
            }
        }
    }
    messages
}

/// Messages of which each tells of the end of one step at most: of several in one message, BuildKit's clients show the steps in random
/// order.
fn in_order(vertexes: impl Iterator<Item = Vertex>) -> Vec<StatusResponse> {
    let mut messages = vec![StatusResponse::default()];
    let mut ends = false;
    for vertex in vertexes {
        let ended = vertex.completed.is_some();
        if ended && std::mem::replace(&mut ends, true) {
            messages.push(StatusResponse::default());
        }
        if let Some(last) = messages.last_mut() {
            last.vertexes.push(vertex);
        }
    }
    messages
}

fn moment(time: progress::Timestamp) -> Timestamp {
    Timestamp {
        seconds: time.unix_timestamp(),
        nanos: i32::try_from(time.nanosecond()).unwrap_or_default(),
    }
}

fn vertex(vertex: progress::Vertex) -> Vertex {
    Vertex {
        digest: vertex.digest.to_string(),
        inputs: vertex.inputs.iter().map(ToString::to_string).collect(),
        name: vertex.name,
        cached: vertex.cached,
        started: vertex.started.map(moment),
        completed: vertex.completed.map(moment),
        error: error(vertex.error),
        progress_group: vertex.progress_group.map(|group| pb::ProgressGroup {
            id: group.id,
            name: group.name,
            weak: group.weak,
        }),
    }
}

/// By how an error ends, clients tell what was cancelled from what failed.
fn error(error: String) -> String {
    match error.strip_suffix("cancelled") {
        Some(what) => format!("{what}context canceled"),
        None => error,
    }
}

fn status(status: progress::TransferStatus) -> VertexStatus {
    VertexStatus {
        id: status.id,
        vertex: status.vertex.to_string(),
        name: status.name,
        current: status.current.try_into().unwrap_or(i64::MAX),
        total: status.total.try_into().unwrap_or(i64::MAX),
        timestamp: Some(moment(status.timestamp)),
        started: status.started.map(moment),
        completed: status.completed.map(moment),
    }
}

fn warning(warning: progress::Warning) -> VertexWarning {
    let position = |position: progress::Position| {
        Some(pb::Position {
            line: position.line,
            character: position.character,
        })
    };
    VertexWarning {
        vertex: warning.vertex.to_string(),
        level: warning.level.into(),
        short: warning.short.into(),
        detail: warning.detail.into_iter().map(Bytes::from).collect(),
        url: warning.url,
        // What is told here is kept, too.
        info: warning.source.map(|source| pb::SourceInfo {
            filename: source.filename,
            data: match std::str::from_utf8(&source.data).map(mask_secrets) {
                Ok(Cow::Owned(masked)) => masked.into(),
                Ok(Cow::Borrowed(_)) | Err(_) => source.data.into(),
            },
            language: source.language,
            definition: None,
        }),
        ranges: warning
            .ranges
            .into_iter()
            .map(|range| pb::Range {
                start: position(range.start),
                end: position(range.end),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weld_digest::Digest;

    #[test]
    fn steps_that_end_at_once_are_told_one_after_the_other() {
        let vertex = |name: &str, ended: bool| progress::Vertex {
            completed: ended.then_some(progress::Timestamp::UNIX_EPOCH),
            ..progress::Vertex::new(Digest::sha256_of(name), name)
        };
        let steps = [("a", true), ("b", true), ("c", false), ("d", true)];
        let messages = from_batch(progress::Batch {
            vertexes: steps.map(|(name, ended)| vertex(name, ended)).into(),
            ..progress::Batch::default()
        });
        let names = messages.iter().map(|message| {
            let names = message.vertexes.iter().map(|vertex| vertex.name.as_str());
            names.collect::<String>()
        });
        assert_eq!(names.collect::<Vec<_>>(), ["a", "bc", "d"]);
    }

    #[test]
    fn cancelled_steps_are_told_as_clients_know_them() {
        assert_eq!(error("cancelled".to_owned()), "context canceled");
        assert_eq!(error("exit code: 1".to_owned()), "exit code: 1");
    }

    #[test]
    fn long_logs_are_told_in_pieces_and_none_is_lost() {
        let data: Vec<u8> = (0..3 * MAX_LOGS + 5).map(|number| number as u8).collect();
        let log = |data: &[u8]| progress::Log {
            vertex: Digest::sha256_of("a"),
            stream: progress::Stream::Stderr,
            data: data.to_vec(),
            timestamp: progress::Timestamp::UNIX_EPOCH,
        };
        let (first, second) = data.split_at(MAX_LOGS / 2);
        let messages = from_batch(progress::Batch {
            logs: vec![log(first), log(second)],
            ..progress::Batch::default()
        });
        assert_eq!(messages.len(), 4);
        let mut told = Vec::new();
        for message in &messages {
            let length: usize = message.logs.iter().map(|log| log.msg.len()).sum();
            assert!(length <= MAX_LOGS);
            message
                .logs
                .iter()
                .for_each(|log| told.extend_from_slice(&log.msg));
        }
        assert!(told == data);
    }
}
