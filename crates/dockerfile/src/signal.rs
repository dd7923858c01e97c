//! The signals that `STOPSIGNAL` takes.

/// Linux's signals without `SIG`; real-time ones are counted from either end.
const NAMES: [&str; 35] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
    "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
    "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN",
];

/// Whether `signal` is a number other than 0, or a name, in any case, with or without `SIG`.
pub fn is_signal(signal: &str) -> bool {
    if let Ok(number) = signal.parse::<i64>() {
        return number != 0;
    }
    let upper = signal.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    NAMES.contains(&name) || is_real_time(name)
}

/// `RTMIN+1` to `RTMIN+15`, `RTMAX-14` to `RTMAX`.
fn is_real_time(name: &str) -> bool {
    let within = |digits: &str, last: u8| {
        let canonical = |number: &u8| number.to_string() == digits;
        digits
            .parse()
            .ok()
            .filter(canonical)
            .is_some_and(|number| (1..=last).contains(&number))
    };
    match (name.strip_prefix("RTMIN+"), name.strip_prefix("RTMAX-")) {
        (Some(digits), _) => within(digits, 15),
        (_, Some(digits)) => within(digits, 14),
        _ => name == "RTMAX",
    }
}

#[cfg(test)]
mod tests {
    use super::is_signal;

    #[test]
    fn names_and_numbers() {
        for signal in [
            "9",
            "-1",
            "TERM",
            "SIGTERM",
            "sigquit",
            "RTMIN",
            "SIGRTMIN+3",
            "rtmax-14",
            "RTMAX",
        ] {
            assert!(is_signal(signal), "{signal}");
        }
        for signal in [
            "", "0", "SIG", "NONE", "RTMIN+16", "RTMIN+0", "RTMIN+01", "RTMAX-15", "9x",
        ] {
            assert!(!is_signal(signal), "{signal}");
        }
    }
}
