//! Traces of simulated builds that somebody changed by hand: what they tell cannot have happened.
#![allow(clippy::unwrap_used, reason = "helpers may fail their test")]

mod support;

use std::collections::HashMap;

use support::bed::{Bed, field, found, has, is, one_out, with, without};
use weld_trace::Rule;

/// The line at `from` is told at the place of the one at `to`, at the same position and time.
fn moved(lines: &[String], from: usize, to: usize) -> Vec<String> {
    let mut lines = lines.to_vec();
    let mut line = lines.remove(from);
    for name in ["position", "time"] {
        let (own, other) = (
            field(&line, name).unwrap(),
            field(&lines[to], name).unwrap(),
        );
        line = line.replace(&own, &other);
    }
    lines.insert(to, line);
    lines
}

/// The place before `at` of the last line of this kind that has all of the parts.
fn before(lines: &[String], at: usize, event: &str, parts: &[&str]) -> Option<usize> {
    let fits = |line: &String| is(line, event) && parts.iter().all(|part| has(line, part));
    lines[..at].iter().rposition(fits)
}

fn behind(lines: &[String], at: usize, event: &str, parts: &[&str]) -> Option<usize> {
    let fits = |line: &String| is(line, event) && parts.iter().all(|part| has(line, part));
    lines[at + 1..]
        .iter()
        .position(fits)
        .map(|found| at + 1 + found)
}

#[test]
fn a_job_that_is_discarded_hears_of_no_result() {
    let change = |lines: &[String], at: usize| {
        let request = format!("{},", field(&lines[at], "request")?);
        let asked = before(lines, at, "request", &[&request, "\"job\":"])?;
        let job = field(&lines[asked], "job")?;
        let discarded = behind(lines, at, "job-discarded", &[&job])?;
        let built = is(&lines[at], "answer") && has(&lines[at], "built");
        (built && at > asked + 1).then(|| moved(lines, discarded, asked + 1))
    };
    let (found, all) = found(change, &[Rule::Job]);
    assert_eq!(found, all);
}

#[test]
fn work_does_not_go_on_for_discarded_jobs_alone() {
    // All that was open is discarded while a call runs that ends well.
    let change = |lines: &[String], at: usize| {
        let line = &lines[at];
        let task = format!("{},", field(line, "task")?);
        let good = is(line, "call-end") || is(line, "load-end");
        let start = lines[..at]
            .iter()
            .rposition(|line| line.contains("-start\"") && has(line, &task))?;
        if !good || at < start + 2 {
            return None;
        }
        let before_start = &lines[..start];
        let opened = |job: &str| {
            let opened = |line: &String| is(line, "job-opened") && has(line, job);
            before_start.iter().any(opened)
        };
        let mut lines = lines.to_vec();
        for at in at..lines.len() {
            let job = field(&lines[at], "job").filter(|_| is(&lines[at], "job-discarded"));
            if job.is_some_and(|job| opened(&job)) {
                lines = moved(&lines, at, start + 1);
            }
        }
        // As if nobody had asked for anything.
        Some(without(&lines, |line| {
            is(line, "request") || is(line, "answer")
        }))
    };
    let (found, all) = found(change, &[Rule::Job]);
    // A job may have been opened meanwhile, and share it.
    assert!(found * 20 >= all * 19, "{found} of {all}");
}

#[test]
fn what_only_a_discarded_job_reached_goes_with_it() {
    // The last job is discarded earlier than told, while nothing happens.
    let change = |lines: &[String], at: usize| {
        let line = &lines[at];
        let job = field(line, "job")?;
        let last = behind(lines, at, "job-discarded", &[]).is_none();
        let opened = before(lines, at, "loaded", &[&job]);
        let position = field(line, "position")?;
        let other = lines[..at].iter().rposition(|line| !has(line, &position))?;
        let quiet = ["job-opened", "call-end", "answer"];
        let to = quiet.iter().any(|event| is(&lines[other], event));
        (is(line, "job-discarded") && last && to && opened? < other)
            .then(|| moved(lines, at, other))
    };
    let (found, all) = found(change, &[Rule::Job, Rule::Empty, Rule::Cause]);
    assert_eq!(found, all);
}

