//! What a line has to say by its kind and by what it is about, and the words that it may say.

use super::{
    CheckReport, Rule,
    state::{Replay, raw},
};
use crate::{
    kind::Kind,
    line::{Line, Text},
};

const CALLS: &[&str] = &["cache-map", "preprocess", "slow-key", "exec"];
const REASONS: &[&str] = &["fast-key", "slow-key"];
const REFUSALS: &[&str] = &["never-merge", "ignore-cache", "ancestor", "both-complete"];
const WAITS: &[&str] = &["slot", "lock"];
const CAUSES: &[&str] = &[
    "not-needed",
    "request-cancelled",
    "job-discarded",
    "merged",
    "failed",
];

impl Replay {
    pub(super) fn has_fields(&self, line: &Line<'_>, report: &mut CheckReport) {
        let kind = line.kind.name();
        let mut add = |what: String| report.add(self.line, Rule::Line, what);
        let unknown = match line.kind {
            Kind::CallStart | Kind::CallEnd => unknown(line.call, CALLS),
            Kind::Merge => unknown(line.reason, REASONS),
            Kind::MergeRefused => unknown(line.reason, REFUSALS),
            Kind::SlotWait => unknown(line.reason, WAITS),
            Kind::Cancel => unknown(line.cause, CAUSES),
            _ => None,
        };
        if let Some(word) = unknown {
            add(format!("{kind}: {word:?} is not a word for it"));
        }
        if let Some(field) = self.lacks(line) {
            add(format!("{kind}: no {field:?}"));
        }
        let ok = line.ok.filter(|_| line.kind == Kind::CallEnd);
        if ok.is_some_and(|ok| ok == line.error.is_some()) {
            add(format!(
                "{kind}: an error is told of a call that went well, or none of one that did not"
            ));
        }
    }

    /// A field that is left out of other lines of the kind, and missing in this one.
    fn lacks(&self, line: &Line<'_>) -> Option<&'static str> {
        let told = self.is_told(line);
        match line.kind {
            Kind::CallStart => {
                let of_input = matches!(raw(line.call), "preprocess" | "slow-key");
                (of_input && line.input.is_none()).then_some("input")
            }
            Kind::CallEnd => {
                let mapped = raw(line.call) == "cache-map" && line.error.is_none();
                let ok = line.ok.is_none() && self.version > 1;
                let digest = (mapped && line.digest.is_none()).then_some("digest");
                digest.or(ok.then_some("ok"))
            }
            Kind::Request if line.job.is_none() && line.task.is_none() && self.version > 1 => {
                Some("task")
            }
            Kind::Merge => (line.reason.is_none() && !told).then_some("reason"),
            Kind::Loaded if line.id.is_none() => Some("id"),
            Kind::Loaded if line.job.is_none() && line.parent.is_none() => Some("job"),
            Kind::Loaded if line.parent.is_some() && line.parent_id.is_none() => Some("parent_id"),
            Kind::Loaded if line.parent_id.is_some() && line.parent.is_none() => Some("parent"),
            // The counts are known of what is loaded while the trace goes on.
            Kind::Loaded if line.vertices.is_none() && !told => Some("vertices"),
            Kind::Loaded if line.created.is_none() && !told => Some("created"),
            _ => None,
        }
    }
}

/// What a field says, if that is none of these.
fn unknown<'a>(text: Option<Text<'a>>, words: &[&str]) -> Option<&'a str> {
    let word = text?.raw();
    (!words.contains(&word)).then_some(word)
}
