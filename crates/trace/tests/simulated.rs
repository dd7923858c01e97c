//! Traces of simulated builds, with everything that can happen to them: all of them pass, and each of these mistakes is found in some.
#![allow(clippy::unwrap_used, reason = "helpers may fail their test")]

mod support;

use support::bed::{Bed, STEPS, field, found, has, is, one_out, with, without};
use weld_trace::Rule;

fn seeds() -> u64 {
    let seeds = std::env::var("WELD_TEST_SEEDS").ok();
    seeds.and_then(|seeds| seeds.parse().ok()).unwrap_or(300)
}

#[test]
fn whole_traces_and_late_ones_are_sound() {
    let bed = Bed::new();
    for seed in 1..=seeds() {
        for begins in [0, 1 + seed as usize % STEPS as usize] {
            let lines = bed.lines(seed, begins);
            let report = bed.check(lines);
            assert!(
                report.is_good(),
                "seed {seed} from step {begins}:\n{report}"
            );
        }
    }
}

#[test]
fn traces_that_lack_lines_and_say_so_are_sound() {
    let bed = Bed::new();
    for seed in 1..=seeds() {
        let mut lines = bed.lines(seed, 0);
        let count = 1 + seed as usize % 60;
        let from = 1 + (seed as usize * 7919) % (lines.len().saturating_sub(count + 2).max(1));
        let to = (from + count).min(lines.len() - 1);
        let lost = to - from;
        let position = field(&lines[to], "position").unwrap();
        let time = field(&lines[to], "time").unwrap();
        let line = format!("{{\"event\":\"lost\",{position},{time},\"count\":{lost}}}");
        lines.splice(from..to, [line]);
        let (end, count) = (lines.len() - 1, lines.len() - 3);
        let told = field(&lines[end], "lines").unwrap();
        lines[end] = lines[end]
            .replace(&told, &format!("\"lines\":{count}"))
            .replace("\"lost\":0", &format!("\"lost\":{lost}"));
        let report = bed.check_as_is(&lines);
        assert!(
            report.is_good(),
            "seed {seed} without lines from {from} to {to}:\n{report}"
        );
    }
}

#[test]
fn calls_that_are_told_to_have_failed_are_noticed() {
    for call in ["cache-map", "slow-key", "preprocess"] {
        let call = format!("\"call\":\"{call}\"");
        let change = |lines: &[String], at: usize| {
            let line = &lines[at];
            let good = is(line, "call-end") && has(line, &call) && !has(line, "\"error\"");
            let end = format!(
                "{},\"error\":\"told to fail\"}}",
                line.trim_end_matches('}')
            );
            good.then(|| with(lines, at, end))
        };
        let (found, all) = found(change, &[Rule::Cause]);
        assert_eq!(found, all, "{call}");
    }
}

#[test]
fn a_second_cache_map_of_what_has_inputs_is_noticed() {
    let change = |lines: &[String], at: usize| {
        let line = &lines[at];
        let id = format!("{},", field(line, "id")?);
        let ends = is(line, "call-end") && has(line, "\"cache-map\"") && !has(line, "\"error\"");
        let made = |line: &&String| is(line, "vertex") && has(line, &id);
        let has_inputs = lines.iter().find(made)?.contains("\"inputs\":[[");
        let task = format!("{},", field(line, "task")?);
        let starts = |line: &&String| is(line, "call-start") && has(line, &task);
        let start = lines[..at].iter().rfind(starts)?;
        let again = start.replace(&task, "\"task\":1,");
        let end = line.replace(&task, "\"task\":1,");
        (ends && has_inputs).then(|| {
            let mut lines = lines.to_vec();
            lines.splice(at + 1..at + 1, [again, end]);
            lines
        })
    };
    let (found, all) = found(change, &[Rule::Call]);
    assert_eq!(found, all);
}

#[test]
fn what_runs_without_a_cache_map_is_noticed() {
    let change = |lines: &[String], at: usize| {
        let line = &lines[at];
        let runs = is(line, "call-start") && has(line, "\"call\":\"exec\"");
        let id = format!("{},", field(line, "id")?);
        runs.then(|| {
            without(lines, |line| {
                has(line, "\"cache-map\"") && has(line, &id)
                    || is(line, "cancel") && has(line, &id)
                    || is(line, "dropped") && has(line, &id)
            })
        })
    };
    let (found, all) = found(change, &[Rule::CacheMap]);
    assert_eq!(found, all);
}

