//! `cargo xtask bench`: prints one JSON object a line for each workload.

mod end_to_end;
mod inputs;
mod measure;
mod records;
mod trace;

use std::path::PathBuf;

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
    /// A cache of many records: written to a registry, written again unchanged, and read; needs root.
    Records(records::RecordsArgs),
    /// The solver's workloads, at three sizes each.
    Solver,
    /// Pruning of many records while another thread commits.
    Prune(PruneArgs),
    /// What tracing costs, and how fast a large trace is read.
    Trace(trace::TraceBenchArgs),
}

/// `cargo xtask bench prune`.
#[derive(Args)]
struct PruneArgs {
    /// How many records.
    #[arg(long, default_value_t = 100_000)]
    records: u64,
    /// Where the state is kept [default: the directory of temporary files]; on the disk to measure.
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
}

fn prune(args: &PruneArgs) -> anyhow::Result<()> {
    let mut command = crate::process::cargo();
    command.args(["run", "--quiet", "--release", "--locked"]);
    command.args(["--package", "weld-store", "--example", "prune_cost", "--"]);
    command.arg(args.records.to_string()).args(&args.work);
    crate::process::run(&mut command)
}

pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    match &args.what {
        What::EndToEnd(args) => end_to_end::run(args),
        What::Prune(args) => prune(args),
        What::Records(args) => records::run(args),
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
