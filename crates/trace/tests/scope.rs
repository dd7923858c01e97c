//! What is told of a job is of its time and its own; what names nothing, or not one thing, is an error.
#![allow(clippy::unwrap_used, reason = "helpers may fail their test")]

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use support::written::Written;
use tempfile::TempDir;
use weld_trace::{Filter, FilterError, Reader, Summary, Trace};

/// Ten seconds. The job `abc1` is there from 2 s to 4 s, and what another job does is merged into what it does.
fn trace(directory: &TempDir) -> PathBuf {
    let mut trace = Written::default();
    trace.opened(0, "abd2");
    trace.vertex(0, 'w', "");
    trace.loaded(0, "abd2", 'w');
    trace.call((0, 1_500), 'w', "exec");
    trace.opened(2_000, "abc1");
    trace.vertex(2_000, 'x', "w");
    trace.loaded(2_000, "abc1", 'x');
    trace.call((2_000, 3_000), 'x', "exec");
    trace.vertex(2_500, 'y', "");
    trace.loaded(2_500, "abd2", 'y');
    trace.merge(2_600, 'y', 'x');
    trace.request((2_000, 3_000), "abc1", 'x', "built");
    trace.discarded(4_000, "abc1");
    trace.vertex(5_000, 'z', "x");
    trace.loaded(5_000, "abd2", 'z');
    trace.state(9_000, 'x', "cache-slow");
    trace.discarded(10_000, "abd2");
    trace.write(directory)
}

fn of_job(job: &str) -> Filter {
    Filter {
        job: Some(job.to_owned()),
        ..Filter::default()
    }
}

fn summary(file: &Path, filter: &Filter) -> Result<Summary, FilterError> {
    let trace = Trace::read(file).unwrap();
    let selection = trace.select(filter)?;
    Ok(weld_trace::summary_of(Reader::open(file).unwrap(), &selection).unwrap())
}

#[test]
fn a_job_has_its_own_time() {
    let directory = tempfile::tempdir().unwrap();
    let file = trace(&directory);
    let told = summary(&file, &of_job("abc1")).unwrap();
    assert_eq!(told.micros, 2_000_000, "{told}");
    assert_eq!((told.jobs, told.vertices), (1, 2), "{told}");
    let trace = Trace::read(&file).unwrap();
    let timeline = weld_trace::timeline(&trace, &of_job("abc1")).unwrap();
    assert_eq!((timeline.from, timeline.seconds), (2.0, 2.0));
    let names: Vec<_> = timeline.vertices.iter().map(|entry| &entry.name).collect();
    assert_eq!(names, ["x"], "the other one ended before");
    let bar = format!("│{}{}│", "█".repeat(20), " ".repeat(20));
    assert!(timeline.to_string().contains(&bar), "{timeline}");
    let page = weld_trace::html(&trace, &of_job("abc1")).unwrap();
    assert!(page.contains("\"from\":2.0,\"to\":4.0"));

    // Together with other times.
    let late = Filter {
        since: Some(Duration::from_millis(2_750)),
        ..of_job("abc1")
    };
    assert_eq!(summary(&file, &late).unwrap().micros, 1_000_000);
    let timeline = weld_trace::timeline(&trace, &late).unwrap();
    assert_eq!((timeline.from, timeline.seconds), (2.75, 1.25));
    let bar = format!("│{}{}│", "█".repeat(8), " ".repeat(32));
    assert!(timeline.to_string().contains(&bar), "{timeline}");
}

#[test]
fn merges_of_a_job_are_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let file = trace(&directory);
    let trace = Trace::read(&file).unwrap();
    for (job, count) in [("abc1", 0), ("abd2", 1)] {
        let merges = weld_trace::merges(&trace, &of_job(job)).unwrap();
        assert_eq!(merges.merges.len(), count, "{merges}");
        let told = summary(&file, &of_job(job)).unwrap();
        assert_eq!(told.merges.values().sum::<u64>(), count as u64, "{told}");
    }
    // Of a vertex, either side is.
    let named = Filter {
        name: Some("X".to_owned()),
        ..Filter::default()
    };
    let merges = weld_trace::merges(&trace, &named).unwrap();
    assert_eq!(merges.merges.len(), 1);
}

#[test]
fn a_job_is_known_by_the_beginning_of_its_id() {
    let directory = tempfile::tempdir().unwrap();
    let file = trace(&directory);
    let trace = Trace::read(&file).unwrap();
    let job = |id: &str| weld_trace::jobs(&trace, &of_job(id)).map(|jobs| jobs.jobs[0].job.clone());
    assert_eq!(job("abc").unwrap(), "abc1");
    assert_eq!(job("abd2").unwrap(), "abd2");
    let path = weld_trace::critical_path(&trace, &of_job("abc")).unwrap();
    assert_eq!(path.job.as_deref(), Some("abc1"));
    assert_eq!(
        summary(&file, &of_job("abc")).unwrap(),
        summary(&file, &of_job("abc1")).unwrap()
    );
    let error = job("ab").unwrap_err().to_string();
    assert!(error.contains("abc1, abd2"), "{error}");
    for nobody in ["abc12", "bc1", ""] {
        let error = job(nobody).unwrap_err();
        assert_eq!(error, FilterError::NoJob(nobody.to_owned()));
    }
}

#[test]
fn filters_that_nothing_can_pass_are_errors() {
    let directory = tempfile::tempdir().unwrap();
    let file = trace(&directory);
    let trace = Trace::read(&file).unwrap();
    let wrong = |filter: &Filter| {
        let error = summary(&file, filter).unwrap_err();
        assert_eq!(weld_trace::timeline(&trace, filter), Err(error.clone()));
        error.to_string()
    };
    let times = |since: u64, until: u64| Filter {
        since: Some(Duration::from_millis(since)),
        until: Some(Duration::from_millis(until)),
        ..Filter::default()
    };
    let error = wrong(&times(400, 300));
    assert!(
        error.contains("400ms") && error.contains("300ms"),
        "{error}"
    );
    summary(&file, &times(400, 400)).unwrap();
    summary(&file, &times(10_000, 20_000)).unwrap();
    let error = wrong(&times(10_001, 20_000));
    assert!(
        error.contains("10.001s") && error.contains("10s"),
        "{error}"
    );
    let before = Filter {
        job: Some("abc1".to_owned()),
        ..times(100, 300)
    };
    let error = wrong(&before);
    assert!(error.contains("abc1"), "{error}");
    let nothing = Filter {
        vertex: Some("zzz0".to_owned()),
        ..Filter::default()
    };
    assert!(wrong(&nothing).contains("zzz0"));
    // A name may be in none: then answers say so.
    let unnamed = Filter {
        name: Some("nothing".to_owned()),
        ..Filter::default()
    };
    summary(&file, &unnamed).unwrap_err();
    weld_trace::timeline(&trace, &unnamed).unwrap();
}
