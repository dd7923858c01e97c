//! Sizes on disk as `buildkitd.toml` writes them.

/// What a state directory may be limited to at least, in bytes: its database and its reserve need some.
const LEAST: u64 = 64 << 20;

/// A size on the disk of the state directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskSpace {
    /// In bytes.
    Bytes(u64),
    /// In percent of the disk.
    Percent(u8),
    /// In percent of the disk, but not more bytes than this.
    AtMost(u8, u64),
}

impl DiskSpace {
    /// Reads bytes, a number with a unit of powers of 1024, or percent.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Some(percent) = text.strip_suffix('%') {
            return Some(Self::Percent(
                percent.parse().ok().filter(|percent| *percent <= 100)?,
            ));
        }
        let lower = text.to_ascii_lowercase();
        let digits = lower.trim_end_matches(|char: char| char.is_ascii_alphabetic() || char == ' ');
        let unit = lower.get(digits.len()..)?.trim();
        let unit = unit
            .strip_suffix("ib")
            .or_else(|| unit.strip_suffix('b'))
            .unwrap_or(unit);
        let power = ["", "k", "m", "g", "t", "p"]
            .iter()
            .position(|known| *known == unit)?;
        let factor = 1024_u64.checked_pow(power.try_into().ok()?)?;
        if let Ok(whole) = digits.parse::<u64>() {
            return Some(Self::Bytes(whole.checked_mul(factor)?));
        }
        let bytes = digits.parse::<f64>().ok()? * factor as f64;
        (bytes >= 0.0 && bytes < u64::MAX as f64).then_some(Self::Bytes(bytes as u64))
    }

    /// Reads how much a state directory may hold.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse_limit(text: &str) -> Result<Self, String> {
        match Self::parse(text) {
            None => Err(format!(
                "invalid disk space {text}: write bytes, a number with a unit such as 20GB, or a part of the disk such as 30%"
            )),
            Some(Self::Bytes(bytes)) if bytes < LEAST => Err(format!(
                "{text} is too little: a state directory needs at least 64 MiB"
            )),
            Some(Self::Percent(0)) => Err("0% is too little: leave it out for no limit".to_owned()),
            Some(limit) => Ok(limit),
        }
    }

    /// The bytes, of a disk of `total` bytes.
    pub fn of(self, total: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => total / 100 * u64::from(percent),
            Self::AtMost(percent, limit) => Self::Percent(percent).of(total).min(limit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, space) in [
            ("512", DiskSpace::Bytes(512)),
            ("10GB", DiskSpace::Bytes(10 << 30)),
            ("1.5 MiB", DiskSpace::Bytes(3 << 19)),
            ("20%", DiskSpace::Percent(20)),
        ] {
            assert_eq!(DiskSpace::parse(text), Some(space), "{text}");
        }
        for text in ["", "GB", "-1", "101%", "1x", "99999999999P"] {
            assert_eq!(DiskSpace::parse(text), None, "{text}");
        }
        assert_eq!(DiskSpace::Percent(20).of(1000), 200);
        assert_eq!(DiskSpace::AtMost(60, 50).of(1000), 50);
    }
}
