//! The replay of what lines say of their place: the first and the last one, positions and times.

use super::{CheckReport, Rule, state::Replay};
use crate::{kind::Kind, line::Line};

impl Replay {
    /// Whether a line tells of what was before the trace began.
    pub(super) fn is_told(&self, line: &Line<'_>) -> bool {
        self.telling == Some(line.position)
    }

    /// Lines that are the solver's are in the order of their times; others come from elsewhere at the same time.
    pub(super) fn moment(&mut self, line: &Line<'_>, report: &mut CheckReport) {
        if line.position > 0 {
            if line.position < self.position {
                let what = format!("position {} after {}", line.position, self.position);
                report.add(self.line, Rule::Position, what);
            }
            self.position = line.position;
        }
        let own = !matches!(line.kind, Kind::TraceStart | Kind::TraceEnd | Kind::Lost);
        if own && line.position > 0 {
            if line.time < self.time {
                let what = format!("time {} after {}", line.time, self.time);
                report.add(self.line, Rule::Time, what);
            }
            self.time = self.time.max(line.time);
        }
    }

    /// The first line begins the trace, and nothing comes behind its last.
    pub(super) fn order(&mut self, line: &Line<'_>, report: &mut CheckReport) {
        if (self.line == 1) != (line.kind == Kind::TraceStart) {
            let what = match line.kind {
                Kind::TraceStart => "a trace begins in the middle of another",
                _ => "the trace does not begin with trace-start: lines are missing",
            };
            report.add(self.line, Rule::Line, what.into());
            self.partial |= self.line == 1;
            self.lossy |= self.line == 1;
        }
        if self.ended {
            let what = format!("{} behind the end of the trace", line.kind.name());
            report.add(self.line, Rule::Line, what);
        }
    }

    /// The line that ends a trace says how many events it has.
    pub(super) fn trace_end(&mut self, line: &Line<'_>, report: &mut CheckReport) {
        self.ended = true;
        // All lines but the first, this one, and those that tell of lost events.
        let events = self.line.saturating_sub(2 + self.losses);
        if let Some(told) = line.lines.filter(|told| *told != events) {
            let what = format!("the trace has {events} events, but ends as one of {told}");
            report.add(self.line, Rule::Line, what);
        }
        if let Some(told) = line.lost.filter(|told| *told != self.lost) {
            let what = format!("{} events are told as lost, at the end {told}", self.lost);
            report.add(self.line, Rule::Line, what);
        }
    }
}
