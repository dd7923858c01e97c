//! Durations and sizes, in the notations of Go and Docker.

use std::time::Duration;

/// Reads a duration such as `1m30s` or `1.5h`, at most `i64::MAX` nanoseconds as in image
/// configs. A negative one gives zero nanoseconds' error to the caller: none is returned for it
/// but [`Signed::Negative`].
pub(super) fn duration(text: &str) -> Result<Signed, &'static str> {
    let (rest, negative) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (rest, text.starts_with('-')),
        None => (text, false),
    };
    if rest == "0" {
        return Ok(Signed::Positive(Duration::ZERO));
    }
    if rest.is_empty() {
        return Err("a number with a unit is needed");
    }
    let mut total: u128 = 0;
    let mut rest = rest;
    while !rest.is_empty() {
        let (nanoseconds, after) = element(rest)?;
        total += nanoseconds;
        if total > i64::MAX.unsigned_abs().into() {
            return Err("it is too long");
        }
        rest = after;
    }
    if negative && total > 0 {
        return Ok(Signed::Negative);
    }
    let nanoseconds = u64::try_from(total).map_err(|_| "it is too long")?;
    Ok(Signed::Positive(Duration::from_nanos(nanoseconds)))
}

/// A duration with a sign; how negative does not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signed {
    Positive(Duration),
    Negative,
}

/// One number with its unit, in nanoseconds, and what follows.
fn element(text: &str) -> Result<(u128, &str), &'static str> {
    let number = leading(text, |c| c.is_ascii_digit() || c == '.');
    let rest = text.get(number.len()..).unwrap_or_default();
    let unit = leading(rest, |c| !c.is_ascii_digit() && c != '.');
    let rest = rest.get(unit.len()..).unwrap_or_default();
    let scale: u128 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        "" => return Err("its unit is missing"),
        _ => return Err("its unit is none of ns, us, ms, s, m, h"),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return Err("a number with a unit is needed");
    }
    let whole: u64 = match whole {
        "" => 0,
        digits => digits.parse().map_err(|_| "it is too long")?,
    };
    let mut nanoseconds = u128::from(whole) * scale;
    let mut place = scale;
    for digit in fraction.bytes() {
        place /= 10;
        nanoseconds += u128::from(digit - b'0') * place;
    }
    Ok((nanoseconds, rest))
}

fn leading(text: &str, belongs: impl Fn(char) -> bool) -> &str {
    let end = text.find(|c| !belongs(c)).unwrap_or(text.len());
    text.get(..end).unwrap_or_default()
}

/// Reads a number of bytes such as `512m` or `1.5GiB`, units being powers of 1024.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let end = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ')? + 1;
    let (number, unit) = text.split_at_checked(end)?;
    let number: f64 = number.strip_suffix(' ').unwrap_or(number).parse().ok()?;
    let exponent = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        "p" | "pb" | "pib" => 5,
        _ => return None,
    };
    let size = number * 1024f64.powi(exponent);
    // The wire format has a signed 64-bit number.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    (size.is_finite() && (0.0..9.2e18).contains(&size)).then_some(size as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_reads_them() {
        let nanos = |nanos| Ok(Signed::Positive(Duration::from_nanos(nanos)));
        assert_eq!(duration("0"), nanos(0));
        assert_eq!(duration("1m30s"), nanos(90_000_000_000));
        assert_eq!(duration("1.5h"), nanos(5_400_000_000_000));
        assert_eq!(duration(".5s"), nanos(500_000_000));
        assert_eq!(duration("+3us"), nanos(3_000));
        assert_eq!(duration("7µs"), nanos(7_000));
        assert_eq!(duration("-1s"), Ok(Signed::Negative));
        for wrong in [
            "",
            "5",
            "s",
            "1x",
            "1.2.3s",
            "9999999h",
            "1s5",
            "99999999999999999999s",
        ] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_as_docker_reads_them() {
        for (text, size) in [
            ("32", 32),
            ("32b", 32),
            ("32k", 32 << 10),
            ("32 KB", 32 << 10),
            ("1.5MiB", 3 << 19),
            ("2g", 2 << 30),
            ("0", 0),
        ] {
            assert_eq!(bytes(text), Some(size), "{text}");
        }
        for wrong in ["", "k", "-1", "1x", "1kbb", "1 2 k", "9999p"] {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
    }
}
