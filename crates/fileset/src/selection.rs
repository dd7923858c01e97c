//! Which paths of a tree are wanted: include, exclude and follow patterns together.

use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::follow::{self, FollowError};
use crate::matcher::{ParentMatches, PatternError, PatternMatcher};

/// The patterns as an LLB definition or a client gives them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SelectionOptions {
    /// A path must match one of these, unless there is none.
    pub include_patterns: Vec<String>,
    /// A path must not match these.
    pub exclude_patterns: Vec<String>,
    /// Paths, with wildcards, that are added to the includes together with everything that their
    /// symbolic links lead to.
    pub follow_paths: Vec<String>,
}

/// Why a selection cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SelectionError {
    /// An include pattern is refused.
    #[error("include patterns: {0}")]
    Include(#[source] PatternError),
    /// An exclude pattern is refused.
    #[error("exclude patterns: {0}")]
    Exclude(#[source] PatternError),
    /// The follow paths could not be resolved.
    #[error(transparent)]
    Follow(#[from] FollowError),
}

/// Compiled patterns that decide path by path, from the root down.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    include: Option<PatternMatcher>,
    exclude: Option<PatternMatcher>,
}

/// What a selection knows about a directory; the default is for the root.
#[derive(Clone, Debug, Default)]
pub struct DirState {
    include: ParentMatches,
    exclude: ParentMatches,
}

/// What a selection says about a directory.
#[derive(Clone, Debug)]
pub struct DirVerdict {
    /// The directory itself is wanted.
    pub selected: bool,
    /// With which state to look at its entries; `None` if none of them can be wanted.
    pub descend: Option<DirState>,
}

impl Selection {
    /// Everything.
    pub fn all() -> Self {
        Self::default()
    }

    /// Compiles the include and exclude patterns; there must be no follow paths.
    pub fn from_patterns(include: &[String], exclude: &[String]) -> Result<Self, SelectionError> {
        let compile = |patterns: &[String]| -> Result<Option<PatternMatcher>, PatternError> {
            if patterns.is_empty() {
                return Ok(None);
            }
            PatternMatcher::new(patterns).map(Some)
        };
        Ok(Self {
            include: compile(include).map_err(SelectionError::Include)?,
            exclude: compile(exclude).map_err(SelectionError::Exclude)?,
        })
    }

    /// Compiles `options`, resolving the follow paths in the tree at `root`.
    pub fn new(root: BorrowedFd<'_>, options: &SelectionOptions) -> Result<Self, SelectionError> {
        if options.follow_paths.is_empty() {
            return Self::from_patterns(&options.include_patterns, &options.exclude_patterns);
        }
        let include = match follow::follow_links(root, &options.follow_paths)? {
            // The root is among them: everything is included.
            None => Vec::new(),
            Some(targets) => {
                let mut include = options.include_patterns.clone();
                include.extend(targets);
                include
            }
        };
        Self::from_patterns(&include, &options.exclude_patterns)
    }

    /// Is `path`, which is no directory and lies in a directory of this state, wanted?
    pub fn selects_leaf(&self, path: &Path, parent: &DirState) -> bool {
        let path = path.as_os_str().as_bytes();
        let included = self
            .include
            .as_ref()
            .is_none_or(|m| m.matches_leaf(path, &parent.include));
        included
            && !self
                .exclude
                .as_ref()
                .is_some_and(|m| m.matches_leaf(path, &parent.exclude))
    }

    /// Is the directory `path`, in a directory of this state, wanted, and what is beneath it?
    ///
    /// A wanted path brings its parent directories along, wanted or not.
    pub fn enter_dir(&self, path: &Path, parent: &DirState) -> DirVerdict {
        let mut state = DirState::default();
        let mut selected = true;
        let mut possible = true;
        if let Some(matcher) = &self.include {
            let (included, flags) = matcher.matches_using_parent(path, &parent.include);
            selected &= included;
            possible &= included || matcher.may_change_beneath(bytes(path), &flags, true);
            state.include = flags;
        }
        if let Some(matcher) = &self.exclude {
            let (excluded, flags) = matcher.matches_using_parent(path, &parent.exclude);
            selected &= !excluded;
            possible &= !excluded || matcher.may_change_beneath(bytes(path), &flags, false);
            state.exclude = flags;
        }
        DirVerdict {
            selected,
            descend: possible.then_some(state),
        }
    }

    /// Is `path` wanted? For single look-ups; a walk goes through [`Self::enter_dir`].
    pub fn selects(&self, path: &Path) -> bool {
        self.include
            .as_ref()
            .is_none_or(|m| m.matches_or_parent_matches(path))
            && !self
                .exclude
                .as_ref()
                .is_some_and(|m| m.matches_or_parent_matches(path))
    }
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}
