//! Making the files of a tree that is being filled, with all their metadata.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use super::apply::ApplyOptions;
use super::beneath::{Beneath, MakeDirectory};
use super::{Entry, EntryKind, LayerError, TarReader};
use crate::snapshot::FileTime;
use crate::snapshot::node::{
    Node, is_overlay_attribute, opaque_attribute, remove_xattr_at, set_xattr_at, set_xattr_of,
    xattrs_at,
};

/// Blocks of zeros of this size become holes.
const HOLE: usize = 64 << 10;

/// Owner and group.
pub(super) type Owner = (u32, u32);

/// A name in a directory where a file is to be made.
pub(super) struct Place<'a> {
    directory: BorrowedFd<'a>,
    name: &'a OsStr,
}

pub(super) fn file<'a>(directory: BorrowedFd<'a>, name: &'a OsStr) -> Place<'a> {
    Place { directory, name }
}

impl Place<'_> {
    pub(super) fn regular(&self) -> io::Result<OwnedFd> {
        Ok(rustix::fs::openat(
            self.directory,
            self.name,
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::RUSR | Mode::WUSR,
        )?)
    }

    pub(super) fn directory(&self) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(self.directory, self.name, Mode::RWXU)?)
    }

    /// A file that is neither regular nor a directory nor a link to another.
    pub(super) fn special(&self, kind: &EntryKind) -> io::Result<()> {
        let node = |kind, device| {
            let mode = Mode::RUSR | Mode::WUSR;
            rustix::fs::mknodat(self.directory, self.name, kind, mode, device)
        };
        match kind {
            EntryKind::Symlink { target } => {
                rustix::fs::symlinkat(OsStr::from_bytes(target), self.directory, self.name)
            }
            EntryKind::CharDevice { major, minor } => node(
                FileType::CharacterDevice,
                rustix::fs::makedev(*major, *minor),
            ),
            EntryKind::BlockDevice { major, minor } => {
                node(FileType::BlockDevice, rustix::fs::makedev(*major, *minor))
            }
            EntryKind::Fifo => node(FileType::Fifo, 0),
            EntryKind::File { .. } | EntryKind::Directory | EntryKind::HardLink { .. } => {
                Err(Errno::INVAL)
            }
        }
        .map_err(io::Error::from)
    }
}

/// A tree that is being filled.
pub(super) struct Tree<'a> {
    options: &'a ApplyOptions<'a>,
    parent: Option<OwnedFd>,
    /// When directories were changed, set last because filling them changes it.
    times: HashMap<OsString, FileTime>,
    userxattr: bool,
}

/// A fault on the way to a directory.
pub(super) enum PathFault {
    Io(io::Error),
    NotADirectory(OsString),
    Layer(LayerError),
}

impl From<io::Error> for PathFault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl PathFault {
    pub(super) fn into_layer_error(self, path: &OsStr) -> LayerError {
        match self {
            Self::Io(source) => LayerError::File {
                action: "open the directory",
                path: PathBuf::from(path),
                source,
            },
            Self::NotADirectory(path) => LayerError::Entry {
                path: PathBuf::from(path),
                what: "is no directory, but another entry's path goes through it",
            },
            Self::Layer(error) => error,
        }
    }
}

impl MakeDirectory for Tree<'_> {
    type Error = PathFault;

    fn make(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        path: &OsStr,
        found: Option<&Node>,
    ) -> Result<(), PathFault> {
        let overlays = matches!(
            self.options.whiteouts,
            super::apply::Whiteouts::Overlay { .. }
        );
        let place = file(parent, name);
        if let Some(node) = found {
            if !(overlays && node.is_whiteout()) {
                return Err(PathFault::NotADirectory(path.to_owned()));
            }
            // The layer removed what was here and puts something new in its place.
            rustix::fs::unlinkat(parent, name, AtFlags::empty()).map_err(io::Error::from)?;
            place.directory()?;
            set_xattr_at(
                parent,
                name,
                opaque_attribute(self.userxattr).as_bytes(),
                b"y",
            )
            .map_err(io::Error::from)?;
        } else {
            place.directory()?;
        }
        let like = match found {
            Some(_) => None,
            None => self.below(path).map_err(PathFault::Layer)?,
        };
        self.set_like(parent, name, path, like)
            .map_err(PathFault::Layer)
    }
}

impl<'a> Tree<'a> {
    pub(super) fn new(options: &'a ApplyOptions<'a>) -> Self {
        Self {
            options,
            parent: None,
            times: HashMap::new(),
            userxattr: matches!(
                options.whiteouts,
                super::apply::Whiteouts::Overlay { userxattr: true }
            ),
        }
    }

