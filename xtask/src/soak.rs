//! A daemon under clients that come and go, many of which are killed: every build that is left alone has to succeed, and when all is
//! over, memory and open files have to be back where they were.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;
use weld_testbed::Registry;

use crate::packages;
use crate::process::build_weld;

/// How much more memory, in kB, a daemon may have after builds one by one than after a tenth of them.
const MEMORY: u64 = 10 << 10;
/// The same after many at once: the allocator's pieces of what was in use are larger then.
const MEMORY_OF_MANY: u64 = 40 << 10;
/// How many open files more: connections that are just being closed.
const FILES: u64 = 8;
/// How long what is left over may take to go: the daemon gives memory back every half minute.
const SETTLE: Duration = Duration::from_secs(90);
/// How long one build may take: the machine is busy.
const BUILD: Duration = Duration::from_secs(120);
/// How many kinds of builds there are.
const KINDS: u64 = 16;

/// `cargo xtask soak`.
#[derive(Args)]
pub(crate) struct SoakArgs {
    /// For how long.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// How many clients there are at once; about half of their builds are killed.
    #[arg(long, default_value_t = 200)]
    clients: usize,
    /// Builds one after the other, before the clients come: memory after all of them is compared with memory after a tenth.
    #[arg(long, default_value_t = 1000)]
    builds: u32,
    /// How often the cache of a build is imported from a registry and exported again, between the two: memory as above.
    #[arg(long, default_value_t = 1000)]
    rounds: u32,
    /// What sequence of random choices is made.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A `weld` that is there already, instead of building one.
    #[arg(long, value_name = "FILE")]
    weld: Option<PathBuf>,
}

/// The daemon under test, and where its clients' files are.
struct Soak {
    weld: PathBuf,
    work: PathBuf,
    address: String,
    daemon: Mutex<Child>,
}

#[derive(Default)]
struct Tally {
    built: AtomicU64,
    killed: AtomicU64,
    failures: Mutex<Vec<String>>,
}

/// What the daemon has of the system.
#[derive(Clone, Copy, Debug)]
struct Use {
    /// In kB.
    memory: u64,
    files: u64,
}

pub(crate) fn soak(args: &SoakArgs) -> anyhow::Result<()> {
    packages::install(&["busybox-static", "docker-registry"])?;
    let temporary = tempfile::tempdir()?;
    let work = temporary.path().to_owned();
    weld_testbed::write_base_image(&work.join("base"), &packages::busybox(&work)?)?;
    let weld = match &args.weld {
        Some(weld) => weld.canonicalize()?,
        None => build_weld()?,
    };
    let soak = Soak::start(weld, work)?;
    let memory = soak.one_by_one(args.builds);
    let memory = memory.and_then(|()| soak.round_trips(args.rounds));
    let outcome = memory.and_then(|()| soak.many(args));
    soak.end()?;
    outcome
}

