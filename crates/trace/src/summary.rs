//! What a trace amounts to. Reads it as a stream: no more is kept than what is live in it.

mod running;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    ops::ControlFlow,
};

use serde::Serialize;

use self::running::{Running, Wait};
use crate::{
    filter::{Selection, Standing},
    kind::Kind,
    line::{Line, Text},
    model::WaitFor,
    read::{ReadError, Reader},
    text::{Micros, one_line, short},
};

/// How many of the slowest calls are told.
const SLOWEST: usize = 10;

/// Calls of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CallTotals {
    /// How many began.
    pub count: u64,
    /// How many failed.
    pub failed: u64,
    /// How many were cancelled, or came too late.
    pub dropped: u64,
    /// Their time, in microseconds, without that in which they waited.
    pub micros: u64,
    /// The longest, in microseconds, likewise.
    pub longest: u64,
    /// Microseconds in which they waited for a slot to execute in.
    pub slot: u64,
    /// Microseconds in which they waited for what others held.
    pub lock: u64,
    /// Microseconds in which their operations waited for builds of their own, whose calls count by themselves.
    pub builds: u64,
    /// How many had not ended when the trace did; their time counts up to then.
    pub unfinished: u64,
}

/// A call that took long.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct SlowCall {
    /// How long, in microseconds, without the time in which it waited.
    pub micros: u64,
    /// The call.
    pub call: String,
    /// Whether it had not ended when the trace did.
    pub unfinished: bool,
    /// Digest of the vertex.
    pub vertex: String,
    /// Its name.
    pub name: String,
}

/// What a trace amounts to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Events.
    pub events: u64,
    /// Events that the writer lost.
    pub lost: u64,
    /// Lines that are not events.
    pub malformed: u64,
    /// The first such line.
    pub first_malformed: Option<(u64, String)>,
    /// Whether the writer ended the trace.
    pub ended: bool,
    /// Microseconds from the first to the last event that counts.
    pub micros: u64,
    /// Jobs that were open at some time.
    pub jobs: u64,
    /// Jobs that still were at the end.
    pub open_jobs: u64,
    /// Vertices that were live at some time.
    pub vertices: u64,
    /// Vertices that still were at the end.
    pub live_vertices: u64,
    /// The most that were live at a time.
    pub most_vertices: u64,
    /// Loads of graphs, and the vertices in them, shared ones included.
    pub loads: u64,
    /// Vertices in all loaded graphs.
    pub loaded_vertices: u64,
    /// Results that came from operations that ran.
    pub executed: u64,
    /// Results that were loaded from records.
    pub cached: u64,
    /// Results that turned out to be lost, and were made anew where they were still wanted.
    pub lost_results: u64,
    /// Merges by reason.
    pub merges: BTreeMap<String, u64>,
    /// Refused merges by reason.
    pub refusals: BTreeMap<String, u64>,
    /// Cancelled calls by cause.
    pub cancels: BTreeMap<String, u64>,
    /// Answers by outcome.
    pub answers: BTreeMap<String, u64>,
    /// Calls and loads by kind.
    pub calls: BTreeMap<String, CallTotals>,
    /// Events by kind.
    pub kinds: BTreeMap<String, u64>,
    /// The slowest calls.
    pub slowest: Vec<SlowCall>,
}

/// Reads a trace and sums it up.
///
/// # Errors
/// [`ReadError`].
pub fn summary(reader: Reader) -> Result<Summary, ReadError> {
    sum_up(reader, |_| Standing::Within, true)
}

/// Sums up what is meant: what happened, and the jobs, vertices and calls that were live meanwhile.
///
/// # Errors
/// [`ReadError`].
pub fn summary_of(reader: Reader, selection: &Selection<'_>) -> Result<Summary, ReadError> {
    sum_up(reader, |line| selection.standing(line), false)
}

