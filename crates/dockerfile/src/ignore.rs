//! `.dockerignore` files.

use weld_fileset::{PatternError, PatternMatcher};
use weld_llb::path::clean;

/// A `.dockerignore` larger than this is refused, in bytes.
pub const MAX_SIZE: usize = 16 << 20;

/// Why an ignore file could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IgnoreError {
    /// The file is larger than [`MAX_SIZE`].
    #[error("the ignore file is larger than {MAX_SIZE} bytes")]
    TooLarge,
    /// A pattern is not UTF-8.
    #[error("line {line} of the ignore file is not valid UTF-8")]
    NotUtf8 {
        /// The line, from 1.
        line: usize,
    },
    /// A pattern is malformed.
    #[error("line {line}: {source}")]
    Pattern {
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        source: PatternError,
    },
}

/// Reads the patterns of an ignore file, in order, `!` in front of exceptions.
///
/// Comments and blank lines are left out, blanks around a pattern are removed, paths are
/// cleaned and made relative to the context.
pub fn parse(data: &[u8]) -> Result<Vec<String>, IgnoreError> {
    if data.len() > MAX_SIZE {
        return Err(IgnoreError::TooLarge);
    }
    let data = data.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(data);
    let mut patterns = Vec::new();
    for (index, line) in data.split(|byte| *byte == b'\n').enumerate() {
        if line.starts_with(b"#") {
            continue;
        }
        let line =
            std::str::from_utf8(line).map_err(|_| IgnoreError::NotUtf8 { line: index + 1 })?;
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        let (prefix, path) = match line.strip_prefix('!') {
            Some(path) => ("!", path.trim()),
            None => ("", line),
        };
        let pattern = format!("{prefix}{}", relative(path));
        PatternMatcher::new([&pattern]).map_err(|source| IgnoreError::Pattern {
            line: index + 1,
            source,
        })?;
        patterns.push(pattern);
    }
    Ok(patterns)
}

fn relative(path: &str) -> String {
    if path.is_empty() {
        return String::new();
    }
    let clean = clean(path);
    match clean.strip_prefix('/') {
        Some(rest) if !rest.is_empty() => rest.to_owned(),
        _ => clean,
    }
}
