//! Sound traces pass, and each kind of corruption is found by its rule and its line.
#![allow(clippy::unwrap_used, reason = "helpers may fail their test")]

mod support;

use std::io::Write as _;
use std::path::PathBuf;

use support::{chain, empty, eventful, job, solver};
use tempfile::TempDir;
use weld_trace::{CheckReport, Filter, Reader, Rule, Trace, Tracer};

async fn lines() -> (TempDir, Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("trace.jsonl");
    eventful(&file).await;
    let text = std::fs::read_to_string(&file).unwrap();
    (directory, text.lines().map(str::to_owned).collect())
}

fn check(directory: &TempDir, lines: &[String]) -> CheckReport {
    let file: PathBuf = directory.path().join("changed.jsonl");
    std::fs::write(&file, lines.join("\n") + "\n").unwrap();
    weld_trace::check(Reader::open(&file).unwrap()).unwrap()
}

#[track_caller]
fn find(lines: &[String], parts: &[&str]) -> usize {
    let found = lines
        .iter()
        .position(|line| parts.iter().all(|part| line.contains(part)));
    found.unwrap_or_else(|| panic!("no line has {parts:?}"))
}

/// Asserts that the changed trace breaks the rule, first in this line (from 0).
#[track_caller]
fn breaks(directory: &TempDir, lines: &[String], rule: Rule, at: usize) {
    let report = check(directory, lines);
    let found = report
        .violations
        .iter()
        .any(|violation| violation.rule == rule && violation.line == at as u64 + 1);
    assert!(found, "{rule:?} in line {} is not in:\n{report}", at + 1);
    assert!(!report.is_good());
}

