//! Changes of permission bits: octal, or symbolic as chmod(1) has them.

use super::FileError;

const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
const STICKY: u32 = 0o1000;
const ALL_RWX: u32 = 0o777;

/// What becomes of the permission bits of a copied path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ModeChange {
    /// They stay.
    #[default]
    Keep,
    /// They become these bits.
    Set(u32),
    /// They are changed by clauses.
    Symbolic(SymbolicMode),
}

/// A parsed symbolic mode such as `u=rw,go-w,a+X`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SymbolicMode {
    actions: Vec<Action>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Action {
    /// The bits that may change.
    who: u32,
    /// Nobody was named: like everybody, and set-id bits too.
    operator: Operator,
    operand: Operand,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Add,
    Remove,
    Assign,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operand {
    /// These bits, for all three classes; `conditional` are the execute bits of an `X`.
    Bits { bits: u32, conditional: bool },
    /// The bits of one class, by how far they are shifted.
    Class(u32),
}

impl ModeChange {
    /// Parses what `modeStr` of an LLB copy holds: an octal number or a symbolic mode.
    pub fn parse(text: &str) -> Result<Self, FileError> {
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let bits = u32::from_str_radix(text, 8)
                .ok()
                .filter(|bits| *bits <= 0o7777);
            return bits
                .map(Self::Set)
                .ok_or_else(|| invalid(text, "not octal, or above 7777"));
        }
        SymbolicMode::parse(text).map(Self::Symbolic)
    }

    /// The bits that `mode` (0 to 0o7777) becomes.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        match self {
            Self::Keep => mode,
            Self::Set(bits) => *bits & 0o7777,
            Self::Symbolic(symbolic) => symbolic.apply(mode, is_dir),
        }
    }

    /// The bits of directories that are made on the way to the destination.
    pub(crate) fn for_parents(&self) -> u32 {
        match self {
            Self::Set(bits) => bits & ALL_RWX,
            Self::Keep | Self::Symbolic(_) => 0o755,
        }
    }
}

impl SymbolicMode {
    fn parse(text: &str) -> Result<Self, FileError> {
        let mut actions = Vec::new();
        for clause in text.split(',') {
            parse_clause(clause, &mut actions).map_err(|reason| invalid(text, reason))?;
        }
        Ok(Self { actions })
    }

    fn apply(&self, original: u32, is_dir: bool) -> u32 {
        let mut mode = original;
        for action in &self.actions {
            let bits = match action.operand {
                Operand::Bits { bits, conditional } => {
                    // The execute bits that count are those from before the change.
                    let executable = is_dir || original & 0o111 != 0;
                    bits | if conditional && executable { 0o111 } else { 0 }
                }
                Operand::Class(shift) => {
                    let class = (mode >> shift) & 0o7;
                    class << 6 | class << 3 | class
                }
            };
            let bits = bits & action.who;
            mode = match action.operator {
                Operator::Add => mode | bits,
                Operator::Remove => mode & !bits,
                // The sticky bit is only assigned where it is named.
                Operator::Assign => mode & !(action.who & !STICKY) | bits,
            };
        }
        mode
    }
}

fn invalid(mode: &str, reason: &'static str) -> FileError {
    FileError::Mode {
        mode: mode.to_owned(),
        reason,
    }
}

fn parse_clause(clause: &str, actions: &mut Vec<Action>) -> Result<(), &'static str> {
    let operators = ['+', '-', '='];
    let start = clause
        .find(operators)
        .ok_or("a clause has no '+', '-' or '='")?;
    let (who_text, mut rest) = clause.split_at(start);
    let mut who = 0;
    for c in who_text.chars() {
        who |= match c {
            'u' => SET_UID | 0o700,
            'g' => SET_GID | 0o070,
            'o' => 0o007,
            'a' => SET_UID | SET_GID | ALL_RWX,
            _ => return Err("only u, g, o and a may stand before '+', '-' or '='"),
        };
    }
    let others_only = who == 0o007;
    let named = if who == 0 {
        SET_UID | SET_GID | ALL_RWX
    } else {
        who
    };
    while let Some(sign) = rest.chars().next() {
        let operator = match sign {
            '+' => Operator::Add,
            '-' => Operator::Remove,
            _ => Operator::Assign,
        };
        rest = &rest[1..];
        let end = rest.find(operators).unwrap_or(rest.len());
        let (permissions, after) = rest.split_at(end);
        rest = after;
        parse_permissions(permissions, operator, named, others_only, actions)?;
    }
    Ok(())
}

