//! Debian packages that the demo and the tests need.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::process::{output, run};

/// Installs those of `packages` that are not installed. Needs root and Debian.
pub(crate) fn install(packages: &[&str]) -> anyhow::Result<()> {
    let missing: Vec<&str> = packages
        .iter()
        .copied()
        .filter(|package| !is_installed(package))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing {}", missing.join(" "));
    let apt = || {
        let mut command = Command::new("apt-get");
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    };
    run(apt().arg("update"))
        .context("the package lists cannot be read (this needs Debian and root)")?;
    run(apt()
        .args(["install", "--yes", "--no-install-recommends"])
        .args(&missing))
    .with_context(|| format!("install these by hand: {}", missing.join(" ")))
}

fn is_installed(package: &str) -> bool {
    output(Command::new("dpkg-query").args(["--show", "--showformat=${db:Status-Status}", package]))
        .is_ok_and(|status| status == "installed")
}

/// A statically linked busybox: the host's own, or the one of Debian's package, which is installed
/// (as root) or unpacked into `work`.
pub(crate) fn busybox(work: &Path) -> anyhow::Result<PathBuf> {
    if let Some(path) = weld_testbed::static_busybox() {
        return Ok(path);
    }
    if install(&["busybox-static"]).is_ok()
        && let Some(path) = weld_testbed::static_busybox()
    {
        return Ok(path);
    }
    run(Command::new("apt-get")
        .args(["download", "busybox-static"])
        .current_dir(work))
    .context("there is no static busybox: install Debian's busybox-static")?;
    let archive = std::fs::read_dir(work)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get downloaded no package")?;
    run(Command::new("dpkg-deb")
        .arg("--extract")
        .arg(archive)
        .arg(work.join("busybox")))?;
    let unpacked = ["bin/busybox", "usr/bin/busybox"].map(|path| work.join("busybox").join(path));
    match unpacked
        .into_iter()
        .find(|path| weld_testbed::is_static(path))
    {
        Some(path) => Ok(path),
        None => bail!("Debian's busybox-static holds no static busybox"),
    }
}
