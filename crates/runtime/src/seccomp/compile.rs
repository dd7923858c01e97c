//! From a profile to a program of the kernel's classic BPF.

use super::numbers::{NONE, NUMBERS, Row};
use super::profile::{Condition, Verdict};

/// The longest program that the kernel takes.
const LONGEST: usize = 4096;

/// Where the kernel's `struct seccomp_data` has what is tested. Little-endian.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENT_LOW: u32 = 16;
const ARGUMENT_HIGH: u32 = 20;

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const IF_NOT_LESS: u16 = 0x35;
const RETURN: u16 = 0x06;

const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const KILL: u32 = 0x8000_0000;

/// A call's number on one architecture.
type Column = fn(&Row) -> u32;

/// Call tables, the native one first: the kernel's name of the architecture, and its column.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: &[(u32, Column)] = &[(0xc000_003e, |row| row.1), (0x4000_0003, |row| row.2)];
#[cfg(not(target_arch = "x86_64"))]
const ARCHITECTURES: &[(u32, Column)] = &[(0xc000_00b7, |row| row.3)];

type Code = Vec<libc::sock_filter>;

fn op(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// The program for `profile`; `None` if it were too long.
pub(super) fn compile(profile: &[(&str, Verdict)]) -> Option<Code> {
    let mut code = vec![op(LOAD, ARCHITECTURE, 0, 0)];
    for (architecture, column) in ARCHITECTURES {
        let body = table(profile, *column)?;
        let over = u32::try_from(body.len()).ok()?;
        code.push(op(IF_EQUAL, *architecture, 1, 0));
        code.push(op(JUMP, over, 0, 0));
        code.extend(body);
    }
    code.push(op(RETURN, KILL, 0, 0));
    (code.len() <= LONGEST).then_some(code)
}

/// Calls of one architecture from `first` on, up to the next one's first, all treated alike.
struct Range<'a> {
    first: u32,
    outcome: Outcome<'a>,
}

#[derive(Clone, Copy, PartialEq)]
enum Outcome<'a> {
    Return(u32),
    Conditions(&'a [Condition]),
}

fn fail(errno: i32) -> Outcome<'static> {
    Outcome::Return(ERRNO | errno.cast_unsigned())
}

fn table(profile: &[(&str, Verdict)], column: Column) -> Option<Code> {
    let mut code = vec![op(LOAD, NUMBER, 0, 0)];
    code.extend(tree(&ranges(profile, column))?);
    Some(code)
}

fn ranges<'a>(profile: &'a [(&str, Verdict)], column: Column) -> Vec<Range<'a>> {
    let number = |name: &str| {
        let row = NUMBERS.iter().find(|row| row.0 == name)?;
        Some(column(row)).filter(|number| *number != NONE)
    };
    let mut calls: Vec<(u32, Outcome<'a>)> = profile
        .iter()
        .filter_map(|(name, verdict)| Some((number(name)?, outcome(verdict))))
        .collect();
    calls.sort_by_key(|(number, _)| *number);
    let mut ranges: Vec<Range<'a>> = Vec::new();
    let mut push = |first, outcome| match ranges.last_mut() {
        Some(last) if last.outcome == outcome => {}
        Some(last) if last.first == first => last.outcome = outcome,
        _ => ranges.push(Range { first, outcome }),
    };
    push(0, fail(libc::EPERM));
    for (number, outcome) in &calls {
        push(*number, *outcome);
        push(number + 1, fail(libc::EPERM));
    }
    // Calls that are newer than the profile do not exist, so that programs fall back on older ones.
    let newest = NUMBERS.iter().map(column).filter(|number| *number != NONE);
    push(newest.max().unwrap_or(0) + 1, fail(libc::ENOSYS));
    ranges
}

fn outcome(verdict: &Verdict) -> Outcome<'_> {
    match verdict {
        Verdict::Allow => Outcome::Return(ALLOW),
        Verdict::Fail(errno) => fail((*errno).into()),
        Verdict::If(conditions) => Outcome::Conditions(conditions),
    }
}

