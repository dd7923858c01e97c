//! `ulimit` names and values.

use crate::error::RuntimeError;
use crate::spec::Ulimit;

const NAMES: &[(&str, u32)] = &[
    ("cpu", libc::RLIMIT_CPU as u32),
    ("fsize", libc::RLIMIT_FSIZE as u32),
    ("data", libc::RLIMIT_DATA as u32),
    ("stack", libc::RLIMIT_STACK as u32),
    ("core", libc::RLIMIT_CORE as u32),
    ("rss", libc::RLIMIT_RSS as u32),
    ("nproc", libc::RLIMIT_NPROC as u32),
    ("nofile", libc::RLIMIT_NOFILE as u32),
    ("memlock", libc::RLIMIT_MEMLOCK as u32),
    ("as", libc::RLIMIT_AS as u32),
    ("locks", libc::RLIMIT_LOCKS as u32),
    ("sigpending", libc::RLIMIT_SIGPENDING as u32),
    ("msgqueue", libc::RLIMIT_MSGQUEUE as u32),
    ("nice", libc::RLIMIT_NICE as u32),
    ("rtprio", libc::RLIMIT_RTPRIO as u32),
    ("rttime", libc::RLIMIT_RTTIME as u32),
];

/// The number and value that the kernel takes.
pub(crate) fn resolve(ulimit: &Ulimit) -> Result<(u32, libc::rlimit64), RuntimeError> {
    let invalid = |reason: String| RuntimeError::InvalidSpec {
        field: "ulimit",
        reason,
    };
    let name = ulimit.name.to_ascii_lowercase();
    let known = NAMES.iter().find(|(known, _)| *known == name);
    let Some((_, number)) = known else {
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
    Ok((*number, limit))
}
