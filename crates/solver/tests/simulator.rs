//! The simulator finds nothing in the core, and finds every mistake that is built in.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use weld_solver::sim::{Fault, SimOptions, Step, play, run, schedule_of};

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

/// Seeds that a thread takes at a time.
const PIECE: u64 = 50;
/// One of so many pieces has long schedules: some situations come about only where much has happened before.
const LONG_EVERY: u64 = 8;
/// How much longer these are.
const LONG: u64 = 4;

/// At least `WELD_SIM_CORE_STEPS` inputs of the core, on all processors: 2,000,000 in CI, a tenth of it elsewhere.
#[test]
fn no_invariant_breaks() {
    let in_ci = std::env::var_os("CI").is_some();
    let default = if in_ci { 2_000_000 } else { 200_000 };
    let budget = from_environment("WELD_SIM_CORE_STEPS", default);
    let steps = from_environment("WELD_SIM_STEPS", 400);
    let next = AtomicU64::new(from_environment("WELD_SIM_FROM", 1));
    let (handled, merges) = (AtomicU64::new(0), AtomicU64::new(0));
    let simulate = || {
        while handled.load(Ordering::Relaxed) < budget {
            let from = next.fetch_add(PIECE, Ordering::Relaxed);
            let is_long = (from / PIECE).is_multiple_of(LONG_EVERY);
            let report = run(&SimOptions {
                from,
                seeds: PIECE,
                steps: if is_long { LONG * steps } else { steps },
                fault: None,
            });
            if let Some(failed) = report.failed {
                let steps: Vec<_> = failed.schedule.iter().map(ToString::to_string).collect();
                panic!(
                    "seed {}: {:?}\n{}\n{}",
                    failed.seed,
                    failed.violation,
                    steps.join("\n"),
                    failed.graph
                );
            }
            handled.fetch_add(report.handled, Ordering::Relaxed);
            merges.fetch_add(report.merges, Ordering::Relaxed);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let start = Instant::now();
    std::thread::scope(|scope| {
        (1..threads).for_each(|_| drop(scope.spawn(simulate)));
        simulate();
    });
    let seconds = start.elapsed().as_secs_f64();
    println!("{handled:?} inputs, {merges:?} merges in {seconds:.1} s");
    assert!(merges.into_inner() > 0);
}

/// An input that had led somewhere lost its names when its edge was forced to run: the core asked for nothing, again and again.
#[test]
fn an_input_that_lost_its_names_is_let_go() {
    let played = play(6452, &schedule_of(6452, 400), None);
    assert!(played.violation.is_none(), "{:?}", played.violation);
}

/// A public vertex of one domain found the record of an equal vertex, not public, of the domain without a name.
#[test]
fn only_public_records_are_public() {
    let played = play(505_757, &schedule_of(505_757, 1000), None);
    assert!(played.violation.is_none(), "{:?}", played.violation);
}

/// A merged edge kept its vertex, an input of which had been merged into what owned the edge: a circle of owners.
#[test]
fn owners_in_a_circle_are_freed() {
    let played = play(6466, &schedule_of(6466, 400), None);
    assert!(played.violation.is_none(), "{:?}", played.violation);
}

/// What waited for an operation was not told when that one's vertex had run through yet another one's operation.
#[test]
fn borrowers_of_a_borrower_are_called() {
    let played = play(39_410, &schedule_of(39_410, 400), None);
    assert!(played.violation.is_none(), "{:?}", played.violation);
}

/// An ordinary edge brought the records that it had found into one that was forced to run, which loaded them.
#[test]
fn what_is_forced_to_run_loads_nothing_that_others_found() {
    let played = play(515_293, &schedule_of(515_293, 1000), None);
    assert!(played.violation.is_none(), "{:?}", played.violation);
}

/// An operation that was called in place of one that is forced to run is a run, too.
#[test]
fn a_fallback_of_what_is_forced_to_run_is_a_run() {
    let played = play(522_201, &schedule_of(522_201, 1000), None);
    assert!(played.violation.is_none(), "{:?}", played.violation);
}

/// A job heard what was done for an output of its vertex that only another job had asked for, which is as it should be.
#[test]
fn a_vertex_is_heard_of_with_all_its_outputs() {
    let played = play(2_018_668, &schedule_of(2_018_668, 400), None);
    assert!(played.violation.is_none(), "{:?}", played.violation);
}

/// A run was cancelled, and begun again, where its other output had been asked for and a record of the one that a build needed did not
/// load.
#[test]
fn what_runs_goes_on_until_a_record_is_loaded() {
    for seed in [990_000_404, 10_500_982_395] {
        let played = play(seed, &schedule_of(seed, 1500), None);
        assert!(played.violation.is_none(), "{:?}", played.violation);
    }
}

#[test]
fn a_run_repeats_exactly() {
    for seed in 1..40 {
        let schedule = schedule_of(seed, 300);
        let (first, second) = (play(seed, &schedule, None), play(seed, &schedule, None));
        assert_eq!(
            (first.digest, first.handled),
            (second.digest, second.handled),
            "seed {seed}"
        );
    }
}

#[test]
fn a_schedule_is_written_and_read() {
    for step in schedule_of(7, 100) {
        assert_eq!(step.to_string().parse::<Step>(), Ok(step));
    }
    assert!("Open 1".parse::<Step>().is_err());
    assert!("Sing 1 2".parse::<Step>().is_err());
    assert!("Open 1 2 3".parse::<Step>().is_err());
}

/// Every built-in mistake, with the number of seeds within which it must be found.
const FAULTS: [(Fault, u64); 22] = [
    (Fault::TargetNotOwned, 60),
    (Fault::InterestNotMerged, 60),
    (Fault::InterestKept, 10),
    (Fault::CancelledResultBelieved, 200),
    (Fault::CancelRecorded, 3000),
    (Fault::AncestorMerged, 1000),
    (Fault::IgnoreCacheMerged, 1000),
    (Fault::SessionLentToForeign, 200),
    (Fault::FallbackDropped, 2000),
    (Fault::WakeUpLost, 10),
    (Fault::RunsOverlap, 200),
    (Fault::OutputLeaked, 60),
    (Fault::RequestsNotMoved, 60),
    (Fault::NeverMergeIgnored, 400),
    (Fault::DomainsShared, 200),
    (Fault::ReleasedTwice, 10),
    (Fault::RankNotRaised, 400),
    (Fault::LossNotTold, 400),
    (Fault::FailureKeptForLater, 100),
    (Fault::HistoryKept, 10),
    (Fault::ListenerKept, 10),
    (Fault::NothingKept, 60),
];

#[test]
fn every_built_in_mistake_is_found() {
    // Mistakes end in panics as often as in broken invariants.
    std::panic::set_hook(Box::new(|_| {}));
    let missed: Vec<_> = FAULTS
        .iter()
        .filter_map(|(fault, seeds)| {
            let report = run(&SimOptions {
                from: 1,
                seeds: *seeds,
                steps: 400,
                fault: Some(*fault),
            });
            match report.failed {
                Some(failed) => {
                    println!(
                        "{fault:?}: seed {}, {} steps: {}",
                        failed.seed,
                        failed.schedule.len(),
                        failed.violation.invariant
                    );
                    None
                }
                None => Some(format!("{fault:?} within {seeds} seeds")),
            }
        })
        .collect();
    let _ = std::panic::take_hook();
    assert!(missed.is_empty(), "not found: {missed:?}");
}