    pub(super) fn error(
        &self,
        action: &'static str,
        path: &OsStr,
    ) -> impl FnOnce(io::Error) -> LayerError + use<> {
        let path = PathBuf::from(path);
        move |source| LayerError::File {
            action,
            path,
            source,
        }
    }

    fn owner(&self, entry: &Entry) -> Owner {
        self.options.owner.unwrap_or((entry.uid, entry.gid))
    }

    fn time(&self, time: FileTime) -> FileTime {
        self.options.mtime.unwrap_or(time)
    }

    /// Writes the content of a file, leaving holes where it is zero.
    pub(super) fn fill<R: BufRead>(
        &self,
        file: &OwnedFd,
        path: &OsStr,
        size: u64,
        reader: &mut TarReader<R>,
    ) -> Result<(), LayerError> {
        let failed = |errno: Errno| self.error("write", path)(errno.into());
        let mut end = 0;
        reader.content(|mut offset, mut bytes: &[u8]| {
            while !bytes.is_empty() {
                let (piece, rest) = bytes.split_at(bytes.len().min(HOLE));
                if piece.len() < HOLE || piece.iter().any(|&byte| byte != 0) {
                    write_at(file, piece, offset).map_err(failed)?;
                    end = offset + piece.len() as u64;
                }
                offset += piece.len() as u64;
                bytes = rest;
            }
            Ok::<_, LayerError>(())
        })?;
        if end < size {
            rustix::fs::ftruncate(file, size).map_err(failed)?;
        }
        Ok(())
    }

