//! Whole builds, each in a process of its own as a user starts it.

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;
use serde_json::json;
use weld_testbed::Registry;

use super::inputs;
use super::measure::{self, Cost, median};
use crate::packages;
use crate::process::build_weld;

/// `cargo xtask bench end-to-end`.
#[derive(Args)]
pub(crate) struct EndToEndArgs {
    /// Only the groups whose name contains this: steps, context, big, many, cache.
    #[arg(long, default_value = "")]
    only: String,
    /// Where inputs and state are kept [default: a temporary directory]; on the disk to measure.
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
}

struct Bench {
    weld: PathBuf,
    work: PathBuf,
    registry: Registry,
}

pub(crate) fn run(args: &EndToEndArgs) -> anyhow::Result<()> {
    packages::install(&["docker-registry", "busybox-static", "skopeo"])?;
    let temporary = tempfile::tempdir()?;
    let work = match &args.work {
        Some(work) => {
            std::fs::create_dir_all(work)?;
            work.canonicalize()?
        }
        None => temporary.path().to_owned(),
    };
    let layout = work.join("base");
    weld_testbed::write_base_image(&layout, &packages::busybox(&work)?)?;
    let registry = Registry::start()?;
    registry.push_layout(&layout, "latest", "library/busybox:latest")?;
    let bench = Bench {
        weld: installed(&build_weld()?, &work)?,
        work,
        registry,
    };
    bench.write_config()?;
    for (name, group) in [
        ("steps", Bench::steps as fn(&Bench) -> anyhow::Result<()>),
        ("context", Bench::context),
        ("big", Bench::big),
        ("many", Bench::many),
        ("cache", Bench::cache),
    ] {
        if name.contains(&args.only) {
            bench.clean()?;
            group(&bench)?;
        }
    }
    bench.clean()
}

/// The program as a user has it who installed it. What was written in large pieces is in large pieces
/// in the page cache, other than what a linker left, and is mapped faster: 1.8 ms of a build that takes
/// 9.
fn installed(weld: &Path, work: &Path) -> anyhow::Result<PathBuf> {
    let installed = work.join("weld");
    crate::process::run(Command::new("cp").arg(weld).arg(&installed))?;
    Ok(installed)
}

impl Bench {
    fn write_config(&self) -> anyhow::Result<()> {
        let text = format!(
            "[registry.\"docker.io\"]\nmirrors = [\"{0}\"]\n[registry.\"{0}\"]\nhttp = true\n",
            self.registry.host()
        );
        Ok(std::fs::write(self.work.join("weld.toml"), text)?)
    }

