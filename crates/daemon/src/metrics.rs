//! Numbers for Prometheus.

use std::fmt::{Display, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use weld_engine::Census;

use crate::telemetry::SpanCounts;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The upper bounds of the histogram of builds' durations, in milliseconds.
const BOUNDS: [u64; 12] = [
    10, 50, 100, 250, 500, 1000, 5000, 15_000, 60_000, 300_000, 900_000, 3_600_000,
];

/// What is counted.
#[derive(Default)]
pub(crate) struct Metrics {
    completed: AtomicU64,
    failed: AtomicU64,
    canceled: AtomicU64,
    steps: AtomicU64,
    cached_steps: AtomicU64,
    buckets: [AtomicU64; BOUNDS.len()],
    milliseconds: AtomicU64,
    collected: AtomicU64,
    collected_bytes: AtomicU64,
}

/// What there is at the moment.
pub(crate) struct Live {
    pub(crate) builds: usize,
    pub(crate) sessions: usize,
    pub(crate) connections: usize,
    /// `None` when the solver is gone.
    pub(crate) census: Option<Census>,
    pub(crate) spans: SpanCounts,
}

/// How a build ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Completed,
    Failed,
    Canceled,
}

impl Metrics {
    /// Counts a build that ended.
    pub(crate) fn build(&self, outcome: Outcome, took: Duration, steps: u64, cached: u64) {
        let counter = match outcome {
            Outcome::Completed => &self.completed,
            Outcome::Failed => &self.failed,
            Outcome::Canceled => &self.canceled,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.steps.fetch_add(steps, Ordering::Relaxed);
        self.cached_steps.fetch_add(cached, Ordering::Relaxed);
        let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.milliseconds.fetch_add(took, Ordering::Relaxed);
        let bucket = BOUNDS.iter().position(|bound| took <= *bound);
        if let Some(bucket) = bucket.and_then(|bucket| self.buckets.get(bucket)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many builds have ended.
    pub(crate) fn ended(&self) -> u64 {
        let ends = [&self.completed, &self.failed, &self.canceled];
        ends.map(|count| count.load(Ordering::Relaxed)).iter().sum()
    }

    /// Counts what was deleted because nobody used it.
    pub(crate) fn collected(&self, records: usize, bytes: u64) {
        self.collected.fetch_add(records as u64, Ordering::Relaxed);
        self.collected_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// All numbers in Prometheus' text form.
    pub(crate) fn render(&self, live: &Live) -> String {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (completed, failed, canceled) =
            (get(&self.completed), get(&self.failed), get(&self.canceled));
        let mut text = Text::default();
        text.family("weld_build_info", "gauge", "The version that runs.");
        text.sample("weld_build_info", &format!("{{version=\"{VERSION}\"}}"), 1);
        text.family("weld_builds_total", "counter", "Builds that ended.");
        for (status, count) in [
            ("completed", completed),
            ("error", failed),
            ("canceled", canceled),
        ] {
            let label = format!("{{status=\"{status}\"}}");
            text.sample("weld_builds_total", &label, count);
        }
        text.gauge("weld_builds_running", "Builds that run.", live.builds);
        text.gauge("weld_sessions", "Clients' sessions.", live.sessions);
        text.gauge(
            "weld_connections",
            "Clients' connections.",
            live.connections,
        );
        text.counter(
            "weld_steps_total",
            "Steps of builds that ended.",
            get(&self.steps),
        );
        text.counter(
            "weld_cached_steps_total",
            "Steps whose result came from the cache.",
            get(&self.cached_steps),
        );
        text.counter(
            "weld_gc_records_total",
            "Cache records that were deleted because nobody used them.",
            get(&self.collected),
        );
        text.counter(
            "weld_gc_bytes_total",
            "Bytes that were freed by it.",
            get(&self.collected_bytes),
        );
        if let Some(census) = &live.census {
            text.family("weld_solver_live", "gauge", "What is live in the solver.");
            for (kind, count) in [
                ("jobs", census.jobs),
                ("vertices", census.vertices),
                ("edges", census.edges),
                ("tasks", census.tasks),
                ("requests", census.requests),
            ] {
                text.sample("weld_solver_live", &format!("{{kind=\"{kind}\"}}"), count);
            }
        }
        text.counter(
            "weld_spans_received_total",
            "Spans that clients and builds sent.",
            live.spans.received,
        );
        text.counter(
            "weld_spans_forwarded_total",
            "Spans that were passed on to the collector.",
            live.spans.forwarded,
        );
        text.counter(
            "weld_spans_dropped_total",
            "Spans that could not be passed on.",
            live.spans.dropped,
        );
        self.durations(&mut text, completed + failed + canceled);
        process(&mut text);
        text.0
    }

    fn durations(&self, text: &mut Text, all: u64) {
        const NAME: &str = "weld_build_duration_seconds";
        text.family(NAME, "histogram", "How long builds took.");
        let mut below = 0;
        for (bound, bucket) in BOUNDS.iter().zip(&self.buckets) {
            below += bucket.load(Ordering::Relaxed);
            let label = format!("_bucket{{le=\"{}\"}}", *bound as f64 / 1000.0);
            text.sample(NAME, &label, below);
        }
        text.sample(NAME, "_bucket{le=\"+Inf\"}", all);
        let seconds = self.milliseconds.load(Ordering::Relaxed) as f64 / 1000.0;
        text.sample(NAME, "_sum", seconds);
        text.sample(NAME, "_count", all);
    }
}

/// Lines in Prometheus' form. Writing to a text never fails.
#[derive(Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// A value, with what comes behind the family's name.
    fn sample(&mut self, name: &str, rest: &str, value: impl Display) {
        let _ = writeln!(self.0, "{name}{rest} {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help);
        self.sample(name, "", value);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "counter", help);
        self.sample(name, "", value);
    }
}

/// What Prometheus' libraries tell of every process.
fn process(text: &mut Text) {
    if let Some(bytes) = resident_bytes() {
        text.gauge(
            "process_resident_memory_bytes",
            "Memory of this process.",
            bytes,
        );
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        // The directory itself is open while it is read.
        let count = files.count().saturating_sub(1);
        text.gauge("process_open_fds", "Open files.", count);
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    if let Some(limit) = limit.current {
        text.gauge("process_max_fds", "How many files may be open.", limit);
    }
    if let Some(seconds) = processor_seconds() {
        text.family(
            "process_cpu_seconds_total",
            "counter",
            "Time on processors.",
        );
        text.sample("process_cpu_seconds_total", "", seconds);
    }
}

fn processor_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name before may have spaces and parentheses.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11);
    let ticks = times.next()?.parse::<u64>().ok()? + times.next()?.parse::<u64>().ok()?;
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_are_counted_by_how_they_ended_and_how_long_they_took() {
        let metrics = Metrics::default();
        metrics.build(Outcome::Completed, Duration::from_millis(30), 5, 2);
        metrics.build(Outcome::Failed, Duration::from_secs(2), 1, 0);
        metrics.build(Outcome::Canceled, Duration::from_secs(100_000), 1, 0);
        metrics.collected(3, 4000);
        let text = metrics.render(&Live {
            builds: 3,
            sessions: 4,
            connections: 5,
            census: Some(Census {
                edges: 6,
                ..Census::default()
            }),
            spans: SpanCounts::default(),
        });
        for line in [
            "weld_builds_total{status=\"error\"} 1",
            "weld_builds_running 3",
            "weld_sessions 4",
            "weld_connections 5",
            "weld_solver_live{kind=\"edges\"} 6",
            "weld_gc_bytes_total 4000",
            "weld_spans_received_total 0",
            "weld_steps_total 7",
            "weld_build_duration_seconds_bucket{le=\"0.01\"} 0",
            "weld_build_duration_seconds_bucket{le=\"0.05\"} 1",
            "weld_build_duration_seconds_bucket{le=\"3600\"} 2",
            "weld_build_duration_seconds_bucket{le=\"+Inf\"} 3",
            "weld_build_duration_seconds_sum 100002.03",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
