//! How long a command takes, and how much memory.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// What one run took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    pub(super) time: Duration,
    /// The largest resident size, in bytes.
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
    let child = command
        .stdin(input)
        .stdout(Stdio::null())
        .stderr(log.reopen()?)
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let (ended, peak) = wait(&child)?;
    let time = began.elapsed();
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

/// How a child ended, and the largest resident size of it and of what it waited for, in bytes. Who
/// looks at a process while it runs takes time of two processors that it needs itself.
fn wait(child: &Child) -> anyhow::Result<(ExitStatus, u64)> {
    let pid = libc::pid_t::try_from(child.id())?;
    let mut status = 0;
    // SAFETY: all zeroes is a value of this structure of integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both places are written by the call alone, and outlive it; nobody else waits for the
    // child.
    while unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) } < 0 {
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(error.into());
        }
    }
    let kilobytes = u64::try_from(usage.ru_maxrss)?;
    Ok((ExitStatus::from_raw(status), kilobytes * 1024))
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
