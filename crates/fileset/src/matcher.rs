//! Ordered lists of patterns with exceptions, as moby/patternmatcher has them.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::glob::{Glob, GlobError};
use crate::path_order::clean;

/// Why a list of patterns is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// A pattern is only `!`.
    #[error("illegal exclusion pattern: \"!\"")]
    BareExclusion,
    /// A pattern has a syntax error.
    #[error("invalid pattern {pattern:?}: {error}")]
    Syntax {
        /// The pattern as given.
        pattern: String,
        /// What is wrong with it.
        error: GlobError,
    },
}

/// An ordered list of patterns: the last one that matches a path, or one of its parents, decides;
/// a pattern that starts with `!` is an exception and takes the match away.
#[derive(Clone, Debug, Default)]
pub struct PatternMatcher {
    patterns: Vec<Pattern>,
}

/// One pattern of a [`PatternMatcher`].
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    exclusion: bool,
    glob: Glob,
}

impl Pattern {
    /// The cleaned pattern, without its `!`.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Is it an exception (`!…`)?
    pub fn is_exclusion(&self) -> bool {
        self.exclusion
    }
}

/// Which patterns matched a directory, so that its entries need not ask again. The default knows
/// nothing and makes the matcher look at all parents of the path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParentMatches {
    /// One flag a pattern; empty when nothing is known.
    matched: Vec<bool>,
}

impl PatternMatcher {
    /// Compiles `patterns`. White space around one is taken away, an empty one is left out, and
    /// each is cleaned as `path.Clean` does.
    pub fn new<I>(patterns: I) -> Result<Self, PatternError>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut compiled = Vec::new();
        for pattern in patterns {
            let pattern = pattern.as_ref();
            let trimmed = pattern.trim();
            if trimmed.is_empty() {
                continue;
            }
            let cleaned = clean(trimmed);
            let (text, exclusion) = match cleaned.strip_prefix('!') {
                Some("") => return Err(PatternError::BareExclusion),
                Some(rest) => (rest, true),
                None => (cleaned.as_str(), false),
            };
            let glob = Glob::with_double_star(text).map_err(|error| PatternError::Syntax {
                pattern: pattern.to_owned(),
                error,
            })?;
            compiled.push(Pattern {
                text: text.to_owned(),
                exclusion,
                glob,
            });
        }
        Ok(Self { patterns: compiled })
    }

    /// The patterns that are in force, in order.
    pub fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }

    /// Is there an exception among them?
    pub fn has_exclusions(&self) -> bool {
        self.patterns.iter().any(Pattern::is_exclusion)
    }

    /// Does the list match `path` or one of its parents, after all exceptions?
    pub fn matches_or_parent_matches(&self, path: &Path) -> bool {
        let path = path.as_os_str().as_bytes();
        let mut matched = false;
        for pattern in &self.patterns {
            if pattern.exclusion == matched && matches_with_parents(pattern, path) {
                matched = !pattern.exclusion;
            }
        }
        matched
    }

    /// The same for a walk: `parent` is what this gave for the directory that `path` is in.
    ///
    /// As in moby/patternmatcher this may differ from [`Self::matches_or_parent_matches`] where an
    /// exception names a directory that nothing before it matched.
    pub fn matches_using_parent(
        &self,
        path: &Path,
        parent: &ParentMatches,
    ) -> (bool, ParentMatches) {
        let mut flags = ParentMatches {
            matched: Vec::with_capacity(self.patterns.len()),
        };
        let path = path.as_os_str().as_bytes();
        let matched = self.evaluate(path, parent, |pattern, hit| {
            // What does not change the outcome here may beneath, behind an exception. An exception that nothing before it
            // matched is lost.
            let again = || !self.is_exception(pattern) && self.is_hit(pattern, path, parent);
            flags.matched.push(hit.unwrap_or_else(again));
        });
        (matched, flags)
    }

    /// [`Self::matches_using_parent`] without the flags, for what is no directory.
    pub(crate) fn matches_leaf(&self, path: &[u8], parent: &ParentMatches) -> bool {
        self.evaluate(path, parent, |_, _| {})
    }

    /// Tells `record` of each pattern whether it matches, or `None` where that makes no difference to the outcome.
    fn evaluate(
        &self,
        path: &[u8],
        parent: &ParentMatches,
        mut record: impl FnMut(usize, Option<bool>),
    ) -> bool {
        let mut matched = false;
        for (index, pattern) in self.patterns.iter().enumerate() {
            if pattern.exclusion != matched {
                record(index, None);
                continue;
            }
            let hit = self.is_hit(index, path, parent);
            record(index, Some(hit));
            if hit {
                matched = !pattern.exclusion;
            }
        }
        matched
    }

    fn is_exception(&self, index: usize) -> bool {
        self.patterns.get(index).is_some_and(Pattern::is_exclusion)
    }

    fn is_hit(&self, index: usize, path: &[u8], parent: &ParentMatches) -> bool {
        let Some(pattern) = self.patterns.get(index) else {
            return false;
        };
        match parent.matched.get(index) {
            Some(true) => true,
            Some(false) => pattern.glob.matches(path),
            None => matches_with_parents(pattern, path),
        }
    }

    /// Can anything beneath the directory `dir` have the outcome `wanted` (matched or not), given
    /// that `dir` itself has the other one with these flags? A no is certain.
    ///
    /// Flags only ever get added on the way down and the last one in the list decides, so only a
    /// pattern of the wanted polarity behind the last flag can change the outcome.
    pub(crate) fn may_change_beneath(
        &self,
        dir: &[u8],
        flags: &ParentMatches,
        wanted: bool,
    ) -> bool {
        let decided = flags
            .matched
            .iter()
            .rposition(|flag| *flag)
            .map_or(0, |last| last + 1);
        let mut head = Vec::with_capacity(dir.len() + 1);
        head.extend_from_slice(dir);
        head.push(b'/');
        self.patterns
            .iter()
            .skip(decided)
            .filter(|pattern| pattern.exclusion != wanted)
            .any(|pattern| pattern.glob.may_match_beneath(&head))
    }
}

fn matches_with_parents(pattern: &Pattern, path: &[u8]) -> bool {
    if pattern.glob.matches(path) {
        return true;
    }
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    slashes
        .map(|(at, _)| &path[..at])
        .any(|parent| pattern.glob.matches(parent))
}
