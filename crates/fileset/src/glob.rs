//! Glob patterns: Go's `filepath.Match` and the `**` dialect of moby/patternmatcher.
//!
//! Both compile to the same tokens. A match keeps the *set* of positions that the tokens so far
//! can end at, so its cost is bounded by tokens × path length whatever the pattern; there is no
//! backtracking that a hostile pattern could blow up. Almost every real pattern is decided by a
//! comparison with its literal head or tail before that.

use std::fmt;

/// Longest accepted pattern in bytes: Linux' `PATH_MAX`.
pub const MAX_PATTERN_LEN: usize = 4096;

/// What is wrong with a glob pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GlobError {
    /// A `[` has no matching `]`.
    #[error("character class has no closing ]")]
    UnclosedClass,
    /// A class is empty, or has a `-` or `]` where a character is due.
    #[error("character class is empty or has a stray '-' or ']' (escape it with \\)")]
    BadClass,
    /// A range runs backwards.
    #[error("character range {0:?}-{1:?} runs backwards")]
    BackwardRange(char, char),
    /// The pattern ends in a lone backslash.
    #[error("pattern ends in a lone backslash")]
    TrailingEscape,
    /// The pattern is longer than [`MAX_PATTERN_LEN`].
    #[error("pattern is longer than {MAX_PATTERN_LEN} bytes")]
    TooLong,
}

/// A compiled pattern, matched against a whole slash-separated path.
#[derive(Clone)]
pub struct Glob {
    tokens: Vec<Token>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// These bytes.
    Literal(Vec<u8>),
    /// `?`: one character other than `/`.
    AnyChar,
    /// `[…]`: one character; as in Go, a negated class matches `/` too.
    Class {
        negated: bool,
        ranges: Vec<(u32, u32)>,
    },
    /// `*`: any run without `/`.
    Star,
    /// `**/` (or `**` before something): nothing, or anything that ends in `/`.
    Dirs,
    /// `**` at an end: anything.
    Rest,
}

/// Which characters a run of a pattern may have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    FilepathMatch,
    PatternMatcher,
}

impl Glob {
    /// Compiles a pattern of Go's `filepath.Match`: `*`, `?`, `[…]` and `\` escapes.
    pub fn new(pattern: &str) -> Result<Self, GlobError> {
        Self::compile(pattern, Dialect::FilepathMatch)
    }

    /// Compiles a pattern that knows `**` as moby/patternmatcher does.
    pub(crate) fn with_double_star(pattern: &str) -> Result<Self, GlobError> {
        Self::compile(pattern, Dialect::PatternMatcher)
    }

    fn compile(pattern: &str, dialect: Dialect) -> Result<Self, GlobError> {
        if pattern.len() > MAX_PATTERN_LEN {
            return Err(GlobError::TooLong);
        }
        Compiler::new(pattern, dialect).run()
    }

    /// Does the whole of `path` match?
    pub fn matches(&self, path: &[u8]) -> bool {
        match self.tokens.as_slice() {
            [] => path.is_empty(),
            [Token::Literal(literal)] => path == literal,
            [Token::Literal(head), Token::Rest] => path.starts_with(head),
            [Token::Rest, Token::Literal(tail)] => path.ends_with(tail),
            [Token::Dirs, Token::Literal(tail)] => match path.strip_suffix(tail.as_slice()) {
                Some(head) => head.is_empty() || head.ends_with(b"/"),
                None => false,
            },
            [Token::Literal(head), ..] if !path.starts_with(head) => false,
            [.., Token::Literal(tail)] if !path.ends_with(tail) => false,
            tokens => Positions::run(tokens, path).at_end(path),
        }
    }

    /// Could some path that starts with `head` match? `head` is a directory's path with its
    /// closing slash. Errs on the side of yes only for paths that no file system has.
    pub fn may_match_beneath(&self, head: &[u8]) -> bool {
        match self.tokens.as_slice() {
            [Token::Literal(literal)] => literal.len() > head.len() && literal.starts_with(head),
            [Token::Literal(literal), ..]
                if !literal.starts_with(head) && !head.starts_with(literal) =>
            {
                false
            }
            tokens => Positions::run(tokens, head).extensible,
        }
    }

