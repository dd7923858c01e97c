//! The word lexer: quotes, escapes, `$name` and `${name…}`.

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::str::Chars;

use super::pattern::{self, Reach};
use super::{Environment, ExpandError, ExpandReason, MAX_EXPANSION, MAX_NESTING, Quote};

/// How words are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lexer {
    /// The character that escapes the next one.
    pub escape: char,
    /// Whether quotes stay in the result.
    pub raw_quotes: bool,
    /// Whether escape characters stay in the result.
    pub raw_escapes: bool,
    /// Whether quotes mean anything at all.
    pub process_quotes: bool,
    /// Whether the use of a variable that is not set stays in the result as it was written.
    pub keep_unset: bool,
}

/// The result of an expansion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expansion {
    /// The whole text.
    pub text: String,
    /// The text split at unquoted white space.
    pub words: Vec<String>,
    /// The names that were used and set.
    pub matched: BTreeSet<String>,
    /// The names that were used and not set.
    pub unmatched: BTreeSet<String>,
}

impl Lexer {
    /// The usual rules: quotes and escapes are taken away, unset variables are empty.
    pub fn new(escape: char) -> Self {
        Self {
            escape,
            raw_quotes: false,
            raw_escapes: false,
            process_quotes: true,
            keep_unset: false,
        }
    }

    /// Expands `word` with the variables of `environment`.
    pub fn expand(
        &self,
        word: &str,
        environment: &dyn Environment,
    ) -> Result<Expansion, ExpandError> {
        let mut scan = Scan {
            lexer: *self,
            rest: word.chars().peekable(),
            environment,
            matched: BTreeSet::new(),
            unmatched: BTreeSet::new(),
            depth: 0,
        };
        let mut words = Words::default();
        let text = scan
            .until(None, self.raw_escapes, Some(&mut words))
            .map_err(|reason| ExpandError {
                word: word.to_owned(),
                reason,
            })?;
        Ok(Expansion {
            text,
            words: words.finish(),
            matched: scan.matched,
            unmatched: scan.unmatched,
        })
    }
}

struct Scan<'w, 'e> {
    lexer: Lexer,
    rest: Peekable<Chars<'w>>,
    environment: &'e dyn Environment,
    matched: BTreeSet<String>,
    unmatched: BTreeSet<String>,
    depth: usize,
}