/// Finds the range of the number in the accumulator. The recursion is as deep as the logarithm of
/// the number of ranges.
fn tree(ranges: &[Range<'_>]) -> Option<Code> {
    match ranges {
        [] => None,
        [range] => Some(leaf(range.outcome)),
        _ => {
            let (left, right) = ranges.split_at(ranges.len() / 2);
            let middle = right.first()?.first;
            let (left, right) = (tree(left)?, tree(right)?);
            let mut code = match u8::try_from(left.len()) {
                Ok(over) => vec![op(IF_NOT_LESS, middle, over, 0)],
                Err(_) => vec![
                    op(IF_NOT_LESS, middle, 0, 1),
                    op(JUMP, u32::try_from(left.len()).ok()?, 0, 0),
                ],
            };
            code.extend(left);
            code.extend(right);
            Some(code)
        }
    }
}

fn leaf(outcome: Outcome<'_>) -> Code {
    match outcome {
        Outcome::Return(value) => vec![op(RETURN, value, 0, 0)],
        Outcome::Conditions(conditions) => {
            let mut code: Code = conditions.iter().flat_map(|c| test(*c)).collect();
            code.extend(leaf(fail(libc::EPERM)));
            code
        }
    }
}

/// Allows the call if the 64 bits of its first argument fulfil the condition, else goes on.
fn test(condition: Condition) -> Code {
    let high = op(LOAD, ARGUMENT_HIGH, 0, 0);
    let low = op(LOAD, ARGUMENT_LOW, 0, 0);
    let allow = op(RETURN, ALLOW, 0, 0);
    match condition {
        Condition::Equal(value) => vec![
            high,
            op(IF_EQUAL, 0, 0, 3),
            low,
            op(IF_EQUAL, value, 0, 1),
            allow,
        ],
        Condition::Less(value) => vec![
            high,
            op(IF_EQUAL, 0, 0, 3),
            low,
            op(IF_NOT_LESS, value, 1, 0),
            allow,
        ],
        Condition::Greater(value) => vec![
            high,
            op(IF_EQUAL, 0, 0, 2),
            low,
            op(IF_GREATER, value, 0, 1),
            allow,
        ],
        // The bits are all in the lower half.
        Condition::NoneOf(bits) => vec![low, op(AND, bits, 0, 0), op(IF_EQUAL, 0, 0, 1), allow],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::default_set as default_capabilities;
    use crate::seccomp::default_profile;

    const NATIVE: u32 = ARCHITECTURES[0].0;
    const PERM: u32 = ERRNO | 1;
    const NOSYS: u32 = ERRNO | 38;

    /// Runs a program as the kernel would.
    fn run(code: &[libc::sock_filter], architecture: u32, number: u32, argument: u64) -> u32 {
        let (mut at, mut value) = (0, 0_u32);
        loop {
            let op = code[at];
            at += 1;
            let jump = |taken: bool| usize::from(if taken { op.jt } else { op.jf });
            match op.code {
                LOAD => {
                    value = match op.k {
                        NUMBER => number,
                        ARCHITECTURE => architecture,
                        ARGUMENT_LOW => argument as u32,
                        ARGUMENT_HIGH => (argument >> 32) as u32,
                        other => panic!("loads {other}"),
                    }
                }
                AND => value &= op.k,
                JUMP => at += op.k as usize,
                IF_EQUAL => at += jump(value == op.k),
                IF_GREATER => at += jump(value > op.k),
                IF_NOT_LESS => at += jump(value >= op.k),
                RETURN => return op.k,
                other => panic!("no such operation: {other:#x}"),
            }
        }
    }

    fn program() -> Code {
        compile(&default_profile(default_capabilities())).expect("fits")
    }

    #[test]
    fn every_number_gets_what_the_profile_says() {
        let profile = default_profile(default_capabilities());
        let code = program();
        for (architecture, column) in ARCHITECTURES {
            for number in 0..600 {
                let name = NUMBERS
                    .iter()
                    .find(|row| column(row) == number)
                    .map(|r| r.0);
                let verdict = profile.iter().find(|(known, _)| Some(*known) == name);
                let expected = match verdict {
                    Some((_, Verdict::Allow)) => ALLOW,
                    Some((_, Verdict::Fail(errno))) => ERRNO | u32::from(*errno),
                    Some((_, Verdict::If(_))) => continue,
                    None if number > 466 => NOSYS,
                    None => PERM,
                };
                let got = run(&code, *architecture, number, 0);
                assert_eq!(got, expected, "{architecture:#x} {number} {name:?}");
            }
        }
    }

    #[test]
    fn arguments_are_compared_in_all_their_bits() {
        let code = program();
        let socket = libc::SYS_socket as u32;
        for (family, expected) in [
            (1, ALLOW),
            (37, ALLOW),
            (38, PERM),
            (39, ALLOW),
            (40, PERM),
            (41, ALLOW),
            (1 << 32, ALLOW),
        ] {
            assert_eq!(run(&code, NATIVE, socket, family), expected, "{family}");
        }
        let personality = libc::SYS_personality as u32;
        for (value, expected) in [
            (0, ALLOW),
            (8, ALLOW),
            (9, PERM),
            (0xffff_ffff, ALLOW),
            ((1 << 32) | 8, PERM),
        ] {
            assert_eq!(run(&code, NATIVE, personality, value), expected, "{value}");
        }
        let clone = libc::SYS_clone as u32;
        assert_eq!(run(&code, NATIVE, clone, 17), ALLOW);
        assert_eq!(run(&code, NATIVE, clone, 0x1000_0000), PERM);
        assert_eq!(run(&code, NATIVE, clone, 0x0002_0000), PERM);
    }

    #[test]
    fn other_architectures_are_killed() {
        assert_eq!(run(&program(), 0x1234, 0, 0), KILL);
    }

    #[test]
    fn capabilities_open_calls() {
        let admin = compile(&default_profile(1 << 21)).expect("fits");
        for number in [libc::SYS_mount, libc::SYS_clone3, libc::SYS_clone] {
            assert_eq!(run(&admin, NATIVE, number as u32, !0), ALLOW, "{number}");
        }
        assert_eq!(run(&program(), NATIVE, libc::SYS_mount as u32, 0), PERM);
        assert_eq!(run(&program(), NATIVE, libc::SYS_chroot as u32, 0), ALLOW);
    }
}
