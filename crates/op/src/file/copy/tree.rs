//! A directory with what is in it: first the directories, in order; then the files, in parallel;
//! then links among them; last the directories' own metadata, which writing into them changes.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use weld_fileset::{
    Entry, Layers, Metadata, Selection, WalkOptions, open_beneath, read_xattrs_of, walk,
};

use super::put::{Leaf, Putter};
use crate::file::FileError;
use crate::file::destination::{Destination, WriteDir, set_times, set_xattrs};
use crate::file::error::rooted;

/// How many files of one directory a job takes.
const PIECE: usize = 256;
/// How many directories a job finishes.
const FINISH_PIECE: usize = 32;

/// A directory to copy and its place.
pub(crate) struct TreeCopy<'t> {
    pub(crate) putter: &'t Putter<'t>,
    pub(crate) selection: &'t Selection,
    pub(crate) always_replace: bool,
    /// The directory, a real path of the source.
    pub(crate) from: &'t Path,
    /// What it becomes, a real path of the destination; its parent exists.
    pub(crate) to: &'t Path,
}

/// What is to be done about a directory's metadata once its contents are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finish {
    /// All of the source's, with the changes.
    All,
    /// Only the source's permissions: it was there, and is only on the way to what is copied.
    Permissions,
    /// Only the times: it is the place that was copied into.
    Times,
}

/// A directory of the destination with what comes into it.
struct Target {
    /// Relative to the root of the copy.
    path: PathBuf,
    /// The copy made it, so there is nothing in it that could be in the way.
    fresh: bool,
    finish: Finish,
    metadata: Metadata,
    /// The layer of the source that has its metadata.
    layer: usize,
    /// Files and the like, by their index among the entries.
    leaves: Vec<usize>,
}

/// The plan of a copy.
struct Plan {
    entries: Vec<Entry>,
    targets: Vec<Target>,
    /// By entry: may it be linked?
    link: Vec<bool>,
    /// Entries that are further names of files of this copy, and the targets that they go into.
    hard_links: Vec<(usize, usize)>,
}

