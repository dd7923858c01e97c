//! Follow paths: which paths a reader of some paths will need once symbolic links are resolved.
//!
//! `COPY bin/tool /` needs `bin/tool`; if `bin` is a link to `usr/bin` it needs the link and
//! `usr/bin/tool`, and whatever that leads to. Absolute targets start at the root of the tree and
//! `..` stops there, as in a container.

use std::collections::{BTreeSet, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use crate::beneath::{metadata_at, open_beneath};
use crate::glob::{Glob, GlobError, escape, has_wildcards, unescape};
use crate::listing::read_dir;

/// Links that one path may go through, as many as the kernel allows.
const MAX_LINKS: u32 = 40;

/// Why follow paths cannot be resolved.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// A component is no valid pattern.
    #[error("follow path {path:?}: {error}")]
    Pattern {
        /// The follow path.
        path: String,
        /// What is wrong with it.
        error: GlobError,
    },
    /// The file system could not be read.
    #[error("cannot {action} {path:?} for follow paths: {error}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where, relative to the root.
        path: PathBuf,
        /// What the system said.
        error: Errno,
    },
}

/// Resolves `paths` in the tree at `root` into include patterns, sorted; `None` if the root
/// itself is among them.
pub fn follow_links(
    root: BorrowedFd<'_>,
    paths: &[String],
) -> Result<Option<Vec<String>>, FollowError> {
    let mut resolver = Resolver {
        root,
        pending: Vec::new(),
        seen: HashSet::new(),
        found: BTreeSet::new(),
        reaches_root: false,
    };
    for path in paths {
        resolver.enqueue(components(path), true, 0);
    }
    while let Some(item) = resolver.pending.pop() {
        resolver.resolve(item)?;
    }
    Ok((!resolver.reaches_root).then(|| resolver.found.into_iter().collect()))
}

fn components(path: &str) -> Vec<String> {
    path.split('/')
        .filter(|c| !c.is_empty() && *c != ".")
        .map(str::to_owned)
        .collect()
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Item {
    /// Components, each a pattern.
    path: Vec<String>,
    /// The path itself belongs to the result; it does not where an expanded wildcard of a path
    /// that does covers it.
    report: bool,
}

struct Resolver<'r> {
    root: BorrowedFd<'r>,
    pending: Vec<(Item, u32)>,
    seen: HashSet<Item>,
    found: BTreeSet<String>,
    reaches_root: bool,
}

impl Resolver<'_> {
    fn enqueue(&mut self, path: Vec<String>, report: bool, links: u32) {
        let item = Item { path, report };
        if links <= MAX_LINKS && self.seen.insert(item.clone()) {
            self.pending.push((item, links));
        }
    }

    fn resolve(&mut self, (item, links): (Item, u32)) -> Result<(), FollowError> {
        // The real directory reached so far, and the same as patterns.
        let mut dir = PathBuf::new();
        let mut walked: Vec<&str> = Vec::new();
        for (at, component) in item.path.iter().enumerate() {
            let rest = item.path.get(at + 1..).unwrap_or_default();
            if component == ".." {
                dir.pop();
                walked.pop();
                continue;
            }
            walked.push(component);
            if has_wildcards(component) {
                self.expand(&dir, component, rest, links)?;
                walked.extend(rest.iter().map(String::as_str));
                break;
            }
            let name = OsString::from(unescape(component));
            match self.kind(&dir, &name)? {
                Some(FileType::Symlink) => return self.follow(&dir, &name, rest, links),
                Some(FileType::Directory) => dir.push(name),
                _ => {
                    walked.extend(rest.iter().map(String::as_str));
                    break;
                }
            }
        }
        if item.report {
            self.reaches_root |= walked.is_empty();
            self.found.insert(walked.join("/"));
        }
        Ok(())
    }

    /// Looks for links behind a wildcard component.
    fn expand(
        &mut self,
        dir: &Path,
        component: &str,
        rest: &[String],
        links: u32,
    ) -> Result<(), FollowError> {
        let glob = Glob::new(component).map_err(|error| FollowError::Pattern {
            path: component.to_owned(),
            error,
        })?;
        let entries = match self.list(dir) {
            Ok(entries) => entries,
            Err(error) if is_absent(error) => return Ok(()),
            Err(error) => {
                return Err(FollowError::Io {
                    action: "read",
                    path: dir.to_owned(),
                    error,
                });
            }
        };
        for (name, kind) in entries {
            if !glob.matches(name.as_bytes()) {
                continue;
            }
            let kind = match kind {
                FileType::Unknown => self.kind(dir, &name)?.unwrap_or(FileType::Unknown),
                kind => kind,
            };
            match kind {
                FileType::Symlink => self.follow(dir, &name, rest, links)?,
                FileType::Directory if !rest.is_empty() => {
                    let path = as_patterns(dir).chain([escape_name(&name)]);
                    self.enqueue(path.chain(rest.iter().cloned()).collect(), false, links);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Adds the link `name` in `dir` and goes on behind it.
    fn follow(
        &mut self,
        dir: &Path,
        name: &OsStr,
        rest: &[String],
        links: u32,
    ) -> Result<(), FollowError> {
        let link = dir.join(name);
        let target = match self.read_link(dir, name) {
            Ok(target) => target,
            Err(error) if is_absent(error) || error == Errno::INVAL => return Ok(()),
            Err(error) => {
                return Err(FollowError::Io {
                    action: "read the link",
                    path: link,
                    error,
                });
            }
        };
        self.found
            .insert(as_patterns(&link).collect::<Vec<_>>().join("/"));
        let target = String::from_utf8_lossy(&target).into_owned();
        let base: Vec<String> = if target.starts_with('/') {
            Vec::new()
        } else {
            as_patterns(dir).collect()
        };
        let behind = components(&target).into_iter().map(|c| escape(&c));
        let path = base
            .into_iter()
            .chain(behind)
            .chain(rest.iter().cloned())
            .collect();
        self.enqueue(path, true, links + 1);
        Ok(())
    }

    fn kind(&self, dir: &Path, name: &OsStr) -> Result<Option<FileType>, FollowError> {
        let stat = open_beneath(self.root, dir, OFlags::PATH | OFlags::DIRECTORY)
            .and_then(|dir| metadata_at(dir.as_fd(), name));
        match stat {
            Ok(metadata) => Ok(Some(metadata.file_type())),
            Err(error) if is_absent(error) => Ok(None),
            Err(error) => Err(FollowError::Io {
                action: "stat",
                path: dir.join(name),
                error,
            }),
        }
    }

    fn list(&self, dir: &Path) -> Result<Vec<(OsString, FileType)>, Errno> {
        let fd = open_beneath(self.root, dir, OFlags::RDONLY | OFlags::DIRECTORY)?;
        read_dir(fd.as_fd())
    }

    fn read_link(&self, dir: &Path, name: &OsStr) -> Result<Vec<u8>, Errno> {
        let fd = open_beneath(self.root, dir, OFlags::PATH | OFlags::DIRECTORY)?;
        Ok(rustix::fs::readlinkat(fd, name, Vec::new())?.into_bytes())
    }
}

fn is_absent(error: Errno) -> bool {
    matches!(
        error,
        Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::LOOP
    )
}

fn escape_name(name: &OsStr) -> String {
    escape(&String::from_utf8_lossy(&name.to_os_string().into_vec()))
}

fn as_patterns(path: &Path) -> impl Iterator<Item = String> {
    path.iter().map(escape_name)
}
