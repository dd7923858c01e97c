use std::time::{Duration, SystemTime};

fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

/// Now, in seconds since 1970.
pub(crate) fn seconds() -> u64 {
    since_epoch().as_secs()
}

/// Now, in nanoseconds since 1970.
pub(crate) fn nanoseconds() -> u64 {
    u64::try_from(since_epoch().as_nanos()).unwrap_or(u64::MAX)
}
