//! Trees made of changes: each file a hard link of where it was found, or a copy.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::changes::{Change, Found, TreeError};
use super::copy::{copy_at, set_ownership};
use super::node::{FileTime, Node, opaque_attribute, set_xattr_at, xattrs_at};
use super::remove::remove_at;
use super::shared::SharedFiles;

/// How removals are kept.
pub(crate) enum Removals {
    /// They are done.
    Done,
    /// They are marked for an overlay, where there is something below to hide.
    Marked {
        /// The tree that is below this one.
        below: Option<OwnedFd>,
        /// Marks are in `user.overlay.*` attributes.
        userxattr: bool,
    },
}

/// Whether files are linked to where they come from.
pub(crate) enum Links {
    /// Never, as where trees are written in place.
    Never,
    /// Unless the inode is there already.
    Fresh {
        /// The files below that have several names.
        below: SharedFiles,
        /// What was linked from where the files came from before.
        earlier: HashSet<(u64, u64)>,
        /// What was linked from where they come from now.
        now: HashSet<(u64, u64)>,
    },
}

impl Links {
    /// Links in a tree over one with these files of several names.
    pub(crate) fn within(below: SharedFiles) -> Self {
        Self::Fresh {
            below,
            earlier: HashSet::new(),
            now: HashSet::new(),
        }
    }

    fn next_origin(&mut self) {
        if let Self::Fresh { earlier, now, .. } = self {
            earlier.extend(now.drain());
        }
    }

    /// Whether a file may have a name at this path.
    fn may_link(&mut self, node: &Node, path: &OsStr) -> bool {
        match self {
            Self::Never => false,
            Self::Fresh {
                below,
                earlier,
                now,
            } => {
                let is_there = node.links > 1
                    && (earlier.contains(&node.inode)
                        || below.is_elsewhere(node.inode, path.as_bytes()));
                if !is_there {
                    now.insert(node.inode);
                }
                !is_there
            }
        }
    }
}

/// A tree that changes are applied to.
pub(crate) struct Farm {
    root: OwnedFd,
    removals: Removals,
    links: Links,
    /// The directories, uppermost first, in which the files of a mounted source really are:
    /// what is found in a mount cannot be linked.
    origins: Vec<OwnedFd>,
    /// The first name here of each file that has several.
    copied: HashMap<(u64, u64), OsString>,
    times: HashMap<OsString, FileTime>,
    opaque: HashSet<OsString>,
}

impl Farm {
    pub(crate) fn new(root: OwnedFd, removals: Removals, links: Links) -> Self {
        Self {
            root,
            removals,
            links,
            origins: Vec::new(),
            copied: HashMap::new(),
            times: HashMap::new(),
            opaque: HashSet::new(),
        }
    }

    /// Has the next changes' files come from these directories, uppermost first.
    pub(crate) fn set_origins(&mut self, origins: Vec<OwnedFd>) {
        self.origins = origins;
        self.copied.clear();
        self.links.next_origin();
    }

    pub(crate) fn change(&mut self, change: Change<'_>) -> Result<(), TreeError> {
        match change {
            Change::Put(found) => self.put(&found),
            Change::Remove(path) => self.remove(OsStr::from_bytes(path)),
        }
    }

    fn put(&mut self, found: &Found<'_>) -> Result<(), TreeError> {
        let path = OsStr::from_bytes(found.path);
        let directory = self.parent(path)?;
        if found.node.is_directory() {
            return self.put_directory(&directory, path, found);
        }
        remove_at(directory.as_fd(), found.name).map_err(fault("replace", path))?;
        if self.link(&directory, path, found)? {
            return Ok(());
        }
        copy_at(
            found.directory,
            found.name,
            found.node,
            directory.as_fd(),
            found.name,
        )
        .map_err(fault("copy", path))?;
        if found.node.links > 1 {
            self.copied.insert(found.node.inode, path.to_owned());
        }
        Ok(())
    }

    fn put_directory(
        &mut self,
        directory: &OwnedFd,
        path: &OsStr,
        found: &Found<'_>,
    ) -> Result<(), TreeError> {
        let existing = match Node::at(directory, found.name) {
            Ok(node) => Some(node),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(fault("read", path)(error)),
        };
        if !existing.as_ref().is_some_and(Node::is_directory) {
            remove_at(directory.as_fd(), found.name).map_err(fault("replace", path))?;
            rustix::fs::mkdirat(directory, found.name, Mode::RWXU)
                .map_err(|errno| fault("create", path)(errno.into()))?;
        }
        let xattrs = xattrs_at(found.directory, found.name)
            .map_err(fault("read the attributes of", path))?;
        set_ownership(directory.as_fd(), found.name, found.node, &xattrs)
            .map_err(fault("set the metadata of", path))?;
        self.times.insert(path.to_owned(), found.node.mtime);
        // A directory in the place of something else shows nothing of what is below that.
        if let Removals::Marked { userxattr, .. } = self.removals
            && existing.is_some_and(|node| !node.is_directory())
            && self.is_below(path)?
        {
            let attribute = opaque_attribute(userxattr);
            set_xattr_at(directory, found.name, attribute.as_bytes(), b"y")
                .map_err(|errno| fault("mark as opaque", path)(errno.into()))?;
            self.opaque.insert(path.to_owned());
        }
        Ok(())
    }

