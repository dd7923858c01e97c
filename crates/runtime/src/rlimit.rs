//! `ulimit` names and values.

use crate::error::RuntimeError;
use crate::spec::Ulimit;

/// Names by the kernel's numbers.
const NAMES: &[&str] = &[
    "cpu",
    "fsize",
    "data",
    "stack",
    "core",
    "rss",
    "nproc",
    "nofile",
    "memlock",
    "as",
    "locks",
    "sigpending",
    "msgqueue",
    "nice",
    "rtprio",
    "rttime",
];

/// The number and value that the kernel takes.
pub(crate) fn resolve(ulimit: &Ulimit) -> Result<(u32, libc::rlimit64), RuntimeError> {
    let invalid = |reason: String| RuntimeError::InvalidSpec {
        field: "ulimit",
        reason,
    };
    let name = ulimit.name.to_ascii_lowercase();
    let known = (0..).zip(NAMES).find(|(_, known)| **known == name);
    let Some((number, _)) = known else {
        return Err(invalid(format!("unknown name {:?}", ulimit.name)));
    };
    let value = |value: i64| match value {
        -1 => Ok(libc::RLIM64_INFINITY),
        value => u64::try_from(value).map_err(|_| invalid(format!("{name}: {value} is negative"))),
    };
    let (soft, hard) = (value(ulimit.soft)?, value(ulimit.hard)?);
    if soft > hard {
        return Err(invalid(format!(
            "{name}: the soft limit {} exceeds the hard limit {}",
            ulimit.soft, ulimit.hard
        )));
    }
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    Ok((number, limit))
}