/// A field of a line, as it is written.
fn value(line: &str, name: &str) -> String {
    let rest = line.split(&format!("\"{name}\":")).nth(1).unwrap();
    rest.split([',', '}']).next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_trace_passes() {
    let (directory, sound) = lines().await;
    let report = check(&directory, &sound);
    assert!(report.is_good() && report.limits.is_empty(), "{report}");
    assert_eq!(report.lines, sound.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_and_calls_come_once() {
    let (directory, sound) = lines().await;

    // A request that is never answered, one that is answered twice.
    let answer = find(&sound, &["\"answer\"", "built"]);
    let mut changed = sound.clone();
    changed.insert(answer, sound[answer].clone());
    breaks(&directory, &changed, Rule::Request, answer + 1);
    let mut changed = sound.clone();
    changed.remove(answer);
    assert!(!check(&directory, &changed).is_good());

    // A call that ends twice; one that ends as another; one that never began.
    let end = find(&sound, &["\"call-end\"", "\"exec\""]);
    let mut changed = sound.clone();
    changed.insert(end, sound[end].clone());
    breaks(&directory, &changed, Rule::Call, end + 1);
    let mut changed = sound.clone();
    changed[end] = sound[end].replace("\"exec\"", "\"slow-key\"");
    breaks(&directory, &changed, Rule::Call, end);

    // Two runs at a time.
    let start = find(&sound, &["\"call-start\"", "\"exec\""]);
    let task = sound[start].split("\"task\":").nth(1).unwrap();
    let task = task.split(',').next().unwrap();
    let mut changed = sound.clone();
    changed.insert(
        start + 1,
        sound[start].replace(&format!("\"task\":{task}"), "\"task\":99999999"),
    );
    breaks(&directory, &changed, Rule::RunsOnce, start + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn states_rise_and_edges_merge_once() {
    let (directory, sound) = lines().await;

    // A state that falls, a second result.
    let complete = find(&sound, &["\"state\"", "\"complete\""]);
    let mut changed = sound.clone();
    changed.insert(complete + 1, sound[complete].clone());
    breaks(&directory, &changed, Rule::Result, complete + 1);
    let mut changed = sound.clone();
    changed.insert(
        complete + 1,
        sound[complete].replace("\"complete\"", "\"cache-fast\""),
    );
    breaks(&directory, &changed, Rule::StateOrder, complete + 1);

    // Merges: twice, into itself, and work of an edge that forwards.
    let merge = find(&sound, &["\"merge\""]);
    let mut changed = sound.clone();
    changed.insert(merge + 1, sound[merge].clone());
    breaks(&directory, &changed, Rule::Merge, merge + 1);
    let mut changed = sound.clone();
    changed[merge] = sound[merge]
        .replace(
            &format!("\"target\":{}", value(&sound[merge], "target")),
            &format!("\"target\":{}", value(&sound[merge], "source")),
        )
        .replace(
            &value(&sound[merge], "target_vertex"),
            &value(&sound[merge], "source_vertex"),
        );
    breaks(&directory, &changed, Rule::Merge, merge);
    let mut changed = sound.clone();
    changed.insert(
        merge + 1,
        format!(
            "{{\"event\":\"state\",\"position\":0,\"time\":1,\"edge\":{},\"vertex\":{},\"output\":0,\"state\":\"complete\"}}",
            value(&sound[merge], "source"),
            value(&sound[merge], "source_vertex")
        ),
    );
    breaks(&directory, &changed, Rule::Forwarded, merge + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_freed_is_not_used() {
    let (directory, sound) = lines().await;
    let merge = find(&sound, &["\"merge\""]);

    // Something that was freed is used; something is freed while others forward to it.
    let freed = find(&sound, &["\"edge-freed\""]);
    let mut changed = sound.clone();
    changed.insert(freed + 1, sound[freed].clone());
    breaks(&directory, &changed, Rule::Ownership, freed + 1);
    let mut changed = sound.clone();
    changed.insert(
        merge + 1,
        format!(
            "{{\"event\":\"edge-freed\",\"position\":0,\"time\":1,\"edge\":{},\"vertex\":{},\"output\":0}}",
            value(&sound[merge], "target"),
            value(&sound[merge], "target_vertex")
        ),
    );
    breaks(&directory, &changed, Rule::Merge, merge + 1);

    // Jobs and sessions.
    let discarded = find(&sound, &["\"job-discarded\""]);
    let mut changed = sound.clone();
    changed.insert(discarded + 1, sound[discarded].clone());
    breaks(&directory, &changed, Rule::Job, discarded + 1);
    let vertex = find(&sound, &["\"vertex\"", "\"name\":\"compile\""]);
    let digest = sound[vertex].split("\"vertex\":").nth(1).unwrap();
    let digest = digest.split(',').next().unwrap();
    let mut changed = sound.clone();
    changed.insert(
        vertex + 1,
        format!("{{\"event\":\"session-lent\",\"position\":0,\"time\":1,\"vertex\":{digest},\"job\":\"a\"}}"),
    );
    breaks(&directory, &changed, Rule::Session, vertex + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn results_come_from_somewhere_and_runs_have_their_inputs() {
    let (directory, sound) = lines().await;
    let answer = find(&sound, &["\"answer\"", "built"]);
    let complete = find(&sound, &["\"state\"", "\"complete\""]);

    // A request that is answered with what is not there, or without what is; a result from nowhere; a run before its inputs are there.
    let mut changed = sound.clone();
    let cancelled = find(&sound, &["\"answer\"", "\"cancelled\""]);
    changed[cancelled] = sound[cancelled].replace("\"cancelled\"", "\"built\"");
    breaks(&directory, &changed, Rule::Request, cancelled);
    let mut changed = sound.clone();
    changed[answer] = sound[answer].replace("built", "failed");
    breaks(&directory, &changed, Rule::Request, answer);
    let run = find(&sound, &["\"call-end\"", "\"exec\""]);
    let mut changed = sound.clone();
    changed.remove(run);
    breaks(&directory, &changed, Rule::Result, complete - 1);
    let has_inputs = |line: &&String| {
        let id = line.split("\"id\":").nth(1).unwrap().split(',').next();
        let vertex = format!("\"id\":{},", id.unwrap());
        sound.iter().any(|line| {
            line.starts_with("{\"event\":\"vertex\"")
                && line.contains(&vertex)
                && line.contains("\"inputs\":[[")
        })
    };
    let mut runs = sound
        .iter()
        .filter(|line| line.contains("\"call-start\"") && line.contains("\"exec\""));
    let later = runs.find(has_inputs).unwrap();
    let later = find(&sound, &[later]);
    let mut changed = sound.clone();
    let early = changed.remove(later);
    let at = run.min(later);
    changed.insert(at, early);
    breaks(&directory, &changed, Rule::Inputs, at);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_not_merge_stays_apart() {
    let (directory, sound) = lines().await;
    let merge = find(&sound, &["\"merge\""]);

    // Merges against the marks of vertices.
    let marked = |digest: &str, mark: &str| -> Vec<String> {
        let lines = sound.iter().map(|line| {
            let of = line.starts_with("{\"event\":\"vertex\"") && line.contains(digest);
            match of {
                true => line.replace('}', &format!(",\"{mark}\":true}}")),
                false => line.clone(),
            }
        });
        lines.collect()
    };
    for end in ["source_vertex", "target_vertex"] {
        let changed = marked(&value(&sound[merge], end), "never_merge");
        breaks(&directory, &changed, Rule::Merge, merge);
    }
    let changed = marked(&value(&sound[merge], "source_vertex"), "ignore_cache");
    breaks(&directory, &changed, Rule::Merge, merge);
    let changed = marked(&value(&sound[merge], "target_vertex"), "ignore_cache");
    let report = check(&directory, &changed);
    let at = merge as u64 + 1;
    assert!(
        report.violations.iter().all(|found| found.line != at),
        "{report}"
    );

    // A merge with what waits for it.
    let of = |name: &str| {
        let vertex = &sound[find(&sound, &["\"vertex\"", &format!("\"name\":\"{name}\"")])];
        vertex
            .split("\"vertex\":")
            .nth(1)
            .unwrap()
            .split(',')
            .next()
            .unwrap()
            .to_owned()
    };
    let edge_of = |vertex: &str| {
        let line = sound
            .iter()
            .find(|line| line.contains("\"edge\":") && line.contains(vertex));
        let edge = line.unwrap().split("\"edge\":").nth(1).unwrap();
        edge.split(',').next().unwrap().to_owned()
    };
    let (above, below) = (of("compile"), of("source"));
    let forged = format!(
        "{{\"event\":\"merge\",\"position\":0,\"time\":1,\"source\":{},\"source_vertex\":{above},\"source_output\":0,\
         \"target\":{},\"target_vertex\":{below},\"target_output\":0,\"reason\":\"fast-key\"}}",
        edge_of(&above),
        edge_of(&below)
    );
    let mut changed = sound.clone();
    changed.insert(merge, forged);
    let report = check(&directory, &changed);
    assert!(
        report.to_string().contains("one waits for the other"),
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn losses_times_and_ends_are_as_they_are_told() {
    let (directory, sound) = lines().await;
    let complete = find(&sound, &["\"state\"", "\"complete\""]);

    // Events that were lost are told of where they are missing; what happens later has no earlier time.
    let mut changed = sound.clone();
    let end = sound.len() - 1;
    changed[end] = sound[end].replace("\"lost\":0", "\"lost\":5");
    breaks(&directory, &changed, Rule::Line, end);
    let mut changed = sound.clone();
    let (before, time) = sound[complete].split_once("\"time\":").unwrap();
    let (time, after) = time.split_once(',').unwrap();
    let time: u64 = time.parse().unwrap();
    changed[complete] = format!("{before}\"time\":{},{after}", time - 10_000_000);
    breaks(&directory, &changed, Rule::Time, complete);

    // Something is left; a line is none; positions run backwards.
    let last = sound
        .iter()
        .rposition(|line| line.contains("\"vertex-freed\""))
        .unwrap();
    let mut changed = sound.clone();
    changed.remove(last);
    assert!(
        check(&directory, &changed)
            .violations
            .iter()
            .any(|violation| violation.rule == Rule::Empty)
    );
    let mut changed = sound.clone();
    changed[5] = "{\"event\":\"state\"".to_owned();
    breaks(&directory, &changed, Rule::Line, 5);
    let mut changed = sound.clone();
    changed.insert(
        sound.len() - 1,
        "{\"event\":\"resumed-later\",\"position\":1,\"time\":1}".to_owned(),
    );
    breaks(&directory, &changed, Rule::Position, sound.len() - 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_of_what_they_say() {
    let (directory, sound) = lines().await;
    let answer = find(&sound, &["\"answer\"", "built"]);
    let complete = find(&sound, &["\"state\"", "\"complete\""]);

    // A vertex by another's digest, an edge by another output, an answer that is none.
    let other = sound[find(&sound, &["\"vertex\"", "\"name\":\"source\""])].clone();
    let other = other.split("\"vertex\":").nth(1).unwrap();
    let other = other.split(',').next().unwrap().to_owned();
    let call = find(&sound, &["\"call-start\"", "\"exec\"", "\"task\""]);
    let own = sound[call].split("\"vertex\":").nth(1).unwrap();
    let own = own.split(',').next().unwrap().to_owned();
    let mut changed = sound.clone();
    let digest = if own == other {
        "\"sha256:77\""
    } else {
        &other
    };
    changed[call] = sound[call].replace(&own, digest);
    breaks(&directory, &changed, Rule::Ownership, call);
    let mut changed = sound.clone();
    let second = sound[complete + 1..]
        .iter()
        .position(|line| line.contains("\"output\":0"))
        .map(|at| at + complete + 1)
        .unwrap();
    changed[second] = sound[second].replace("\"output\":0", "\"output\":3");
    assert!(!check(&directory, &changed).is_good());
    let mut changed = sound.clone();
    changed[answer] = sound[answer].replace("built", "weird");
    breaks(&directory, &changed, Rule::Line, answer);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_lacks_is_noticed() {
    let (directory, sound) = lines().await;

    // It does not begin with its first line; a line is missing in it; something comes behind its last.
    let mut changed = sound.clone();
    changed.remove(0);
    breaks(&directory, &changed, Rule::Line, 0);
    let mut changed = sound.clone();
    changed.remove(find(&sound, &["\"key\""]));
    breaks(&directory, &changed, Rule::Line, sound.len() - 2);
    let mut changed = sound.clone();
    changed.push(sound[find(&sound, &["\"key\""])].clone());
    breaks(&directory, &changed, Rule::Line, sound.len());

    // Where lines are missing, what is unknown is not held against the trace.
    let mut changed = sound.clone();
    changed.drain(10..30);
    changed.insert(
        10,
        "{\"event\":\"lost\",\"position\":0,\"time\":1,\"count\":20}".to_owned(),
    );
    let report = check(&directory, &changed);
    assert!(
        report
            .limits
            .iter()
            .any(|limit| limit.contains("20 events were lost")),
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_may_begin_in_the_middle_and_the_writer_goes_on_to_another_file() {
    let directory = tempfile::tempdir().unwrap();
    let tracer = Tracer::new();
    let solver = solver(&tracer);
    let before = job(&solver, "before").await;
    before
        .solve(chain("a", &["source", "compile"]))
        .await
        .unwrap();
    for name in ["one.jsonl.zst", "two.jsonl"] {
        let file = directory.path().join(name);
        tracer.start(&file).unwrap();
        tracer.start(&file).unwrap_err();
        let during = job(&solver, name).await;
        during
            .solve(chain("a", &["source", "compile", "link"]))
            .await
            .unwrap();
        during.discard().await;
        let written = tracer.stop().unwrap().unwrap();
        assert!(written.lines > 10 && written.lost == 0, "{written:?}");
        let report = weld_trace::check(Reader::open(&file).unwrap()).unwrap();
        assert!(report.is_good(), "{report}");
        assert_eq!(report.limits, ["the trace begins in the middle"]);
        let trace = Trace::read(&file).unwrap();
        let jobs = weld_trace::jobs(&trace, &Filter::default()).unwrap().jobs;
        assert_eq!(jobs.len(), 2, "{jobs:?}");
    }
    assert!(!tracer.is_on());
    assert_eq!(tracer.stop().unwrap(), None);
    before.discard().await;
    empty(&solver).await;
}

/// A call that was cancelled may go on when the trace ends, and holds what it works for; nothing holds anything else.
#[test]
fn what_a_cancelled_call_works_for_may_be_left_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let sha = |name: char| format!("sha256:{}", name.to_string().repeat(64));
    let vertex = |id: u64, name: char, inputs: &str| {
        let digest = sha(name);
        format!(
            "\"vertex\",\"vertex\":\"{digest}\",\"id\":{id},\"name\":\"{name}\",\"inputs\":{inputs}"
        )
    };
    let (made, other) = (sha('b'), sha('c'));
    let freed = format!("\"vertex-freed\",\"vertex\":\"{other}\",\"id\":3");
    let trace = |more: &[&String]| {
        let call = format!("\"task\":7,\"vertex\":\"{made}\",\"id\":2");
        let mut events = vec![
            "\"job-opened\",\"job\":\"a\",\"session\":false".to_owned(),
            vertex(1, 'a', "[]"),
            vertex(2, 'b', "[[11,1,0]]"),
            vertex(3, 'c', "[]"),
            format!(
                "\"loaded\",\"job\":\"a\",\"edge\":12,\"vertex\":\"{made}\",\"output\":0,\"id\":2,\"vertices\":2,\"created\":3"
            ),
            format!("\"call-start\",{call},\"call\":\"cache-map\""),
            format!("\"cancel\",{call},\"cause\":\"job-discarded\""),
            "\"job-discarded\",\"job\":\"a\"".to_owned(),
        ];
        events.extend(more.iter().map(|event| (*event).clone()));
        let count = events.len();
        events.insert(0, "\"trace-start\",\"version\":1,\"weld\":\"0\"".to_owned());
        events.push(format!("\"trace-end\",\"lines\":{count},\"lost\":0"));
        let lines = events.into_iter();
        let lines: Vec<String> = lines
            .map(|event| format!("{{\"event\":{event},\"position\":0,\"time\":1}}"))
            .collect();
        check(&directory, &lines)
    };
    let report = trace(&[&freed]);
    assert!(report.is_good(), "{report}");
    assert!(report.limits[0].starts_with("1 calls"), "{report}");
    let report = trace(&[]);
    let rules: Vec<Rule> = report.violations.iter().map(|found| found.rule).collect();
    assert_eq!(rules, [Rule::Empty], "{report}");
    assert!(
        report.to_string().contains("1 vertices are left"),
        "{report}"
    );
}

#[test]
fn events_that_were_made_for_one_file_are_not_written_to_the_next() {
    use weld_solver::{TraceEvent, TraceSink, TraceStamp};
    let directory = tempfile::tempdir().unwrap();
    let tracer = Tracer::new();
    let at = TraceStamp {
        position: 1,
        micros: 1,
    };
    tracer.start(&directory.path().join("one.jsonl")).unwrap();
    let first = tracer.recording();
    tracer.event(first, at, TraceEvent::Resumed);
    assert_eq!(tracer.stop().unwrap().unwrap().lines, 1);

    tracer.start(&directory.path().join("two.jsonl")).unwrap();
    tracer.event(first, at, TraceEvent::Resumed);
    tracer.event(0, at, TraceEvent::Resumed);
    assert_eq!(tracer.stop().unwrap().unwrap().lines, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_cut_off_is_read_to_where_it_ends() {
    let (directory, sound) = lines().await;
    let file = directory.path().join("cut.jsonl");
    let text = sound.join("\n");
    std::fs::write(&file, &text[..text.len() / 2]).unwrap();
    let summary = weld_trace::summary(Reader::open(&file).unwrap()).unwrap();
    assert!(!summary.ended && summary.events > 10 && summary.malformed == 0);
    let mut packed = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    for line in &sound {
        packed.write_all(format!("{line}\n").as_bytes()).unwrap();
        packed.flush().unwrap();
    }
    let packed = packed.finish().unwrap();
    std::fs::write(&file, &packed[..packed.len() / 2]).unwrap();
    let summary = weld_trace::summary(Reader::open(&file).unwrap()).unwrap();
    assert!(!summary.ended);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_find_no_room_are_counted_and_said() {
    use weld_solver::{TraceEvent, TraceSink, TraceStamp};
    let directory = tempfile::tempdir().unwrap();
    // Nobody reads this pipe until all has been sent: the writer is stuck, the sender is not.
    let pipe = directory.path().join("pipe");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let tracer = Tracer::new();
    let opened = std::thread::spawn({
        let pipe = pipe.clone();
        move || std::fs::File::open(pipe).unwrap()
    });
    tracer.start(&pipe).unwrap();
    let mut reader = opened.join().unwrap();
    const SENT: u64 = 2_000_000;
    for position in 1..=SENT {
        let at = TraceStamp {
            position,
            micros: position,
        };
        tracer.event(tracer.recording(), at, TraceEvent::Resumed);
    }
    let read = std::thread::spawn(move || {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
        text
    });
    let written = tracer.stop().unwrap().unwrap();
    let text = read.join().unwrap();
    assert!(written.lost > 0);
    assert_eq!(written.lines + written.lost, SENT);
    let said: u64 = text
        .lines()
        .filter(|line| line.contains("\"event\":\"lost\""))
        .map(|line| {
            line.split("\"count\":")
                .nth(1)
                .unwrap()
                .trim_end_matches('}')
                .parse::<u64>()
                .unwrap()
        })
        .sum();
    assert_eq!(said, written.lost);
}
