//! The copy action: where things go. How they get there is in [`tree`] and [`put`].

mod put;
mod tree;

use std::path::{Path, PathBuf};

use rustix::io::Errno;
use weld_fileset::{Layers, Metadata, Selection, Timestamp};

use self::put::{Changes, Putter};
use super::actions::touch_dirs;
use super::destination::{Destination, NewAttributes, Owner, lookup};
use super::error::rooted;
use super::mode::ModeChange;
use super::resolve::{LastLink, base_name, clean_keeping_end, resolve, split_last};
use super::unpack::unpack;
use super::{Context, FileError, Sharing, wildcard};

/// A tree to copy from.
#[derive(Clone, Copy, Debug)]
pub struct Source<'s> {
    /// Its layers; one plain directory, a mount for instance, is one layer.
    pub layers: &'s Layers,
    /// Nobody ever changes a file of it in place, so that its files may be hard-linked instead of
    /// copied where nothing about them changes.
    pub immutable: bool,
    /// What the destination may have of it already; nothing if that is not known to be a snapshot.
    pub sharing: Option<&'s Sharing<'s>>,
}

/// Copies a path, or what a wildcard matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copy {
    /// What, in the source tree. A closing `/` or `/.` counts.
    pub src: String,
    /// Where to, in the destination tree; with a closing `/` it is a directory.
    pub dest: String,
    /// What becomes of the permissions.
    pub mode: ModeChange,
    /// Follow a symbolic link at the end of `src`.
    pub follow_symlink: bool,
    /// Of a directory copy the contents, not the directory.
    pub dir_copy_contents: bool,
    /// Unpack what is an archive instead of copying it.
    pub attempt_unpack: bool,
    /// Make the directories in front of `dest`; otherwise they must exist.
    pub create_dest_path: bool,
    /// `src` is a pattern.
    pub allow_wildcard: bool,
    /// The pattern may match nothing.
    pub allow_empty_wildcard: bool,
    /// Times for all that is copied or made; those of the source if `None`.
    pub timestamp: Option<Timestamp>,
    /// Of a directory, copy only what matches one of these, if there are any.
    pub include_patterns: Vec<String>,
    /// Leave out what matches.
    pub exclude_patterns: Vec<String>,
    /// Paths of the source that must be among what is copied, where there are include patterns.
    pub required_paths: Vec<String>,
    /// Replace what is in the way even if it is of another type.
    pub always_replace_existing: bool,
}

impl Copy {
    /// Copies from `source` into `destination`, for `owner`; for the source's owners if `None`.
    pub fn run(
        &self,
        source: Source<'_>,
        destination: &mut Destination,
        owner: Option<Owner>,
        context: &Context<'_>,
    ) -> Result<(), FileError> {
        let selection = Selection::from_patterns(&self.include_patterns, &self.exclude_patterns)?;
        if !self.create_dest_path {
            self.require_dest_parent(destination)?;
        }
        let run = Run {
            action: self,
            source,
            owner,
            context,
            selection,
        };
        let mut copied = Copied::new(self);
        for path in self.sources(source.layers)? {
            context.check()?;
            if !(self.attempt_unpack && run.unpack(&path, destination)?) {
                run.copy_one(&path, destination, &mut copied)?;
            }
        }
        copied.finish()
    }

    fn sources(&self, layers: &Layers) -> Result<Vec<PathBuf>, FileError> {
        let src = clean_keeping_end(&self.src);
        if !self.allow_wildcard {
            return Ok(vec![PathBuf::from(src)]);
        }
        let found = wildcard::expand(layers, &src)?;
        if found.is_empty() && !self.allow_empty_wildcard {
            return Err(FileError::NoMatch {
                pattern: self.src.clone(),
            });
        }
        Ok(found)
    }

    fn require_dest_parent(&self, destination: &Destination) -> Result<(), FileError> {
        let real = resolve(destination.layers(), &self.dest, LastLink::Follow)?;
        let parent = real.parent().unwrap_or(Path::new(""));
        let found = destination.lookup(parent);
        match found.map_err(|error| FileError::io("stat", parent, error))? {
            Some(_) => Ok(()),
            None => Err(FileError::NotFound {
                path: rooted(parent),
            }),
        }
    }

    /// What the directories get that are made on the way.
    fn parents(&self, owner: Option<Owner>) -> NewAttributes {
        NewAttributes {
            permissions: self.mode.for_parents(),
            owner,
            timestamp: self.timestamp,
        }
    }
}

/// Which required paths were found.
struct Copied<'c> {
    missing: Vec<&'c Path>,
}

impl<'c> Copied<'c> {
    fn new(action: &'c Copy) -> Self {
        let required: &[String] = if action.include_patterns.is_empty() {
            &[]
        } else {
            &action.required_paths
        };
        Self {
            missing: required.iter().map(Path::new).collect(),
        }
    }

    /// Notes that `path`, relative to the root of the source as the user sees it, is copied.
    fn note(&mut self, path: &Path) {
        self.missing.retain(|required| {
            let required = required.strip_prefix("/").unwrap_or(required);
            !path.starts_with(required)
        });
    }

    fn finish(self) -> Result<(), FileError> {
        match self.missing.first() {
            None => Ok(()),
            Some(path) => Err(FileError::NotFound { path: rooted(path) }),
        }
    }
}

