use std::io::{self, Write};
use std::time::Duration;

use crate::build::{Build, Step};
use crate::model::{Batch, Timestamp};
use crate::units;

/// How long the step that is being shown may keep others, which have something to say, waiting.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often the state of a running transfer is written.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// Plain text, one step at a time, in the format of docker's `--progress=plain`.
#[derive(Default)]
pub(crate) struct Plain {
    steps: Vec<Shown>,
    current: Option<usize>,
    current_since: Option<Timestamp>,
}

/// How much of a step has been written.
#[derive(Default)]
struct Shown {
    number: Option<usize>,
    waiting: Vec<String>,
    unfinished: Vec<u8>,
    statuses: Vec<ShownStatus>,
    ended: bool,
}

#[derive(Default)]
struct ShownStatus {
    written: Option<Timestamp>,
    ended: bool,
}

impl Plain {
    pub(crate) fn update(
        &mut self,
        out: &mut dyn Write,
        build: &Build,
        batch: &Batch,
        now: Timestamp,
    ) -> io::Result<()> {
        self.steps.resize_with(build.steps.len(), Shown::default);
        for log in &batch.logs {
            if let Some(index) = build.index_of(log) {
                let elapsed = build.steps[index].elapsed(log.timestamp).as_secs_f64();
                self.steps[index].log(&log.data, elapsed);
            }
        }
        self.write(out, build, now, false)
    }

    pub(crate) fn finish(
        &mut self,
        out: &mut dyn Write,
        build: &Build,
        now: Timestamp,
    ) -> io::Result<()> {
        for (shown, step) in self.steps.iter_mut().zip(&build.steps) {
            shown.flush_line(step.elapsed(now).as_secs_f64());
        }
        self.write(out, build, now, true)?;
        out.flush()
    }

    fn write(
        &mut self,
        out: &mut dyn Write,
        build: &Build,
        now: Timestamp,
        all: bool,
    ) -> io::Result<()> {
        if let Some(index) = self.current {
            self.write_step(out, index, &build.steps[index], now)?;
        }
        let tired = self
            .current_since
            .is_none_or(|since| now - since > PATIENCE);
        let busy = self
            .current
            .is_some_and(|index| build.steps[index].is_running());
        if busy && !tired && !all {
            return Ok(());
        }
        for (index, step) in build.steps.iter().enumerate() {
            if self.steps[index].has_news(step, now) {
                self.write_step(out, index, step, now)?;
            }
        }
        out.flush()
    }

    fn write_step(
        &mut self,
        out: &mut dyn Write,
        index: usize,
        step: &Step,
        now: Timestamp,
    ) -> io::Result<()> {
        if !self.steps[index].has_news(step, now) {
            return Ok(());
        }
        let taken = self
            .steps
            .iter()
            .filter(|shown| shown.number.is_some())
            .count();
        let number = *self.steps[index].number.get_or_insert(taken + 1);
        if self.current != Some(index) {
            if let Some(previous) = self.current.filter(|&previous| !self.steps[previous].ended) {
                writeln!(
                    out,
                    "#{} ...",
                    self.steps[previous].number.unwrap_or_default()
                )?;
            }
            if self.current.is_some() {
                writeln!(out)?;
            }
            writeln!(out, "#{number} {}", step.vertex.name)?;
            self.current = Some(index);
            self.current_since = Some(now);
        }
        self.steps[index].write(out, number, step, now)
    }
}

