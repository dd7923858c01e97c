//! What a build waited for, where an input is loaded only once another one was there.
#![allow(clippy::unwrap_used, reason = "helpers may fail their test")]

mod support;

use support::written::Written;
use weld_trace::{CriticalPath, Filter, Trace};

/// `z` is made of `x`, `y` and `w`; `x` of `s`. All keys are known after 10 ms.
fn keys() -> Written {
    let mut trace = Written::default();
    trace.opened(0, "job");
    for (name, inputs) in [('s', ""), ('x', "s"), ('y', ""), ('w', ""), ('z', "xyw")] {
        trace.vertex(0, name, inputs);
        trace.call((1, 10), name, "cache-map");
    }
    trace.loaded(0, "job", 'z');
    for name in ['s', 'x', 'y', 'w'] {
        trace.state(10, name, "cache-fast");
        trace.state(10, name, "cache-slow");
    }
    trace.state(10, 'z', "cache-fast");
    trace
}

/// The path, and that its times are all of the time once.
#[track_caller]
fn path(trace: &Trace) -> CriticalPath {
    let path = weld_trace::critical_path(trace, &Filter::default()).unwrap();
    let mut told = 0;
    for step in &path.steps {
        let own = step.busy + step.slot + step.waiting;
        let all = ((step.complete - step.ready) * 1e6).round() as u64;
        assert_eq!(own + step.builds + step.inputs, all, "{path}");
        told += own;
    }
    assert_eq!(told, path.micros, "{path}");
    path
}

fn names(path: &CriticalPath) -> Vec<(&str, usize)> {
    let steps = path.steps.iter();
    steps.map(|step| (step.name.as_str(), step.depth)).collect()
}

#[test]
fn an_input_that_is_loaded_late_hides_not_what_ran_before() {
    let mut trace = keys();
    trace.call((10, 300), 's', "exec");
    trace.call((300, 600), 'x', "exec");
    trace.call((600, 700), 'z', "slow-key");
    trace.state(700, 'z', "cache-slow");
    trace.call((700, 701), 'y', "load");
    trace.call((10, 20), 'w', "exec");
    trace.call((701, 900), 'z', "exec");
    trace.request((1, 900), "job", 'z', "built");
    let path = path(&trace.read());
    assert_eq!(names(&path), [("s", 0), ("x", 0), ("y", 1), ("z", 0)]);
    let (late, last) = (&path.steps[2], &path.steps[3]);
    assert_eq!((late.ready, late.busy), (0.7, 1_000), "{path}");
    assert_eq!((last.ready, last.busy), (0.6, 299_000), "{path}");
    assert_eq!(last.inputs, 1_000, "{path}");
}

/// So it is where the load is what took long, where several are loaded at once, and where what is loaded is gone and made anew.
#[test]
fn late_inputs_are_part_of_the_path() {
    let mut trace = keys();
    trace.call((10, 20), 'x', "exec");
    trace.call((20, 30), 'z', "slow-key");
    trace.call((30, 800), 'y', "load");
    trace.call((30, 700), 'w', "load");
    trace.call((800, 900), 'z', "exec");
    trace.request((1, 900), "job", 'z', "built");
    let one = path(&trace.read());
    assert_eq!(names(&one), [("x", 0), ("y", 1), ("z", 0)]);
    assert_eq!(one.steps[1].busy, 770_000);

    let mut trace = keys();
    trace.call((10, 20), 'y', "exec");
    trace.call((20, 30), 'z', "slow-key");
    trace.call((30, 130), 's', "load");
    trace.call((130, 230), 'x', "exec");
    trace.call((240, 250), 'w', "load");
    trace.call((250, 300), 'z', "exec");
    trace.request((1, 300), "job", 'z', "built");
    let anew = path(&trace.read());
    let steps = [("y", 0), ("s", 1), ("x", 1), ("w", 1), ("z", 0)];
    assert_eq!(names(&anew), steps, "{anew}");
    assert_eq!(anew.steps[4].inputs, 210_000, "{anew}");
}

/// What was at work when another input ended was waited for all the while.
#[test]
fn an_input_that_only_waits_for_its_own_is_not_late() {
    // It waits for what it is made of.
    let mut trace = keys();
    trace.call((10, 600), 's', "exec");
    trace.call((10, 300), 'y', "exec");
    trace.call((600, 700), 'x', "exec");
    trace.call((700, 900), 'z', "exec");
    trace.request((1, 900), "job", 'z', "built");
    let own = path(&trace.read());
    assert_eq!(names(&own), [("s", 0), ("x", 0), ("z", 0)]);

    // It waits for its key, or that of what it is made of.
    for slow in ['s', 'x'] {
        let mut trace = keys();
        trace.call((10, 300), 'y', "exec");
        trace.call((10, 500), slow, "cache-map");
        trace.state(500, slow, "cache-slow");
        trace.state(500, 'x', "cache-slow");
        trace.call((510, 520), 'x', "load");
        trace.call((520, 900), 'z', "exec");
        trace.request((1, 900), "job", 'z', "built");
        let key = path(&trace.read());
        assert_eq!(names(&key), [("x", 0), ("z", 0)], "{slow}: {key}");
    }

    // It waits for a slot, from before the other one ended on.
    let mut trace = keys();
    trace.call((10, 300), 'y', "exec");
    trace.call((10, 600), 'w', "exec");
    trace.slot((10, 310), 'w');
    trace.call((600, 900), 'z', "exec");
    trace.request((1, 900), "job", 'z', "built");
    let slot = path(&trace.read());
    assert_eq!(names(&slot), [("w", 0), ("z", 0)]);
    assert_eq!(slot.steps[0].slot, 300_000, "{slot}");
}
