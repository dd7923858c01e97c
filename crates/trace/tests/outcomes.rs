//! What a step is called that got no result.
#![allow(clippy::unwrap_used, reason = "helpers may fail their test")]

mod support;

use support::written::{Written, digest};
use weld_trace::{Filter, Trace};

/// `z` is made of `f` and `c`, `f` of `s`, and `c`, which is found, of `b`. `s` runs.
fn begun() -> Written {
    let mut trace = Written::default();
    trace.opened(0, "job");
    for (name, inputs) in [('s', ""), ('f', "s"), ('b', ""), ('c', "b"), ('z', "fc")] {
        trace.vertex(0, name, inputs);
        trace.call((1, 10), name, "cache-map");
    }
    trace.vertex(0, 'u', "");
    trace.loaded(0, "job", 'z');
    trace.found(10, 'c');
    trace.call((10, 20), 's', "exec");
    trace
}

fn outcome(trace: &Trace, name: char) -> &'static str {
    weld_trace::vertex(trace, &digest(name)).unwrap().lives[0].outcome
}

fn outcomes(trace: &Trace) -> [&'static str; 6] {
    ['s', 'f', 'b', 'c', 'z', 'u'].map(|name| outcome(trace, name))
}

#[test]
fn what_a_failure_or_a_cancellation_kept_from_running_was_not_reached() {
    for (end, call, own) in [
        ("failed", Some("exec!"), "failed"),
        ("cancelled", None, "unreached"),
    ] {
        let mut trace = begun();
        if let Some(call) = call {
            trace.call((20, 50), 'f', call);
        }
        trace.request((1, 50), "job", 'z', end);
        trace.discarded(60, "job");
        let trace = trace.read();
        let told = ["ran", own, "not-needed", "unreached", "unreached"];
        assert_eq!(outcomes(&trace)[..5], told);
        assert_eq!(outcomes(&trace)[5], "untouched", "nobody asked for it");
        let why = weld_trace::why(&trace, None, &digest('z')).unwrap();
        assert!(why.reasons[0].contains("not reached"), "{why}");
        let path = weld_trace::critical_path(&trace, &Filter::default()).unwrap();
        assert_eq!(path.steps.last().unwrap().outcome, "unreached");
    }
}

#[test]
fn what_a_build_did_without_was_not_needed() {
    let mut trace = begun();
    trace.call((20, 50), 'f', "exec");
    trace.call((50, 60), 'c', "load");
    trace.call((60, 70), 'z', "exec");
    trace.request((1, 70), "job", 'z', "built");
    trace.discarded(80, "job");
    let told = ["ran", "ran", "not-needed", "cached", "ran", "untouched"];
    assert_eq!(outcomes(&trace.read()), told);
}

/// What another build came to later was not reached by the one that had gone.
#[test]
fn a_path_that_led_to_a_failure_did_not_reach_what_others_reached() {
    let mut trace = begun();
    trace.call((20, 50), 'f', "exec!");
    trace.request((1, 50), "job", 'z', "failed");
    trace.call((100, 110), 'f', "exec");
    trace.call((110, 120), 'c', "load");
    trace.call((120, 130), 'z', "exec");
    trace.opened(60, "other");
    trace.loaded(60, "other", 'z');
    trace.request((100, 130), "other", 'z', "built");
    let trace = trace.read();
    let of_job = Filter {
        job: Some("job".to_owned()),
        ..Filter::default()
    };
    let path = weld_trace::critical_path(&trace, &of_job).unwrap();
    let told: Vec<_> = path.steps.iter().map(|step| step.outcome).collect();
    assert_eq!(told, ["ran", "failed", "unreached"], "{path}");
    assert_eq!(outcome(&trace, 'z'), "ran");
}
