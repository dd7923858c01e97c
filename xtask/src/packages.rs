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
pub(crate) fn static_busybox(work: &Path) -> anyhow::Result<PathBuf> {
    let candidates = ["/bin/busybox", "/usr/bin/busybox", "/bin/busybox.static"].map(PathBuf::from);
    let find = || candidates.iter().find(|path| is_static(path)).cloned();
    if let Some(path) = find() {
        return Ok(path);
    }
    if install(&["busybox-static"]).is_ok()
        && let Some(path) = find()
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
    match unpacked.into_iter().find(|path| is_static(path)) {
        Some(path) => Ok(path),
        None => bail!("Debian's busybox-static holds no static busybox"),
    }
}

/// Whether `path` is an ELF program without an interpreter.
fn is_static(path: &Path) -> bool {
    const PT_INTERP: u32 = 3;
    let Ok(bytes) = std::fs::read(path) else {
        return false;
    };
    let number = |at: usize, length: usize| {
        bytes.get(at..at + length).map(|field| {
            field
                .iter()
                .rev()
                .fold(0_u64, |value, byte| value << 8 | u64::from(*byte))
        })
    };
    let segments = || {
        // The ELF header of 64-bit little-endian programs: e_phoff, e_phentsize, e_phnum.
        let (offset, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        (0..count)
            .map(|index| number(usize::try_from(offset + index * size).ok()?, 4))
            .collect::<Option<Vec<u64>>>()
    };
    bytes.starts_with(b"\x7fELF\x02\x01")
        && segments().is_some_and(|kinds| !kinds.contains(&u64::from(PT_INTERP)))
}
