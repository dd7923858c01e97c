//! The modes of `--chmod`: octal, or symbolic as chmod(1) reads them.

use std::fmt;

use crate::error::ErrorKind;

/// A mode for `--chmod`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chmod {
    /// Permission bits, at most 0o7777.
    Octal(u32),
    /// A list of changes such as `u=rwX,go=rX`, checked.
    Symbolic(String),
}

impl Chmod {
    /// Reads a mode; variables must be expanded before.
    pub fn parse(value: &str) -> Result<Self, ErrorKind> {
        let invalid = || ErrorKind::InvalidChmod {
            value: value.to_owned(),
        };
        if value.starts_with(|c: char| c.is_ascii_digit()) {
            // from_str_radix takes a sign, which the check above has ruled out.
            return match u32::from_str_radix(value, 8) {
                Ok(mode) if mode <= 0o7777 => Ok(Self::Octal(mode)),
                _ => Err(invalid()),
            };
        }
        if is_symbolic(value) {
            Ok(Self::Symbolic(value.to_owned()))
        } else {
            Err(invalid())
        }
    }
}

impl fmt::Display for Chmod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Octal(mode) => write!(f, "{mode:o}"),
            Self::Symbolic(changes) => f.write_str(changes),
        }
    }
}

/// Clauses `[ugoa]*([-+=][rwxXstugo]*)+` between commas.
fn is_symbolic(value: &str) -> bool {
    value.split(',').all(|clause| {
        let actions = clause.trim_start_matches(['u', 'g', 'o', 'a']);
        actions.starts_with(['-', '+', '=']) && actions.chars().all(|c| "-+=rwxXstugo".contains(c))
    })
}