    pub(super) fn set_file_metadata(
        &self,
        file: BorrowedFd<'_>,
        path: &OsStr,
        entry: &Entry,
    ) -> Result<(), LayerError> {
        let (uid, gid) = self.owner(entry);
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::fs::fchown(file, Some(uid), Some(gid))
            .map_err(|errno| self.error("change the owner of", path)(errno.into()))?;
        // Changing the owner drops capabilities and set-id bits, so they come after it.
        for (name, value) in &entry.xattrs {
            self.xattr(path, name, set_xattr_of_checked(file, name, value))?;
        }
        rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode))
            .map_err(|errno| self.error("change the mode of", path)(errno.into()))?;
        rustix::fs::futimens(file, &self.time(entry.mtime).timestamps())
            .map_err(|errno| self.error("set the time of", path)(errno.into()))
    }

    pub(super) fn set_metadata(
        &self,
        directory: BorrowedFd<'_>,
        name: &OsStr,
        path: &OsStr,
        entry: &Entry,
    ) -> Result<(), LayerError> {
        self.set_owner_and_mode(directory, name, path, entry)?;
        rustix::fs::utimensat(
            directory,
            name,
            &self.time(entry.mtime).timestamps(),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(|errno| self.error("set the time of", path)(errno.into()))
    }

    pub(super) fn set_directory_metadata(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &OsStr,
        path: &OsStr,
        entry: &Entry,
    ) -> Result<(), LayerError> {
        self.set_owner_and_mode(directory, name, path, entry)?;
        self.times.insert(path.to_owned(), self.time(entry.mtime));
        Ok(())
    }

    /// Takes the attributes away that a directory from below the layer has and its entry has not.
    pub(super) fn remove_other_xattrs(
        &self,
        directory: BorrowedFd<'_>,
        name: &OsStr,
        path: &OsStr,
        entry: &Entry,
    ) -> Result<(), LayerError> {
        let present = xattrs_at(directory, name).map_err(self.error("read", path))?;
        for (key, _) in present {
            let stated = entry.xattrs.iter().any(|(name, _)| *name == key);
            if stated || !super::diff::is_kept(&key) {
                continue;
            }
            match remove_xattr_at(directory, name, &key) {
                Ok(()) | Err(Errno::NODATA | Errno::PERM) => {}
                Err(errno) => return Err(self.error("change an attribute of", path)(errno.into())),
            }
        }
        Ok(())
    }

    /// Takes an entry of the root itself.
    pub(super) fn root(&mut self, root: BorrowedFd<'_>, entry: &Entry) -> Result<(), LayerError> {
        if entry.kind != EntryKind::Directory {
            return Err(LayerError::Entry {
                path: PathBuf::from(OsStr::from_bytes(&entry.path)),
                what: "the root is a directory and nothing else",
            });
        }
        // An archive that is no layer is unpacked into a directory that has its own metadata.
        if self.options.whiteouts == super::apply::Whiteouts::Literal {
            return Ok(());
        }
        self.set_directory_metadata(root, OsStr::new("."), OsStr::new(""), entry)
    }

    fn set_owner_and_mode(
        &self,
        directory: BorrowedFd<'_>,
        name: &OsStr,
        path: &OsStr,
        entry: &Entry,
    ) -> Result<(), LayerError> {
        let (uid, gid) = self.owner(entry);
        rustix::fs::chownat(
            directory,
            name,
            Some(Uid::from_raw(uid)),
            Some(Gid::from_raw(gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(|errno| self.error("change the owner of", path)(errno.into()))?;
        for (key, value) in &entry.xattrs {
            let result = if is_overlay_attribute(key) {
                Ok(())
            } else {
                set_xattr_at(directory, name, key, value)
            };
            self.xattr(path, key, result)?;
        }
        if matches!(entry.kind, EntryKind::Symlink { .. }) {
            return Ok(());
        }
        // The name is no symlink: it was made by us a moment ago, and nobody else writes here.
        rustix::fs::chmodat(
            directory,
            name,
            Mode::from_raw_mode(entry.mode),
            AtFlags::empty(),
        )
        .map_err(|errno| self.error("change the mode of", path)(errno.into()))
    }

    /// Attributes that this file system or user cannot have are left out, as containerd does.
    fn xattr(
        &self,
        path: &OsStr,
        name: &[u8],
        result: Result<(), Errno>,
    ) -> Result<(), LayerError> {
        match result {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP) => Ok(()),
            // User attributes are for files and directories; trusted ones for real root.
            Err(Errno::PERM) if name.starts_with(b"user.") || name.starts_with(b"trusted.") => {
                Ok(())
            }
            Err(errno) => Err(self.error("set an attribute of", path)(errno.into())),
        }
    }

    /// The same path in the tree below, where there is one.
    fn below(&mut self, path: &OsStr) -> Result<Option<(OwnedFd, Node)>, LayerError> {
        let Some(open) = self.options.parent else {
            return Ok(None);
        };
        if self.parent.is_none() {
            self.parent = Some(open()?);
        }
        let Some(parent) = &self.parent else {
            return Ok(None);
        };
        let found = rustix::fs::openat2(
            parent,
            path,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        );
        match found {
            Ok(file) => {
                let node = Node::of(&file).map_err(self.error("read", path))?;
                Ok(Some((file, node)))
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(errno) => Err(self.error("open", path)(errno.into())),
        }
    }

    /// Gives a directory that has no entry the metadata of the one below it, or else plain ones.
    fn set_like(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &OsStr,
        path: &OsStr,
        like: Option<(OwnedFd, Node)>,
    ) -> Result<(), LayerError> {
        let mut entry = Entry {
            path: path.as_bytes().to_vec(),
            kind: EntryKind::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: FileTime::default(),
            xattrs: Vec::new(),
        };
        if let Some((file, node)) = like.filter(|(_, node)| node.is_directory()) {
            (entry.mode, entry.uid, entry.gid) = (node.mode, node.uid, node.gid);
            entry.mtime = node.mtime;
            entry.xattrs = xattrs_at(&file, OsStr::new(".")).map_err(self.error("read", path))?;
        }
        self.set_directory_metadata(directory, name, path, &entry)
    }

    /// Copies a file of the tree below to the same path here, so that it can be linked to.
    pub(super) fn copy_up(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &OsStr,
        path: &OsStr,
    ) -> Result<bool, LayerError> {
        let Some((file, node)) = self.below(path)? else {
            return Ok(false);
        };
        if node.is_directory() || node.is_whiteout() {
            return Ok(false);
        }
        crate::snapshot::copy::copy_node(file.as_fd(), &node, directory, name)
            .map_err(self.error("copy", path))?;
        Ok(true)
    }

    /// Sets the times of directories, those of them that are still there.
    pub(super) fn finish(self, beneath: &Beneath<'_>) -> Result<(), LayerError> {
        for (path, time) in &self.times {
            let directory = match beneath.find(path) {
                Ok(directory) => directory,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(errno) => return Err(self.error("open", path)(errno.into())),
            };
            let times = time.timestamps();
            rustix::fs::utimensat(&directory, ".", &times, AtFlags::empty())
                .map_err(|errno| self.error("set the time of", path)(errno.into()))?;
        }
        Ok(())
    }
}

fn set_xattr_of_checked(file: BorrowedFd<'_>, name: &[u8], value: &[u8]) -> Result<(), Errno> {
    if is_overlay_attribute(name) {
        return Ok(());
    }
    set_xattr_of(file, name, value)
}

fn write_at(file: &OwnedFd, mut bytes: &[u8], mut offset: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let count = rustix::io::retry_on_intr(|| rustix::io::pwrite(file.as_fd(), bytes, offset))?;
        if count == 0 {
            return Err(Errno::IO);
        }
        bytes = &bytes[count..];
        offset += count as u64;
    }
    Ok(())
}
