//! What is known of a build so far: what every face is drawn from.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};

use weld_digest::Digest;

use crate::model::{Batch, Log, Stream, Timestamp, TransferStatus, Vertex, Warning};

/// What begins the line of a step that tells why it was not cached.
const REASON: &[u8] = b"not cached: ";

/// How much of a step's output is kept for the report of its failure, in bytes.
const TAIL_LIMIT: usize = 32 << 10;

/// How a build looked when its progress ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// The steps that failed, in the order in which they came up.
    pub failed: Vec<FailedStep>,
    /// All warnings.
    pub warnings: Vec<Warning>,
    /// How many steps there were.
    pub steps: usize,
    /// How many of them came from the cache.
    pub cached: usize,
}

/// A step that failed.
#[derive(Clone, Debug, PartialEq)]
pub struct FailedStep {
    /// The step's digest.
    pub digest: Digest,
    /// What a person calls it.
    pub name: String,
    /// Why it failed.
    pub error: String,
    /// The last lines that it wrote.
    pub output: Vec<String>,
}

/// Everything known of one build.
#[derive(Default)]
pub(crate) struct Build {
    pub(crate) steps: Vec<Step>,
    by_digest: HashMap<Digest, usize>,
    pub(crate) warnings: Vec<Warning>,
}

/// Everything known of one step.
pub(crate) struct Step {
    pub(crate) vertex: Vertex,
    pub(crate) statuses: Vec<TransferStatus>,
    status_by_id: HashMap<String, usize>,
    pub(crate) tail: Tail,
    /// Why it was not cached, where that was asked for.
    pub(crate) reason: Option<String>,
}

/// The last lines of a step's output.
#[derive(Default)]
pub(crate) struct Tail {
    pub(crate) lines: VecDeque<String>,
    unfinished: Vec<u8>,
    bytes: usize,
}

impl Build {
    /// Takes a batch in and returns the steps that it changed, each once, in order of number.
    pub(crate) fn apply(&mut self, batch: &Batch) -> Vec<usize> {
        let mut changed = Vec::new();
        for vertex in &batch.vertexes {
            changed.push(self.vertex(vertex));
        }
        for status in &batch.statuses {
            if let Some(&index) = self.by_digest.get(&status.vertex) {
                self.steps[index].status(status);
                changed.push(index);
            }
        }
        for log in &batch.logs {
            if let Some(&index) = self.by_digest.get(&log.vertex) {
                let step = &mut self.steps[index];
                step.tail.push(&log.data);
                if log.stream == Stream::Stderr && log.data.starts_with(REASON) {
                    let text = String::from_utf8_lossy(&log.data);
                    step.reason = Some(text.trim_end().to_owned());
                }
                changed.push(index);
            }
        }
        self.warnings.extend(batch.warnings.iter().cloned());
        changed.sort_unstable();
        changed.dedup();
        changed
    }

    pub(crate) fn index_of(&self, log: &Log) -> Option<usize> {
        self.by_digest.get(&log.vertex).copied()
    }

    fn vertex(&mut self, vertex: &Vertex) -> usize {
        if let Some(&index) = self.by_digest.get(&vertex.digest) {
            let step = &mut self.steps[index];
            let started = step.vertex.started;
            step.vertex = vertex.clone();
            step.vertex.started = vertex.started.or(started);
            return index;
        }
        let index = self.steps.len();
        self.by_digest.insert(vertex.digest.clone(), index);
        self.steps.push(Step {
            vertex: vertex.clone(),
            statuses: Vec::new(),
            status_by_id: HashMap::new(),
            tail: Tail::default(),
            reason: None,
        });
        index
    }

    pub(crate) fn outcome(&self) -> Outcome {
        Outcome {
            failed: self
                .steps
                .iter()
                .filter(|step| !step.vertex.error.is_empty())
                .map(|step| FailedStep {
                    digest: step.vertex.digest.clone(),
                    name: step.vertex.name.clone(),
                    error: step.vertex.error.clone(),
                    output: step.tail.all(),
                })
                .collect(),
            warnings: self.warnings.clone(),
            steps: self.steps.len(),
            cached: self.steps.iter().filter(|step| step.vertex.cached).count(),
        }
    }
}

