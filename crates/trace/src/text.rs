//! How figures are written in reports.

use std::fmt;

/// A digest as people write it: the first characters of the hash.
pub(crate) fn short(digest: &str) -> &str {
    let hash = digest.split_once(':').map_or(digest, |(_, hash)| hash);
    hash.get(..12).unwrap_or(hash)
}

/// Microseconds as a duration.
pub(crate) struct Micros(pub(crate) u64);

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.0 {
            micros @ 0..1_000 => format!("{micros}µs"),
            micros @ 1_000..1_000_000 => format!("{:.1}ms", micros as f64 / 1e3),
            micros => format!("{:.2}s", micros as f64 / 1e6),
        };
        f.pad(&text)
    }
}

/// A name on one line, cut where it is too long.
pub(crate) fn one_line(name: &str) -> String {
    const WIDTH: usize = 100;
    let mut text: String = name
        .chars()
        .map(|char| if char.is_control() { ' ' } else { char })
        .take(WIDTH + 1)
        .collect();
    if text.chars().count() > WIDTH {
        text = text.chars().take(WIDTH - 1).collect();
        text.push('…');
    }
    text
}
