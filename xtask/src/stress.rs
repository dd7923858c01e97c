use clap::Args;

use crate::process::{cargo, run};

/// `cargo xtask stress`.
#[derive(Args)]
pub(crate) struct StressArgs {
    /// Rounds of a healthy build beside one that is cancelled at once.
    #[arg(long, default_value_t = 1_000_000)]
    rounds: u64,
    /// How long builds with random delays, failures and cancellations run.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
}

/// Runs the solver's stress tests, optimised, for as long as a night allows.
pub(crate) fn stress(args: &StressArgs) -> anyhow::Result<()> {
    run(cargo()
        .args(["test", "--quiet", "--release", "--locked"])
        .args(["--package", "weld-solver", "--test", "stress"])
        .args(["--", "--nocapture", "--test-threads", "1"])
        .env("WELD_STRESS_ROUNDS", args.rounds.to_string())
        .env("WELD_STRESS_SECONDS", args.seconds.to_string()))
}
