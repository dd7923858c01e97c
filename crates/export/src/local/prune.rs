//! Deleting what is in the destination and not in the result.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::path::PathBuf;

use super::{Place, is_exported, name_of, parent_of, remove};
use crate::ExportError;
use crate::error::write_error;
use crate::tree::Tree;
use crate::watch::Watch;

/// Deletes all that is in none of `trees`.
pub(super) fn others(
    place: &Place,
    trees: &[Tree],
    split: bool,
    watch: &Watch,
) -> Result<(), ExportError> {
    for (directory, names) in wanted(trees, split) {
        let stopped = watch.check();
        stopped.map_err(write_error("write to", place.path.as_path()))?;
        let opened = place.open(&directory)?;
        let present = weld_fileset::read_dir(opened.as_fd())
            .map_err(place.error("list directory", &directory))?;
        for (name, _) in present {
            if !names.contains(&name) {
                let fail = place.error("delete", &directory.join(&name));
                remove(opened.as_fd(), &name).map_err(fail)?;
            }
        }
    }
    Ok(())
}

/// The names that stay, by the directory that they are in.
fn wanted(trees: &[Tree], split: bool) -> HashMap<PathBuf, HashSet<OsString>> {
    let mut wanted: HashMap<PathBuf, HashSet<OsString>> = HashMap::new();
    wanted.entry(PathBuf::new()).or_default();
    for tree in trees {
        let prefix = match split {
            true => tree.directory(),
            false => PathBuf::new(),
        };
        if split {
            let top = wanted.entry(PathBuf::new()).or_default();
            top.insert(prefix.clone().into_os_string());
            wanted.entry(prefix.clone()).or_default();
        }
        for entry in &tree.entries {
            if !is_exported(entry.metadata.file_type()) {
                continue;
            }
            let path = join(&prefix, entry.path.as_os_str());
            let names = wanted.entry(parent_of(&path).to_owned()).or_default();
            names.insert(name_of(&path).to_owned());
            if entry.is_dir() {
                wanted.entry(path).or_default();
            }
        }
    }
    wanted
}

fn join(prefix: &std::path::Path, path: &OsStr) -> PathBuf {
    match prefix.as_os_str().is_empty() {
        true => PathBuf::from(path),
        false => prefix.join(path),
    }
}
