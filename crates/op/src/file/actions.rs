//! The actions that change single paths: make a directory, a file or a symbolic link, remove.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use weld_fileset::{Child, Metadata, Timestamp, Xattr, has_wildcards, open_beneath, read_xattrs};

use super::FileError;
use super::content::write_all_at;
use super::destination::{
    Destination, NewAttributes, Owner, WriteDir, lookup, path_at, set_owner, set_times, set_xattrs,
    timestamps,
};
use super::error::rooted;
use super::resolve::{LastLink, resolve, split_last};
use super::wildcard;

/// Makes a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MakeDir {
    /// Where; symbolic links are resolved.
    pub path: String,
    /// Its permissions, without set-id and sticky bits.
    pub mode: u32,
    /// Make parents that are missing, with the same attributes.
    pub make_parents: bool,
    /// Times of what is made; now if `None`.
    pub timestamp: Option<Timestamp>,
}

/// Writes a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MakeFile {
    /// Where; symbolic links are resolved. The directory must exist.
    pub path: String,
    /// The permissions of a new file; one that exists keeps its own.
    pub mode: u32,
    /// The content.
    pub data: Bytes,
    /// Its times; now if `None`.
    pub timestamp: Option<Timestamp>,
}

/// Makes a symbolic link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MakeSymlink {
    /// What the link says.
    pub target: String,
    /// Where it is made; the directory must exist.
    pub path: String,
    /// Its times; now if `None`.
    pub timestamp: Option<Timestamp>,
}

/// Removes a path, a directory with all that is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remove {
    /// What; a symbolic link at the end is removed itself.
    pub path: String,
    /// Nothing there is no error.
    pub allow_not_found: bool,
    /// The path is a pattern; one that matches nothing is no error.
    pub allow_wildcard: bool,
}

impl MakeDir {
    /// Makes it in `destination`, for `owner`. What exists already is left as it is.
    pub fn run(
        &self,
        destination: &mut Destination,
        owner: Option<Owner>,
    ) -> Result<(), FileError> {
        let real = resolve(destination.layers(), &self.path, LastLink::Follow)?;
        let attributes = NewAttributes {
            permissions: self.mode & 0o777,
            owner,
            timestamp: self.timestamp,
        };
        if self.make_parents {
            let made = destination.make_dirs(&real, &attributes)?;
            return touch_dirs(destination, &made, self.timestamp);
        }
        let Some((parent, name)) = split_last(&real) else {
            return Ok(());
        };
        let fail = |error| FileError::io("make directory", &real, error);
        let dir = destination.open(parent).map_err(fail)?;
        if dir.child(name).map_err(fail)?.is_some() {
            return Ok(());
        }
        let new = destination.make_dir(&dir, name).map_err(fail)?;
        attributes.apply(new.upper()).map_err(fail)
    }
}

/// Gives directories, made in this order, their times again that making the next one changed.
pub(crate) fn touch_dirs(
    destination: &Destination,
    made: &[PathBuf],
    timestamp: Option<Timestamp>,
) -> Result<(), FileError> {
    let Some(time) = timestamp else { return Ok(()) };
    for path in made.iter().rev() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        open_beneath(destination.upper(), path, flags)
            .and_then(|dir| rustix::fs::futimens(dir, &timestamps(time, time)))
            .map_err(|error| FileError::io("set times of", path, error))?;
    }
    Ok(())
}

impl MakeFile {
    /// Writes it in `destination`, for `owner`.
    pub fn run(
        &self,
        destination: &mut Destination,
        owner: Option<Owner>,
    ) -> Result<(), FileError> {
        let real = resolve(destination.layers(), &self.path, LastLink::Follow)?;
        let is_a_directory = || FileError::IsADirectory {
            path: rooted(&real),
        };
        let (parent, name) = split_last(&real).ok_or_else(is_a_directory)?;
        let fail = |error| FileError::io("write", &real, error);
        let dir = destination.open(parent).map_err(fail)?;
        match dir.child(name).map_err(fail)? {
            None => {
                let new = NewFile {
                    permissions: self.mode & 0o777,
                    owner,
                    xattrs: Vec::new(),
                };
                self.create(&dir, name, new).map_err(fail)
            }
            Some(child) if child.metadata.is_dir() => Err(is_a_directory()),
            Some(child) => self.replace(&dir, name, &child, owner).map_err(fail),
        }
    }

