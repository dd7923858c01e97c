//! When what was done.

use std::fmt;

use serde::Serialize;

use super::vertex::{CallEntry, call_entry};
use crate::{
    filter::{Filter, FilterError},
    model::{Trace, WaitFor},
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
    /// Seconds in between in which it was worked on: in which a call of it ran, and waited neither for a slot or a lock nor for builds of its own.
    pub worked: f64,
    /// Seconds in which it waited for a slot to execute in.
    pub slot: f64,
    /// Seconds in which it waited for what another call held, such as a cache mount.
    pub lock: f64,
    /// Its calls.
    pub calls: Vec<CallEntry>,
}

/// When what was done.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TimelineReport {
    /// Seconds from the beginning of the trace to the first moment that is meant.
    pub from: f64,
    /// Seconds from there to the last one.
    pub seconds: f64,
    /// In the order in which they began.
    pub vertices: Vec<TimelineEntry>,
}

/// When which vertex was worked on.
///
/// # Errors
/// [`FilterError`].
pub fn timeline(trace: &Trace, filter: &Filter) -> Result<TimelineReport, FilterError> {
    let scope = filter.scope(trace)?;
    let mut vertices: Vec<TimelineEntry> = (0..trace.vertices.len())
        .filter(|at| scope.vertex(*at))
        .filter_map(|at| {
            let vertex = &trace.vertices[at];
            let (start, end) = vertex.span(trace)?;
            let calls = vertex.calls.iter().map(|at| &trace.calls[*at]);
            scope.span(start, end).then(|| TimelineEntry {
                vertex: vertex.digest.clone(),
                name: vertex.name.clone(),
                outcome: vertex.outcome(trace),
                start: trace.seconds(start),
                end: trace.seconds(end),
                worked: vertex.worked(trace) as f64 / 1e6,
                slot: vertex.waited(WaitFor::Slot, trace) as f64 / 1e6,
                lock: vertex.waited(WaitFor::Lock, trace) as f64 / 1e6,
                calls: calls.map(|call| call_entry(trace, call)).collect(),
            })
        })
        .collect();
    vertices.sort_by(|a, b| a.start.total_cmp(&b.start));
    let (from, to) = scope.times();
    Ok(TimelineReport {
        from: trace.seconds(from),
        seconds: (to - from) as f64 / 1e6,
        vertices,
    })
}

impl TimelineEntry {
    /// Its calls on a line that is as long as the time that is meant, and dots where it waits between them.
    fn bar(&self, origin: f64, seconds: f64) -> String {
        const WIDTH: usize = 40;
        let scale = WIDTH as f64 / seconds.max(1e-6);
        let cells = |start: f64, end: f64| {
            let from = (((start - origin) * scale) as usize).min(WIDTH - 1);
            from..(((end - origin) * scale).ceil() as usize).clamp(from + 1, WIDTH)
        };
        let mut bar = [' '; WIDTH];
        bar[cells(self.start, self.end)].fill('·');
        for call in &self.calls {
            let end = call.end.unwrap_or(self.end);
            if end >= origin && call.start <= origin + seconds {
                bar[cells(call.start, end)].fill('█');
            }
        }
        // Cells in which it only waited, and where no other call goes on.
        for (start, end) in self
            .calls
            .iter()
            .flat_map(|call| call.slot.iter().chain(&call.lock))
        {
            let from = (((start - origin) * scale).ceil() as usize).min(WIDTH);
            let to = (((end - origin) * scale).floor() as usize).clamp(from, WIDTH);
            bar[from..to].fill('·');
        }
        bar.iter().collect()
    }
}

impl fmt::Display for TimelineReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.vertices.is_empty() {
            return writeln!(f, "nothing that was worked on passes the filter");
        }
        for entry in &self.vertices {
            let waited = |seconds: f64, what: &str| match (seconds * 1e6).round() as u64 {
                0 => String::new(),
                micros => format!("  ({} for a {what})", Micros(micros)),
            };
            writeln!(
                f,
                "{:>10.3}s {:>9}  {:<10} │{}│ {}  {}{}{}",
                entry.start,
                Micros((entry.worked * 1e6).round() as u64),
                entry.outcome,
                entry.bar(self.from, self.seconds),
                short(&entry.vertex),
                one_line(&entry.name),
                waited(entry.slot, "slot"),
                waited(entry.lock, "lock")
            )?;
        }
        Ok(())
    }
}
