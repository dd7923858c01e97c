//! From bytes to statements: comments, directives, continued lines, heredoc bodies.

use std::ops::Range;

use crate::arguments;
use crate::directive;
use crate::error::{Error, ErrorKind, count};
use crate::heredoc::{self, Heredoc};
use crate::source::{LineRange, Mark};
use crate::statement::{FlagText, split_flags};

/// A Dockerfile larger than this is refused, in bytes.
pub(crate) const MAX_FILE: usize = 16 << 20;

/// A line longer than this is refused, in bytes, as BuildKit does.
pub(crate) const MAX_LINE: usize = 65_535;

/// One instruction as text.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    pub(crate) line: LogicalLine,
    /// The keyword in `line`.
    pub(crate) keyword: Range<usize>,
    pub(crate) flags: Vec<FlagText>,
    /// What follows the flags in `line`, without blanks at either end.
    pub(crate) arguments: Range<usize>,
    pub(crate) heredocs: Vec<Heredoc>,
    pub(crate) comments: Vec<String>,
    pub(crate) lines: LineRange,
}

impl Statement {
    /// Splits a logical line; heredocs, comments and lines are the caller's.
    pub(crate) fn split(line: LogicalLine, escape: char) -> Self {
        let text = line.text();
        let start = text.len() - text.trim_start().len();
        let end = start + text.trim().len();
        let keyword_end = text
            .get(start..end)
            .and_then(|text| text.find(arguments::is_blank))
            .map_or(end, |length| start + length);
        let (flags, rest) = split_flags(text.get(..end).unwrap_or_default(), keyword_end, escape);
        let tail = text.get(rest..end).unwrap_or_default();
        let arguments_start = rest + (tail.len() - tail.trim_start().len());
        Self {
            keyword: start..keyword_end,
            flags,
            arguments: arguments_start..end,
            heredocs: Vec::new(),
            comments: Vec::new(),
            lines: LineRange::default(),
            line,
        }
    }

    /// The keyword as written.
    pub(crate) fn keyword(&self) -> &str {
        self.line.slice(&self.keyword)
    }

    /// The arguments as written.
    pub(crate) fn arguments(&self) -> &str {
        self.line.slice(&self.arguments)
    }

    /// The whole statement as written, without heredoc bodies.
    pub(crate) fn source(&self) -> &str {
        self.line.text().trim()
    }

    /// The place of the keyword.
    pub(crate) fn keyword_mark(&self) -> Mark {
        self.line.mark(&self.keyword)
    }

    /// The place of the first occurrence of `fragment` in the arguments, or of all arguments,
    /// or of the keyword if there are none.
    pub(crate) fn argument_mark(&self, fragment: &str) -> Mark {
        let start = self.arguments.start;
        match self.arguments().find(fragment) {
            Some(offset) if !fragment.is_empty() => {
                let start = start + offset;
                self.line.mark(&(start..start + fragment.len()))
            }
            _ if self.arguments.is_empty() => self.keyword_mark(),
            _ => self.line.mark(&self.arguments),
        }
    }

    /// The statement within an `ONBUILD`.
    pub(crate) fn trigger(&self, escape: char) -> Self {
        let line = self.line.part(&self.arguments);
        Self {
            lines: self.lines,
            ..Self::split(line, escape)
        }
    }

    /// Whether `<<WORD` in it begins a heredoc: in `ADD`, `COPY` and `RUN`, unless their
    /// arguments are JSON, also below `ONBUILD`.
    fn takes_heredocs(&self, escape: char) -> bool {
        if self.keyword().eq_ignore_ascii_case("ONBUILD") {
            return !self.arguments.is_empty() && self.trigger(escape).takes_heredocs_itself();
        }
        self.takes_heredocs_itself()
    }

    fn takes_heredocs_itself(&self) -> bool {
        let keyword = self.keyword().to_ascii_uppercase();
        matches!(keyword.as_str(), "ADD" | "COPY" | "RUN")
            && !matches!(arguments::json_array(self.arguments()), Ok(Some(_)))
    }
}

/// The text of an instruction, continuation lines joined, that knows where each part was.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogicalLine {
    text: String,
    pieces: Vec<Piece>,
}

/// A stretch of a logical line that comes from one physical line.
#[derive(Clone, Copy, Debug)]
struct Piece {
    /// Where it begins in the text, in bytes.
    offset: usize,
    line: u32,
    /// The characters before it in its physical line.
    column: u32,
}

