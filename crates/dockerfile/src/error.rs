//! The one error type of this crate: what is wrong, where, and what was probably meant.

mod kind;

use std::fmt;

use crate::excerpt::printable;
use crate::source::{LineRange, Mark, SourceFile};

pub use kind::{CsvError, DeviceError, ErrorKind, MountError};

/// An error in a Dockerfile.
///
/// `Display` gives one line, `FILE:LINE: what is wrong (did you mean that?)`;
/// [`Error::excerpt`] shows the source around it.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    file: Option<SourceFile>,
    ranges: Vec<LineRange>,
    mark: Option<Mark>,
    suggestion: Option<String>,
}

impl Error {
    /// An error without a place.
    pub fn new(kind: impl Into<ErrorKind>) -> Self {
        Self(Box::new(Inner {
            kind: kind.into(),
            file: None,
            ranges: Vec::new(),
            mark: None,
            suggestion: None,
        }))
    }

    /// Places the error at `lines`, unless it has a place already.
    #[must_use]
    pub fn at(mut self, lines: LineRange) -> Self {
        if self.0.ranges.is_empty() {
            self.0.ranges.push(lines);
        }
        self
    }

    /// Adds another place, for errors such as cycles that are made of several instructions.
    #[must_use]
    pub fn also_at(mut self, lines: LineRange) -> Self {
        if !self.0.ranges.contains(&lines) {
            self.0.ranges.push(lines);
        }
        self
    }

    /// Places the error at `lines` instead of where it was, for text that is in no file.
    pub(crate) fn moved_to(mut self, lines: LineRange) -> Self {
        self.0.ranges = vec![lines];
        self.0.mark = None;
        self
    }

    /// Points at a fragment of one line, unless the error does already.
    #[must_use]
    pub fn mark(mut self, mark: Mark) -> Self {
        self.0.mark.get_or_insert(mark);
        self
    }

    /// Points at the first occurrence of `fragment` within the error's lines. Needs
    /// [`Error::at`] and [`Error::in_file`] before; without an occurrence nothing changes.
    #[must_use]
    pub fn mark_fragment(mut self, fragment: &str) -> Self {
        if self.0.mark.is_none() {
            self.0.mark = self.find(fragment);
        }
        self
    }

    /// Adds what was probably meant.
    #[must_use]
    pub fn suggest(mut self, suggestion: Option<String>) -> Self {
        self.0.suggestion = self.0.suggestion.or(suggestion);
        self
    }

    /// Names the file that the places are in, unless that is known already. To be called once
    /// the error is placed: the word that it is about is looked for there.
    #[must_use]
    pub fn in_file(mut self, file: &SourceFile) -> Self {
        self.0.file.get_or_insert_with(|| file.clone());
        match &self.0.kind {
            ErrorKind::Expand(error) => {
                let word = error.word.clone();
                self.mark_fragment(&word)
            }
            ErrorKind::Convert(error) => match error.subject().map(str::to_owned) {
                Some(word) => self.mark_word(&word),
                None => self,
            },
            _ => self,
        }
    }

    /// What is wrong and what may be meant, without the place.
    pub fn message(&self) -> String {
        let message = printable(&self.0.kind.to_string());
        let Some(suggestion) = &self.0.suggestion else {
            return message;
        };
        let hint = format!(" (did you mean {}?)", printable(suggestion));
        // What hosts say can be long: behind it the hint would not be seen.
        let end = match &self.0.kind {
            ErrorKind::Convert(error) => error.said_by_host().map(|said| printable(&said)),
            _ => None,
        };
        let end = end.map_or(0, |said| said.len()).min(message.len());
        match message.split_at_checked(message.len() - end) {
            Some((own, said)) => format!("{own}{hint}{said}"),
            None => message + &hint,
        }
    }

    /// What is wrong.
    pub fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// The file, if the error is in one.
    pub fn file(&self) -> Option<&SourceFile> {
        self.0.file.as_ref()
    }

    /// The lines at fault, the main place first.
    pub fn ranges(&self) -> &[LineRange] {
        &self.0.ranges
    }

    /// The fragment at fault.
    pub fn marked(&self) -> Option<Mark> {
        self.0.mark
    }

    /// What was probably meant.
    pub fn suggestion(&self) -> Option<&str> {
        self.0.suggestion.as_deref()
    }

    /// The source around the error, as BuildKit's clients show it, with a caret under the
    /// fragment at fault. Nothing if the place is not known.
    pub fn excerpt(&self) -> Option<String> {
        let file = self.0.file.as_ref()?;
        crate::excerpt::render(file, &self.0.ranges, self.0.mark)
    }

    /// The same with a whole word, which the other places of a cycle may have alone.
    fn mark_word(mut self, word: &str) -> Self {
        if let (None, Some(file)) = (self.0.mark, &self.0.file) {
            let mut ranges = self.0.ranges.iter();
            self.0.mark = ranges.find_map(|range| file.find_word(*range, word));
        }
        self
    }

    fn find(&self, fragment: &str) -> Option<Mark> {
        let (file, range) = (self.0.file.as_ref()?, self.0.ranges.first()?);
        file.find(*range, fragment, |_, _| true)
    }
}

/// The number of characters of `text`, as far as a `u32` goes.
pub(crate) fn count(text: &str) -> u32 {
    u32::try_from(text.chars().count()).unwrap_or(u32::MAX)
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.0.file {
            write!(f, "{}:", file.name())?;
            if let Some(range) = self.0.ranges.first() {
                write!(f, "{}:", self.0.mark.map_or(range.start, |mark| mark.line))?;
            }
            f.write_str(" ")?;
        }
        f.write_str(&self.message())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("ranges", &self.0.ranges)
            .field("mark", &self.0.mark)
            .field("suggestion", &self.0.suggestion)
            .finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.0.kind)
    }
}

impl<K: Into<ErrorKind>> From<K> for Error {
    fn from(kind: K) -> Self {
        Self::new(kind)
    }
}
