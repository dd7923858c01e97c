//! What steps may use, as BuildKit's clients ask for it: read from options, and held to what docker allows.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use weld_llb::{LinuxResources, Ulimit};

use super::OptionError;
use super::options::{Options, malformed};

/// The least memory that a container can be started in, as docker has it.
const LEAST_MEMORY: i64 = 6 << 20;
/// The times in microseconds that the kernel's scheduler takes as a period.
const PERIODS: RangeInclusive<u64> = 1_000..=1_000_000;
/// The least time in a period, in microseconds.
const LEAST_QUOTA: i64 = 1_000;
/// The weights that the kernel's scheduler takes.
const SHARES: RangeInclusive<u64> = 2..=262_144;

/// What steps may use: options of a request that no stage decides on. What depends on the machine, such as which processors it has, is
/// for whoever runs the steps to check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// The size of `/dev/shm` in bytes; the default if 0.
    pub shm_size: u64,
    /// Limits of processes.
    pub ulimits: Vec<Ulimit>,
    /// Limits of control groups.
    pub resources: Option<LinuxResources>,
}

impl Limits {
    /// The limits that a client's options ask for; other options are passed over.
    ///
    /// # Errors
    /// [`OptionError`] for the first that no machine could keep.
    pub fn from_options(options: &BTreeMap<String, String>) -> Result<Self, OptionError> {
        let limits = Self::read(&Options(options))?;
        limits
            .resources
            .as_ref()
            .map_or(Ok(()), enough_to_start)
            .map(|()| limits)
    }

    pub(super) fn read(options: &Options<'_>) -> Result<Self, OptionError> {
        Ok(Self {
            shm_size: shm_size(options)?,
            ulimits: options.list("ulimit", ulimit)?,
            resources: resources(options)?,
        })
    }
}

fn shm_size(options: &Options<'_>) -> Result<u64, OptionError> {
    let size = options.number::<u64>("shm-size")?.unwrap_or(0);
    // The kernel counts in signed numbers.
    if i64::try_from(size).is_err() {
        let reason = format!("at most {} bytes are possible", i64::MAX);
        return Err(malformed("shm-size", &size.to_string(), reason));
    }
    Ok(size)
}

fn resources(options: &Options<'_>) -> Result<Option<LinuxResources>, OptionError> {
    let memory = memory(options)?;
    let resources = LinuxResources {
        memory,
        memory_swap: memory_swap(options, memory)?,
        cpu_shares: within(options, "cpushares", &SHARES, "")?,
        cpu_period: within(options, "cpuperiod", &PERIODS, " microseconds")?,
        cpu_quota: cpu_quota(options)?,
        cpuset_cpus: cpuset(options, "cpusetcpus")?,
        cpuset_mems: cpuset(options, "cpusetmems")?,
    };
    Ok((resources != LinuxResources::default()).then_some(resources))
}

/// Refuses limits within which no step starts. A definition may have them, as BuildKit's has, whose digests count them.
///
/// # Errors
/// [`OptionError`] for the memory, if it is that.
pub fn enough_to_start(resources: &LinuxResources) -> Result<(), OptionError> {
    match resources.memory {
        1..LEAST_MEMORY => Err(too_little(resources.memory)),
        _ => Ok(()),
    }
}

fn too_little(memory: i64) -> OptionError {
    let reason = format!("it must be at least 6m ({LEAST_MEMORY} bytes)");
    malformed("memory", &memory.to_string(), reason)
}

fn memory(options: &Options<'_>) -> Result<i64, OptionError> {
    let memory = options.number::<i64>("memory")?;
    match memory.filter(|bytes| *bytes <= 0) {
        Some(none) => Err(too_little(none)),
        None => Ok(memory.unwrap_or(0)),
    }
}

/// Memory and swap together.
fn memory_swap(options: &Options<'_>, memory: i64) -> Result<i64, OptionError> {
    let both = options.number::<i64>("memswap")?;
    let reason = match both {
        None => return Ok(0),
        Some(-1) => return Ok(-1),
        Some(both) if both <= 0 => "it must be -1 (unlimited) or above 0".to_owned(),
        Some(_) if memory == 0 => {
            "it is of memory and swap together, and needs a limit of the memory beside it"
                .to_owned()
        }
        Some(both) if both < memory => format!(
            "it is of memory and swap together, and must not be below the memory's {memory} bytes"
        ),
        Some(both) => return Ok(both),
    };
    let both = both.unwrap_or_default().to_string();
    Err(malformed("memswap", &both, reason))
}

fn cpu_quota(options: &Options<'_>) -> Result<i64, OptionError> {
    let quota = options.number::<i64>("cpuquota")?;
    let Some(small) = quota.filter(|quota| *quota < LEAST_QUOTA) else {
        return Ok(quota.unwrap_or(0));
    };
    let reason = format!("it must be at least {LEAST_QUOTA} microseconds (1ms)");
    Err(malformed("cpuquota", &small.to_string(), reason))
}

