//! Keys of the files that patterns select.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use weld_digest::{Digest, Hasher};
use weld_fileset::{Glob, ParentMatches, PatternMatcher, clean, has_wildcards};

use super::node::{Kind, Node, feed};
use super::{KeyEntry, KeyError, KeyOptions, KeyTree};

/// A file that was visited.
struct Visited {
    path: Vec<u8>,
    node: Arc<Node>,
    included: bool,
    /// Matches of the include and of the exclude patterns.
    matches: (ParentMatches, ParentMatches),
    /// A symlink here is followed: it is what was asked for, not one of the files in that.
    follow: bool,
    /// The place among the visited of the directory that it is in.
    above: Option<usize>,
}

/// The key of what `options` select at `path`.
pub(super) fn key(tree: &KeyTree, path: &str, options: &KeyOptions) -> Result<Digest, KeyError> {
    let selection = Selection::new(tree, path, options)?;
    let (prefix, included) = selection.run(tree)?;
    let keys = included
        .par_iter()
        .map(|file| {
            if file.follow && matches!(file.node.kind(), Kind::Symlink(_)) {
                return tree.key_of_path(&file.path, options.follow_links);
            }
            file.node.own()
        })
        .collect::<Result<Vec<_>, KeyError>>()?;
    if let ([only], [key]) = (included.as_slice(), keys.as_slice())
        && base_name(path.as_bytes()) == base_name(&only.path)
    {
        return Ok(Digest::from_sha256(*key));
    }
    let mut hasher = Hasher::sha256();
    for (file, key) in included.iter().zip(keys) {
        let path = file
            .path
            .strip_prefix(prefix.as_slice())
            .unwrap_or(&file.path);
        if path.is_empty() {
            hasher.update(&[0]);
        } else {
            let path: Vec<u8> = path
                .iter()
                .map(|&byte| if byte == b'/' { 0 } else { byte })
                .collect();
            hasher.update(&path);
        }
        feed(&mut hasher, key);
    }
    Ok(hasher.finish())
}

/// The first files that `options` select at `path`, with their keys, and whether these are all.
pub(super) fn entries(
    tree: &KeyTree,
    path: &str,
    options: &KeyOptions,
    limit: usize,
) -> Result<(Vec<KeyEntry>, bool), KeyError> {
    let (_, included) = Selection::new(tree, path, options)?.run(tree)?;
    let mut files = included.iter().filter(|file| !file.node.is_directory());
    let entries = files
        .by_ref()
        .take(limit)
        .map(|file| KeyEntry::new(&file.path, &file.node, file.node.own()?))
        .collect::<Result<Vec<_>, KeyError>>()?;
    Ok((entries, files.next().is_none()))
}

/// The last component of a path, as Go's `path.Base` has it.
fn base_name(path: &[u8]) -> &[u8] {
    let Some(end) = path.iter().rposition(|&byte| byte != b'/') else {
        return if path.is_empty() { b"." } else { b"/" };
    };
    let path = &path[..=end];
    let start = path
        .iter()
        .rposition(|&byte| byte == b'/')
        .map_or(0, |slash| slash + 1);
    &path[start..]
}

/// The components of a pattern before the first with wildcards, and whether there are more.
fn plain_prefix(pattern: &str) -> (String, bool) {
    let mut prefix = String::new();
    for component in pattern.split('/').filter(|component| !component.is_empty()) {
        if has_wildcards(component) {
            return (prefix, true);
        }
        prefix.push('/');
        prefix.push_str(component);
    }
    (prefix, false)
}

/// What became of a visited file: its path, and that below which patterns are matched.
enum Visit {
    /// It is none of the selected, nor are others selected through it.
    Skipped { path: Vec<u8>, base: Vec<u8> },
    /// It is the last of the visited.
    Taken { path: Vec<u8>, base: Vec<u8> },
}

struct Selection<'a> {
    options: &'a KeyOptions,
    /// The path, clean, with a slash in front; the root's is empty.
    path: String,
    glob: Option<Glob>,
    include: Option<PatternMatcher>,
    exclude: Option<PatternMatcher>,
    /// Where to start: what comes before the wildcards.
    prefix: String,
    start: Option<Arc<Node>>,
    /// A source directory that ends in a slash goes without its own metadata.
    without_own: bool,
}