/// One run of an action, with everything that does not change during it.
struct Run<'r> {
    action: &'r Copy,
    source: Source<'r>,
    owner: Option<Owner>,
    context: &'r Context<'r>,
    selection: Selection,
}

impl Run<'_> {
    /// Copies one path. Hard links are kept among the files of a call.
    fn copy_one(
        &self,
        path: &Path,
        destination: &mut Destination,
        copied: &mut Copied<'_>,
    ) -> Result<(), FileError> {
        let parents = self.action.parents(self.owner);
        let dest = clean_keeping_end(&self.action.dest);
        let front = match dest.rsplit_once('/') {
            Some((front, name)) if !matches!(name, "" | ".") => front,
            _ => dest.as_str(),
        };
        let front = resolve(destination.layers(), front, LastLink::Follow)?;
        let mut made = destination.make_dirs(&front, &parents)?;

        let last = if self.action.follow_symlink {
            LastLink::Follow
        } else {
            LastLink::Keep
        };
        let from = resolve(self.source.layers, path, last)?;
        let metadata = lookup(self.source.layers, &from)
            .map_err(|error| FileError::io("stat", path, error))?
            .ok_or_else(|| FileError::NotFound {
                path: path.to_owned(),
            })?;
        let to = resolve(destination.layers(), &dest, LastLink::Follow)?;
        let (to, parent) = self.target(path, &metadata, to, destination)?;
        made.extend(destination.make_dirs(&parent, &parents)?);

        let changes = Changes {
            owner: self.owner,
            mode: &self.action.mode,
            timestamp: self.action.timestamp,
        };
        let putter = Putter::new(self.source, self.context, changes);
        if metadata.is_dir() {
            let copy = tree::TreeCopy {
                putter: &putter,
                selection: &self.selection,
                always_replace: self.action.always_replace_existing,
                from: &from,
                to: &to,
            };
            let user_path = path.strip_prefix("/").unwrap_or(path);
            copy.run(&metadata, destination, |entry| {
                copied.note(&user_path.join(entry))
            })?;
        } else {
            copied.note(path.strip_prefix("/").unwrap_or(path));
            self.copy_leaf(&putter, &from, &to, &metadata, destination)?;
        }
        touch_dirs(destination, &made, self.action.timestamp)
    }

    /// Where `path` itself goes if the destination says `to`, and which directory must exist then.
    fn target(
        &self,
        path: &Path,
        metadata: &Metadata,
        to: PathBuf,
        destination: &Destination,
    ) -> Result<(PathBuf, PathBuf), FileError> {
        let existing = match destination.lookup(&to) {
            Err(Errno::NOTDIR) => None,
            result => result.map_err(|error| FileError::io("stat", &to, error))?,
        };
        let contents = self.action.dir_copy_contents;
        let into = match (metadata.is_dir(), &existing) {
            (_, None) => false,
            (true, Some(_)) => !contents,
            (false, Some(existing)) => existing.is_dir(),
        };
        let to = match base_name(path) {
            name if into && !name.is_empty() && name != "." => to.join(name),
            _ => to,
        };
        let parent = if contents && metadata.is_dir() && existing.is_none() {
            to.clone()
        } else {
            to.parent().unwrap_or(Path::new("")).to_owned()
        };
        Ok((to, parent))
    }

    fn copy_leaf(
        &self,
        putter: &Putter<'_>,
        from: &Path,
        to: &Path,
        metadata: &Metadata,
        destination: &mut Destination,
    ) -> Result<(), FileError> {
        let is_dir = || FileError::ReplaceDirectory { path: rooted(to) };
        let (from_parent, from_name) =
            split_last(from).ok_or_else(|| FileError::NotFound { path: rooted(from) })?;
        let (to_parent, to_name) = split_last(to).ok_or_else(is_dir)?;
        let read = |error| FileError::io("open", from, error);
        let write = |error| FileError::io("open", to, error);
        let from_dir = self.source.layers.open_dir(from_parent).map_err(read)?;
        let child = from_dir
            .child(from_name)
            .map_err(read)?
            .ok_or_else(|| read(Errno::NOENT))?;
        let from_dir = from_dir
            .part(child.layer)
            .ok_or_else(|| read(Errno::NOENT))?;
        let to_dir = destination.open(to_parent).map_err(write)?;
        if let Some(existing) = to_dir.child(to_name).map_err(write)? {
            if existing.metadata.is_dir() && !self.action.always_replace_existing {
                return Err(is_dir());
            }
            to_dir.clear(to_name, &existing).map_err(write)?;
        }
        let link = putter.may_link(metadata, child.layer, to) && destination.claim(metadata.inode);
        let leaf = put::Leaf {
            from_dir,
            from_name,
            from_path: from,
            metadata,
            to_dir: &to_dir,
            to_name,
            to_path: to,
        };
        putter.put(&leaf, link)
    }

    /// Unpacks `path` if it is an archive; says whether it was one.
    fn unpack(&self, path: &Path, destination: &mut Destination) -> Result<bool, FileError> {
        unpack(
            self.action,
            self.source.layers,
            path,
            destination,
            self.owner,
            self.context,
        )
    }
}
