use std::io::{self, Write};
use std::time::Duration;

use crate::build::{Build, Step, printable};
use crate::model::{Batch, Timestamp};
use crate::units;

/// How long the step that is being shown may keep others, which have something to say, waiting.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often the state of a running transfer is written.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// How long a line without an end is remembered from its beginning, in bytes: what is longer goes on after other steps without it.
const LINE_LIMIT: usize = 64 << 10;

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
    /// Lines that have ended, without their ends; each begins with its time.
    lines: Vec<Vec<u8>>,
    /// The line that has not ended yet; of one that became long, its time and what was not written yet.
    unfinished: Vec<u8>,
    /// How long the time at its beginning is, with the space behind it.
    time: usize,
    /// How much of the next line is the end of what was written, in bytes: with more than none, the cursor is there.
    open: usize,
    /// How much of the line that has not ended was written at some time, in bytes.
    told: usize,
    statuses: Vec<ShownStatus>,
    /// When the end that was written was.
    ended: Option<Timestamp>,
    /// It started again after its end was written, and that is not written yet.
    again: bool,
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
        for (index, (shown, step)) in self.steps.iter_mut().zip(&build.steps).enumerate() {
            if shown.starts_again(step) && self.current == Some(index) {
                // It is written under its name again.
                self.current = None;
            }
        }
        for log in &batch.logs {
            if let Some(index) = build.index_of(log) {
                let elapsed = build.steps[index].running_at(log.timestamp).as_secs_f64();
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
        self.write(out, build, now, true)?;
        if let Some(index) = self.current {
            self.steps[index].close(out)?;
        }
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
        let first = taken == 0;
        if self.current != Some(index) {
            if let Some(previous) = self.current {
                self.steps[previous].close(out)?;
            }
            let goes_on = |&previous: &usize| self.steps[previous].ended.is_none();
            if let Some(previous) = self.current.filter(goes_on) {
                writeln!(
                    out,
                    "#{} ...",
                    self.steps[previous].number.unwrap_or_default()
                )?;
            }
            if !first {
                writeln!(out)?;
            }
            writeln!(out, "#{number} {}", printable(&step.vertex.name))?;
            self.current = Some(index);
            self.current_since = Some(now);
        }
        self.steps[index].write(out, number, step, now)
    }
}

impl Shown {
    fn log(&mut self, data: &[u8], elapsed: f64) {
        for piece in data.split_inclusive(|&byte| byte == b'\n') {
            if self.unfinished.is_empty() {
                let digits = match elapsed {
                    ..10.0 => 3,
                    ..100.0 => 2,
                    _ => 1,
                };
                self.unfinished = format!("{elapsed:.digits$} ").into_bytes();
                self.time = self.unfinished.len();
            }
            match piece.strip_suffix(b"\n") {
                Some(end) => {
                    self.unfinished.extend_from_slice(end);
                    self.told = 0;
                    self.lines.push(std::mem::take(&mut self.unfinished));
                }
                None => self.unfinished.extend_from_slice(piece),
            }
        }
    }

    /// Writes what is new of the output, also of a line that has not ended: a prompt, or the dots of a slow download.
    fn write_lines(&mut self, out: &mut dyn Write, number: usize) -> io::Result<()> {
        for line in self.lines.drain(..) {
            if self.open == 0 {
                write!(out, "#{number} ")?;
            }
            out.write_all(&line[self.open..])?;
            out.write_all(b"\n")?;
            self.open = 0;
        }
        // Where other steps came between, it is written again from its beginning, but not before it has grown.
        if self.unfinished.len() > self.told {
            if self.open == 0 {
                write!(out, "#{number} ")?;
            }
            out.write_all(&self.unfinished[self.open..])?;
            if self.unfinished.len() > LINE_LIMIT {
                self.unfinished.truncate(self.time);
                self.unfinished.shrink_to(LINE_LIMIT);
            }
            self.open = self.unfinished.len();
            self.told = self.open;
        }
        Ok(())
    }

    /// Ends the line that the cursor is in, so that something else can be written. What follows in it is written with
    /// its beginning.
    fn close(&mut self, out: &mut dyn Write) -> io::Result<()> {
        if self.open > 0 {
            writeln!(out)?;
            self.open = 0;
        }
        Ok(())
    }

    /// Notes that a step whose end was written runs once more, or did meanwhile: what it gave turned out to be lost, or it failed and is
    /// tried again. Returns whether it does.
    fn starts_again(&mut self, step: &Step) -> bool {
        let Some(ended) = self.ended else {
            return false;
        };
        let again = match step.vertex.completed {
            None => step.vertex.started.is_some(),
            // Found once more in the cache is no news.
            Some(completed) => completed > ended && !step.vertex.cached,
        };
        if again {
            self.ended = None;
            self.again = true;
            self.statuses.clear();
        }
        again
    }

