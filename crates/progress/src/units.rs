//! How numbers are written for people.

use std::time::Duration;

/// A number of bytes in decimal units, as docker writes them: `1.05kB`, `23.4MB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if count < 1000 {
        return format!("{count}B");
    }
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = if value < 9.995 {
        2
    } else {
        usize::from(value < 99.95)
    };
    format!("{value:.decimals$}{}", UNITS[unit])
}

/// Seconds with one decimal: `12.3s`.
pub(crate) fn seconds(duration: Duration) -> String {
    format!("{:.1}s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_three_digits() {
        for (count, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1.00kB"),
            (1049, "1.05kB"),
            (23_400_000, "23.4MB"),
            (999_600_000, "1.00GB"),
            (u64::MAX, "18.4EB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }
}