#[test]
fn steps_on_inputs_end_before_the_run_begins_and_the_vertex_goes() {
    for call in ["slow-key", "preprocess"] {
        let of = |lines: &[String], at: usize| {
            let line = &lines[at];
            let ends = is(line, "call-end") && has(line, call) && !has(line, "error");
            let id = format!("{},", field(line, "id")?);
            ends.then_some(id)
        };
        let change = |lines: &[String], at: usize| {
            let id = of(lines, at)?;
            let run = behind(lines, at, "call-start", &[&id, "\"exec\""])?;
            let lost = lines[at..run].iter().any(|line| is(line, "result-lost"));
            (!lost).then(|| moved(lines, at, run))
        };
        let (runs, all) = found(change, &[Rule::Inputs]);
        assert_eq!(runs, all, "{call}");
        let change = |lines: &[String], at: usize| {
            let id = of(lines, at)?;
            let id = id.replace(',', "}");
            let freed = behind(lines, at, "vertex-freed", &[&id])?;
            Some(moved(lines, at, freed))
        };
        let (freed, all) = found(change, &[Rule::Ownership]);
        assert_eq!(freed, all, "{call}");
    }
}

#[test]
fn states_are_told_before_what_needs_them() {
    let word = |state: &str| format!("\"state\":\"{state}\"");
    let made = |lines: &[String], line: &str| -> Option<String> {
        let digest = format!("{},", field(line, "vertex")?);
        let vertex = lines
            .iter()
            .find(|line| is(line, "vertex") && has(line, &digest));
        vertex.cloned()
    };
    // The next state of the same edge has the one before it.
    let change = |lines: &[String], at: usize| {
        let line = &lines[at];
        let edge = format!("{},", field(line, "edge")?);
        let next = behind(lines, at, "state", &[&edge])?;
        let slow = has(&lines[next], &word("cache-slow"));
        let inputs = has(&made(lines, line)?, "\"inputs\":[[");
        let fast = is(line, "state") && has(line, &word("cache-fast"));
        (fast && slow && inputs).then(|| one_out(lines, at))
    };
    let (fast, all) = found(change, &[Rule::StateOrder]);
    assert_eq!(fast, all);
    // So has a load, and a run of a vertex with no other edge.
    for event in ["load-start", "call-start"] {
        let change = |lines: &[String], at: usize| {
            let line = &lines[at];
            let vertex = format!("{},", field(line, "vertex")?);
            let edges = lines.iter().filter(|line| {
                is(line, "state") && has(line, &vertex) && has(line, &word("cache-slow"))
            });
            let alone = edges.count() == 1;
            let works = is(line, event) && (event == "load-start" || has(line, "\"exec\""));
            let slow = before(lines, at, "state", &[&vertex, &word("cache-slow")])?;
            let lost = lines[slow..at].iter().any(|line| is(line, "result-lost"));
            (works && alone && !lost).then(|| one_out(lines, slow))
        };
        let (slow, all) = found(change, &[Rule::StateOrder]);
        assert_eq!(slow, all, "{event}");
    }
    // A step on the result of an input comes after cache-fast.
    let change = |lines: &[String], at: usize| {
        let line = &lines[at];
        let vertex = format!("{},", field(line, "vertex")?);
        let step = is(line, "call-start") && has(line, "\"input\":");
        let of_it = |line: &str| is(line, "state") && has(line, &vertex);
        let told = lines[..at].iter().any(|line| of_it(line));
        (step && told).then(|| without(lines, of_it))
    };
    let (steps, all) = found(change, &[Rule::StateOrder]);
    assert_eq!(steps, all);
}

/// Also where nothing came of it.
#[test]
fn no_state_is_missed() {
    for state in ["cache-fast", "cache-slow", "complete"] {
        let change = |lines: &[String], at: usize| {
            let line = &lines[at];
            let edge = format!("{},", field(line, "edge")?);
            let source = edge.replace("edge", "source");
            let told = is(line, "state") && has(line, &format!("\"state\":\"{state}\""));
            // What forwards in the end is only as far as the other one.
            let merged = behind(lines, at, "merge", &[&source]).is_some();
            let freed = behind(lines, at, "edge-freed", &[&edge]).is_some();
            // What another output is made for makes all of them, however far they came.
            let (vertex, output) = (field(line, "vertex")?, field(line, "output")?);
            let of_other = |line: &String| {
                has(line, &vertex) && field(line, "output").is_some_and(|other| other != output)
            };
            let alone = state != "cache-slow" || !lines.iter().any(of_other);
            (told && freed && !merged && alone).then(|| one_out(lines, at))
        };
        let (found, all) = found(change, &[Rule::StateOrder, Rule::Lookup, Rule::Result]);
        assert_eq!(found, all, "{state}");
    }
}