fn within(
    options: &Options<'_>,
    name: &str,
    allowed: &RangeInclusive<u64>,
    unit: &str,
) -> Result<u64, OptionError> {
    let number = options.number::<u64>(name)?;
    let Some(wrong) = number.filter(|number| !allowed.contains(number)) else {
        return Ok(number.unwrap_or(0));
    };
    let (least, most) = (allowed.start(), allowed.end());
    let reason = format!("it must be from {least} to {most}{unit}");
    Err(malformed(name, &wrong.to_string(), reason))
}

fn cpuset(options: &Options<'_>, name: &str) -> Result<String, OptionError> {
    let value = options.text(name).unwrap_or_default();
    let is_range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let number = |text: &str| text.parse::<u32>().ok();
        matches!((number(first), number(last)), (Some(first), Some(last)) if first <= last)
    };
    if value.is_empty() || value.split(',').all(is_range) {
        return Ok(value.to_owned());
    }
    Err(malformed(name, value, "expected a list such as 0-3,7"))
}

const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// `NAME=SOFT[:HARD]`, -1 for no limit.
fn ulimit(field: &str) -> Result<Ulimit, String> {
    let form = "expected NAME=SOFT[:HARD], numbers or -1";
    let (name, limits) = field.split_once('=').ok_or(form)?;
    if !ULIMITS.contains(&name) {
        let known = ULIMITS.join(", ");
        return Err(format!("there is no limit {name:?} (known: {known})"));
    }
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let number = |text: &str| {
        let number = text.parse::<i64>().ok();
        number.filter(|number| *number >= -1).ok_or(form)
    };
    let (soft, hard) = (number(soft)?, number(hard)?);
    if hard != -1 && (soft == -1 || soft > hard) {
        let limit = |limit: i64| match limit {
            -1 => "none".to_owned(),
            limit => limit.to_string(),
        };
        return Err(format!(
            "the soft limit ({}) must not be above the hard one ({})",
            limit(soft),
            limit(hard)
        ));
    }
    Ok(Ulimit {
        name: name.to_owned(),
        soft,
        hard,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(options: &[(&str, &str)]) -> Result<Limits, OptionError> {
        let options = options
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Limits::from_options(&options.collect())
    }

    #[test]
    fn what_docker_allows_is_allowed() {
        for options in [
            &[][..],
            &[("memory", "6291456")],
            &[("memory", "6291456"), ("memswap", "6291456")],
            &[("memswap", "-1")],
            &[("cpuquota", "1000"), ("cpuperiod", "1000")],
            &[("cpuperiod", "1000000")],
            &[("cpushares", "2")],
            &[("cpushares", "262144")],
            &[("cpusetcpus", "0-3,7"), ("cpusetmems", "0")],
            &[("ulimit", "nofile=5,core=-1,nproc=1:-1")],
            &[("shm-size", "9223372036854775807")],
        ] {
            limits(options).unwrap_or_else(|error| panic!("{options:?}: {error}"));
        }
    }

    #[test]
    fn what_no_machine_could_keep_is_refused_with_what_is_allowed() {
        for (options, part) in [
            (&[("memory", "1")][..], "at least 6m (6291456 bytes)"),
            (&[("memory", "6291455")], "at least 6m"),
            (&[("memory", "-1")], "at least 6m"),
            (
                &[("memswap", "7000000"), ("memory", "8000000")],
                "below the memory's 8000000 bytes",
            ),
            (&[("memswap", "7000000")], "needs a limit of the memory"),
            (&[("memswap", "-2")], "-1 (unlimited)"),
            (&[("cpuquota", "999")], "at least 1000 microseconds"),
            (&[("cpuperiod", "999")], "from 1000 to 1000000 microseconds"),
            (&[("cpuperiod", "1000001")], "from 1000 to 1000000"),
            (&[("cpushares", "1")], "from 2 to 262144"),
            (&[("cpushares", "262145")], "from 2 to 262144"),
            (&[("cpusetcpus", "3-0")], "expected a list"),
            (&[("cpusetmems", "x")], "expected a list"),
            (&[("ulimit", "nofiles=1")], "known: core, cpu,"),
            (&[("ulimit", "nofile=2:1")], "(2) must not be above"),
            (&[("ulimit", "nofile=-1:1")], "(none) must not be above"),
            (&[("ulimit", "nofile=-2")], "numbers or -1"),
            (&[("ulimit", "nofile")], "expected NAME=SOFT"),
            (&[("shm-size", "9223372036854775808")], "at most"),
        ] {
            let error = limits(options).expect_err(part);
            assert_eq!(error.name, options[0].0);
            assert_eq!(error.value, options[0].1);
            assert!(error.reason.contains(part), "{options:?}: {error}");
        }
    }
}
