//! The trace that the benchmark reads is one of a solver that kept its rules.
#![allow(clippy::unwrap_used, reason = "helpers may fail their test")]

#[path = "../examples/bench/large.rs"]
mod large;

use weld_trace::{Reader, check};

#[tokio::test(flavor = "multi_thread")]
async fn the_large_trace_is_sound() {
    const LAYERS: usize = 2;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("large.jsonl");
    let written = large::write(&file, 1 << 20, LAYERS).await.unwrap();
    assert_eq!(written.lost, 0);
    let report = check(Reader::open(&file).unwrap()).unwrap();
    assert!(report.is_good() && report.limits.is_empty(), "{report}");

    // Several solves, each as cold as the first: two hundred steps a layer and one on top.
    let text = std::fs::read_to_string(&file).unwrap();
    let solves = text.matches("\"job-opened\"").count();
    let runs = text.lines();
    let runs = runs.filter(|line| line.contains("\"call-start\"") && line.contains("\"exec\""));
    assert!(solves > 1);
    assert_eq!(runs.count(), solves * (LAYERS * 200 + 1));
}