    fn clean(&self) -> anyhow::Result<()> {
        match std::fs::remove_dir_all(self.work.join("state")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn dockerfile(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let directory = self.work.join(name);
        std::fs::create_dir_all(&directory)?;
        std::fs::write(directory.join("Dockerfile"), text)?;
        Ok(directory)
    }

    /// `weld build` of a context with the Dockerfile of a directory.
    fn build(&self, context: &Path, dockerfile: &Path, more: &[&str]) -> anyhow::Result<Cost> {
        let mut command = Command::new(&self.weld);
        command
            .arg("--root")
            .arg(self.work.join("state"))
            .arg("--config")
            .arg(self.work.join("weld.toml"))
            .args(["build", "--progress", "plain", "--file"])
            .arg(dockerfile.join("Dockerfile"))
            .args(more)
            .arg(context);
        measure::run(&mut command)
    }

    fn steps(&self) -> anyhow::Result<()> {
        let lines: String = (0..20)
            .map(|number| format!("RUN echo {number} > /f{number}\n"))
            .collect();
        let twenty = self.dockerfile("c1", &format!("FROM busybox\n{lines}"))?;
        let build = || self.build(&twenty, &twenty, &[]);
        tell("20 RUN steps, cold, pull included", build()?, Some(0.943));
        tell("the same, all cached", median(31, build)?, Some(0.0416));
        let lines: String = (0..40)
            .map(|number| format!("RUN true {number}\n"))
            .collect();
        let forty = self.dockerfile("c2", &format!("FROM busybox\n{lines}"))?;
        let cost = self.build(&forty, &forty, &[])?;
        tell(
            "RUN true, each of 40",
            Cost {
                time: cost.time / 40,
                ..cost
            },
            Some(0.0443),
        );
        Ok(())
    }

    fn context(&self) -> anyhow::Result<()> {
        let many = self.work.join("many");
        if !many.exists() {
            inputs::many_files(&many)?;
        }
        let file = self.dockerfile("c3", "FROM scratch\nCOPY . /x\n")?;
        let build = || self.build(&many, &file, &[]);
        measure::settle()?;
        tell("20,000-file context, first build", build()?, Some(2.398));
        tell("the same, unchanged", median(5, build)?, Some(0.394));
        let mut number = 0;
        let touch = || {
            number += 1;
            std::fs::write(many.join("d0/e0/f0.txt"), format!("changed {number}"))?;
            build()
        };
        tell("the same, one file changed", median(5, touch)?, Some(1.328));
        let out = self.work.join("out");
        let output = format!("type=local,dest={}", out.display());
        let export = || {
            std::fs::remove_dir_all(&out).or_else(|error| match error.kind() {
                std::io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            })?;
            self.build(&many, &file, &["--output", &output])
        };
        tell(
            "20,000 files out, type=local",
            median(3, export)?,
            Some(1.752),
        );
        Ok(())
    }

    fn big(&self) -> anyhow::Result<()> {
        let big = self.work.join("big");
        if !big.exists() {
            inputs::big_files(&big)?;
        }
        let file = self.dockerfile("c4", "FROM scratch\nCOPY . /x\n")?;
        measure::settle()?;
        tell(
            "1 GB context, first build",
            self.build(&big, &file, &[])?,
            Some(7.223),
        );
        let archive = self.work.join("out.tar");
        for (kind, more, buildkit) in [
            ("gzip", "", 18.42),
            ("zstd", ",compression=zstd,force-compression=true", 6.306),
        ] {
            let output = format!("type=oci,dest={}{more}", archive.display());
            measure::settle()?;
            let cost = self.build(&big, &file, &["--output", &output])?;
            tell(&format!("1 GB out, oci {kind}"), cost, Some(buildkit));
            std::fs::remove_file(&archive)?;
        }
        let name = format!("{}/bench/big:latest", self.registry.host());
        measure::settle()?;
        let cost = self.build(&big, &file, &["--tag", &name, "--push"])?;
        tell("1 GB pushed, layer already compressed", cost, Some(2.906));
        self.clean()?;
        let text = format!(
            "FROM {name}\nRUN --mount=from=busybox,target=/b [\"/b/bin/busybox\",\"true\"]\n"
        );
        let pull = self.dockerfile("c5", &text)?;
        measure::settle()?;
        let cost = self.build(&pull, &pull, &[])?;
        tell("1 GB image pulled, unpacked, one RUN", cost, Some(4.373));
        Ok(())
    }

    fn many(&self) -> anyhow::Result<()> {
        let file = self.dockerfile("c8", "FROM busybox\nARG N\nRUN echo $N\n")?;
        let mut number = 0;
        let build = || {
            number += 1;
            self.build(&file, &file, &["--build-arg", &format!("N={number}")])
        };
        tell(
            "one-RUN build, each of 50 in a row",
            median(50, build)?,
            Some(0.0904),
        );
        Ok(())
    }

    fn cache(&self) -> anyhow::Result<()> {
        let lines: String = (0..15)
            .map(|number| format!("RUN echo z{number} > /z{number}\n"))
            .collect();
        let file = self.dockerfile("c7", &format!("FROM busybox\n{lines}"))?;
        let cache = format!("type=registry,ref={}/bench/cache:a", self.registry.host());
        let to = format!("{cache},mode=max");
        let cost = self.build(&file, &file, &["--cache-to", &to])?;
        tell(
            "15 RUN and cache export, registry, mode=max",
            cost,
            Some(1.08),
        );
        let import = || {
            self.clean()?;
            self.build(&file, &file, &["--cache-from", &cache])
        };
        tell(
            "15 RUN, all from the imported cache",
            median(5, import)?,
            Some(0.162),
        );
        Ok(())
    }
}

/// Prints a figure beside BuildKit v0.32.2's (a daemon with buildctl, on a 2-core machine).
fn tell(workload: &str, cost: Cost, buildkit_seconds: Option<f64>) {
    println!(
        "{}",
        json!({
            "workload": workload,
            "seconds": (cost.time.as_secs_f64() * 10_000.0).round() / 10_000.0,
            "peak_mb": cost.peak / 1_000_000,
            "buildkit_seconds": buildkit_seconds,
        })
    );
}