    /// The path that the pattern names if it has no wildcard.
    pub fn as_literal(&self) -> Option<&[u8]> {
        match self.tokens.as_slice() {
            [] => Some(b""),
            [Token::Literal(literal)] => Some(literal),
            _ => None,
        }
    }
}

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.tokens).finish()
    }
}

/// Has `text` an unescaped `*`, `?` or `[`?
pub fn has_wildcards(text: &str) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// `text` with its backslash escapes taken away.
pub fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        plain.push(if c == '\\' {
            chars.next().unwrap_or(c)
        } else {
            c
        });
    }
    plain
}

/// A pattern that matches exactly `text`.
pub fn escape(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

/// Where in the path a prefix of the tokens can end.
struct Positions {
    /// Sorted, without duplicates.
    ends: Vec<usize>,
    /// Some token could take more than the path has left, or reach its end and go on.
    extensible: bool,
}

impl Positions {
    fn run(tokens: &[Token], path: &[u8]) -> Self {
        let mut positions = Self {
            ends: vec![0],
            extensible: false,
        };
        for token in tokens {
            positions.step(token, path);
            if positions.ends.is_empty() {
                break;
            }
        }
        positions
    }

    fn at_end(&self, path: &[u8]) -> bool {
        self.ends.last() == Some(&path.len())
    }

    fn step(&mut self, token: &Token, path: &[u8]) {
        match token {
            Token::Literal(literal) => {
                let mut extensible = false;
                self.advance(|at| {
                    let rest = path.get(at..)?;
                    extensible |= rest.len() < literal.len() && literal.starts_with(rest);
                    rest.starts_with(literal).then_some(at + literal.len())
                });
                self.extensible |= extensible;
            }
            Token::AnyChar => self.step_char(path, |c| c != u32::from(b'/')),
            Token::Class { negated, ranges } => self.step_char(path, |c| {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
            }),
            Token::Star => self.step_star(path),
            Token::Dirs => self.step_dirs(path),
            Token::Rest => {
                self.extensible = true;
                if let Some(first) = self.ends.first().copied() {
                    self.ends = (first..=path.len())
                        .filter(|at| is_boundary(path, *at))
                        .collect();
                }
            }
        }
    }

    fn advance(&mut self, mut next: impl FnMut(usize) -> Option<usize>) {
        let mut kept = 0;
        for read in 0..self.ends.len() {
            if let Some(end) = next(self.ends[read]) {
                self.ends[kept] = end;
                kept += 1;
            }
        }
        self.ends.truncate(kept);
    }

    fn step_char(&mut self, path: &[u8], accepts: impl Fn(u32) -> bool) {
        self.extensible |= self.at_end(path);
        self.advance(|at| {
            let (c, len) = decode(path.get(at..)?)?;
            accepts(c).then_some(at + len)
        });
    }

    fn step_star(&mut self, path: &[u8]) {
        let starts = std::mem::take(&mut self.ends);
        for start in starts {
            if self.ends.last().is_some_and(|last| *last >= start) {
                continue;
            }
            let mut at = start;
            self.ends.push(at);
            while let Some((c, len)) = path.get(at..).and_then(decode) {
                if c == u32::from(b'/') {
                    break;
                }
                at += len;
                self.ends.push(at);
            }
        }
        self.extensible |= self.at_end(path);
    }

    fn step_dirs(&mut self, path: &[u8]) {
        self.extensible = true;
        let Some(first) = self.ends.first().copied() else {
            return;
        };
        let after_slash = (first + 1..=path.len()).filter(|at| path.get(at - 1) == Some(&b'/'));
        let mut ends: Vec<usize> = self.ends.iter().copied().chain(after_slash).collect();
        ends.sort_unstable();
        ends.dedup();
        self.ends = ends;
    }
}

/// Is `at` not in the middle of a UTF-8 sequence? Bytes that are no UTF-8 count as characters.
fn is_boundary(path: &[u8], at: usize) -> bool {
    path.get(at).is_none_or(|byte| byte & 0xc0 != 0x80)
}

/// The first character and its length; a byte that starts no UTF-8 sequence is one U+FFFD, as in
/// Go.
fn decode(bytes: &[u8]) -> Option<(u32, usize)> {
    let first = *bytes.first()?;
    if first < 0x80 {
        return Some((u32::from(first), 1));
    }
    let len = match first {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => 1,
    };
    let text = bytes
        .get(..len)
        .and_then(|head| std::str::from_utf8(head).ok());
    match text.and_then(|text| text.chars().next()) {
        Some(c) => Some((u32::from(c), len)),
        None => Some((0xfffd, 1)),
    }
}

struct Compiler<'p> {
    rest: std::iter::Peekable<std::str::Chars<'p>>,
    dialect: Dialect,
    tokens: Vec<Token>,
    /// No wildcard, class or escape was seen since the start, or since a leading `**`.
    plain: bool,
}

