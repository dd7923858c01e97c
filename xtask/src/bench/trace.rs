//! What tracing costs, and how fast a large trace is read.

use anyhow::Context as _;
use clap::Args;

use crate::process::{cargo, run};

/// `cargo xtask bench trace`.
#[derive(Args)]
pub(crate) struct TraceBenchArgs {
    /// Size of the trace that is read, in bytes; it is deleted afterwards.
    #[arg(long, default_value_t = 1_400_000_000)]
    bytes: u64,
}

pub(super) fn bench(args: &TraceBenchArgs) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory
        .path()
        .to_str()
        .context("a directory's name is not UTF-8")?;
    let file = format!("{path}/large.jsonl");
    example(&[path])?;
    example(&["write", &file, &args.bytes.to_string()])?;
    example(&["summary", &file])?;
    example(&["read", &file])
}

fn example(arguments: &[&str]) -> anyhow::Result<()> {
    run(cargo()
        .args([
            "run",
            "--quiet",
            "--release",
            "--locked",
            "--package",
            "weld-trace",
        ])
        .args(["--example", "bench", "--"])
        .args(arguments))
}
