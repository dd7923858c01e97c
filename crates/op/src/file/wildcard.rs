//! Which paths of a tree a wildcard path stands for.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use rustix::io::Errno;
use weld_fileset::{Glob, Layers, MergedDir, has_wildcards};

use super::FileError;
use super::resolve::{LastLink, resolve};

/// The paths of `tree` that `pattern` matches, in path order, each starting with `/`.
///
/// The components in front of the first with a wildcard are resolved; behind it no link is
/// followed. A pattern without wildcards stands for itself, there or not. What is beneath a match
/// is no match of its own.
pub(crate) fn expand(tree: &Layers, pattern: &str) -> Result<Vec<PathBuf>, FileError> {
    let cleaned = weld_fileset::clean(&format!("/{pattern}"));
    let components: Vec<&str> = cleaned.split('/').filter(|c| !c.is_empty()).collect();
    let Some(first) = components.iter().position(|c| has_wildcards(c)) else {
        return Ok(vec![PathBuf::from(cleaned)]);
    };
    let (fixed, wild) = components.split_at(first);
    let base = resolve(tree, fixed.join("/"), LastLink::Follow)?;
    let text = wild.join("/");
    let glob = Glob::new(&text).map_err(|error| FileError::Pattern {
        pattern: pattern.to_owned(),
        error,
    })?;
    let fail = |path: &Path, error| FileError::io("read directory", path, error);
    let top = tree.open_dir(&base).map_err(|error| fail(&base, error))?;
    let mut found = Vec::new();
    search(top, &glob, &mut found).map_err(|(path, error)| fail(&base.join(path), error))?;
    Ok(found
        .into_iter()
        .map(|path| Path::new("/").join(&base).join(path))
        .collect())
}

struct Level {
    dir: MergedDir,
    names: std::vec::IntoIter<weld_fileset::MergedName>,
}

fn search(top: MergedDir, glob: &Glob, found: &mut Vec<PathBuf>) -> Result<(), (PathBuf, Errno)> {
    let list = |dir: MergedDir, path: &Path| match dir.names() {
        Ok(names) => Ok(Level {
            dir,
            names: names.into_iter(),
        }),
        Err(error) => Err((path.to_owned(), error)),
    };
    let mut path = PathBuf::new();
    let mut levels = vec![list(top, &path)?];
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.names.next() else {
            levels.pop();
            path.pop();
            continue;
        };
        path.push(&name.name);
        if glob.matches(path.as_os_str().as_bytes()) {
            found.push(path.clone());
        } else if matches!(name.kind, FileType::Directory | FileType::Unknown)
            && glob.may_match_beneath(&[path.as_os_str().as_bytes(), b"/"].concat())
        {
            match level.dir.open_dir(&name.name) {
                Ok(dir) => {
                    levels.push(list(dir, &path)?);
                    continue;
                }
                Err(Errno::NOTDIR | Errno::NOENT) => {}
                Err(error) => return Err((path, error)),
            }
        }
        path.pop();
    }
    Ok(())
}
