//! When what was done.

use std::fmt;

use serde::Serialize;

use super::vertex::{CallEntry, call_entry};
use crate::{
    filter::{Filter, FilterError},
    model::Trace,
    text::{Micros, one_line, short},
};

/// A vertex on the timeline.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TimelineEntry {
    /// Its digest.
    pub vertex: String,
    /// Its name.
    pub name: String,
    /// How it ended.
    pub outcome: &'static str,
    /// Seconds since the beginning of the trace: when its first call began.
    pub start: f64,
    /// When its last one ended.
    pub end: f64,
    /// Its calls.
    pub calls: Vec<CallEntry>,
}

/// When what was done.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TimelineReport {
    /// Seconds from the first to the last event.
    pub seconds: f64,
    /// In the order in which they began.
    pub vertices: Vec<TimelineEntry>,
}

/// When which vertex was worked on.
///
/// # Errors
/// [`FilterError`].
pub fn timeline(trace: &Trace, filter: &Filter) -> Result<TimelineReport, FilterError> {
    filter.check(trace)?;
    let mut vertices: Vec<TimelineEntry> = (0..trace.vertices.len())
        .filter(|at| filter.vertex(trace, *at))
        .filter_map(|at| {
            let vertex = &trace.vertices[at];
            let (start, end) = vertex.span(trace)?;
            filter.span(trace, start, end).then(|| TimelineEntry {
                vertex: vertex.digest.clone(),
                name: vertex.name.clone(),
                outcome: vertex.outcome(trace),
                start: trace.seconds(start),
                end: trace.seconds(end),
                calls: vertex
                    .calls
                    .iter()
                    .map(|at| call_entry(trace, &trace.calls[*at]))
                    .collect(),
            })
        })
        .collect();
    vertices.sort_by(|a, b| a.start.total_cmp(&b.start));
    Ok(TimelineReport {
        seconds: trace.seconds(trace.end),
        vertices,
    })
}

impl fmt::Display for TimelineReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.vertices.is_empty() {
            return writeln!(f, "nothing that was worked on passes the filter");
        }
        const WIDTH: f64 = 40.0;
        let scale = WIDTH / self.seconds.max(1e-6);
        for entry in &self.vertices {
            let from = ((entry.start * scale) as usize).min(WIDTH as usize - 1);
            let to = ((entry.end * scale).ceil() as usize).clamp(from + 1, WIDTH as usize);
            let bar = format!("{}{}", " ".repeat(from), "█".repeat(to - from));
            writeln!(
                f,
                "{:>10.3}s {:>9}  {:<10} │{bar:<40}│ {}  {}",
                entry.start,
                Micros(((entry.end - entry.start) * 1e6) as u64),
                entry.outcome,
                short(&entry.vertex),
                one_line(&entry.name)
            )?;
        }
        Ok(())
    }
}
