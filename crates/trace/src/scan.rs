//! A scanner over one JSON object that borrows from the line: names, and values as they are written.

use memchr::memchr2;

use crate::line::LineError;

/// How deep arrays and objects in a value may be nested.
const DEPTH: u32 = 64;

/// A value as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Raw<'a> {
    /// What is between the quotes, with its escapes.
    Text(&'a str),
    /// Anything else: a number, a word, an array, an object.
    Other(&'a str),
}

/// The fields of an object, in order.
pub(crate) struct Fields<'a> {
    line: &'a str,
    at: usize,
    first: bool,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(line: &'a str) -> Result<Self, LineError> {
        let mut fields = Self {
            line,
            at: 0,
            first: true,
        };
        fields.space();
        fields.take(b'{')?;
        Ok(fields)
    }

    /// The next name and its value.
    pub(crate) fn next(&mut self) -> Result<Option<(&'a str, Raw<'a>)>, LineError> {
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            self.space();
            return match self.peek() {
                None => Ok(None),
                Some(_) => Err(self.error()),
            };
        }
        if !std::mem::take(&mut self.first) {
            self.take(b',')?;
            self.space();
        }
        let name = self.text()?;
        self.space();
        self.take(b':')?;
        self.space();
        let value = match self.peek() {
            Some(b'"') => Raw::Text(self.text()?),
            Some(b'[' | b'{') => Raw::Other(self.nested()?),
            _ => Raw::Other(self.word()?),
        };
        Ok(Some((name, value)))
    }

    fn peek(&self) -> Option<u8> {
        self.line.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> Result<(), LineError> {
        if self.peek() == Some(byte) {
            self.at += 1;
            Ok(())
        } else {
            Err(self.error())
        }
    }

    fn error(&self) -> LineError {
        LineError::Json {
            column: self.at + 1,
        }
    }

    fn text(&mut self) -> Result<&'a str, LineError> {
        self.take(b'"')?;
        let start = self.at;
        loop {
            let rest = self.line.as_bytes().get(self.at..).unwrap_or_default();
            let Some(found) = memchr2(b'"', b'\\', rest) else {
                return Err(self.error());
            };
            self.at += found;
            if self.peek() == Some(b'"') {
                let text = self.line.get(start..self.at);
                self.at += 1;
                return text.ok_or(LineError::Json { column: start });
            }
            self.at += 2;
        }
    }

    fn word(&mut self) -> Result<&'a str, LineError> {
        let start = self.at;
        while matches!(
            self.peek(),
            Some(b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'+' | b'-' | b'.')
        ) {
            self.at += 1;
        }
        match self.line.get(start..self.at) {
            Some(word) if !word.is_empty() => Ok(word),
            _ => Err(self.error()),
        }
    }

    /// An array or object, skipped over.
    fn nested(&mut self) -> Result<&'a str, LineError> {
        let (start, mut depth) = (self.at, 0);
        loop {
            match self.peek() {
                Some(b'[' | b'{') => {
                    depth += 1;
                    if depth > DEPTH {
                        return Err(self.error());
                    }
                }
                Some(b']' | b'}') => depth -= 1,
                Some(b'"') => {
                    self.text()?;
                    continue;
                }
                Some(_) => {}
                None => return Err(self.error()),
            }
            self.at += 1;
            if depth == 0 {
                return self
                    .line
                    .get(start..self.at)
                    .ok_or(LineError::Json { column: start });
            }
        }
    }
}