impl<'a> Selection<'a> {
    fn new(tree: &KeyTree, path: &str, options: &'a KeyOptions) -> Result<Self, KeyError> {
        let matcher = |patterns: &[String]| match patterns {
            [] => Ok(None),
            patterns => PatternMatcher::new(patterns).map(Some),
        };
        let mut clean_path = clean(&format!("/{path}"));
        if clean_path == "/" {
            clean_path.clear();
        }
        let (prefix, has_more) = if options.wildcard {
            plain_prefix(&clean_path)
        } else {
            (clean_path.clone(), false)
        };
        let start = tree.resolve(prefix.as_bytes(), has_more)?;
        let glob = (options.wildcard && !clean_path.is_empty())
            .then(|| Glob::new(&clean_path))
            .transpose()
            .map_err(|source| KeyError::Pattern {
                pattern: path.to_owned(),
                source,
            })?;
        Ok(Self {
            options,
            glob,
            include: matcher(&options.include)?,
            exclude: matcher(&options.exclude)?,
            prefix,
            start,
            without_own: path.ends_with('/'),
            path: clean_path,
        })
    }

    /// The path that is taken away from those of the files, and the files that are selected.
    fn run(self, tree: &KeyTree) -> Result<(Vec<u8>, Vec<Visited>), KeyError> {
        let start = match (&self.start, self.prefix.is_empty()) {
            (_, true) => Some(tree.root().clone()),
            (start, false) => start.clone(),
        };
        let mut files = Vec::new();
        if let Some(start) = start {
            self.walk(start, &mut files)?;
        }
        files.retain(|file: &Visited| file.included);
        for required in &self.options.required {
            if !files
                .iter()
                .any(|file| file.path.starts_with(required.as_bytes()))
            {
                return Err(KeyError::NotFound {
                    path: required.into(),
                });
            }
        }
        Ok((self.prefix.into_bytes(), files))
    }

    /// Visits files in the order of their paths, directories before what is in them.
    fn walk(&self, start: Arc<Node>, files: &mut Vec<Visited>) -> Result<(), KeyError> {
        // With each file goes the place of the directory above it in `files`.
        let mut ahead = vec![(
            self.prefix.clone().into_bytes(),
            start,
            None::<usize>,
            Vec::new(),
        )];
        while let Some((path, node, above, base)) = ahead.pop() {
            let visited = self.visit(path, &node, above, base, files);
            let (path, base, above) = match visited {
                Visit::Skipped { path, base } => (path, base, above),
                Visit::Taken { path, base } => (path, base, Some(files.len() - 1)),
            };
            for (name, child) in node.children()?.iter().rev() {
                let path = [path.as_slice(), b"/", name].concat();
                ahead.push((path, child.clone(), above, base.clone()));
            }
        }
        Ok(())
    }

    fn visit(
        &self,
        path: Vec<u8>,
        node: &Arc<Node>,
        above: Option<usize>,
        mut base: Vec<u8>,
        files: &mut Vec<Visited>,
    ) -> Visit {
        if self.without_own && node.is_directory() && path == self.path.as_bytes() {
            return Visit::Skipped { path, base };
        }
        match &self.glob {
            // What a match of the wildcards holds is selected with it.
            Some(glob) if base.is_empty() => {
                if !glob.matches(&path) {
                    return Visit::Skipped { path, base };
                }
                base.clone_from(&path);
            }
            Some(_) => {}
            None => base = self.path.clone().into_bytes(),
        }
        let candidate = match path.strip_prefix(base.as_slice()) {
            Some(rest) => rest.strip_prefix(b"/").unwrap_or(rest).to_vec(),
            None => path.clone(),
        };
        let parent = above.and_then(|above| files.get(above));
        let no_matches = (ParentMatches::default(), ParentMatches::default());
        let parent_matches = parent.map_or(&no_matches, |parent| &parent.matches);
        let (selected, matches) = self.matches(&candidate, parent_matches);
        if !selected && !node.is_directory() {
            return Visit::Skipped { path, base };
        }
        if selected {
            // The directories above come with what is in them.
            let mut above = above;
            while let Some(index) = above {
                let Some(directory) = files.get_mut(index) else {
                    break;
                };
                if directory.included {
                    break;
                }
                directory.included = true;
                above = directory.above;
            }
        }
        files.push(Visited {
            follow: candidate.is_empty() && self.options.follow_links,
            path: path.clone(),
            node: node.clone(),
            included: selected,
            matches,
            above,
        });
        Visit::Taken { path, base }
    }

    fn matches(
        &self,
        candidate: &[u8],
        parent: &(ParentMatches, ParentMatches),
    ) -> (bool, (ParentMatches, ParentMatches)) {
        let candidate = Path::new(std::ffi::OsStr::from_bytes(candidate));
        let mut matches = (ParentMatches::default(), ParentMatches::default());
        if let Some(include) = &self.include {
            let (matched, info) = include.matches_using_parent(candidate, &parent.0);
            matches.0 = info;
            if !matched {
                return (false, matches);
            }
        }
        if let Some(exclude) = &self.exclude {
            let (matched, info) = exclude.matches_using_parent(candidate, &parent.1);
            matches.1 = info;
            if matched {
                return (false, matches);
            }
        }
        (true, matches)
    }
}