#[test]
fn jobs_ask_for_what_they_loaded() {
    let change = |lines: &[String], at: usize| {
        let line = &lines[at];
        let job = field(line, "job")?;
        // A job that loaded nothing may not ask for anything.
        let open = lines[..at].iter().filter(|line| is(line, "job-opened"));
        let mut others = open.filter_map(|line| field(line, "job"));
        let idle = others.find(|other| {
            let loads = |line: &String| is(line, "loaded") && has(line, other);
            let gone = |line: &String| is(line, "job-discarded") && has(line, other);
            *other != job && !lines[..at].iter().any(|line| loads(line) || gone(line))
        });
        let idle = idle.filter(|_| is(line, "request"))?;
        Some(with(lines, at, line.replace(&job, &idle)))
    };
    let (found, all) = found(change, &[Rule::Job]);
    assert_eq!(found, all);
}

#[test]
fn merges_are_refused_for_reasons_that_are_there() {
    const REASONS: [&str; 5] = [
        "never-merge",
        "ignore-cache",
        "ancestor",
        "both-complete",
        "a-whim",
    ];
    for reason in REASONS {
        let change = |lines: &[String], at: usize| {
            let line = &lines[at];
            let told = field(line, "reason")?;
            let other = format!("\"reason\":\"{reason}\"");
            let refused = is(line, "merge-refused") && told != other;
            // Of two that ignore the cache differently, one may also wait for the other.
            let both = told.contains("ancestor") && reason == "ignore-cache"
                || told.contains("ignore-cache") && reason == "ancestor";
            (refused && !both).then(|| with(lines, at, line.replace(&told, &other)))
        };
        let (found, all) = found(change, &[Rule::Merge, Rule::Line]);
        assert_eq!(found, all, "{reason}");
    }
}

#[test]
fn what_has_no_inputs_does_not_merge_by_their_content() {
    let change = |lines: &[String], at: usize| {
        let line = &lines[at];
        let source = field(line, "source_vertex")?.replace("source_vertex", "vertex");
        let made = |line: &&String| is(line, "vertex") && has(line, &source);
        let has_none = has(lines.iter().find(made)?, "\"inputs\":[]");
        let told = is(line, "merge") && has(line, "fast-key");
        (told && has_none).then(|| with(lines, at, line.replace("fast-key", "slow-key")))
    };
    let (found, all) = found(change, &[Rule::Merge]);
    assert_eq!(found, all);
}

#[test]
fn sessions_are_lent_to_calls() {
    let change = |lines: &[String], at: usize| {
        let line = &lines[at];
        let vertex = format!("{},", field(line, "vertex")?);
        let ends = |line: &str| {
            (is(line, "call-end") || is(line, "dropped") || is(line, "cancel"))
                && has(line, &vertex)
        };
        // Behind the end of all calls of it, and before anything else begins for it.
        let end = (at..lines.len()).find(|at| ends(&lines[*at]))?;
        let begun = |line: &String| line.contains("-start\"") && has(line, &vertex);
        let running = lines[..=end].iter().filter(|line| begun(line)).count();
        let ended = |line: &&String| {
            (is(line, "call-end")
                || is(line, "dropped")
                || is(line, "load-end")
                || is(line, "load-failed"))
                && has(line, &vertex)
        };
        let ended = lines[..=end].iter().filter(ended).count();
        (is(line, "session-lent") && running == ended).then(|| moved(lines, at, end))
    };
    let (found, all) = found(change, &[Rule::Session]);
    assert_eq!(found, all);
}

#[test]
fn records_are_hits() {
    let change = |lines: &[String], at: usize| {
        let line = &lines[at];
        let found = is(line, "query") && !has(line, "\"records\":0");
        found.then(|| with(lines, at, line.replace("\"hit\":true", "\"hit\":false")))
    };
    let (found, all) = found(change, &[Rule::Lookup]);
    assert_eq!(found, all);
}