impl<'e> Scan<'_, 'e> {
    /// Reads up to `stop`, which is taken, or to the end.
    fn until(
        &mut self,
        stop: Option<char>,
        raw_escapes: bool,
        mut words: Option<&mut Words>,
    ) -> Result<String, ExpandReason> {
        let mut text = String::new();
        while let Some(&c) = self.rest.peek() {
            if Some(c) == stop {
                self.rest.next();
                return Ok(text);
            }
            let start = text.len();
            let split = match c {
                '\'' if self.lexer.process_quotes => {
                    self.single_quoted(&mut text)?;
                    Split::Never
                }
                '"' if self.lexer.process_quotes => {
                    self.double_quoted(raw_escapes, &mut text)?;
                    Split::Never
                }
                '$' => {
                    self.dollar(&mut text)?;
                    Split::AtSpace
                }
                '<' => {
                    self.heredoc_operator(&mut text);
                    Split::Never
                }
                c if c == self.lexer.escape => {
                    if !self.escaped(raw_escapes, &mut text) {
                        break;
                    }
                    Split::Never
                }
                c => {
                    self.rest.next();
                    text.push(c);
                    Split::AtSpace
                }
            };
            if text.len() > MAX_EXPANSION {
                return Err(ExpandReason::TooLong);
            }
            if let Some(words) = words.as_deref_mut() {
                words.add(text.get(start..).unwrap_or_default(), split);
            }
        }
        match stop {
            None => Ok(text),
            Some('/') => Err(ExpandReason::MissingSlash),
            Some(_) => Err(ExpandReason::MissingBrace),
        }
    }

    /// Takes an escape character and what it escapes; false at the end of the text.
    fn escaped(&mut self, raw_escapes: bool, text: &mut String) -> bool {
        self.rest.next();
        if raw_escapes {
            text.push(self.lexer.escape);
        }
        match self.rest.next() {
            Some(c) => {
                text.push(c);
                true
            }
            // A trailing escape is dropped, or stands alone where escapes are kept.
            None => raw_escapes,
        }
    }

    fn single_quoted(&mut self, text: &mut String) -> Result<(), ExpandReason> {
        self.rest.next();
        if self.lexer.raw_quotes {
            text.push('\'');
        }
        for c in self.rest.by_ref() {
            if c == '\'' {
                if self.lexer.raw_quotes {
                    text.push('\'');
                }
                return Ok(());
            }
            text.push(c);
        }
        Err(ExpandReason::UnclosedQuote(Quote::Single))
    }

    fn double_quoted(&mut self, raw_escapes: bool, text: &mut String) -> Result<(), ExpandReason> {
        self.rest.next();
        if self.lexer.raw_quotes {
            text.push('"');
        }
        while let Some(&c) = self.rest.peek() {
            match c {
                '"' => {
                    self.rest.next();
                    if self.lexer.raw_quotes {
                        text.push('"');
                    }
                    return Ok(());
                }
                '$' => self.dollar(text)?,
                c if c == self.lexer.escape => {
                    self.rest.next();
                    let escapes = |next: &char| matches!(next, '"' | '$') || *next == c;
                    match self.rest.next_if(escapes) {
                        Some(next) if raw_escapes => text.extend([c, next]),
                        Some(next) => text.push(next),
                        // Before any other character it is text; at the end the quote is open.
                        None if raw_escapes && self.rest.peek().is_some() => text.extend([c, c]),
                        None => text.push(c),
                    }
                }
                c => {
                    self.rest.next();
                    text.push(c);
                }
            }
        }
        Err(ExpandReason::UnclosedQuote(Quote::Double))
    }

    /// `<<` takes the blanks after it along, so that `<< WORD` is one word.
    fn heredoc_operator(&mut self, text: &mut String) {
        self.rest.next();
        text.push('<');
        if self.rest.next_if_eq(&'<').is_none() {
            return;
        }
        text.push('<');
        while let Some(blank) = self.rest.next_if(|c| matches!(c, '\t' | '\r' | ' ')) {
            text.push(blank);
        }
    }

    fn dollar(&mut self, text: &mut String) -> Result<(), ExpandReason> {
        self.rest.next();
        if self.rest.next_if_eq(&'{').is_some() {
            self.depth += 1;
            if self.depth > MAX_NESTING {
                return Err(ExpandReason::TooDeep);
            }
            let value = self.substitution()?;
            self.depth -= 1;
            text.push_str(&value);
            return Ok(());
        }
        let name = self.name();
        if name.is_empty() {
            text.push('$');
            return Ok(());
        }
        match self.lookup(&name) {
            Some(value) => text.push_str(value),
            None if self.lexer.keep_unset => {
                text.push('$');
                text.push_str(&name);
            }
            None => {}
        }
        Ok(())
    }

    /// What follows `${`, up to and with `}`.
    fn substitution(&mut self) -> Result<String, ExpandReason> {
        match self.rest.peek() {
            None => return Err(ExpandReason::MissingBrace),
            Some('{' | '}' | ':') => return Err(ExpandReason::BadSubstitution),
            Some(_) => {}
        }
        let name = self.name();
        let Some(operator) = self.rest.next() else {
            return Err(ExpandReason::MissingBrace);
        };
        match operator {
            '}' => Ok(match self.lookup(&name) {
                Some(value) => value.to_owned(),
                None if self.lexer.keep_unset => format!("${{{name}}}"),
                None => String::new(),
            }),
            ':' => match self.rest.next() {
                None => Err(ExpandReason::MissingBrace),
                Some(operator @ ('-' | '+' | '?')) => self.conditional(&name, operator, true),
                Some(other) => Err(ExpandReason::UnsupportedModifier(format!(":{other}"))),
            },
            '-' | '+' | '?' => self.conditional(&name, operator, false),
            '#' | '%' => self.trimmed(&name, operator),
            '/' => self.replaced(&name),
            other => Err(ExpandReason::UnsupportedModifier(other.to_string())),
        }
    }

    /// `${name-word}`, `${name+word}`, `${name?word}`, with a colon where empty counts as unset.
    fn conditional(
        &mut self,
        name: &str,
        operator: char,
        colon: bool,
    ) -> Result<String, ExpandReason> {
        let word = self.until(Some('}'), false, None)?;
        let value = self.lookup(name);
        if value.is_none() && self.lexer.keep_unset {
            let colon = if colon { ":" } else { "" };
            return Ok(format!("${{{name}{colon}{operator}{word}}}"));
        }
        let usable = value.filter(|value| !colon || !value.is_empty());
        match (operator, usable) {
            ('-', Some(value)) | ('?', Some(value)) => Ok(value.to_owned()),
            ('-', None) | ('+', Some(_)) => Ok(word),
            ('+', None) => Ok(String::new()),
            _ => Err(ExpandReason::Required {
                name: name.to_owned(),
                message: match (word.is_empty(), value) {
                    (false, _) => word,
                    (true, None) => "is not allowed to be unset".to_owned(),
                    (true, Some(_)) => "is not allowed to be empty".to_owned(),
                },
            }),
        }
    }

    /// `${name#pattern}`, `${name##pattern}`, `${name%pattern}`, `${name%%pattern}`.
    fn trimmed(&mut self, name: &str, operator: char) -> Result<String, ExpandReason> {
        let word = self.until(Some('}'), true, None)?;
        let value = self.lookup(name);
        if value.is_none() && self.lexer.keep_unset {
            return Ok(format!("${{{name}{operator}{word}}}"));
        }
        let value = value.unwrap_or_default();
        let (pattern, reach) = match word.strip_prefix(operator) {
            Some(pattern) => (pattern, Reach::Longest),
            None => (word.as_str(), Reach::Shortest),
        };
        if operator == '#' {
            pattern::trim_prefix(pattern, value, reach)
        } else {
            pattern::trim_suffix(pattern, value, reach)
        }
    }

    /// `${name/pattern/replacement}` and, for every match, `${name//pattern/replacement}`.
    fn replaced(&mut self, name: &str) -> Result<String, ExpandReason> {
        let all = self.rest.next_if_eq(&'/').is_some();
        let pattern = match self.until(Some('/'), true, None) {
            // Whatever else was still open there: a quote that follows is none of the pattern's.
            Err(_) if self.rest.peek().is_none() => return Err(ExpandReason::MissingSlash),
            pattern => pattern?,
        };
        let replacement = self.until(Some('}'), true, None)?;
        let value = self.lookup(name);
        if value.is_none() && self.lexer.keep_unset {
            let slash = if all { "//" } else { "/" };
            return Ok(format!("${{{name}{slash}{pattern}/{replacement}}}"));
        }
        pattern::replace(&pattern, value.unwrap_or_default(), &replacement, all)
    }

    /// A name: letters, digits and `_`, or digits alone, or one special parameter.
    fn name(&mut self) -> String {
        let mut name = String::new();
        match self.rest.peek() {
            Some(c) if c.is_numeric() => {
                while let Some(digit) = self.rest.next_if(|c| c.is_numeric()) {
                    name.push(digit);
                }
            }
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => name.extend(self.rest.next()),
            _ => {
                let in_name = |c: &char| c.is_alphabetic() || c.is_numeric() || *c == '_';
                while let Some(c) = self.rest.next_if(in_name) {
                    name.push(c);
                }
            }
        }
        name
    }

    fn lookup(&mut self, name: &str) -> Option<&'e str> {
        let value = self.environment.get(name);
        let names = match value {
            Some(_) => &mut self.matched,
            None => &mut self.unmatched,
        };
        names.insert(name.to_owned());
        value
    }
}

/// Whether white space in a piece of text ends a word.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Split {
    AtSpace,
    Never,
}

/// Collects words. Empty quotes alone make no word.
#[derive(Default)]
struct Words {
    words: Vec<String>,
    current: String,
}

impl Words {
    fn add(&mut self, piece: &str, split: Split) {
        if split == Split::Never {
            self.current.push_str(piece);
            return;
        }
        for c in piece.chars() {
            if !c.is_whitespace() {
                self.current.push(c);
            } else if !self.current.is_empty() {
                self.words.push(std::mem::take(&mut self.current));
            }
        }
    }

    fn finish(mut self) -> Vec<String> {
        if !self.current.is_empty() {
            self.words.push(self.current);
        }
        self.words
    }
}