fn parse_permissions(
    text: &str,
    operator: Operator,
    who: u32,
    others_only: bool,
    actions: &mut Vec<Action>,
) -> Result<(), &'static str> {
    let mut bits = 0;
    let mut conditional = false;
    let mut classes = Vec::new();
    let mut sticky = 0;
    for c in text.chars() {
        match c {
            'r' => bits |= 0o444,
            'w' => bits |= 0o222,
            'x' => bits |= 0o111,
            // To take away what may be there needs no condition.
            'X' if operator == Operator::Remove => bits |= 0o111,
            'X' => conditional = true,
            's' if others_only => {}
            's' => bits |= SET_UID | SET_GID,
            't' if others_only => {}
            't' => sticky = STICKY,
            'u' => classes.push(6),
            'g' => classes.push(3),
            'o' => classes.push(0),
            _ => return Err("permissions are r, w, x, X, s, t, or one of u, g, o"),
        }
    }
    let who = who | sticky;
    let plain = Operand::Bits {
        bits: bits | sticky,
        conditional,
    };
    if classes.is_empty() {
        actions.push(Action {
            who,
            operator,
            operand: plain,
        });
        return Ok(());
    }
    // `g=ur`: the class is assigned first, so that clearing does not undo the rest.
    for (at, shift) in classes.into_iter().enumerate() {
        let operator = match operator {
            Operator::Assign if at > 0 => Operator::Add,
            operator => operator,
        };
        actions.push(Action {
            who,
            operator,
            operand: Operand::Class(shift),
        });
    }
    if bits | sticky != 0 || conditional {
        let operator = match operator {
            Operator::Assign => Operator::Add,
            operator => operator,
        };
        actions.push(Action {
            who,
            operator,
            operand: plain,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_as_chmod_applies_them() {
        let table = [
            ("644", 0o4755, false, 0o644),
            ("4755", 0o644, false, 0o4755),
            ("+x", 0o644, false, 0o755),
            ("u+x", 0o644, false, 0o744),
            ("go-w", 0o666, false, 0o644),
            ("=rw,+X", 0o755, false, 0o777),
            ("=rw,+X", 0o644, false, 0o666),
            ("=rw,+X", 0o644, true, 0o777),
            ("u=rwx,go=rx", 0o000, false, 0o755),
            ("u=rwx,go=u-w", 0o000, false, 0o755),
            ("go=", 0o777, false, 0o700),
            ("g=u", 0o640, false, 0o660),
            ("u+s", 0o755, false, 0o4755),
            ("g+s", 0o755, false, 0o2755),
            ("+s", 0o755, false, 0o6755),
            ("o+s", 0o755, false, 0o755),
            ("+t", 0o755, true, 0o1755),
            ("a=rx", 0o1777, true, 0o1555),
            ("u=rw", 0o4755, false, 0o655),
            ("a-X", 0o755, false, 0o644),
            ("a+rw-x", 0o111, false, 0o666),
            ("ug+rw,o-rwx", 0o607, false, 0o660),
        ];
        for (text, mode, is_dir, expected) in table {
            let change = ModeChange::parse(text).unwrap();
            let found = change.apply(mode, is_dir);
            assert_eq!(
                found, expected,
                "{text} on {mode:o}: {found:o}, not {expected:o}"
            );
        }
    }

    #[test]
    fn bad_modes_are_refused() {
        for text in [
            "", "888", "17777", "rwx", "u", "u~x", "u+q", "u+x,", "z+x", "+é",
        ] {
            let error = ModeChange::parse(text).unwrap_err();
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }
}