    fn remove(&mut self, path: &OsStr) -> Result<(), TreeError> {
        let directory = self.parent(path)?;
        let name = file_name(path);
        remove_at(directory.as_fd(), name).map_err(fault("remove", path))?;
        if matches!(self.removals, Removals::Marked { .. }) && self.is_below(path)? {
            let mode = Mode::empty();
            rustix::fs::mknodat(&directory, name, FileType::CharacterDevice, mode, 0)
                .map_err(|errno| fault("mark as removed", path)(errno.into()))?;
        }
        Ok(())
    }

    /// Whether there is something below at this path that would be seen.
    fn is_below(&self, path: &OsStr) -> Result<bool, TreeError> {
        let Removals::Marked {
            below: Some(below), ..
        } = &self.removals
        else {
            return Ok(false);
        };
        let mut ancestor = path.as_bytes();
        while let Some(slash) = ancestor.iter().rposition(|&byte| byte == b'/') {
            ancestor = &ancestor[..slash];
            if self.opaque.contains(OsStr::from_bytes(ancestor)) {
                return Ok(false);
            }
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match open_beneath(below.as_fd(), path, flags) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(false),
            Err(errno) => Err(fault("open", path)(errno.into())),
        }
    }

    /// Links the file to where it is or was copied to; whether that could be done.
    fn link(
        &mut self,
        directory: &OwnedFd,
        path: &OsStr,
        found: &Found<'_>,
    ) -> Result<bool, TreeError> {
        if let Some(first) = self.copied.get(&found.node.inode) {
            let result = link(self.root.as_fd(), first, directory.as_fd(), found.name);
            return linked(result).map_err(fault("link", path));
        }
        // Pipes and sockets that two snapshots share would let their steps talk.
        if matches!(found.node.kind, FileType::Fifo | FileType::Socket) {
            return Ok(false);
        }
        if !self.links.may_link(found.node, path) {
            return Ok(false);
        }
        if self.origins.is_empty() {
            let result = link(found.directory, found.name, directory.as_fd(), found.name);
            return linked(result).map_err(fault("link", path));
        }
        for origin in &self.origins {
            match link(origin.as_fd(), path, directory.as_fd(), found.name) {
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                result => return linked(result).map_err(fault("link", path)),
            }
        }
        Ok(false)
    }

    fn parent(&self, path: &OsStr) -> Result<OwnedFd, TreeError> {
        let bytes = path.as_bytes();
        let parent = match bytes.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => OsStr::from_bytes(&bytes[..slash]),
            None => OsStr::new("."),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        open_beneath(self.root.as_fd(), parent, flags)
            .map_err(|errno| fault("open", parent)(errno.into()))
    }

    /// Sets the times of the directories.
    pub(crate) fn finish(self) -> Result<(), TreeError> {
        for (path, time) in &self.times {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = match open_beneath(self.root.as_fd(), path, flags) {
                Ok(directory) => directory,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(errno) => return Err(fault("open", path)(errno.into())),
            };
            rustix::fs::utimensat(&directory, ".", &time.timestamps(), AtFlags::empty())
                .map_err(|errno| fault("set the time of", path)(errno.into()))?;
        }
        Ok(())
    }
}

fn open_beneath(root: BorrowedFd<'_>, path: &OsStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
}

fn link(
    from: BorrowedFd<'_>,
    from_name: &OsStr,
    to: BorrowedFd<'_>,
    to_name: &OsStr,
) -> Result<(), Errno> {
    rustix::fs::linkat(from, from_name, to, to_name, AtFlags::empty())
}

/// Whether a link was made; where the file system will not, a copy does.
fn linked(result: Result<(), Errno>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(Errno::XDEV | Errno::MLINK | Errno::PERM | Errno::OPNOTSUPP) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn file_name(path: &OsStr) -> &OsStr {
    let bytes = path.as_bytes();
    let start = bytes
        .iter()
        .rposition(|&byte| byte == b'/')
        .map_or(0, |slash| slash + 1);
    OsStr::from_bytes(&bytes[start..])
}

fn fault(action: &'static str, path: &OsStr) -> impl FnOnce(io::Error) -> TreeError + use<> {
    let path = PathBuf::from(path);
    move |source| TreeError {
        action,
        path,
        source,
    }
}
