//! Directories of a tree that is being filled, by paths that are not trusted.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::rc::Rc;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::snapshot::node::{Node, open_directory_at, read_link_at};

/// As many symlinks as the kernel follows in one path.
const MAX_LINKS: usize = 40;

/// The components of an archive's path from the root: `.` and slashes dropped, `..` resolved by
/// the text. `None` where it leads out of the root.
pub(super) fn components(path: &[u8]) -> Option<Vec<&OsStr>> {
    let mut components = Vec::new();
    for component in path.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                components.pop()?;
            }
            name => components.push(OsStr::from_bytes(name)),
        }
    }
    Some(components)
}

/// Components as one path.
pub(super) fn joined(components: &[&OsStr]) -> OsString {
    let mut path = Vec::new();
    for component in components {
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(component.as_bytes());
    }
    OsString::from_vec(path)
}

/// A tree, and the directory in it that was used last.
pub(super) struct Beneath<'a> {
    root: BorrowedFd<'a>,
    last: Option<(OsString, Rc<OwnedFd>)>,
}

/// Makes a directory that a path goes through: given where it is to be, its name, and its path.
pub(super) trait MakeDirectory {
    type Error: From<io::Error>;

    fn make(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        path: &OsStr,
        found: Option<&Node>,
    ) -> Result<(), Self::Error>;
}

impl<'a> Beneath<'a> {
    pub(super) fn new(root: BorrowedFd<'a>) -> Self {
        Self { root, last: None }
    }

    pub(super) fn root(&self) -> BorrowedFd<'a> {
        self.root
    }

    /// Forgets what it knows, after a directory or symlink was removed.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }

    /// The directory of a path, resolved as if the root were the system's. Those that lack are
    /// made.
    pub(super) fn directory<M: MakeDirectory>(
        &mut self,
        components: &[&OsStr],
        maker: &mut M,
    ) -> Result<Rc<OwnedFd>, M::Error> {
        let path = joined(components);
        if let Some((last, directory)) = &self.last
            && *last == path
        {
            return Ok(directory.clone());
        }
        let directory = match self.find(&path) {
            Ok(directory) => directory,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::NOSYS) => self.walk(components, maker)?,
            Err(errno) => return Err(io::Error::from(errno).into()),
        };
        let directory = Rc::new(directory);
        self.last = Some((path, directory.clone()));
        Ok(directory)
    }

    /// The directory of a path if it is there.
    pub(super) fn find(&self, path: &OsStr) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() {
            OsStr::new(".")
        } else {
            path
        };
        rustix::fs::openat2(
            self.root,
            path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )
    }

    /// Goes component by component, following symlinks within the root and making directories.
    fn walk<M: MakeDirectory>(
        &self,
        components: &[&OsStr],
        maker: &mut M,
    ) -> Result<OwnedFd, M::Error> {
        let mut ahead: Vec<OsString> = components.iter().rev().map(OsString::from).collect();
        let mut behind: Vec<(OsString, OwnedFd)> = Vec::new();
        let mut links = 0;
        while let Some(name) = ahead.pop() {
            if name == ".." {
                behind.pop();
                continue;
            }
            let here = behind.last().map_or(self.root, |(_, here)| here.as_fd());
            match Node::at(here, &name) {
                Ok(node) if node.is_directory() => {}
                Ok(node) if node.is_symlink() => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(io::Error::from(Errno::LOOP).into());
                    }
                    let target = read_link_at(here, &name)?;
                    if target.starts_with(b"/") {
                        behind.clear();
                    }
                    let target = target.split(|&byte| byte == b'/').rev();
                    ahead.extend(
                        target
                            .filter(|component| !matches!(*component, b"" | b"."))
                            .map(|component| OsString::from_vec(component.to_vec())),
                    );
                    continue;
                }
                Ok(node) => maker.make(here, &name, &path_of(&behind, &name), Some(&node))?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    maker.make(here, &name, &path_of(&behind, &name), None)?;
                }
                Err(error) => return Err(error.into()),
            }
            let directory = open_directory_at(here, &name)?;
            behind.push((name, directory));
        }
        match behind.pop() {
            Some((_, directory)) => Ok(directory),
            None => Ok(rustix::io::fcntl_dupfd_cloexec(self.root, 0).map_err(io::Error::from)?),
        }
    }
}

fn path_of(behind: &[(OsString, OwnedFd)], name: &OsStr) -> OsString {
    let mut components: Vec<&OsStr> = behind.iter().map(|(name, _)| name.as_os_str()).collect();
    components.push(name);
    joined(&components)
}
