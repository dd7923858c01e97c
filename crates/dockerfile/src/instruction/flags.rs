//! The flags of one instruction, checked against those that it has.

use crate::error::{Error, ErrorKind};
use crate::lexer::Statement;
use crate::source::Mark;
use crate::suggest;

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    /// True, false, or nothing for true.
    Bool,
    /// One value.
    Text,
    /// One value each time.
    List,
}

/// A flag that an instruction has: its name and what it takes.
pub(super) type Spec = (&'static str, Takes);

/// The flags that were given.
#[derive(Debug, Default)]
pub(super) struct Flags {
    given: Vec<Flag>,
}

#[derive(Debug)]
struct Flag {
    name: &'static str,
    value: String,
    mark: Mark,
}

impl Flags {
    /// Checks the flags of `statement` against `specs`.
    pub(super) fn parse(statement: &Statement, specs: &[Spec]) -> Result<Self, Error> {
        let mut flags = Self::default();
        for flag in &statement.flags {
            let mark = statement.line.mark(&flag.range);
            let parsed = parse_flag(&flag.text, mark, specs, &flags);
            flags.given.push(parsed.map_err(|error| error.mark(mark))?);
        }
        Ok(flags)
    }

    /// The value of a flag that takes text; an empty one counts as none.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.value(name)
            .filter(|value| !value.is_empty())
            .map(str::to_owned)
    }

    /// The value of a flag, even if it is empty.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        let flag = self.given.iter().find(|flag| flag.name == name)?;
        Some(&flag.value)
    }

    /// The value of a flag that is true or false.
    pub(super) fn bool(&self, name: &str) -> Option<bool> {
        self.value(name).map(|value| value == "true")
    }

    /// The values of a flag that may be repeated, with their places.
    pub(super) fn list<'f>(&'f self, name: &'f str) -> impl Iterator<Item = (&'f str, Mark)> {
        self.given
            .iter()
            .filter(move |flag| flag.name == name)
            .map(|flag| (flag.value.as_str(), flag.mark))
    }

    /// The place of a flag.
    pub(super) fn mark(&self, name: &str) -> Option<Mark> {
        let flag = self.given.iter().find(|flag| flag.name == name)?;
        Some(flag.mark)
    }
}

fn parse_flag(text: &str, mark: Mark, specs: &[Spec], before: &Flags) -> Result<Flag, Error> {
    let text = text.strip_prefix("--").unwrap_or(text);
    let (written, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    };
    let flag = || written.to_owned();
    let Some((name, takes)) = specs.iter().find(|(name, _)| *name == written) else {
        let names = specs.iter().map(|(name, _)| *name);
        let suggestion = suggest::closest(written, names).map(|name| name.to_string());
        return Err(Error::new(ErrorKind::UnknownFlag { flag: flag() }).suggest(suggestion));
    };
    if *takes != Takes::List && before.mark(name).is_some() {
        return Err(ErrorKind::DuplicateFlag { flag: flag() }.into());
    }
    let value = match (takes, value) {
        (Takes::Bool, None) => "true".to_owned(),
        (Takes::Bool, Some("")) | (_, None) => {
            return Err(ErrorKind::MissingFlagValue { flag: flag() }.into());
        }
        (Takes::Bool, Some(value)) => match value.to_lowercase().as_str() {
            known @ ("true" | "false") => known.to_owned(),
            _ => {
                let value = value.to_owned();
                return Err(ErrorKind::FlagNotBoolean {
                    flag: flag(),
                    value,
                }
                .into());
            }
        },
        (_, Some(value)) => value.to_owned(),
    };
    Ok(Flag { name, value, mark })
}