#[test]
fn keys_and_queries_that_are_left_out_are_noticed() {
    // An edge may have several keys.
    let change = |lines: &[String], at: usize| {
        let edge = format!("{},", field(&lines[at], "edge")?);
        let key = |line: &str| is(line, "key") && has(line, &edge);
        let first = lines.iter().position(|line| key(line)) == Some(at);
        let merged = lines
            .iter()
            .any(|line| is(line, "merge") && has(line, &edge.replace("edge", "target")));
        let rises = lines
            .iter()
            .any(|line| is(line, "state") && has(line, &edge));
        (first && rises && !merged).then(|| without(lines, key))
    };
    let (keys, all) = found(change, &[Rule::Lookup]);
    assert_eq!(keys, all);
    let change = |lines: &[String], at: usize| {
        let edge = format!("{},", field(&lines[at], "edge")?);
        let loads = is(&lines[at], "load-start");
        let merged = lines
            .iter()
            .any(|line| is(line, "merge") && has(line, &edge.replace("edge", "target")));
        (loads && !merged).then(|| without(lines, |line| is(line, "query") && has(line, &edge)))
    };
    let (queries, all) = found(change, &[Rule::Lookup]);
    assert_eq!(queries, all);
}

#[test]
fn cancelled_calls_and_discarded_jobs_have_their_lines() {
    let change = |lines: &[String], at: usize| {
        let task = field(&lines[at], "task")?;
        let later = lines[at..]
            .iter()
            .any(|line| is(line, "dropped") && has(line, &format!("{task},")));
        (is(&lines[at], "cancel") && later).then(|| one_out(lines, at))
    };
    let (cancels, all) = found(change, &[Rule::Call]);
    assert_eq!(cancels, all);
    // A job that loaded nothing holds nothing.
    let change = |lines: &[String], at: usize| {
        let job = field(&lines[at], "job")?;
        let loaded = lines
            .iter()
            .any(|line| is(line, "loaded") && has(line, &job));
        (is(&lines[at], "job-discarded") && loaded).then(|| one_out(lines, at))
    };
    let (discards, all) = found(change, &[Rule::Cause]);
    assert_eq!(discards, all);
}

#[test]
fn vertices_have_their_inputs() {
    let change = |lines: &[String], at: usize| {
        let line = &lines[at];
        let (before, rest) = line.split_once("\"inputs\":[[")?;
        let (_, after) = rest.split_once("]]")?;
        is(line, "vertex").then(|| with(lines, at, format!("{before}\"inputs\":[]{after}")))
    };
    let (found, all) = found(change, &[Rule::Graph]);
    // Another vertex may have the same inputs.
    assert!(found * 4 >= all * 3, "{found} of {all}");
}

#[test]
fn failed_and_cancelled_are_told_apart() {
    for (one, other) in [("failed", "cancelled"), ("cancelled", "failed")] {
        let change = |lines: &[String], at: usize| {
            let line = &lines[at];
            let request = format!("{},", field(line, "request")?);
            let of_job = lines
                .iter()
                .any(|line| is(line, "request") && has(line, &request) && has(line, "\"job\":"));
            let outcome = format!("\"outcome\":\"{one}\"");
            let changed = line.replace(&outcome, &format!("\"outcome\":\"{other}\""));
            (is(line, "answer") && has(line, &outcome) && of_job).then(|| with(lines, at, changed))
        };
        let (found, all) = found(change, &[Rule::Cause]);
        assert_eq!(found, all, "{one}");
    }
}

#[test]
fn what_is_not_equal_does_not_merge() {
    let change = |lines: &[String], at: usize| {
        let line = &lines[at];
        let output = field(line, "source_output")?;
        let other = line.replace(&output, "\"source_output\":7");
        is(line, "merge").then(|| with(lines, at, other))
    };
    let (outputs, all) = found(change, &[Rule::Merge]);
    assert_eq!(outputs, all);
    // The operation of a vertex with inputs that merged is told to be another one.
    let change = |lines: &[String], at: usize| {
        let line = &lines[at];
        let digest = field(line, "digest")?;
        let vertex = format!("{},", field(line, "vertex")?);
        let owner = vertex.replace("vertex", "source_vertex");
        let made = |line: &&String| is(line, "vertex") && has(line, &vertex);
        let mut named = lines.iter().filter(made);
        let has_inputs = named.next()?.contains("\"inputs\":[[") && named.next().is_none();
        let merges = lines
            .iter()
            .any(|line| is(line, "merge") && has(line, &owner));
        let first = is(line, "call-end") && has(line, "\"call\":\"cache-map\"");
        let other = line.replace(&digest, &format!("\"digest\":\"{}\"", "0".repeat(64)));
        (first && has_inputs && merges).then(|| with(lines, at, other))
    };
    let (operations, all) = found(change, &[Rule::Merge]);
    assert_eq!(operations, all);
}