impl Step {
    fn status(&mut self, status: &TransferStatus) {
        match self.status_by_id.get(&status.id) {
            Some(&index) => self.statuses[index] = status.clone(),
            None => {
                self.status_by_id
                    .insert(status.id.clone(), self.statuses.len());
                self.statuses.push(status.clone());
            }
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.vertex.started.is_some() && self.vertex.completed.is_none()
    }

    pub(crate) fn elapsed(&self, now: Timestamp) -> std::time::Duration {
        self.running_at(self.vertex.completed.unwrap_or(now))
    }

    /// How long it had been running at a time, which may be one before its end.
    pub(crate) fn running_at(&self, time: Timestamp) -> std::time::Duration {
        let started = self.vertex.started.unwrap_or(time);
        (time - started).try_into().unwrap_or_default()
    }
}

impl Tail {
    fn push(&mut self, data: &[u8]) {
        for piece in data.split_inclusive(|&byte| byte == b'\n') {
            self.unfinished.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.unfinished.len() > TAIL_LIMIT / 4 {
                let line = visible(&std::mem::take(&mut self.unfinished));
                self.bytes += line.len();
                self.lines.push_back(line);
            }
            while self.bytes > TAIL_LIMIT {
                let Some(oldest) = self.lines.pop_front() else {
                    break;
                };
                self.bytes -= oldest.len();
            }
        }
    }

    fn all(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.lines.iter().cloned().collect();
        if !self.unfinished.is_empty() {
            lines.push(visible(&self.unfinished));
        }
        lines
    }

    /// The last `count` lines, the unfinished one included.
    pub(crate) fn last(&self, count: usize) -> Vec<String> {
        let mut lines = self.all();
        lines.drain(..lines.len().saturating_sub(count));
        lines
    }
}

/// A line as a terminal may show it: the last state of what carriage returns overwrote, without
/// control characters, which could move the cursor or change the terminal.
pub(crate) fn visible(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches(['\n', '\r']);
    let text = text.rsplit('\r').next().unwrap_or_default();
    let mut shown = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '\t' => shown.push_str("    "),
            // An escape sequence ends with a letter: drop it whole.
            '\x1b' if chars.next_if_eq(&'[').is_some() => {
                for next in chars.by_ref() {
                    if ('\x40'..='\x7e').contains(&next) {
                        break;
                    }
                }
            }
            char if char.is_control() => {}
            char => shown.push(char),
        }
    }
    shown
}

/// A text that may have been written by anybody without the control characters that could play tricks on a terminal.
/// Line feeds and tabs stay.
pub fn printable(text: &str) -> Cow<'_, str> {
    let tricks = |char: char| char.is_control() && !matches!(char, '\n' | '\t');
    match text.contains(tricks) {
        true => text
            .replace(tricks, char::REPLACEMENT_CHARACTER.encode_utf8(&mut [0; 4]))
            .into(),
        false => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_seen_is_kept_of_a_line() {
        for (raw, shown) in [
            ("plain\n", "plain"),
            ("10%\r50%\r100%\n", "100%"),
            ("windows\r\n", "windows"),
            ("\x1b[31mred\x1b[0m\x07", "red"),
            ("a\tb", "a    b"),
        ] {
            assert_eq!(visible(raw.as_bytes()), shown);
        }
    }

    #[test]
    fn the_tail_is_bounded() {
        let mut tail = Tail::default();
        for number in 0..100_000 {
            tail.push(format!("line {number}\n").as_bytes());
        }
        tail.push(b"unfinished");
        assert!(tail.bytes <= TAIL_LIMIT);
        assert_eq!(tail.last(2), ["line 99999", "unfinished"]);
    }
}
