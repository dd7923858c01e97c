//! What reports say of a part of a trace is of that part, and what a step does is told apart from its waiting.
#![allow(clippy::unwrap_used, reason = "helpers may fail their test")]

use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use weld_trace::{Filter, Reader, Trace};

fn digest(name: char) -> String {
    format!("sha256:{}", name.to_string().repeat(64))
}

/// Ten seconds in which one job loads `make`, which is made of `get`, and another one `pack`, which is made of `make`. What is made of
/// something waits for it between its cache map and its run.
fn trace(directory: &TempDir) -> PathBuf {
    let vertex = |name: char, id: u32| format!("\"vertex\":\"{}\",\"id\":{id}", digest(name));
    let made = |name: char, id: u32, called: &str, inputs: &str| {
        let vertex = vertex(name, id);
        format!("\"vertex\",{vertex},\"name\":\"{called}\",\"inputs\":{inputs}")
    };
    let loaded = |job: &str, name: char, id: u32, counts: (u32, u32)| {
        let (edge, (vertices, created)) = (10 + id, counts);
        let root = format!(
            "\"edge\":{edge},\"vertex\":\"{}\",\"output\":0",
            digest(name)
        );
        format!(
            "\"loaded\",\"job\":\"{job}\",{root},\"id\":{id},\"vertices\":{vertices},\"created\":{created}"
        )
    };
    let opened = |job: &str| format!("\"job-opened\",\"job\":\"{job}\",\"session\":false");
    let start = |task: u32, name: char, id: u32, call: &str| {
        let vertex = vertex(name, id);
        format!("\"call-start\",\"task\":{task},{vertex},\"call\":\"{call}\"")
    };
    let end = |task: u32, name: char, id: u32, call: &str| {
        start(task, name, id, call).replace("call-start", "call-end")
    };
    let events = [
        (1, 0, opened("one")),
        (2, 0, made('a', 1, "get", "[]")),
        (2, 0, made('b', 2, "make", "[[11,1,0]]")),
        (2, 0, loaded("one", 'b', 2, (2, 2))),
        (3, 0, start(1, 'a', 1, "cache-map")),
        (3, 0, start(2, 'b', 2, "cache-map")),
        (4, 1_000, end(1, 'a', 1, "cache-map")),
        (4, 1_000, start(3, 'a', 1, "exec")),
        (5, 1_000, end(2, 'b', 2, "cache-map")),
        (6, 2_000, opened("other")),
        (7, 2_000, made('c', 3, "pack", "[[12,2,0]]")),
        (7, 2_000, loaded("other", 'c', 3, (3, 1))),
        (8, 7_500, end(3, 'a', 1, "exec")),
        (8, 7_500, start(4, 'b', 2, "exec")),
        (9, 10_000, end(4, 'b', 2, "exec")),
    ];
    let frame = |event: &str, fields: &str, millis: u64| {
        let time = 1_000_000_000 + millis * 1000;
        format!("{{\"event\":\"{event}\",\"position\":0,\"time\":{time},{fields}}}\n")
    };
    let mut text = frame("trace-start", "\"version\":1,\"weld\":\"0\"", 0);
    for (position, millis, event) in &events {
        let time = 1_000_000_000 + millis * 1000;
        text += &format!("{{\"event\":{event},\"position\":{position},\"time\":{time}}}\n");
    }
    let count = events.len();
    text += &frame(
        "trace-end",
        &format!("\"lines\":{count},\"lost\":0"),
        10_000,
    );
    let file = directory.path().join("trace.jsonl");
    std::fs::write(&file, text).unwrap();
    file
}

fn named(name: &str) -> Filter {
    Filter {
        name: Some(name.to_owned()),
        ..Filter::default()
    }
}

#[test]
fn a_step_that_waits_between_its_calls_is_not_drawn_as_if_it_ran() {
    let directory = tempfile::tempdir().unwrap();
    let trace = Trace::read(&trace(&directory)).unwrap();
    let report = weld_trace::timeline(&trace, &named("make")).unwrap();
    let step = &report.vertices[0];
    assert_eq!((step.start, step.end, step.worked), (0.0, 10.0, 3.5));
    let bar = format!("│{}{}{}│", "█".repeat(4), "·".repeat(26), "█".repeat(10));
    let text = report.to_string();
    assert!(text.contains(&bar) && text.contains("3.50s"), "{text}");
    // Calls that follow one another at once are one piece.
    let text = weld_trace::timeline(&trace, &named("get"))
        .unwrap()
        .to_string();
    let bar = format!("│{}{}│", "█".repeat(30), " ".repeat(10));
    assert!(text.contains(&bar) && text.contains("7.50s"), "{text}");
    let page = weld_trace::html(&trace, &Filter::default()).unwrap();
    assert!(page.contains("\"waits\""));
}

#[test]
fn jobs_of_a_name_count_what_was_new_of_that_name() {
    let directory = tempfile::tempdir().unwrap();
    let trace = Trace::read(&trace(&directory)).unwrap();
    let new = |filter: &Filter| -> Vec<(usize, u64)> {
        let jobs = weld_trace::jobs(&trace, filter).unwrap().jobs;
        jobs.iter().map(|job| (job.vertices, job.created)).collect()
    };
    assert_eq!(new(&Filter::default()), [(2, 2), (3, 1)]);
    assert_eq!(new(&named("get")), [(1, 1), (1, 0)]);
    assert_eq!(new(&named("pack")), [(1, 1)]);
}

#[test]
fn a_summary_of_a_time_or_a_name_is_headed_with_its_own_length() {
    let directory = tempfile::tempdir().unwrap();
    let file = trace(&directory);
    let trace = Trace::read(&file).unwrap();
    let length = |filter: Filter| {
        let selection = trace.select(&filter).unwrap();
        let summary = weld_trace::summary_of(Reader::open(&file).unwrap(), &selection).unwrap();
        (summary.events, summary.micros, summary.ended)
    };
    let part = |since: u64, until: u64| Filter {
        since: Some(Duration::from_millis(since)),
        until: Some(Duration::from_millis(until)),
        ..Filter::default()
    };
    assert_eq!(length(part(5_000, 20_000)), (3, 2_500_000, true));
    assert_eq!(length(part(1_000, 2_000)), (6, 1_000_000, true));
    assert_eq!(length(named("get")), (5, 7_500_000, true));
    let whole = weld_trace::summary(Reader::open(&file).unwrap()).unwrap();
    assert_eq!(whole.micros, 10_000_000);
}