impl Shown {
    fn log(&mut self, data: &[u8], elapsed: f64) {
        for piece in data.split_inclusive(|&byte| byte == b'\n') {
            self.unfinished.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                self.flush_line(elapsed);
            }
        }
    }

    fn flush_line(&mut self, elapsed: f64) {
        if !self.unfinished.is_empty() {
            let line = std::mem::take(&mut self.unfinished);
            let text = String::from_utf8_lossy(&line);
            self.waiting.push(format!(
                "{elapsed:.3} {}",
                text.trim_end_matches(['\n', '\r'])
            ));
        }
    }

    fn has_news(&self, step: &Step, now: Timestamp) -> bool {
        if self.ended || step.vertex.started.is_none() && step.vertex.completed.is_none() {
            return false;
        }
        self.number.is_none()
            || !self.waiting.is_empty()
            || step.vertex.completed.is_some()
            || (0..step.statuses.len()).any(|index| self.status_is_due(step, index, now))
    }

    fn status_is_due(&self, step: &Step, index: usize, now: Timestamp) -> bool {
        let ended = step.statuses[index].completed.is_some();
        match self.statuses.get(index) {
            None => true,
            Some(shown) if shown.ended => false,
            Some(shown) => ended || shown.written.is_none_or(|at| now - at > STATUS_INTERVAL),
        }
    }

    fn write(
        &mut self,
        out: &mut dyn Write,
        number: usize,
        step: &Step,
        now: Timestamp,
    ) -> io::Result<()> {
        for (index, status) in step.statuses.iter().enumerate() {
            if !self.status_is_due(step, index, now) {
                continue;
            }
            self.statuses
                .resize_with(step.statuses.len(), ShownStatus::default);
            let amount = match (status.current, status.total) {
                (0, 0) => String::new(),
                (current, 0) => format!(" {}", units::bytes(current)),
                (current, total) => format!(" {} / {}", units::bytes(current), units::bytes(total)),
            };
            let elapsed = status
                .started
                .map(|started| {
                    (status.completed.unwrap_or(now) - started)
                        .as_seconds_f64()
                        .max(0.0)
                })
                .map(|seconds| format!(" {seconds:.1}s"))
                .unwrap_or_default();
            let done = if status.completed.is_some() {
                " done"
            } else {
                ""
            };
            writeln!(out, "#{number} {}{amount}{elapsed}{done}", status.id)?;
            self.statuses[index] = ShownStatus {
                written: Some(now),
                ended: status.completed.is_some(),
            };
        }
        for line in self.waiting.drain(..) {
            writeln!(out, "#{number} {line}")?;
        }
        if step.vertex.completed.is_some() {
            self.ended = true;
            if !step.vertex.error.is_empty() {
                let cancelled = step.vertex.error.ends_with("cancelled")
                    || step.vertex.error.ends_with("canceled");
                if cancelled {
                    writeln!(out, "#{number} CANCELED")?;
                } else {
                    writeln!(out, "#{number} ERROR: {}", step.vertex.error)?;
                }
            } else if step.vertex.cached {
                writeln!(out, "#{number} CACHED")?;
            } else {
                writeln!(out, "#{number} DONE {}", units::seconds(step.elapsed(now)))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Log, Stream, TransferStatus, Vertex};
    use weld_digest::Digest;

    fn at(milliseconds: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + time::Duration::milliseconds(milliseconds)
    }

    fn started(name: &str) -> Vertex {
        Vertex {
            started: Some(at(0)),
            ..Vertex::new(Digest::sha256_of(name), name)
        }
    }

    fn vertexes(vertexes: impl Into<Vec<Vertex>>) -> Batch {
        Batch {
            vertexes: vertexes.into(),
            ..Batch::default()
        }
    }

    fn log(name: &str, millisecond: i64, text: &str) -> Batch {
        let log = Log {
            vertex: Digest::sha256_of(name),
            stream: Stream::Stdout,
            data: text.into(),
            timestamp: at(millisecond),
        };
        Batch {
            logs: vec![log],
            ..Batch::default()
        }
    }

    fn transcript(batches: &[(i64, Batch)]) -> String {
        let (mut plain, mut build, mut out) = (Plain::default(), Build::default(), Vec::new());
        let mut last = at(0);
        for (millisecond, batch) in batches {
            last = at(*millisecond);
            build.apply(batch);
            plain.update(&mut out, &build, batch, last).unwrap();
        }
        plain.finish(&mut out, &build, last).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn steps_end_in_their_own_way() {
        let done = Vertex {
            completed: Some(at(1500)),
            ..started("a")
        };
        let cached = Vertex {
            completed: Some(at(10)),
            cached: true,
            ..started("b")
        };
        let failed = Vertex {
            completed: Some(at(10)),
            error: "exit code: 1".into(),
            ..started("c")
        };
        let text = transcript(&[
            (0, vertexes([started("a")])),
            (1500, vertexes([done, cached, failed])),
        ]);
        assert_eq!(
            text,
            "#1 a\n#1 DONE 1.5s\n\n#2 b\n#2 CACHED\n\n#3 c\n#3 ERROR: exit code: 1\n"
        );
    }

    #[test]
    fn one_step_is_shown_until_it_ends_or_others_have_waited_long() {
        let text = transcript(&[
            (0, vertexes([started("a"), started("b")])),
            (100, log("b", 100, "from b\n")),
            (200, log("a", 200, "from a, unfini")),
            (250, log("a", 250, "shed\n")),
            (2000, log("a", 2000, "late")),
        ]);
        let expected = "#1 a\n#1 ...\n\n#2 b\n#2 0.100 from b\n#2 ...\n\n#1 a\n#1 0.250 from a, unfinished\n#1 2.000 late\n";
        let sorted = |text: &str| {
            let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines.dedup();
            lines
        };
        assert_eq!(sorted(&text), sorted(expected), "{text}");
        assert!(text.find("unfinished").unwrap() < text.find("late").unwrap());
    }

    #[test]
    fn transfers_are_written_when_they_start_and_end() {
        let status = |current, completed: Option<i64>| Batch {
            statuses: vec![TransferStatus {
                id: "sha256:abc".into(),
                vertex: Digest::sha256_of("a"),
                name: String::new(),
                total: 2_000_000,
                current,
                timestamp: at(0),
                started: Some(at(0)),
                completed: completed.map(at),
            }],
            ..Batch::default()
        };
        let text = transcript(&[
            (0, vertexes([started("a")])),
            (0, status(0, None)),
            (100, status(1_000_000, None)),
            (6000, status(1_500_000, None)),
            (7000, status(2_000_000, Some(7000))),
            (8000, status(2_000_000, Some(7000))),
        ]);
        assert_eq!(
            text,
            "#1 a\n#1 sha256:abc 0B / 2.00MB 0.0s\n#1 sha256:abc 1.50MB / 2.00MB 6.0s\n#1 sha256:abc 2.00MB / 2.00MB 7.0s done\n"
        );
    }
}