impl LogicalLine {
    /// Adds a stretch that begins after `column` characters of `line`.
    pub(crate) fn push(&mut self, text: &str, line: u32, column: u32) {
        self.pieces.push(Piece {
            offset: self.text.len(),
            line,
            column,
        });
        self.text.push_str(text);
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    fn slice(&self, range: &Range<usize>) -> &str {
        self.text.get(range.clone()).unwrap_or_default()
    }

    /// Where `range` begins, as wide as it is on that physical line.
    pub(crate) fn mark(&self, range: &Range<usize>) -> Mark {
        let after = self
            .pieces
            .partition_point(|piece| piece.offset <= range.start);
        let Some(piece) = after.checked_sub(1).and_then(|at| self.pieces.get(at)) else {
            return Mark {
                line: 1,
                column: 1,
                width: 1,
            };
        };
        let piece_end = self
            .pieces
            .get(after)
            .map_or(self.text.len(), |next| next.offset);
        Mark {
            line: piece.line,
            column: piece.column + count(self.slice(&(piece.offset..range.start))) + 1,
            width: count(self.slice(&(range.start..range.end.min(piece_end)))).max(1),
        }
    }

    /// The logical line that `range` of this one is.
    fn part(&self, range: &Range<usize>) -> Self {
        let first = self.mark(range);
        let mut part = Self::default();
        part.pieces.push(Piece {
            offset: 0,
            line: first.line,
            column: first.column - 1,
        });
        part.pieces.extend(
            self.pieces
                .iter()
                .filter(|piece| piece.offset > range.start && piece.offset < range.end)
                .map(|piece| Piece {
                    offset: piece.offset - range.start,
                    ..*piece
                }),
        );
        part.text.push_str(self.slice(range));
        part
    }
}

/// Reads statements from the bytes of a Dockerfile.
pub(crate) struct Lexer<'s> {
    lines: PhysicalLines<'s>,
    directives: directive::Reader,
    escape: char,
    comments: Vec<String>,
    empty_continuations: Vec<LineRange>,
}

impl<'s> Lexer<'s> {
    pub(crate) fn new(data: &'s [u8]) -> Result<Self, Error> {
        if data.len() > MAX_FILE {
            return Err(ErrorKind::FileTooLarge { limit: MAX_FILE }.into());
        }
        Ok(Self {
            lines: PhysicalLines {
                rest: data.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(data),
                number: 0,
            },
            directives: directive::Reader::default(),
            escape: '\\',
            comments: Vec::new(),
            empty_continuations: Vec::new(),
        })
    }

    /// The escape character, known once the first statement is read.
    pub(crate) fn escape(&self) -> char {
        self.escape
    }

    /// The last lines of the statements so far that have an empty continuation line.
    pub(crate) fn into_empty_continuations(self) -> Vec<LineRange> {
        self.empty_continuations
    }

    /// The number of lines read.
    pub(crate) fn line(&self) -> u32 {
        self.lines.number
    }

    /// The next statement, none at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Statement>, Error> {
        while let Some(line) = self.lines.next()? {
            if let Some(comment) = line.comment() {
                self.comment(&comment, line.number)?;
                continue;
            }
            self.directives.finish();
            let text = line.text()?;
            let trimmed = text.trim_start();
            let column = count(text) - count(trimmed);
            let (content, continued) = strip_continuation(trimmed, self.escape);
            if content.is_empty() && !continued {
                continue;
            }
            let mut logical = LogicalLine::default();
            logical.push(content, line.number, column);
            if continued {
                self.continuation(&mut logical)?;
            }
            return self.statement(logical, line.number).map(Some);
        }
        Ok(None)
    }

    /// A comment outside of an instruction, with its `#`.
    fn comment(&mut self, comment: &str, line: u32) -> Result<(), Error> {
        let at = |kind| Err(Error::new(kind).at(LineRange::line(line)));
        match self.directives.line("#", comment) {
            Ok(Some(("escape", value))) => match value {
                "\\" => self.escape = '\\',
                "`" => self.escape = '`',
                other => {
                    let value = other.to_owned();
                    return at(ErrorKind::InvalidEscape { value });
                }
            },
            Ok(Some(_)) => {}
            Ok(None) => match comment.get(1..).unwrap_or_default().trim() {
                "" => self.comments.clear(),
                text => self.comments.push(text.to_owned()),
            },
            Err(name) => return at(ErrorKind::DuplicateDirective { name }),
        }
        Ok(())
    }

    /// Joins the lines that continue a statement. Comments and blank lines between are left out.
    fn continuation(&mut self, logical: &mut LogicalLine) -> Result<(), Error> {
        let mut has_blank_line = false;
        while let Some(line) = self.lines.next()? {
            if line.comment().is_some() {
                continue;
            }
            let text = line.text()?;
            if text.trim_start().is_empty() {
                has_blank_line = true;
                continue;
            }
            let (content, continued) = strip_continuation(text, self.escape);
            logical.push(content, line.number, 0);
            if !continued {
                break;
            }
        }
        if has_blank_line {
            self.empty_continuations
                .push(LineRange::line(self.lines.number));
        }
        Ok(())
    }

    fn statement(&mut self, line: LogicalLine, start: u32) -> Result<Statement, Error> {
        let mut statement = Statement::split(line, self.escape);
        statement.comments = std::mem::take(&mut self.comments);
        statement.lines = LineRange::new(start, self.lines.number);
        if statement.line.text().contains("<<") && statement.takes_heredocs(self.escape) {
            for opening in heredoc::openings(statement.line.text()) {
                let mark = statement.argument_mark("<<");
                let body = self
                    .heredoc(opening, statement.lines)
                    .map_err(|error| error.mark(mark))?;
                statement.heredocs.push(body);
            }
            statement.lines = LineRange::new(start, self.lines.number);
        }
        Ok(statement)
    }

    /// Reads the body of a heredoc up to and with its terminator.
    fn heredoc(&mut self, mut heredoc: Heredoc, lines: LineRange) -> Result<Heredoc, Error> {
        while let Some(line) = self.lines.next()? {
            let raw = line.raw()?;
            let mut candidate = raw.trim_end_matches(['\r', '\n']);
            if heredoc.chomp {
                candidate = candidate.trim_start_matches('\t');
            }
            if candidate == heredoc.name {
                return Ok(heredoc);
            }
            heredoc.content.push_str(raw);
        }
        let name = heredoc.name;
        Err(Error::new(ErrorKind::UnterminatedHeredoc { name }).at(lines))
    }
}