impl TreeCopy<'_> {
    /// Copies the directory, whose metadata is `metadata`, and calls `note` with each path that is
    /// copied, relative to it.
    pub(crate) fn run(
        &self,
        metadata: &Metadata,
        destination: &mut Destination,
        mut note: impl FnMut(&Path),
    ) -> Result<(), FileError> {
        let options = WalkOptions {
            selection: self.selection.clone(),
            xattrs: false,
        };
        let entries = walk(self.putter.source.layers, self.from, &options)?;
        entries.iter().for_each(|entry| note(&entry.path));
        let plan = self.make_dirs(metadata, entries, destination)?;
        let destination = &*destination;
        plan.pieces()
            .into_par_iter()
            .try_for_each(|(target, leaves)| self.put_leaves(&plan, target, leaves, destination))?;
        for (leaf, target) in &plan.hard_links {
            self.put_hard_link(&plan, *leaf, &plan.targets[*target], destination)?;
        }
        self.finish_all(plan.targets, destination)
    }

    /// Gives directories their metadata, the deepest first, so that none is in a directory that
    /// may already forbid to look for it.
    fn finish_all(
        &self,
        mut targets: Vec<Target>,
        destination: &Destination,
    ) -> Result<(), FileError> {
        let depth = |target: &Target| target.path.components().count();
        targets.sort_by_cached_key(depth);
        let mut levels = targets.chunk_by(|a, b| depth(a) == depth(b)).rev();
        levels.try_for_each(|level| {
            level
                .par_iter()
                .with_min_len(FINISH_PIECE)
                .try_for_each(|target| self.finish(target, destination))
        })
    }

    /// Makes all directories and sorts the rest by the directory that it goes into.
    fn make_dirs(
        &self,
        metadata: &Metadata,
        entries: Vec<Entry>,
        destination: &mut Destination,
    ) -> Result<Plan, FileError> {
        let (root, root_dir) = self.make_root(metadata, destination)?;
        let mut plan = Plan {
            link: Vec::with_capacity(entries.len()),
            targets: vec![root],
            hard_links: Vec::new(),
            entries: Vec::new(),
        };
        // The open directories from the root of the copy down to where we are.
        let mut open: Vec<(usize, WriteDir)> = vec![(0, root_dir)];
        for (index, entry) in entries.iter().enumerate() {
            self.putter.context.check()?;
            let parent = entry.path.parent().unwrap_or(Path::new(""));
            while open.len() > 1
                && open
                    .last()
                    .is_some_and(|(at, _)| plan.targets[*at].path != parent)
            {
                open.pop();
            }
            let Some((at, dir)) = open.last() else { break };
            if !entry.is_dir() {
                let metadata = &entry.metadata;
                let further = is_hard_link(entry);
                if further {
                    plan.hard_links.push((index, *at));
                } else {
                    plan.targets[*at].leaves.push(index);
                }
                let link = !further && {
                    let to = self.to.join(&entry.path);
                    self.putter.may_link(metadata, entry.layer, &to)
                };
                plan.link.push(link && destination.claim(metadata.inode));
                continue;
            }
            plan.link.push(false);
            let fresh = plan.targets[*at].fresh;
            let (target, dir) = self.make_dir(entry, dir, fresh, destination)?;
            open.push((plan.targets.len(), dir));
            plan.targets.push(target);
        }
        plan.entries = entries;
        Ok(plan)
    }

    fn make_root(
        &self,
        metadata: &Metadata,
        destination: &Destination,
    ) -> Result<(Target, WriteDir), FileError> {
        let fail = |error| FileError::io("make directory", self.to, error);
        let mut target = Target {
            path: PathBuf::new(),
            fresh: false,
            finish: Finish::Times,
            metadata: *metadata,
            layer: self
                .top_layer()
                .map_err(|error| FileError::io("open", self.from, error))?,
            leaves: Vec::new(),
        };
        let Some(name) = self.to.file_name() else {
            return Ok((target, destination.root().map_err(fail)?));
        };
        let parent = self.to.parent().unwrap_or(Path::new(""));
        let parent = destination.open(parent).map_err(fail)?;
        let dir = match self.existing_dir(&parent, name, self.to, self.always_replace)? {
            true => parent.enter(destination.layers(), name).map_err(fail)?,
            false => {
                target.fresh = true;
                target.finish = Finish::All;
                destination.make_dir(&parent, name).map_err(fail)?
            }
        };
        Ok((target, dir))
    }

    fn top_layer(&self) -> Result<usize, Errno> {
        let dir = self.putter.source.layers.open_dir(self.from)?;
        dir.parts()
            .first()
            .map(|part| part.layer)
            .ok_or(Errno::NOENT)
    }

    fn make_dir(
        &self,
        entry: &Entry,
        parent: &WriteDir,
        fresh: bool,
        destination: &Destination,
    ) -> Result<(Target, WriteDir), FileError> {
        let to = self.to.join(&entry.path);
        let fail = |error| FileError::io("make directory", &to, error);
        let name = entry.name().as_os_str();
        let replace = self.always_replace && !entry.implied;
        let exists = !fresh && self.existing_dir(parent, name, &to, replace)?;
        let dir = if exists {
            parent.enter(destination.layers(), name).map_err(fail)?
        } else {
            destination.make_dir(parent, name).map_err(fail)?
        };
        let finish = if exists && entry.implied {
            Finish::Permissions
        } else {
            Finish::All
        };
        let target = Target {
            path: entry.path.clone(),
            fresh: !exists,
            finish,
            metadata: entry.metadata,
            layer: entry.layer,
            leaves: Vec::new(),
        };
        Ok((target, dir))
    }

    /// Is there a directory? What else is there is removed if it may be replaced.
    fn existing_dir(
        &self,
        parent: &WriteDir,
        name: &OsStr,
        to: &Path,
        replace: bool,
    ) -> Result<bool, FileError> {
        let fail = |error| FileError::io("make directory", to, error);
        match parent.child(name).map_err(fail)? {
            None => Ok(false),
            Some(child) if child.metadata.is_dir() => Ok(true),
            Some(child) if replace => {
                parent.clear(name, &child).map_err(fail)?;
                Ok(false)
            }
            Some(_) => Err(FileError::CopyToNonDirectory { path: rooted(to) }),
        }
    }

    fn put_leaves(
        &self,
        plan: &Plan,
        target: &Target,
        leaves: &[usize],
        destination: &Destination,
    ) -> Result<(), FileError> {
        let to_dir = self.open_target(target, destination)?;
        let mut from = FromDir::new(self.putter.source.layers, self.from.join(&target.path));
        for index in leaves {
            let entry = &plan.entries[*index];
            let place = Place {
                target,
                to_dir: &to_dir,
            };
            self.put_leaf(entry, plan.link[*index], &mut from, &place)?;
        }
        Ok(())
    }

    fn open_target(
        &self,
        target: &Target,
        destination: &Destination,
    ) -> Result<WriteDir, FileError> {
        let path = self.to.join(&target.path);
        let dir = if target.fresh {
            destination.open_fresh(&path)
        } else {
            destination.open(&path)
        };
        dir.map_err(|error| FileError::io("open", &path, error))
    }

    fn put_leaf(
        &self,
        entry: &Entry,
        link: bool,
        from: &mut FromDir<'_>,
        place: &Place<'_>,
    ) -> Result<(), FileError> {
        let name = entry.name().as_os_str();
        let (from_path, to_path) = (self.from.join(&entry.path), self.to.join(&entry.path));
        self.make_room(place, name, &to_path)?;
        let from_dir = from
            .open(entry.layer)
            .map_err(|error| FileError::io("open", &from_path, error))?;
        let leaf = Leaf {
            from_dir,
            from_name: name,
            from_path: &from_path,
            metadata: &entry.metadata,
            to_dir: place.to_dir,
            to_name: name,
            to_path: &to_path,
        };
        self.putter.put(&leaf, link)
    }

    fn make_room(&self, place: &Place<'_>, name: &OsStr, to: &Path) -> Result<(), FileError> {
        if place.target.fresh {
            return Ok(());
        }
        let fail = |error| FileError::io("replace", to, error);
        match place.to_dir.child(name).map_err(fail)? {
            Some(child) if child.metadata.is_dir() && !self.always_replace => {
                Err(FileError::ReplaceDirectory { path: rooted(to) })
            }
            Some(child) => place.to_dir.clear(name, &child).map_err(fail),
            None => Ok(()),
        }
    }

    /// Gives a file of this copy its further name.
    fn put_hard_link(
        &self,
        plan: &Plan,
        index: usize,
        target: &Target,
        destination: &Destination,
    ) -> Result<(), FileError> {
        let entry = &plan.entries[index];
        let Some(first) = entry.hard_link.and_then(|first| plan.entries.get(first)) else {
            return Ok(());
        };
        let to = self.to.join(&entry.path);
        let fail = |error| FileError::io("link", &to, error);
        let to_dir = self.open_target(target, destination)?;
        let place = Place {
            target,
            to_dir: &to_dir,
        };
        let name = entry.name().as_os_str();
        self.make_room(&place, name, &to)?;
        let first_parent = self.to.join(first.path.parent().unwrap_or(Path::new("")));
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let first_dir = open_beneath(destination.upper(), &first_parent, flags).map_err(fail)?;
        let linked = to_dir.create(name, |upper| {
            let first = first.name().as_os_str();
            rustix::fs::linkat(&first_dir, first, upper, name, AtFlags::empty())
        });
        match linked {
            Err(Errno::MLINK) => {
                let from = self.from.join(&target.path);
                let mut from = FromDir::new(self.putter.source.layers, from);
                self.put_leaf(entry, false, &mut from, &place)
            }
            result => result.map_err(fail),
        }
    }

    fn finish(&self, target: &Target, destination: &Destination) -> Result<(), FileError> {
        let path = self.to.join(&target.path);
        let fail = |error| FileError::io("set attributes of", &path, error);
        let dir = open_beneath(
            destination.upper(),
            &path,
            OFlags::RDONLY | OFlags::DIRECTORY,
        )
        .map_err(fail)?;
        let metadata = &target.metadata;
        match target.finish {
            Finish::Permissions => {
                let mode = Mode::from_raw_mode(metadata.permissions());
                rustix::fs::fchmod(dir, mode).map_err(fail)
            }
            Finish::Times => {
                let (atime, mtime) = self.putter.changes.times_of(metadata);
                set_times(dir.as_fd(), atime, mtime).map_err(fail)
            }
            Finish::All => {
                let from = self.from.join(&target.path);
                let xattrs = FromDir::new(self.putter.source.layers, from.clone())
                    .open(target.layer)
                    .and_then(read_xattrs_of)
                    .map_err(|error| FileError::io("read", &from, error))?;
                self.putter
                    .finish_file(dir.as_fd(), metadata)
                    .and_then(|()| set_xattrs(dir.as_fd(), xattrs))
                    .map_err(fail)
            }
        }
    }
}

