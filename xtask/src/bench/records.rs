//! A cache of many records, written and read by whole builds. What the cache costs is told as the difference to the same build
//! without it.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::Args;
use serde_json::json;
use weld_testbed::Registry;

use super::measure::{self, Cost, median};
use crate::packages;
use crate::process::{build_weld, cargo, run as run_command};

/// `cargo xtask bench records`.
#[derive(Args)]
pub(crate) struct RecordsArgs {
    /// How many records.
    #[arg(long, default_value_t = 20_000)]
    records: u64,
    /// Where state is kept [default: a temporary directory]; on the disk to measure.
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    /// A `weld` that is there already, instead of building one.
    #[arg(long, value_name = "FILE")]
    weld: Option<PathBuf>,
}

struct Bench {
    weld: PathBuf,
    work: PathBuf,
    cache: String,
}

pub(super) fn run(args: &RecordsArgs) -> anyhow::Result<()> {
    packages::install(&["docker-registry"])?;
    let temporary = match &args.work {
        Some(work) => tempfile::tempdir_in(work)?,
        None => tempfile::tempdir()?,
    };
    let registry = Registry::start()?;
    let bench = Bench {
        weld: match &args.weld {
            Some(weld) => weld.canonicalize()?,
            None => build_weld()?,
        },
        work: temporary.path().to_owned(),
        cache: format!(
            "type=registry,ref={}/bench/records:a,registry.insecure=true",
            registry.host()
        ),
    };
    bench.define(args.records)?;
    let to = format!("{},mode=max", bench.cache);
    tell("all steps run", args.records, bench.solve(&[])?.time);
    let plain = median(5, || bench.solve(&[]))?.time;
    tell("all cached, no cache elsewhere", args.records, plain);
    let beyond = |cost: Cost| cost.time.saturating_sub(plain);
    let first = bench.solve(&["--cache-to", &to])?;
    tell("export, the first", args.records, beyond(first));
    let again = median(5, || bench.solve(&["--cache-to", &to]))?;
    tell("export, unchanged", args.records, beyond(again));
    bench.forget()?;
    let found = bench.solve(&["--cache-from", &bench.cache])?;
    tell("all from the cache elsewhere", args.records, found.time);
    // One step, which the cache has: reading it is most of what this takes.
    bench.define(1)?;
    let first_hit = median(5, || {
        bench.forget()?;
        bench.solve(&["--cache-from", &bench.cache])
    })?;
    tell("import to the first hit", args.records, first_hit.time);
    Ok(())
}

impl Bench {
    fn definition(&self) -> PathBuf {
        self.work.join("definition")
    }

    /// Writes the definition of so many records.
    fn define(&self, records: u64) -> anyhow::Result<()> {
        let file = std::fs::File::create(self.definition())?;
        let mut command = cargo();
        command.args(["run", "--quiet", "--release", "--locked"]);
        command.args(["--package", "weld-llb", "--example", "many_records", "--"]);
        run_command(command.arg(records.to_string()).stdout(file))
    }

    fn forget(&self) -> anyhow::Result<()> {
        Ok(std::fs::remove_dir_all(self.work.join("state"))?)
    }

    fn solve(&self, more: &[&str]) -> anyhow::Result<Cost> {
        let definition = std::fs::File::open(self.definition())?;
        let mut command = Command::new(&self.weld);
        command
            .arg("--root")
            .arg(self.work.join("state"))
            .args(["solve", "--progress", "plain"])
            .args(more);
        measure::run_with(&mut command, Stdio::from(definition))
    }
}

fn tell(workload: &str, records: u64, time: Duration) {
    let seconds = (time.as_secs_f64() * 10_000.0).round() / 10_000.0;
    println!(
        "{}",
        json!({ "workload": workload, "records": records, "seconds": seconds })
    );
}