#[test]
fn calls_are_of_one_vertex_from_beginning_to_end() {
    for event in ["cancel", "dropped", "call-end"] {
        let change = |lines: &[String], at: usize| {
            let line = &lines[at];
            let name = |line: &str| Some((field(line, "vertex")?, field(line, "id")?));
            let (vertex, id) = name(line).filter(|_| is(line, event))?;
            let mut others = lines.iter().filter(|line| is(line, "vertex"));
            let other = others.find(|line| !has(line, &vertex))?;
            let (other, number) = name(other)?;
            let changed = line.replace(&vertex, &other).replace(&id, &number);
            Some(with(lines, at, changed))
        };
        let (found, all) = found(change, &[Rule::Call, Rule::Ownership]);
        assert_eq!(found, all, "{event}");
    }
    // A load is of one edge.
    let change = |lines: &[String], at: usize| {
        let line = &lines[at];
        let edge = field(line, "edge")?;
        let other = format!("\"edge\":{}", 1_u64 << 40);
        is(line, "load-end").then(|| with(lines, at, line.replace(&edge, &other)))
    };
    let (found, all) = found(change, &[Rule::Call]);
    assert_eq!(found, all);
}

#[test]
fn numbers_are_used_once() {
    // Of a call that runs, of one that has ended, and of a vertex that was freed.
    for ended in [true, false] {
        let change = |lines: &[String], at: usize| {
            let line = &lines[at];
            let task = field(line, "task").filter(|_| line.contains("-start\""))?;
            let begun = |line: &&String| line.contains("-start\"");
            let mut others = lines[..at].iter().filter(begun);
            let other = others.find_map(|line| {
                let other = field(line, "task")?;
                let end = |line: &String| {
                    !line.contains("-start\"")
                        && !is(line, "cancel")
                        && has(line, &format!("{other},"))
                };
                (lines[..at].iter().any(end) == ended).then_some(other)
            })?;
            let changed = lines.iter().map(|line| {
                let own = has(line, &format!("{task},"));
                match own {
                    true => line.replace(&task, &other),
                    false => line.clone(),
                }
            });
            Some(changed.collect())
        };
        let (found, all) = found(change, &[Rule::Call]);
        assert_eq!(found, all, "{ended}");
    }
    let change = |lines: &[String], at: usize| {
        let line = &lines[at];
        let id = field(line, "id").filter(|_| is(line, "vertex"))?;
        let freed = lines[..at].iter().find(|line| is(line, "vertex-freed"))?;
        let other = field(freed, "id")?;
        Some(with(lines, at, line.replace(&id, &other)))
    };
    let (found, all) = found(change, &[Rule::Ownership]);
    assert_eq!(found, all);
}

/// Fields that some lines of an event have and others have not.
fn may_lack(event: &str, field: &str, line: &HashMap<String, serde_json::Value>) -> bool {
    match (event, field) {
        ("vertex", "ignore_cache" | "never_merge") => true,
        ("query", "input") => true,
        ("call-start", "actor") => true,
        ("call-end", "digest") => line["call"] == "slow-key",
        _ => false,
    }
}

#[test]
fn a_field_that_lacks_is_noticed() {
    let bed = Bed::new();
    let mut seen: HashMap<(String, String), u32> = HashMap::new();
    for seed in 1..=150 {
        let lines = bed.lines(seed, 0);
        for at in 1..lines.len() - 1 {
            let line: HashMap<String, serde_json::Value> =
                serde_json::from_str(&lines[at]).unwrap();
            let event = line["event"].as_str().unwrap().to_owned();
            for field in line.keys() {
                let tried = seen.entry((event.clone(), field.clone())).or_default();
                if *tried == 3 || may_lack(&event, field, &line) {
                    continue;
                }
                *tried += 1;
                let mut changed = line.clone();
                changed.remove(field);
                let changed = serde_json::to_string(&changed).unwrap();
                let report = bed.check(with(&lines, at, changed.clone()));
                let found = |found: &weld_trace::Violation| found.line == at as u64 + 1;
                let noticed = report.violations.iter().any(found);
                assert!(noticed, "{field} lacks in {changed}:\n{report}");
            }
        }
    }
    let events: std::collections::HashSet<_> = seen.keys().map(|(event, _)| event).collect();
    assert!(events.len() > 20, "{events:?}");
}
