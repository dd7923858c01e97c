//! The flags at the beginning of a statement: `--name=value`, quoted and escaped as words are.

use std::ops::Range;

/// A flag as text, quotes and escapes removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FlagText {
    /// With its dashes.
    pub(crate) text: String,
    /// Where it stands in the logical line.
    pub(crate) range: Range<usize>,
}

/// Reads flags from `text`, beginning at byte `start`: the flags, and where the rest begins.
///
/// The first word that does not begin with `--` ends them, as does `--` alone, which is taken.
pub(crate) fn split_flags(text: &str, start: usize, escape: char) -> (Vec<FlagText>, usize) {
    let mut flags = Vec::new();
    let mut at = start;
    loop {
        let rest = text.get(at..).unwrap_or_default();
        at += rest.len() - rest.trim_start().len();
        let rest = text.get(at..).unwrap_or_default();
        if !rest.starts_with("--") {
            return (flags, at);
        }
        let (word, length) = read_word(rest, escape);
        if word == "--" {
            return (flags, at + length);
        }
        flags.push(FlagText {
            text: word,
            range: at..at + length,
        });
        at += length;
    }
}

/// The word that `text` begins with, and its length in `text`.
fn read_word(text: &str, escape: char) -> (String, usize) {
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match quote {
            None if c.is_whitespace() => return (word, at),
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            // At the end of the text an escape character stands for nothing.
            _ if c == escape => word.extend(chars.next().map(|(_, escaped)| escaped)),
            _ => word.push(c),
        }
    }
    (word, text.len())
}
