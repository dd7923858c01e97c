//! `cargo xtask bench`: prints one JSON object a line for each workload.

mod end_to_end;
mod inputs;
mod measure;
mod trace;

use clap::{Args, Subcommand};

/// `cargo xtask bench`.
#[derive(Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Builds through the release binary, with a registry on loopback; needs root.
    EndToEnd(end_to_end::EndToEndArgs),
    /// The solver's workloads, at three sizes each.
    Solver,
    /// What tracing costs, and how fast a large trace is read.
    Trace(trace::TraceBenchArgs),
}

pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    match &args.what {
        What::EndToEnd(args) => end_to_end::run(args),
        What::Trace(args) => trace::bench(args),
        What::Solver => crate::process::run(crate::process::cargo().args([
            "run",
            "--quiet",
            "--release",
            "--locked",
            "--package",
            "weld-solver",
            "--features",
            "bench",
            "--example",
            "bench",
        ])),
    }
}