fn sum_up(
    reader: Reader,
    standing: impl Fn(&Line<'_>) -> Standing,
    is_whole: bool,
) -> Result<Summary, ReadError> {
    let mut counting = Counting {
        is_whole,
        ..Counting::default()
    };
    let whole = reader.pieces(|piece| {
        for (number, line) in piece.numbered() {
            match line {
                Ok(line) => match standing(line) {
                    Standing::Within => counting.line(line),
                    Standing::Before => counting.before(line),
                    Standing::After => counting.after(line),
                    // What a call waits for may be another vertex.
                    Standing::Foreign => counting.waits(line),
                },
                Err(error) => {
                    counting.summary.malformed += 1;
                    let first = &mut counting.summary.first_malformed;
                    first.get_or_insert_with(|| (number, error.to_string()));
                }
            }
        }
        ControlFlow::Continue(())
    })?;
    Ok(counting.finish(whole))
}

#[derive(Default)]
struct Counting {
    summary: Summary,
    /// All of the trace counts, and so does the time from its first line to its last.
    is_whole: bool,
    kinds: Vec<u64>,
    start: Option<u64>,
    end: u64,
    /// Time of the last line, counted or not.
    last: u64,
    /// Names of live vertices, by their digests.
    names: HashMap<Box<str>, Box<str>>,
    tasks: HashMap<u64, Running>,
    calls: HashMap<&'static str, CallTotals>,
    words: HashMap<(Kind, &'static str), u64>,
    live: u64,
    /// Calls whose operations ask for builds, by the requests.
    builds: HashMap<u64, u64>,
}

/// The words of the format, so that counting them copies nothing.
fn word(text: Option<Text<'_>>) -> &'static str {
    const WORDS: [&str; 21] = [
        "fast-key",
        "slow-key",
        "never-merge",
        "ignore-cache",
        "ancestor",
        "both-complete",
        "not-needed",
        "request-cancelled",
        "job-discarded",
        "merged",
        "failed",
        "built",
        "cancelled",
        "cache-map",
        "preprocess",
        "exec",
        "load",
        "initial",
        "cache-fast",
        "cache-slow",
        "complete",
    ];
    let raw = text.map_or("", Text::raw);
    WORDS
        .iter()
        .find(|word| **word == raw)
        .copied()
        .unwrap_or("other")
}

impl Counting {
    fn line(&mut self, line: &Line<'_>) {
        if self.kinds.is_empty() {
            self.kinds = vec![0; Kind::COUNT];
        }
        let is_frame = matches!(line.kind, Kind::TraceStart | Kind::TraceEnd | Kind::Lost);
        if self.is_whole || !is_frame {
            self.start = Some(self.start.unwrap_or(line.time).min(line.time));
            self.end = self.end.max(line.time);
        }
        self.last = self.last.max(line.time);
        self.waits(line);
        match line.kind {
            Kind::TraceStart => return,
            Kind::TraceEnd => {
                self.summary.ended = true;
                return;
            }
            Kind::Lost => {
                self.summary.lost += line.count.unwrap_or(0);
                return;
            }
            _ => {}
        }
        self.summary.events += 1;
        self.kinds[line.kind as usize] += 1;
        match line.kind {
            Kind::JobOpened => {
                self.summary.jobs += 1;
                self.summary.open_jobs += 1;
            }
            Kind::JobDiscarded => self.summary.open_jobs = self.summary.open_jobs.saturating_sub(1),
            Kind::Vertex => {
                self.summary.vertices += 1;
                self.live += 1;
                self.summary.most_vertices = self.summary.most_vertices.max(self.live);
                self.name(line);
            }
            Kind::VertexFreed => {
                self.live = self.live.saturating_sub(1);
                line.vertex.map(|digest| self.names.remove(digest.raw()));
            }
            Kind::Loaded => {
                // What was loaded before the trace began tells no size.
                self.summary.loads += u64::from(line.vertices.is_some());
                self.summary.loaded_vertices += line.vertices.unwrap_or(0);
            }
            Kind::Merge if line.reason.is_none() => {
                *self.words.entry((line.kind, "before-trace")).or_default() += 1;
            }
            Kind::ResultLost => self.summary.lost_results += 1,
            Kind::Merge | Kind::MergeRefused => self.count(line.kind, line.reason),
            Kind::Answer => self.count(line.kind, line.outcome),
            Kind::Cancel => self.count(line.kind, line.cause),
            Kind::CallStart | Kind::LoadStart => self.begin(line, true),
            Kind::CallEnd | Kind::LoadEnd | Kind::LoadFailed | Kind::Dropped => {
                self.end_of(line, true)
            }
            Kind::Broken => {
                self.names.clear();
                self.builds.clear();
                self.tasks.clear();
                self.live = 0;
                self.summary.open_jobs = 0;
            }
            _ => {}
        }
    }

    fn count(&mut self, kind: Kind, text: Option<Text<'_>>) {
        *self.words.entry((kind, word(text))).or_default() += 1;
    }

    /// A call begins to wait, or goes on.
    fn waits(&mut self, line: &Line<'_>) {
        let asks = |request: u64| self.builds.get(&request).copied();
        let task = match line.kind {
            Kind::SlotWait | Kind::SlotTaken | Kind::Request => line.task,
            Kind::Answer => line.request.and_then(asks),
            _ => return,
        };
        let Some((task, running)) = task.and_then(|task| Some((task, self.tasks.get_mut(&task)?)))
        else {
            return;
        };
        match line.kind {
            Kind::SlotWait => match WaitFor::of(line) {
                WaitFor::Slot => running.slot.begin(line.time),
                WaitFor::Lock => running.lock.begin(line.time),
            },
            // It waits for one thing at a time.
            Kind::SlotTaken => {
                running.slot.end(line.time);
                running.lock.end(line.time);
            }
            Kind::Request => {
                running.builds.begin(line.time);
                line.request
                    .map(|request| self.builds.insert(request, task));
            }
            _ => {
                running.builds.end(line.time);
                line.request.map(|request| self.builds.remove(&request));
            }
        }
    }

    /// A line before what counts: what is live after it is.
    fn before(&mut self, line: &Line<'_>) {
        self.last = self.last.max(line.time);
        self.waits(line);
        let summary = &mut self.summary;
        match line.kind {
            Kind::JobOpened => summary.open_jobs += 1,
            Kind::JobDiscarded => summary.open_jobs = summary.open_jobs.saturating_sub(1),
            Kind::Vertex => {
                self.live += 1;
                self.name(line);
            }
            Kind::VertexFreed => {
                self.live = self.live.saturating_sub(1);
                line.vertex.map(|digest| self.names.remove(digest.raw()));
            }
            Kind::CallStart | Kind::LoadStart => self.begin(line, false),
            Kind::CallEnd | Kind::LoadEnd | Kind::LoadFailed | Kind::Dropped => {
                line.task.map(|task| self.tasks.remove(&task));
            }
            Kind::Broken => {
                self.names.clear();
                self.builds.clear();
                self.tasks.clear();
                self.live = 0;
                summary.open_jobs = 0;
            }
            _ => return,
        }
        self.summary.jobs = self.summary.open_jobs;
        self.summary.vertices = self.live;
        self.summary.most_vertices = self.live;
    }

    /// A line behind what counts: calls that were live come to their ends.
    fn after(&mut self, line: &Line<'_>) {
        self.last = self.last.max(line.time);
        self.waits(line);
        if matches!(
            line.kind,
            Kind::CallEnd | Kind::LoadEnd | Kind::LoadFailed | Kind::Dropped
        ) {
            self.end_of(line, false);
        }
    }

    fn name(&mut self, line: &Line<'_>) {
        if let (Some(digest), Some(name)) = (line.vertex, line.name) {
            self.names.insert(digest.raw().into(), name.raw().into());
        }
    }

    fn begin(&mut self, line: &Line<'_>, counted: bool) {
        let call = match line.kind {
            Kind::LoadStart => "load",
            _ => word(line.call),
        };
        if counted {
            self.calls.entry(call).or_default().count += 1;
        }
        if let Some(task) = line.task {
            let running = Running {
                call,
                start: line.time,
                vertex: line.vertex.map_or("", Text::raw).into(),
                counted,
                slot: Wait::default(),
                lock: Wait::default(),
                builds: Wait::default(),
            };
            self.tasks.insert(task, running);
        }
    }

    /// A call came to its end, within what counts or behind it.
    fn end_of(&mut self, line: &Line<'_>, within: bool) {
        let Some(running) = line.task.and_then(|task| self.tasks.remove(&task)) else {
            return;
        };
        let took = running.took(line.time);
        let totals = self.calls.entry(running.call).or_default();
        totals.add(&running, &took);
        totals.failed += u64::from(line.error.is_some());
        totals.dropped += u64::from(line.kind == Kind::Dropped);
        let good = within && line.error.is_none() && line.kind != Kind::Dropped;
        match running.call {
            "exec" if good => self.summary.executed += 1,
            "load" if good => self.summary.cached += 1,
            _ => {}
        }
        self.slow(took.micros, &running, false);
    }

    /// Calls that had not ended when the trace did.
    fn unfinished(&mut self) {
        for (_, running) in std::mem::take(&mut self.tasks) {
            let took = running.took(self.last);
            let totals = self.calls.entry(running.call).or_default();
            totals.add(&running, &took);
            totals.unfinished += 1;
            self.slow(took.micros, &running, true);
        }
    }

    fn slow(&mut self, micros: u64, running: &Running, unfinished: bool) {
        let slowest = &mut self.summary.slowest;
        if slowest.len() == SLOWEST && slowest.last().is_some_and(|last| last.micros >= micros) {
            return;
        }
        let entry = SlowCall {
            micros,
            call: running.call.to_owned(),
            unfinished,
            vertex: running.vertex.to_string(),
            name: self
                .names
                .get(&running.vertex)
                .map_or_else(String::new, |name| name.to_string()),
        };
        let at = slowest.partition_point(|other| other.micros >= micros);
        slowest.insert(at, entry);
        slowest.truncate(SLOWEST);
    }

    fn finish(mut self, whole: bool) -> Summary {
        self.unfinished();
        let mut summary = self.summary;
        summary.ended &= whole;
        summary.micros = self.end.saturating_sub(self.start.unwrap_or(self.end));
        let of = |kind: Kind| self.kinds.get(kind as usize).copied().unwrap_or(0);
        summary.live_vertices = self.live;
        for ((kind, word), count) in self.words {
            let counts = match kind {
                Kind::Merge => &mut summary.merges,
                Kind::MergeRefused => &mut summary.refusals,
                Kind::Cancel => &mut summary.cancels,
                _ => &mut summary.answers,
            };
            counts.insert(word.to_owned(), count);
        }
        summary.calls = self
            .calls
            .into_iter()
            .map(|(call, totals)| (call.to_owned(), totals))
            .collect();
        summary.kinds = crate::kind::ALL
            .iter()
            .map(|kind| (kind.name().to_owned(), of(*kind)))
            .filter(|(_, count)| *count > 0)
            .collect();
        summary
    }
}

fn counts(counts: &BTreeMap<String, u64>) -> String {
    let all: Vec<String> = counts
        .iter()
        .map(|(word, count)| format!("{word} {count}"))
        .collect();
    all.join(", ")
}

impl Summary {
    fn write_calls(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{:<12} {:>9} {:>7} {:>8} {:>10} {:>10} {:>10} {:>10} {:>10}",
            "calls",
            "count",
            "failed",
            "dropped",
            "time",
            "longest",
            "for a slot",
            "for a lock",
            "for builds"
        )?;
        for (call, totals) in &self.calls {
            writeln!(
                f,
                "{call:<12} {:>9} {:>7} {:>8} {:>10} {:>10} {:>10} {:>10} {:>10}",
                totals.count,
                totals.failed,
                totals.dropped,
                Micros(totals.micros),
                Micros(totals.longest),
                Micros(totals.slot),
                Micros(totals.lock),
                Micros(totals.builds)
            )?;
        }
        let unfinished: u64 = self.calls.values().map(|totals| totals.unfinished).sum();
        if unfinished > 0 {
            writeln!(f, "{unfinished} of them had not ended when the trace did")?;
        }
        Ok(())
    }

    fn write_slowest(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.slowest.is_empty() {
            writeln!(f, "\nslowest")?;
        }
        for slow in &self.slowest {
            writeln!(
                f,
                "{:>10}  {:<10} {}  {}{}",
                Micros(slow.micros),
                slow.call,
                short(&slow.vertex),
                one_line(&slow.name),
                if slow.unfinished {
                    " (did not end)"
                } else {
                    ""
                }
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "events     {} in {}", self.events, Micros(self.micros))?;
        if self.lost > 0 {
            writeln!(f, "           {} events were lost by the writer", self.lost)?;
        }
        if let Some((line, error)) = &self.first_malformed {
            writeln!(
                f,
                "           {} lines are not events, first line {line}: {error}",
                self.malformed
            )?;
        }
        if !self.ended {
            writeln!(
                f,
                "           the trace has no end: its writer is still running or was killed, or the file was cut off"
            )?;
        }
        writeln!(
            f,
            "jobs       {} ({} still open)",
            self.jobs, self.open_jobs
        )?;
        writeln!(
            f,
            "vertices   {} ({} live at the end, {} at most), {} in {} loaded graphs",
            self.vertices, self.live_vertices, self.most_vertices, self.loaded_vertices, self.loads
        )?;
        write!(
            f,
            "results    {} executed, {} from records",
            self.executed, self.cached
        )?;
        match self.lost_results {
            0 => writeln!(f)?,
            lost => writeln!(f, ", {lost} lost and made anew")?,
        }
        for (title, of) in [
            ("answers", &self.answers),
            ("merges", &self.merges),
            ("refused", &self.refusals),
            ("cancelled", &self.cancels),
        ] {
            if !of.is_empty() {
                writeln!(f, "{title:<10} {}", counts(of))?;
            }
        }
        self.write_calls(f)?;
        self.write_slowest(f)
    }
}
