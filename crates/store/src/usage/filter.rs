//! The filters of `buildctl du --filter` and `prune --filter`.
//!
//! A filter is a list of selectors with `,` between, all of which must hold; of several filters
//! one must. A selector is a field alone (it is set), or a field, an operator (`==`, `!=`, `~=`
//! for a regular expression) and a value, bare or quoted: with `"`, or for an expression also
//! with `/` or `|`. The syntax is containerd's, `pkg/filters`.

use std::iter::Peekable;
use std::str::CharIndices;

use regex::Regex;

use super::UsageInfo;

/// At most this many bytes of a filter are read.
const MAX_LEN: usize = 64 * 1024;

/// Which usage records are meant.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// One of these must hold; if there are none, every record is meant.
    alternatives: Vec<Vec<Selector>>,
}

/// Why a text is not a filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("filter {text:?}: at byte {position}: {problem}")]
pub struct FilterError {
    /// The whole filter.
    pub text: String,
    /// Where the problem is.
    pub position: usize,
    /// What it is.
    pub problem: String,
}

#[derive(Clone, Debug)]
struct Selector {
    field: Field,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Id,
    Parents,
    Description,
    Type,
    InUse,
    Mutable,
    Immutable,
    Shared,
    Private,
    CreatedAt,
    LastUsedAt,
    UsageCount,
    Size,
}

const FIELDS: [(&str, Field); 13] = [
    ("id", Field::Id),
    ("parents", Field::Parents),
    ("description", Field::Description),
    ("type", Field::Type),
    ("inuse", Field::InUse),
    ("mutable", Field::Mutable),
    ("immutable", Field::Immutable),
    ("shared", Field::Shared),
    ("private", Field::Private),
    ("createdat", Field::CreatedAt),
    ("lastusedat", Field::LastUsedAt),
    ("usagecount", Field::UsageCount),
    ("size", Field::Size),
];

impl Field {
    /// Its value as text, if it is set. A flag that is set has an empty value.
    fn of(self, info: &UsageInfo) -> Option<String> {
        let text = |text: String| Some(text).filter(|text| !text.is_empty());
        let flag = |set: bool| set.then(String::new);
        match self {
            Self::Id => text(info.id.clone()),
            Self::Parents => text(info.parents.join(";")),
            Self::Description => text(info.description.clone()),
            Self::Type => text(info.record_type.to_string()),
            Self::InUse => flag(info.in_use),
            Self::Mutable => flag(info.mutable),
            Self::Immutable => flag(!info.mutable),
            Self::Shared => flag(info.shared),
            Self::Private => flag(!info.shared),
            Self::CreatedAt => text(info.created_rfc3339()),
            Self::LastUsedAt => text(info.last_used_rfc3339()),
            Self::UsageCount => Some(info.usage_count.to_string()),
            Self::Size => info.size.map(|size| size.to_string()),
        }
    }
}

impl Filter {
    /// Parses filters, of which one must hold; no filters hold for every record.
    pub fn parse<S: AsRef<str>>(filters: &[S]) -> Result<Self, FilterError> {
        let alternatives = filters
            .iter()
            .map(|text| Parser::new(text.as_ref())?.selectors())
            .collect::<Result<_, _>>()?;
        Ok(Self { alternatives })
    }

    /// Whether the record is meant.
    pub fn matches(&self, info: &UsageInfo) -> bool {
        self.alternatives.is_empty()
            || self
                .alternatives
                .iter()
                .any(|selectors| selectors.iter().all(|selector| selector.matches(info)))
    }

    /// Whether the size of a record decides.
    pub(crate) fn needs_size(&self) -> bool {
        self.alternatives
            .iter()
            .flatten()
            .any(|selector| selector.field == Field::Size)
    }
}