impl Soak {
    fn start(weld: PathBuf, work: PathBuf) -> anyhow::Result<Self> {
        for kind in 0..KINDS {
            let directory = work.join(format!("context{kind}"));
            std::fs::create_dir_all(&directory)?;
            std::fs::write(directory.join("Dockerfile"), dockerfile(kind))?;
            std::fs::write(directory.join("file"), vec![b'x'; 10_000 * kind as usize])?;
        }
        let address = format!("unix://{}", work.join("daemon.sock").display());
        let log = std::fs::File::create(work.join("daemon.log"))?;
        let daemon = Command::new(&weld)
            .arg("--root")
            .arg(work.join("state"))
            .args(["daemon", "--addr", &address])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start the daemon")?;
        let this = Self {
            weld,
            work,
            address,
            daemon: Mutex::new(daemon),
        };
        let began = Instant::now();
        while !this.work.join("daemon.sock").exists() {
            if began.elapsed() > SETTLE {
                bail!("the daemon does not listen:\n{}", this.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(this)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.work.join("daemon.log")).unwrap_or_default()
    }

    /// Tells the daemon to end, which it has to do well.
    fn end(&self) -> anyhow::Result<()> {
        let mut daemon = self.daemon.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kill = Command::new("kill");
        crate::process::run(kill.args(["-TERM", &daemon.id().to_string()]))?;
        let status = daemon.wait()?;
        let log = self.log();
        if !status.success() || log.contains("panicked") {
            bail!("the daemon ended badly ({status}):\n{log}");
        }
        Ok(())
    }

    /// Builds one after the other: memory must not grow with their number.
    fn one_by_one(&self, builds: u32) -> anyhow::Result<()> {
        if builds < 10 {
            return Ok(());
        }
        let mut tenths = Vec::new();
        for number in 0..builds {
            let mut client = self.client(0, u64::from(number) % KINDS, number % 4 == 0)?;
            let status = client.wait()?;
            if !status.success() {
                bail!("build {number} failed: {}", error_of(client));
            }
            if (number + 1) % (builds / 10) == 0 {
                tenths.push(self.usage()?);
            }
        }
        self.stays_flat("one by one", builds, &tenths)
    }

    /// Tells what the daemon had after each tenth of as many builds, and compares the last with the first.
    fn stays_flat(&self, phase: &str, builds: u32, tenths: &[Use]) -> anyhow::Result<()> {
        let memory: Vec<u64> = tenths.iter().map(|tenth| tenth.memory).collect();
        let files: Vec<u64> = tenths.iter().map(|tenth| tenth.files).collect();
        let line = json!({
            "phase": phase, "builds": builds,
            "memory_after_each_tenth_kb": memory, "files_after_each_tenth": files,
        });
        println!("{line}");
        let (Some(early), Some(late)) = (tenths.first(), tenths.last()) else {
            return Ok(());
        };
        if late.memory > early.memory + MEMORY {
            bail!("memory grew by more than {MEMORY} kB: {early:?}, then {late:?}");
        }
        Ok(())
    }

    /// The cache of a build goes to a registry and comes back again and again. After each second time all that is here is deleted, so
    /// that half of the builds find what is in the registry alone.
    fn round_trips(&self, rounds: u32) -> anyhow::Result<()> {
        if rounds < 10 {
            return Ok(());
        }
        let registry = Registry::start()?;
        let cache = format!("type=registry,ref={}/cache:latest", registry.host());
        let mut tenths = Vec::new();
        for number in 0..rounds {
            let mut command = self.build(0, u64::from(number) % KINDS);
            command.args(["--cache-from", &cache, "--cache-to"]);
            crate::process::output(command.arg(format!("{cache},mode=max")))?;
            if number % 2 == 1 {
                let mut prune = Command::new(&self.weld);
                crate::process::output(prune.args(["prune", "--all", "--addr", &self.address]))?;
            }
            if (number + 1) % (rounds / 10) == 0 {
                tenths.push(self.usage()?);
            }
        }
        self.stays_flat("cache out and in", rounds, &tenths)
    }

    /// Many clients at once, about half of which are killed.
    fn many(&self, args: &SoakArgs) -> anyhow::Result<()> {
        let before = self.usage()?;
        let until = Instant::now() + Duration::from_secs_f64(args.minutes * 60.0);
        let tally = Tally::default();
        std::thread::scope(|scope| {
            for client in 0..args.clients {
                let random = Random(args.seed.wrapping_mul(1 << 32) ^ (client as u64 + 1));
                let tally = &tally;
                scope.spawn(move || self.one_client(client, random, until, tally));
            }
        });
        let after = self.settled(before)?;
        let failures = tally
            .failures
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let line = json!({
            "phase": "many at once", "clients": args.clients, "minutes": args.minutes, "seed": args.seed,
            "built": tally.built, "killed": tally.killed, "failed": failures.len(),
            "memory_before_kb": before.memory, "memory_after_kb": after.memory,
            "files_before": before.files, "files_after": after.files,
        });
        println!("{line}");
        if let Some(first) = failures.first() {
            bail!(
                "{} builds failed that were left alone; the first: {first}",
                failures.len()
            );
        }
        if after.files > before.files + FILES {
            bail!("files stay open: {before:?}, then {after:?}");
        }
        if after.memory > before.memory + MEMORY_OF_MANY {
            bail!("memory is not given back: {before:?}, then {after:?}");
        }
        Ok(())
    }

    /// What the daemon has once nothing is left over, or when it has been waited for that long enough.
    fn settled(&self, before: Use) -> anyhow::Result<Use> {
        let began = Instant::now();
        loop {
            let now = self.usage()?;
            let back = now.files <= before.files && now.memory <= before.memory + MEMORY_OF_MANY;
            if back || began.elapsed() > SETTLE {
                return Ok(now);
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    fn one_client(&self, client: usize, mut random: Random, until: Instant, tally: &Tally) {
        while Instant::now() < until {
            let kind = random.below(KINDS);
            let no_cache = random.below(3) == 0;
            let doomed = random.below(2) == 0;
            let death = doomed.then(|| Duration::from_millis(random.below(2000)));
            let child = self.client(client, kind, no_cache);
            let built = child.and_then(|child| Self::one_build(child, death, tally));
            if let Err(error) = built.with_context(|| format!("kind {kind}")) {
                let mut failures = tally
                    .failures
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                failures.push(format!("{error:#}"));
            }
        }
    }

    /// Waits for a build to end, or kills it.
    fn one_build(mut child: Child, death: Option<Duration>, tally: &Tally) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                if !status.success() {
                    bail!("{status}: {}", error_of(child));
                }
                tally.built.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            if began.elapsed() >= death.unwrap_or(BUILD) {
                child.kill()?;
                child.wait()?;
                if death.is_none() {
                    bail!("it took more than {BUILD:?}");
                }
                tally.killed.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A build on its way; `place` is where its result goes.
    fn client(&self, place: usize, kind: u64, no_cache: bool) -> anyhow::Result<Child> {
        let mut command = self.build(place, kind);
        if no_cache {
            command.arg("--no-cache");
        }
        command.spawn().context("cannot start a client")
    }

    fn build(&self, place: usize, kind: u64) -> Command {
        let base = self.work.join("base");
        let result = self.work.join(format!("result{place}.tar"));
        let mut command = Command::new(&self.weld);
        command
            .args(["build", "--quiet", "--addr", &self.address])
            .arg("--build-context")
            .arg(format!("base=oci-layout://{}:latest", base.display()))
            .arg("--output")
            .arg(format!("type=tar,dest={}", result.display()))
            .arg(self.work.join(format!("context{kind}")))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    fn usage(&self) -> anyhow::Result<Use> {
        let id = {
            let mut daemon = self.daemon.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(status) = daemon.try_wait()? {
                bail!("the daemon has ended ({status}):\n{}", self.log());
            }
            daemon.id()
        };
        let process = Path::new("/proc").join(id.to_string());
        let status = std::fs::read_to_string(process.join("status"))?;
        let mut lines = status.lines();
        let memory = lines.find_map(|line| line.strip_prefix("VmRSS:"));
        let memory = memory.context("the kernel does not tell the daemon's memory")?;
        Ok(Use {
            memory: memory.trim().trim_end_matches(" kB").parse()?,
            files: std::fs::read_dir(process.join("fd"))?.count() as u64,
        })
    }
}

/// What a client that has ended wrote of its failure.
fn error_of(client: Child) -> String {
    let output = client.wait_with_output();
    output.map_or_else(
        |error| error.to_string(),
        |output| String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

/// Kinds differ in their steps, so that some share work and others do not.
fn dockerfile(kind: u64) -> String {
    let shared = kind % 4;
    format!(
        "FROM base AS one\nRUN echo shared {shared} > /one && sleep 0.0{kind}\n\
         FROM base\nCOPY . /context\nCOPY --from=one /one /\nRUN wc -c /context/file > /count && echo {kind}\n"
    )
}

/// A xorshift generator: the same seed makes the same choices.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
