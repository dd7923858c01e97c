//! Capabilities of a step.

use std::io;

/// A set of capabilities, bit `n` for capability number `n`.
pub(crate) type Set = u64;

/// Docker's default capabilities.
const DEFAULT: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SYS_CHROOT",
    "CAP_MKNOD",
    "CAP_AUDIT_WRITE",
    "CAP_SETFCAP",
];

/// All capabilities, by their numbers.
const NAMES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The names of the capabilities in a set.
pub(crate) fn names(set: Set) -> Vec<&'static str> {
    let numbered = NAMES.iter().enumerate();
    numbered
        .filter(|(number, _)| set & (1 << number) != 0)
        .map(|(_, name)| *name)
        .collect()
}

/// The default capabilities as a set.
pub(crate) fn default_set() -> Set {
    let numbered = NAMES.iter().enumerate();
    numbered
        .filter(|(_, name)| DEFAULT.contains(name))
        .fold(0, |set, (number, _)| set | (1 << number))
}

/// The capabilities of this process: those that it has and those that it could ever have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) permitted: Set,
    pub(crate) bounding: Set,
}

impl Held {
    /// Reads what `/proc` says of this process.
    pub(crate) fn read() -> io::Result<Self> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let field = |name: &str| -> io::Result<Set> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|value| Set::from_str_radix(value.trim(), 16).ok())
                .ok_or_else(|| io::Error::other(format!("/proc/self/status has no {name}")))
        };
        Ok(Self {
            permitted: field("CapPrm:")?,
            bounding: field("CapBnd:")?,
        })
    }
}