impl Selector {
    fn matches(&self, info: &UsageInfo) -> bool {
        let value = self.field.of(info);
        match &self.test {
            Test::Present => value.is_some(),
            Test::Equal(wanted) => value.as_ref() == Some(wanted),
            Test::NotEqual(unwanted) => value.unwrap_or_default() != *unwanted,
            Test::Matches(expression) => expression.is_match(&value.unwrap_or_default()),
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    rest: Peekable<CharIndices<'a>>,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Result<Self, FilterError> {
        let parser = Self {
            text,
            rest: text.char_indices().peekable(),
        };
        if text.len() > MAX_LEN {
            return Err(FilterError {
                text: String::new(),
                position: MAX_LEN,
                problem: format!("longer than {MAX_LEN} bytes"),
            });
        }
        Ok(parser)
    }

    fn error<T>(&mut self, problem: impl Into<String>) -> Result<T, FilterError> {
        let position = self.position();
        self.error_at(position, problem)
    }

    fn error_at<T>(&self, position: usize, problem: impl Into<String>) -> Result<T, FilterError> {
        Err(FilterError {
            text: self.text.to_owned(),
            position,
            problem: problem.into(),
        })
    }

    fn position(&mut self) -> usize {
        self.rest.peek().map_or(self.text.len(), |(at, _)| *at)
    }

    fn peek(&mut self) -> Option<char> {
        self.rest.peek().map(|(_, next)| *next)
    }

    fn skip_space(&mut self) {
        while self
            .rest
            .next_if(|(_, next)| next.is_whitespace())
            .is_some()
        {}
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let start = self.position();
        while self.rest.next_if(|(_, next)| wanted(*next)).is_some() {}
        let end = self.position();
        &self.text[start..end]
    }

    fn selectors(mut self) -> Result<Vec<Selector>, FilterError> {
        let mut selectors = Vec::new();
        if self.text.is_empty() {
            return Ok(selectors);
        }
        loop {
            selectors.push(self.selector()?);
            self.skip_space();
            match self.rest.next() {
                None => return Ok(selectors),
                Some((_, ',')) => {}
                Some((at, other)) => {
                    return self.error_at(at, format!("expected \",\", found {other:?}"));
                }
            }
        }
    }

    fn selector(&mut self) -> Result<Selector, FilterError> {
        let field = self.field()?;
        self.skip_space();
        if matches!(self.peek(), None | Some(',')) {
            let test = Test::Present;
            return Ok(Selector { field, test });
        }
        let at = self.position();
        let operator = self.take_while(|next| matches!(next, '=' | '!' | '~'));
        let test = match operator {
            "==" => Test::Equal(self.value(false)?),
            "!=" => Test::NotEqual(self.value(false)?),
            "~=" => Test::Matches(self.expression()?),
            "" => return self.error_at(at, "expected an operator: ==, != or ~="),
            other => {
                return self.error_at(
                    at,
                    format!("unsupported operator {other:?}: use ==, != or ~="),
                );
            }
        };
        Ok(Selector { field, test })
    }

    fn field(&mut self) -> Result<Field, FilterError> {
        self.skip_space();
        let at = self.position();
        let name = match self.peek() {
            Some('"') => self.quoted('"')?,
            _ => self
                .take_while(|next| next == '_' || next.is_ascii_alphanumeric())
                .to_owned(),
        };
        if name.is_empty() {
            return self.error_at(at, "expected a field");
        }
        match FIELDS.iter().find(|(known, _)| *known == name) {
            Some((_, field)) => Ok(*field),
            None => {
                let known: Vec<_> = FIELDS.iter().map(|(known, _)| *known).collect();
                let known = known.join(", ");
                self.error_at(at, format!("unknown field {name:?}; there are {known}"))
            }
        }
    }

    fn expression(&mut self) -> Result<Regex, FilterError> {
        self.skip_space();
        let at = self.position();
        let text = self.value(true)?;
        Regex::new(&text).or_else(|error| self.error_at(at, error.to_string()))
    }

    fn value(&mut self, expression: bool) -> Result<String, FilterError> {
        self.skip_space();
        match self.peek() {
            Some('"') => self.quoted('"'),
            Some(quote @ ('/' | '|')) if expression => self.quoted(quote),
            Some('/' | '|') => self.error("only an expression (~=) may be quoted like this"),
            _ => {
                let value = self.take_while(|next| next != ',' && !next.is_whitespace());
                if value.is_empty() {
                    return self.error("expected a value");
                }
                Ok(value.to_owned())
            }
        }
    }

    /// A quoted text with Go's escapes.
    fn quoted(&mut self, quote: char) -> Result<String, FilterError> {
        let start = self.position();
        self.rest.next();
        let mut bytes = Vec::new();
        loop {
            match self.rest.next() {
                Some((_, next)) if next == quote => break,
                None | Some((_, '\n')) => return self.error_at(start, "the quote is not closed"),
                Some((at, '\\')) => self.escape(at, quote, &mut bytes)?,
                Some((_, next)) => push(&mut bytes, next),
            }
        }
        String::from_utf8(bytes).or_else(|_| self.error_at(start, "the value is not UTF-8"))
    }

    fn escape(&mut self, at: usize, quote: char, bytes: &mut Vec<u8>) -> Result<(), FilterError> {
        let Some((_, kind)) = self.rest.next() else {
            return self.error_at(at, "the escape is cut off");
        };
        match kind {
            'a' => bytes.push(7),
            'b' => bytes.push(8),
            'f' => bytes.push(12),
            'n' => bytes.push(b'\n'),
            'r' => bytes.push(b'\r'),
            't' => bytes.push(b'\t'),
            'v' => bytes.push(11),
            '\\' => bytes.push(b'\\'),
            other if other == quote => push(bytes, quote),
            'x' => {
                let value = self.digits(at, 16, 2, 0)?;
                bytes.push((value & 255) as u8);
            }
            first @ '0'..='7' => {
                let value = self.digits(at, 8, 2, first as u32 - '0' as u32)?;
                match u8::try_from(value) {
                    Ok(value) => bytes.push(value),
                    Err(_) => return self.error_at(at, "the octal escape is above 377"),
                }
            }
            'u' | 'U' => {
                let value = self.digits(at, 16, if kind == 'u' { 4 } else { 8 }, 0)?;
                match char::from_u32(value) {
                    Some(value) => push(bytes, value),
                    None => return self.error_at(at, "the escape is no character"),
                }
            }
            other => return self.error_at(at, format!("unknown escape \\{other}")),
        }
        Ok(())
    }

    fn digits(&mut self, at: usize, base: u32, count: u32, first: u32) -> Result<u32, FilterError> {
        let mut value = first;
        for _ in 0..count {
            let digit = self.rest.next().and_then(|(_, next)| next.to_digit(base));
            match digit {
                // Eight hexadecimal digits fill 32 bits.
                Some(digit) => value = value.wrapping_mul(base) | digit,
                None => return self.error_at(at, "the numeric escape is malformed"),
            }
        }
        Ok(value)
    }
}

fn push(bytes: &mut Vec<u8>, next: char) {
    bytes.extend_from_slice(next.encode_utf8(&mut [0; 4]).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RecordType;
    use proptest::prelude::*;

    fn info() -> UsageInfo {
        UsageInfo {
            id: "abc12".into(),
            parents: vec!["p1".into(), "p2".into()],
            description: "mount / from exec /bin/sh -c apt, get".into(),
            record_type: RecordType::CacheMount,
            created: 1_700_000_000_000_000_000,
            last_used: 1_700_000_000_000_000_000,
            usage_count: 3,
            size: Some(42),
            mutable: true,
            in_use: false,
            shared: false,
        }
    }

    fn matches(filters: &[&str]) -> bool {
        Filter::parse(filters).unwrap().matches(&info())
    }

    #[test]
    fn selectors_hold_as_containerd_has_them() {
        for (filters, expected) in [
            (&[][..], true),
            (&[""], true),
            (&["type==exec.cachemount"], true),
            (&["type == exec.cachemount"], true),
            (&["type==regular"], false),
            (&["type!=regular"], true),
            (&["id~=^abc"], true),
            (&["id~=/^abc\\d+$/"], false),
            (&["id~=|^abc[0-9]+$|"], true),
            (&["description~=\"apt, get$\""], true),
            (&["parents==p1;p2"], true),
            (&["mutable"], true),
            (&["immutable"], false),
            (&["private,mutable"], true),
            (&["shared,mutable"], false),
            (&["shared", "mutable"], true),
            (&["inuse"], false),
            (&["inuse!=x"], true),
            (&["size==42,usagecount==3"], true),
            (&["createdat~=^2023-11-14T22:13"], true),
            (&["\"id\"==\"\\x61bc\\u0031\\062\""], true),
        ] {
            if filters == ["id~=/^abc\\d+$/"] {
                // As in containerd, a regular expression's escapes do not go into quotes.
                assert!(Filter::parse(filters).is_err());
                continue;
            }
            assert_eq!(matches(filters), expected, "{filters:?}");
        }
        assert!(matches(&["id~=^abc\\d+$"]));
    }

    #[test]
    fn malformed_filters_are_refused_with_the_place() {
        for (text, position, part) in [
            ("typ==regular", 0, "unknown field \"typ\""),
            ("type=regular", 4, "unsupported operator \"=\""),
            ("type==", 6, "expected a value"),
            ("type==a b", 8, "expected \",\""),
            ("mutable,", 8, "expected a field"),
            ("id==/abc/", 4, "only an expression"),
            ("id~=(", 4, "unclosed group"),
            ("id==\"abc", 4, "not closed"),
            ("id==\"\\q\"", 5, "unknown escape"),
            ("id==\"\\xff\"", 4, "not UTF-8"),
            ("id ?", 3, "expected an operator"),
        ] {
            let error = Filter::parse(&[text]).unwrap_err();
            assert_eq!(error.position, position, "{text}: {error}");
            assert!(error.problem.contains(part), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_parses_or_is_refused(text in ".{0,60}") {
            if let Ok(filter) = Filter::parse(&[text]) {
                filter.matches(&info());
            }
        }

        #[test]
        fn any_id_can_be_quoted(id in "[^\n]{1,30}") {
            let quoted = id.replace('\\', "\\\\").replace('"', "\\\"");
            let filter = Filter::parse(&[format!("id==\"{quoted}\"")]).unwrap();
            let info = UsageInfo { id, ..info() };
            prop_assert!(filter.matches(&info));
        }
    }
}
