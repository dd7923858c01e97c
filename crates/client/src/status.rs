//! Status messages as progress.

use prost_types::Timestamp;
use weld_digest::Digest;
use weld_progress as progress;
use weld_proto::control::{StatusResponse, Vertex, VertexLog, VertexStatus, VertexWarning};
use weld_proto::pb;

/// Passes a message on; what names no step is left out.
pub(crate) fn forward(message: StatusResponse, to: &progress::Sender) {
    for vertex in message.vertexes.into_iter().filter_map(vertex) {
        to.vertex(vertex);
    }
    for status in message.statuses.into_iter().filter_map(status) {
        to.status(status);
    }
    for log in message.logs.into_iter().filter_map(log) {
        to.log(log);
    }
    for warning in message.warnings.into_iter().filter_map(warning) {
        to.warning(warning);
    }
}

fn vertex(vertex: Vertex) -> Option<progress::Vertex> {
    Some(progress::Vertex {
        digest: vertex.digest.parse().ok()?,
        inputs: digests(&vertex.inputs),
        name: vertex.name,
        started: vertex.started.and_then(time),
        completed: vertex.completed.and_then(time),
        cached: vertex.cached,
        error: vertex.error,
        progress_group: vertex.progress_group.map(|group| progress::ProgressGroup {
            id: group.id,
            name: group.name,
            weak: group.weak,
        }),
    })
}

fn status(status: VertexStatus) -> Option<progress::TransferStatus> {
    Some(progress::TransferStatus {
        id: status.id,
        vertex: status.vertex.parse().ok()?,
        name: status.name,
        total: status.total.try_into().unwrap_or(0),
        current: status.current.try_into().unwrap_or(0),
        timestamp: status.timestamp.and_then(time)?,
        started: status.started.and_then(time),
        completed: status.completed.and_then(time),
    })
}

fn log(log: VertexLog) -> Option<progress::Log> {
    Some(progress::Log {
        vertex: log.vertex.parse().ok()?,
        stream: match log.stream {
            2 => progress::Stream::Stderr,
            _ => progress::Stream::Stdout,
        },
        data: log.msg.into(),
        timestamp: log.timestamp.and_then(time)?,
    })
}

fn warning(warning: VertexWarning) -> Option<progress::Warning> {
    let line = warning
        .ranges
        .first()
        .and_then(|range| range.start.as_ref())
        .map(|start| start.line);
    let location = match (&warning.info, line) {
        (Some(info), Some(line)) => format!("{}:{line}", info.filename),
        (Some(info), None) => info.filename.clone(),
        (None, _) => String::new(),
    };
    let position = |position: Option<pb::Position>| progress::Position {
        line: position.map_or(0, |position| position.line),
        character: position.map_or(0, |position| position.character),
    };
    let ranges = warning.ranges.into_iter();
    let ranges = ranges.map(|range| progress::Range {
        start: position(range.start),
        end: position(range.end),
    });
    Some(progress::Warning {
        level: warning.level.try_into().unwrap_or(1),
        detail: warning.detail.into_iter().map(Into::into).collect(),
        url: warning.url,
        location,
        source: warning.info.map(|info| progress::SourceInfo {
            filename: info.filename,
            data: info.data.into(),
            language: info.language,
        }),
        ranges: ranges.collect(),
        ..progress::Warning::new(warning.vertex.parse().ok()?, warning.short)
    })
}

fn digests(texts: &[String]) -> Vec<Digest> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

fn time(timestamp: Timestamp) -> Option<progress::Timestamp> {
    let time = progress::Timestamp::from_unix_timestamp(timestamp.seconds).ok()?;
    let nanoseconds = u32::try_from(timestamp.nanos).ok()?;
    time.replace_nanosecond(nanoseconds).ok()
}