fn is_hard_link(entry: &Entry) -> bool {
    entry.hard_link.is_some() && entry.metadata.file_type() == FileType::RegularFile
}

impl Plan {
    fn pieces(&self) -> Vec<(&Target, &[usize])> {
        self.targets
            .iter()
            .flat_map(|target| {
                target
                    .leaves
                    .chunks(PIECE)
                    .map(move |leaves| (target, leaves))
            })
            .collect()
    }
}

struct Place<'p> {
    target: &'p Target,
    to_dir: &'p WriteDir,
}

/// A directory of the source, opened in those layers that are asked for.
struct FromDir<'f> {
    layers: &'f Layers,
    path: PathBuf,
    open: Vec<(usize, OwnedFd)>,
}

impl<'f> FromDir<'f> {
    fn new(layers: &'f Layers, path: PathBuf) -> Self {
        Self {
            layers,
            path,
            open: Vec::new(),
        }
    }

    fn open(&mut self, layer: usize) -> Result<BorrowedFd<'_>, Errno> {
        let at = match self.open.iter().position(|(number, _)| *number == layer) {
            Some(at) => at,
            None => {
                let root = self.layers.dirs().get(layer).ok_or(Errno::NOENT)?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                self.open
                    .push((layer, open_beneath(root.as_fd(), &self.path, flags)?));
                self.open.len() - 1
            }
        };
        Ok(self.open[at].1.as_fd())
    }
}
