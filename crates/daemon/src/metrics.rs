//! Numbers for Prometheus.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

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

    /// All numbers in Prometheus' text form.
    pub(crate) fn render(&self, running: usize, sessions: usize) -> String {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (completed, failed, canceled) =
            (get(&self.completed), get(&self.failed), get(&self.canceled));
        let mut text = String::new();
        // Writing to a text never fails.
        let _ = write!(
            text,
            "# HELP weld_builds_total Builds that ended.\n# TYPE weld_builds_total counter\n\
             weld_builds_total{{status=\"completed\"}} {completed}\n\
             weld_builds_total{{status=\"error\"}} {failed}\n\
             weld_builds_total{{status=\"canceled\"}} {canceled}\n\
             # HELP weld_builds_running Builds that run.\n# TYPE weld_builds_running gauge\n\
             weld_builds_running {running}\n\
             # HELP weld_sessions Clients' sessions.\n# TYPE weld_sessions gauge\n\
             weld_sessions {sessions}\n\
             # HELP weld_steps_total Steps of builds that ended.\n\
             # TYPE weld_steps_total counter\nweld_steps_total {}\n\
             # HELP weld_cached_steps_total Steps whose result came from the cache.\n\
             # TYPE weld_cached_steps_total counter\nweld_cached_steps_total {}\n\
             # HELP weld_build_duration_seconds How long builds took.\n\
             # TYPE weld_build_duration_seconds histogram\n",
            get(&self.steps),
            get(&self.cached_steps),
        );
        let mut below = 0;
        for (bound, bucket) in BOUNDS.iter().zip(&self.buckets) {
            below += get(bucket);
            let bound = *bound as f64 / 1000.0;
            let _ = writeln!(
                text,
                "weld_build_duration_seconds_bucket{{le=\"{bound}\"}} {below}"
            );
        }
        let all = completed + failed + canceled;
        let _ = write!(
            text,
            "weld_build_duration_seconds_bucket{{le=\"+Inf\"}} {all}\n\
             weld_build_duration_seconds_sum {}\nweld_build_duration_seconds_count {all}\n",
            get(&self.milliseconds) as f64 / 1000.0,
        );
        if let Some(bytes) = resident_bytes() {
            let _ = write!(
                text,
                "# HELP process_resident_memory_bytes Memory of this process.\n\
                 # TYPE process_resident_memory_bytes gauge\n\
                 process_resident_memory_bytes {bytes}\n"
            );
        }
        text
    }
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
        let text = metrics.render(3, 4);
        for line in [
            "weld_builds_total{status=\"error\"} 1",
            "weld_builds_running 3",
            "weld_sessions 4",
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
