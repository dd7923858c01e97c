//! Selects paths of a file tree by BuildKit's include, exclude and follow patterns.
//!
//! [`PatternMatcher`] is moby/patternmatcher (the language of `.dockerignore`), [`Glob`] is Go's
//! `filepath.Match`. A [`Selection`] joins include, exclude and follow patterns as fsutil's
//! `FilterFS` and `FollowLinks` do, and [`walk()`] yields what it selects beneath a directory, or
//! beneath several that are stacked as overlayfs stacks them ([`Layers`]): in path order, with
//! metadata, in parallel, without looking into directories that cannot hold anything wanted.

mod beneath;
mod entry;
mod follow;
mod glob;
mod layers;
mod listing;
mod matcher;
mod path_order;
mod selection;
mod walk;
mod xattrs;

pub use beneath::{metadata_at, open_beneath};
pub use entry::{Entry, InodeId, Metadata, Timestamp, Xattr};
pub use follow::{FollowError, follow_links};
pub use glob::{Glob, GlobError, MAX_PATTERN_LEN, escape, has_wildcards, unescape};
pub use layers::{Child, Layers, MergedDir, MergedName, OverlayMarks, Part};
pub use listing::read_dir;
pub use matcher::{ParentMatches, Pattern, PatternError, PatternMatcher};
pub use path_order::{clean, compare_paths};
pub use selection::{DirState, DirVerdict, Selection, SelectionError, SelectionOptions};
pub use walk::{WalkError, WalkOptions, walk};
pub use xattrs::{read_xattrs, read_xattrs_at, read_xattrs_of};