/// The text without a trailing escape character, and whether there was one. An escape character
/// that is itself escaped does not continue the line; blanks after it do not matter.
fn strip_continuation(text: &str, escape: char) -> (&str, bool) {
    match text.trim_end_matches([' ', '\t']).strip_suffix(escape) {
        Some(content) if !content.ends_with(escape) => (content, true),
        _ => (text, false),
    }
}

/// Reads lines as they stand in the file.
struct PhysicalLines<'s> {
    rest: &'s [u8],
    number: u32,
}

/// A line with its ending.
struct PhysicalLine<'s> {
    bytes: &'s [u8],
    number: u32,
}

impl<'s> PhysicalLines<'s> {
    fn next(&mut self) -> Result<Option<PhysicalLine<'s>>, Error> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let end = self
            .rest
            .iter()
            .position(|byte| *byte == b'\n')
            .map_or(self.rest.len(), |at| at + 1);
        let (bytes, rest) = self.rest.split_at(end);
        self.rest = rest;
        self.number += 1;
        if bytes.len() > MAX_LINE + 1 {
            let error = Error::new(ErrorKind::LineTooLong { limit: MAX_LINE });
            return Err(error.at(LineRange::line(self.number)));
        }
        Ok(Some(PhysicalLine {
            bytes,
            number: self.number,
        }))
    }
}

impl<'s> PhysicalLine<'s> {
    /// The line with its ending.
    fn raw(&self) -> Result<&'s str, Error> {
        std::str::from_utf8(self.bytes).map_err(|invalid| {
            let valid = self.bytes.get(..invalid.valid_up_to()).unwrap_or_default();
            let column = count(&String::from_utf8_lossy(valid)) + 1;
            Error::new(ErrorKind::NotUtf8)
                .at(LineRange::line(self.number))
                .mark(Mark {
                    line: self.number,
                    column,
                    width: 1,
                })
        })
    }

    /// The line without its ending.
    fn text(&self) -> Result<&'s str, Error> {
        Ok(self.raw()?.trim_end_matches(['\r', '\n']))
    }

    /// The comment with its `#`, if the line is one. Comments need not be UTF-8.
    fn comment(&self) -> Option<String> {
        let first = self.bytes.iter().position(|byte| !is_space_byte(*byte))?;
        let rest = self.bytes.get(first..)?;
        if rest.starts_with(b"#") {
            let text = String::from_utf8_lossy(rest);
            return Some(text.trim_end_matches(['\r', '\n']).to_owned());
        }
        // White space outside of ASCII before the `#` is rare; only then decode the line.
        let text = std::str::from_utf8(rest).ok()?.trim_start();
        text.starts_with('#')
            .then(|| text.trim_end_matches(['\r', '\n']).to_owned())
    }
}

fn is_space_byte(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0B | 0x0C | b'\r')
}
