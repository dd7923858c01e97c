//! Capabilities of a step.

use std::io;

/// A set of capabilities, bit `n` for capability number `n`.
pub(crate) type Set = u64;

/// Docker's default capabilities with their numbers.
pub(crate) const DEFAULT: &[(&str, u32)] = &[
    ("CAP_CHOWN", 0),
    ("CAP_DAC_OVERRIDE", 1),
    ("CAP_FOWNER", 3),
    ("CAP_FSETID", 4),
    ("CAP_KILL", 5),
    ("CAP_SETGID", 6),
    ("CAP_SETUID", 7),
    ("CAP_SETPCAP", 8),
    ("CAP_NET_BIND_SERVICE", 10),
    ("CAP_NET_RAW", 13),
    ("CAP_SYS_CHROOT", 18),
    ("CAP_MKNOD", 27),
    ("CAP_AUDIT_WRITE", 29),
    ("CAP_SETFCAP", 31),
];

/// The default capabilities as a set.
pub(crate) fn default_set() -> Set {
    DEFAULT
        .iter()
        .fold(0, |set, (_, number)| set | (1 << number))
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
