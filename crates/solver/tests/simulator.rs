//! The simulator finds nothing in the core, and finds every mistake that is built in.

use weld_solver::sim::{SimOptions, run};

#[test]
fn no_invariant_breaks() {
    let seeds = std::env::var("SEEDS")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(300);
    let from = std::env::var("FROM")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(1);
    let steps = std::env::var("STEPS")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(200);
    let start = std::time::Instant::now();
    let report = run(&SimOptions {
        from,
        seeds,
        steps,
        fault: None,
    });
    println!(
        "{} seeds, {} handled, {} merges, {:.0} steps/s",
        report.seeds,
        report.handled,
        report.merges,
        report.handled as f64 / start.elapsed().as_secs_f64()
    );
    if let Some(failed) = report.failed {
        let steps: Vec<_> = failed.schedule.iter().map(ToString::to_string).collect();
        panic!(
            "seed {}: {:?}\n{}",
            failed.seed,
            failed.violation,
            steps.join("\n") + "\n" + &failed.graph
        );
    }
}