impl<'p> Compiler<'p> {
    fn new(pattern: &'p str, dialect: Dialect) -> Self {
        Self {
            rest: pattern.chars().peekable(),
            dialect,
            tokens: Vec::new(),
            plain: true,
        }
    }

    fn run(mut self) -> Result<Glob, GlobError> {
        // `**name` at the front is compared as a plain suffix by patternmatcher, so that it
        // matches "a/xname" too, as long as nothing after it is special. See `finish`.
        let mut bare_suffix = false;
        let mut first = true;
        while let Some(c) = self.rest.next() {
            match c {
                '*' => {
                    let double = self.dialect == Dialect::PatternMatcher
                        && self.rest.next_if_eq(&'*').is_some();
                    if double {
                        bare_suffix = self.double_star(first);
                        self.plain = first;
                    } else {
                        self.push_special(Token::Star);
                    }
                }
                '?' => self.push_special(Token::AnyChar),
                '[' => {
                    let class = self.class()?;
                    self.push_special(class);
                }
                '\\' => {
                    let escaped = self.rest.next().ok_or(GlobError::TrailingEscape)?;
                    self.push_char(escaped);
                    self.plain = false;
                }
                c => {
                    self.plain &= c != ']';
                    self.push_char(c);
                }
            }
            first = false;
        }
        if bare_suffix
            && self.plain
            && let Some(token) = self.tokens.first_mut()
        {
            *token = Token::Rest;
        }
        Ok(Glob {
            tokens: self.tokens,
        })
    }

    /// Takes what follows `**`; says whether it stood at the front without a slash after it.
    fn double_star(&mut self, first: bool) -> bool {
        let slash = self.rest.next_if_eq(&'/').is_some();
        let token = if self.rest.peek().is_none() {
            Token::Rest
        } else {
            Token::Dirs
        };
        self.tokens.push(token);
        first && !slash
    }

    fn push_special(&mut self, token: Token) {
        self.plain = false;
        self.tokens.push(token);
    }

    fn push_char(&mut self, c: char) {
        let mut buffer = [0; 4];
        let bytes = c.encode_utf8(&mut buffer).as_bytes();
        match self.tokens.last_mut() {
            Some(Token::Literal(literal)) => literal.extend_from_slice(bytes),
            _ => self.tokens.push(Token::Literal(bytes.to_vec())),
        }
    }

    fn class(&mut self) -> Result<Token, GlobError> {
        let negated = self.rest.next_if_eq(&'^').is_some();
        let mut ranges = Vec::new();
        while ranges.is_empty() || self.rest.next_if_eq(&']').is_none() {
            let low = self.class_char()?;
            let high = if self.rest.next_if_eq(&'-').is_some() {
                self.class_char()?
            } else {
                low
            };
            if low > high {
                return Err(GlobError::BackwardRange(low, high));
            }
            ranges.push((u32::from(low), u32::from(high)));
        }
        Ok(Token::Class { negated, ranges })
    }

    fn class_char(&mut self) -> Result<char, GlobError> {
        match self.rest.next() {
            None => Err(GlobError::UnclosedClass),
            Some('-' | ']') => Err(GlobError::BadClass),
            Some('\\') => self.rest.next().ok_or(GlobError::TrailingEscape),
            Some(c) => Ok(c),
        }
    }
}
