//! How long a command takes, and how much memory.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// What one run took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    pub(super) time: Duration,
    /// The largest resident size that was seen, in bytes; looked at every 5 ms.
    pub(super) peak: u64,
}

/// Runs a command to its end; fails if it does, with what it wrote.
pub(super) fn run(command: &mut Command) -> anyhow::Result<Cost> {
    run_with(command, Stdio::null())
}

/// As [`run`], with something on standard input.
pub(super) fn run_with(command: &mut Command, input: Stdio) -> anyhow::Result<Cost> {
    let log = tempfile::NamedTempFile::new()?;
    let began = Instant::now();
    let mut child = command
        .stdin(input)
        .stdout(Stdio::null())
        .stderr(log.reopen()?)
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let status = format!("/proc/{}/status", child.id());
    let watcher = std::thread::spawn(move || {
        let mut peak = 0;
        while let Some(now) = high_water(&status) {
            peak = peak.max(now);
            std::thread::sleep(Duration::from_millis(5));
        }
        peak
    });
    let ended = child.wait()?;
    let time = began.elapsed();
    let peak = watcher.join().unwrap_or(0);
    if !ended.success() {
        bail!(
            "{command:?}: {ended}\n{}",
            std::fs::read_to_string(log.path())?
        );
    }
    Ok(Cost { time, peak })
}

/// Waits for what was written before, so that a workload is not charged with another's.
pub(super) fn settle() -> anyhow::Result<()> {
    crate::process::run(&mut Command::new("sync"))
}

fn high_water(status: &str) -> Option<u64> {
    let text = std::fs::read_to_string(status).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().split(' ').next()?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// The median of several runs.
pub(super) fn median(
    count: usize,
    mut run: impl FnMut() -> anyhow::Result<Cost>,
) -> anyhow::Result<Cost> {
    let mut all = (0..count)
        .map(|_| run())
        .collect::<anyhow::Result<Vec<_>>>()?;
    all.sort_by_key(|cost| cost.time);
    all.get(count / 2).copied().context("nothing was run")
}