    fn create(&self, dir: &WriteDir, name: &OsStr, new: NewFile) -> Result<(), Errno> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = dir.create(name, |upper| {
            rustix::fs::openat(upper, name, flags, Mode::from_raw_mode(0o600))
        })?;
        write_all_at(&file, &self.data, 0)?;
        if let Some(owner) = new.owner {
            set_owner(file.as_fd(), owner)?;
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(new.permissions))?;
        set_xattrs(file.as_fd(), new.xattrs)?;
        match self.timestamp {
            Some(time) => set_times(file.as_fd(), time, time),
            None => Ok(()),
        }
    }

    /// Writes over a file as if in place: what is not the content stays. The inode is a new one,
    /// since other snapshots may share the old one.
    fn replace(
        &self,
        dir: &WriteDir,
        name: &OsStr,
        child: &Child,
        owner: Option<Owner>,
    ) -> Result<(), Errno> {
        let Metadata { uid, gid, .. } = child.metadata;
        let part = dir.merged().part(child.layer).ok_or(Errno::NOENT)?;
        let xattrs = read_xattrs(&path_at(part, name))?;
        let new = NewFile {
            permissions: child.metadata.permissions(),
            owner: Some(owner.unwrap_or(Owner { uid, gid })),
            xattrs: xattrs
                .into_iter()
                // Writing to a file takes its capabilities away.
                .filter(|(name, _)| name != "security.capability")
                .collect(),
        };
        dir.clear(name, child)?;
        self.create(dir, name, new)
    }
}

struct NewFile {
    permissions: u32,
    owner: Option<Owner>,
    xattrs: Vec<Xattr>,
}

impl MakeSymlink {
    /// Makes it in `destination`, for `owner`.
    pub fn run(
        &self,
        destination: &mut Destination,
        owner: Option<Owner>,
    ) -> Result<(), FileError> {
        let real = resolve(destination.layers(), &self.path, LastLink::Follow)?;
        let exists = || FileError::Exists {
            path: rooted(&real),
        };
        let (parent, name) = split_last(&real).ok_or_else(exists)?;
        let fail = |error| FileError::io("make symbolic link", &real, error);
        let dir = destination.open(parent).map_err(fail)?;
        if dir.child(name).map_err(fail)?.is_some() {
            return Err(exists());
        }
        let target = Path::new(&self.target);
        create_symlink(&dir, name, target, owner).map_err(fail)?;
        match self.timestamp {
            Some(time) => set_times_at(&dir, name, time, time).map_err(fail),
            None => Ok(()),
        }
    }
}

pub(crate) fn create_symlink(
    dir: &WriteDir,
    name: &OsStr,
    target: &Path,
    owner: Option<Owner>,
) -> Result<(), Errno> {
    dir.create(name, |upper| rustix::fs::symlinkat(target, upper, name))?;
    match owner {
        Some(owner) => set_owner_at(dir, name, owner),
        None => Ok(()),
    }
}

/// Sets the owner of what was just made under `name`, of a link itself.
pub(crate) fn set_owner_at(dir: &WriteDir, name: &OsStr, owner: Owner) -> Result<(), Errno> {
    let uid = Uid::from_raw(owner.uid);
    let gid = Gid::from_raw(owner.gid);
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(dir.upper(), name, Some(uid), Some(gid), flags)
}

/// Sets the times of what was just made under `name`, of a link itself.
pub(crate) fn set_times_at(
    dir: &WriteDir,
    name: &OsStr,
    atime: Timestamp,
    mtime: Timestamp,
) -> Result<(), Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(dir.upper(), name, &timestamps(atime, mtime), flags)
}

impl Remove {
    /// Removes it from `destination`.
    pub fn run(&self, destination: &mut Destination) -> Result<(), FileError> {
        if !self.allow_wildcard || !has_wildcards(&self.path) {
            return self.remove_one(destination, Path::new(&self.path));
        }
        for path in wildcard::expand(destination.layers(), &self.path)? {
            self.remove_one(destination, &path)?;
        }
        Ok(())
    }

    fn remove_one(&self, destination: &Destination, path: &Path) -> Result<(), FileError> {
        // By the text first, as BuildKit does: `a/..` is the root even if there is no `a`.
        let cleaned = weld_fileset::clean(&format!("/{}", path.display()));
        let path = if path.to_str().is_some() {
            Path::new(&cleaned)
        } else {
            path
        };
        let real = match resolve(destination.layers(), path, LastLink::Keep) {
            Err(FileError::NotADirectory { .. }) if self.allow_not_found => return Ok(()),
            result => result?,
        };
        let Some((parent, name)) = split_last(&real) else {
            return Err(FileError::RemoveRoot {
                path: path.display().to_string(),
            });
        };
        let fail = |error| FileError::io("remove", &real, error);
        if lookup(destination.layers(), &real).map_err(fail)?.is_none() {
            let path = rooted(&real);
            return if self.allow_not_found {
                Ok(())
            } else {
                Err(FileError::NotFound { path })
            };
        }
        let dir = destination.open(parent).map_err(fail)?;
        let child = dir
            .child(name)
            .map_err(fail)?
            .ok_or_else(|| fail(Errno::NOENT))?;
        dir.remove(name, &child).map_err(fail)
    }
}
