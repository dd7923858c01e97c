use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::Path;

use rayon::prelude::*;
use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;
use weld_fileset::Entry;

use super::put::{Partial, Putter};
use super::{Place, is_exported, name_of, parent_of, timestamps};
use crate::ExportError;
use crate::tree::{SourceDirectories, Tree};
use crate::watch::Watch;

/// How many files of one directory a job takes.
const PIECE: usize = 128;

/// The copy of one tree.
pub(super) struct TreeCopy<'a> {
    place: &'a Place,
    tree: &'a Tree,
    watch: &'a Watch,
}

/// A directory with the files that go into it.
struct Target<'a> {
    path: &'a Path,
    files: Vec<&'a Entry>,
}

impl<'a> TreeCopy<'a> {
    pub(super) fn new(place: &'a Place, tree: &'a Tree, watch: &'a Watch) -> Self {
        Self { place, tree, watch }
    }

    pub(super) fn run(&self) -> Result<(), ExportError> {
        let (directories, links): (Vec<_>, Vec<_>) = self
            .tree
            .entries
            .iter()
            .filter(|entry| entry.is_dir() || entry.hard_link.is_some())
            .partition(|entry| entry.is_dir());
        for directory in &directories {
            self.place.make_directory(&directory.path)?;
        }
        let targets = self.targets();
        let jobs: Vec<_> = targets
            .iter()
            .flat_map(|target| target.files.chunks(PIECE).map(|files| (target.path, files)))
            .collect();
        jobs.into_par_iter()
            .try_for_each(|(path, files)| self.put(path, files))?;
        for link in links {
            self.link(link)?;
        }
        // From the leaves to the root, since a directory may not allow what is in it any more.
        for directory in directories.into_iter().rev() {
            self.finish(directory)?;
        }
        Ok(())
    }

    fn targets(&self) -> Vec<Target<'a>> {
        let mut targets: Vec<Target<'a>> = Vec::new();
        let mut by_path: HashMap<&Path, usize> = HashMap::new();
        for entry in &self.tree.entries {
            let kind = entry.metadata.file_type();
            if entry.is_dir() || entry.hard_link.is_some() || !is_exported(kind) {
                continue;
            }
            let path = parent_of(&entry.path);
            let index = *by_path.entry(path).or_insert(targets.len());
            if index == targets.len() {
                targets.push(Target {
                    path,
                    files: Vec::new(),
                });
            }
            if let Some(target) = targets.get_mut(index) {
                target.files.push(entry);
            }
        }
        targets
    }

    fn put(&self, path: &Path, files: &[&Entry]) -> Result<(), ExportError> {
        self.checked()?;
        let directory = self.place.open(path)?;
        let mut sources = SourceDirectories::new(self.tree, path);
        let mut putter = Putter::new(directory.as_fd(), self.place, self.watch);
        for file in files {
            putter.put(file, &mut sources)?;
        }
        putter.report()
    }

    /// Whether to go on; the caller tells why not.
    fn checked(&self) -> Result<(), ExportError> {
        let stopped = self.watch.check();
        stopped.map_err(crate::error::write_error(
            "write to",
            self.place.path.as_path(),
        ))
    }

    fn link(&self, link: &Entry) -> Result<(), ExportError> {
        let Some(first) = self.tree.first_name(link) else {
            return Ok(());
        };
        if !is_exported(link.metadata.file_type()) {
            return Ok(());
        }
        let from = self.place.open(parent_of(first))?;
        let to = self.place.open(parent_of(&link.path))?;
        let fail = |errno: Errno| self.place.error("link", &link.path)(errno);
        let (partial, ()) = Partial::make(to.as_fd(), name_of(&link.path), |name| {
            rustix::fs::linkat(&from, name_of(first), &to, name, AtFlags::empty())
        })
        .map_err(fail)?;
        partial.publish().map_err(fail)
    }

    fn finish(&self, directory: &Entry) -> Result<(), ExportError> {
        let fail = |errno: Errno| self.place.error("set the metadata of", &directory.path)(errno);
        let opened = self.place.open(&directory.path)?;
        super::put::set_xattrs(opened.as_fd(), &directory.xattrs).map_err(fail)?;
        let mode = Mode::from_raw_mode(directory.metadata.permissions());
        rustix::fs::fchmod(&opened, mode).map_err(fail)?;
        rustix::fs::futimens(&opened, &timestamps(directory.metadata.mtime)).map_err(fail)
    }
}
