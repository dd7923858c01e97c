//! Where in a Dockerfile something stands.

use std::fmt;
use std::sync::Arc;

use weld_llb::pb;

use crate::error::count;

/// A Dockerfile as it was read: its name for messages, and its bytes.
///
/// Cheap to clone; errors carry one so that they can show the source.
#[derive(Clone, PartialEq)]
pub struct SourceFile {
    name: Arc<str>,
    data: Arc<[u8]>,
    /// What builds the file: clients that show it may have it built.
    definition: Option<Arc<pb::Definition>>,
}

impl SourceFile {
    /// A file called `name` in messages, with the bytes `data`.
    pub fn new(name: impl Into<Arc<str>>, data: impl Into<Arc<[u8]>>) -> Self {
        Self {
            name: name.into(),
            data: data.into(),
            definition: None,
        }
    }

    /// The same, of which is known what builds it.
    pub(crate) fn built_by(self, definition: pb::Definition) -> Self {
        Self {
            definition: Some(Arc::new(definition)),
            ..self
        }
    }

    /// What builds the file, if it is known.
    pub fn definition(&self) -> Option<&pb::Definition> {
        self.definition.as_deref()
    }

    /// The name used in messages, usually the path as the user gave it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The bytes as read, with byte-order mark and line endings.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Some lines as a person reads them, with what is around them and a caret under `mark`; `None`
    /// if they are not there.
    pub fn excerpt(&self, lines: &[LineRange], mark: Option<Mark>) -> Option<String> {
        crate::excerpt::render(self, lines, mark)
    }

    /// The first place in some lines where a word stands: not as a part of a longer one. `None` if it is nowhere.
    pub fn find_word(&self, range: LineRange, word: &str) -> Option<Mark> {
        let in_word = |char: char| char.is_alphanumeric() || matches!(char, '_' | '-' | '.' | '/');
        self.find(range, word, |before, behind| {
            !before.ends_with(in_word) && !behind.starts_with(in_word)
        })
    }

    /// The first place in some lines where a fragment stands between texts that are to be there.
    pub(crate) fn find(
        &self,
        range: LineRange,
        fragment: &str,
        fits: impl Fn(&str, &str) -> bool,
    ) -> Option<Mark> {
        if fragment.is_empty() {
            return None;
        }
        let lines = self.lines();
        (range.start..=range.end).find_map(|line| {
            let text = lines.get(usize::try_from(line).ok()?.checked_sub(1)?)?;
            let mut places = text
                .match_indices(fragment)
                .filter_map(|(at, _)| Some((text.get(..at)?, text.get(at + fragment.len()..)?)));
            let (before, _) = places.find(|(before, behind)| fits(before, behind))?;
            Some(Mark {
                line,
                column: count(before) + 1,
                width: count(fragment),
            })
        })
    }

    /// The lines without their endings, for showing; bytes that are not UTF-8 are replaced.
    pub(crate) fn lines(&self) -> Vec<String> {
        let data = self
            .data
            .strip_prefix(b"\xEF\xBB\xBF")
            .unwrap_or(&self.data);
        data.split_inclusive(|byte| *byte == b'\n')
            .map(|line| String::from_utf8_lossy(line))
            .map(|line| line.trim_end_matches(['\r', '\n']).to_owned())
            .collect()
    }
}

/// A definition has nothing that is unlike itself.
impl Eq for SourceFile {}

impl fmt::Debug for SourceFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SourceFile({}, {} bytes)", self.name, self.data.len())
    }
}

/// The lines `start..=end` of a file, counted from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LineRange {
    /// The first line.
    pub start: u32,
    /// The last line, itself included; never before `start`.
    pub end: u32,
}

impl LineRange {
    /// The lines from `start` to `end`; an `end` before `start` means `start` alone.
    pub fn new(start: u32, end: u32) -> Self {
        Self {
            start,
            end: end.max(start),
        }
    }

    /// One line.
    pub fn line(line: u32) -> Self {
        Self::new(line, line)
    }

    /// Whether `line` is one of them.
    pub fn contains(&self, line: u32) -> bool {
        (self.start..=self.end).contains(&line)
    }
}

/// The exact place of a fragment within one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mark {
    /// The line, counted from 1.
    pub line: u32,
    /// The column, counted in characters from 1.
    pub column: u32,
    /// How many characters the fragment spans; at least 1.
    pub width: u32,
}