    fn has_news(&self, step: &Step, now: Timestamp) -> bool {
        if self.ended.is_some() || step.vertex.started.is_none() && step.vertex.completed.is_none()
        {
            return false;
        }
        self.number.is_none()
            || self.again
            || !self.lines.is_empty()
            || self.unfinished.len() > self.told
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
        self.again = false;
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
            self.close(out)?;
            writeln!(out, "#{number} {}{amount}{elapsed}{done}", status.id)?;
            self.statuses[index] = ShownStatus {
                written: Some(now),
                ended: status.completed.is_some(),
            };
        }
        self.write_lines(out, number)?;
        if let Some(completed) = step.vertex.completed {
            self.ended = Some(completed);
            self.close(out)?;
            if !step.vertex.error.is_empty() {
                let cancelled = step.vertex.error.ends_with("cancelled")
                    || step.vertex.error.ends_with("canceled");
                if cancelled {
                    writeln!(out, "#{number} CANCELED")?;
                } else {
                    writeln!(out, "#{number} ERROR: {}", printable(&step.vertex.error))?;
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
    fn carriage_returns_are_handed_on_as_they_are() {
        let text = transcript(&[
            (0, vertexes([started("a")])),
            (500, log("a", 500, "10%\r20%\r")),
            (600, log("a", 600, "30%\r\nnext\r\n")),
        ]);
        assert_eq!(text, "#1 a\n#1 0.500 10%\r20%\r30%\r\n#1 0.600 next\r\n");
    }

    #[test]
    fn a_step_that_starts_again_is_shown_again() {
        let ended = |name: &str, from, to| Vertex {
            started: Some(at(from)),
            completed: Some(at(to)),
            ..started(name)
        };
        let cached = |from| Vertex {
            cached: true,
            ..ended("a", from, from)
        };
        let again = Vertex {
            started: Some(at(100)),
            ..started("a")
        };
        let lost = transcript(&[
            (0, vertexes([cached(0)])),
            (50, vertexes([ended("b", 10, 50)])),
            // Found once more: no news.
            (60, vertexes([cached(60)])),
            (100, vertexes([again.clone()])),
            (200, log("a", 200, "not cached: its record was pruned\n")),
            (2100, vertexes([ended("a", 100, 2100)])),
        ]);
        assert_eq!(
            lost,
            "#1 a\n#1 CACHED\n\n#2 b\n#2 DONE 0.0s\n\n#1 a\n#1 0.100 not cached: its record was pruned\n#1 DONE 2.0s\n"
        );
        // The same while nothing else is shown, and where it starts and ends between two looks.
        let both = Batch {
            vertexes: vec![ended("a", 100, 2100)],
            ..log("a", 600, "out\n")
        };
        let coalesced = transcript(&[(0, vertexes([cached(0)])), (2100, both)]);
        assert_eq!(
            coalesced,
            "#1 a\n#1 CACHED\n\n#1 a\n#1 0.500 out\n#1 DONE 2.0s\n"
        );
        // A step that failed and is tried again.
        let failed = Vertex {
            error: "exit code: 1".into(),
            ..ended("a", 0, 50)
        };
        let retried = transcript(&[(50, vertexes([failed])), (100, vertexes([again]))]);
        assert_eq!(retried, "#1 a\n#1 ERROR: exit code: 1\n\n#1 a\n");
    }

    #[test]
    fn a_name_plays_no_tricks_on_the_terminal() {
        let text = transcript(&[(0, vertexes([started("COPY \x1b]0;t\x07x /")]))]);
        assert_eq!(text, "#1 COPY \u{fffd}]0;t\u{fffd}x /\n");
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
        let expected = "#1 a\n#1 ...\n\n#2 b\n#2 0.100 from b\n#2 ...\n\n#1 a\n#1 0.200 from a, unfinished\n#1 2.000 late\n";
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
    fn a_line_without_an_end_is_written_at_once_and_ended_by_what_follows() {
        let done = Vertex {
            completed: Some(at(900)),
            ..started("a")
        };
        let text = transcript(&[
            (0, vertexes([started("a")])),
            (100, log("a", 100, "one\ntwo")),
            (200, log("a", 200, " goes on")),
            (300, log("a", 300, "\n\n10%\r100%\r\nlast")),
            (900, vertexes([done])),
        ]);
        assert_eq!(
            text,
            "#1 a\n#1 0.100 one\n#1 0.100 two goes on\n#1 0.300 \n#1 0.300 10%\r100%\r\n#1 0.300 last\n#1 DONE 0.9s\n"
        );
        let cut = transcript(&[
            (0, vertexes([started("a"), started("b")])),
            (20_000, log("a", 12_000, "waits")),
            (22_000, log("b", 100_500, "other\n")),
            (24_000, vertexes([])),
            (26_000, log("a", 26_000, " no more")),
        ]);
        assert_eq!(
            cut,
            "#1 a\n#1 ...\n\n#2 b\n#2 ...\n\n#1 a\n#1 12.00 waits\n#1 ...\n\n#2 b\n#2 100.5 other\n#2 ...\n\n#1 a\n#1 12.00 waits no more\n"
        );
    }

    #[test]
    fn a_line_that_does_not_end_is_written_whole_and_not_remembered() {
        let mut shown = Shown::default();
        let mut out = Vec::new();
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..8 {
            shown.log(&piece, 0.5);
            shown.write_lines(&mut out, 1).unwrap();
            assert!(shown.unfinished.capacity() <= LINE_LIMIT);
        }
        shown.log(b"end\nnext", 0.7);
        shown.write_lines(&mut out, 1).unwrap();
        shown.close(&mut out).unwrap();
        let expected = [b"#1 0.500 ", &*piece.repeat(8), b"end\n#1 0.700 next\n"].concat();
        assert!(out == expected);
        // What comes after another step has the time again.
        shown.log(&piece, 0.7);
        shown.write_lines(&mut out, 1).unwrap();
        shown.close(&mut out).unwrap();
        out.clear();
        shown.log(b"more\n", 0.9);
        shown.write_lines(&mut out, 1).unwrap();
        assert_eq!(String::from_utf8_lossy(&out), "#1 0.700 more\n");
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
