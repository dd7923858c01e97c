//! The tree that a file operation writes: the uppermost layer of a stack, without a mount.
//!
//! Writing goes straight into the upper directory, by overlayfs' own rules: parents are copied up
//! with their metadata before something is made in them, what a lower layer has is hidden by a
//! whiteout, and a directory that replaces something is opaque. Files of other snapshots can then
//! be linked in, which no overlay mount would allow.
//!
//! A file that is in the upper layer may share its inode with another snapshot. So nothing here
//! ever changes a file in place: it is replaced.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use weld_fileset::{
    Child, InodeId, Layers, MergedDir, Metadata, OverlayMarks, Part, Timestamp, Xattr, metadata_at,
    open_beneath, read_dir, read_xattrs_of,
};

use super::FileError;
use super::content::{ContentCopier, ContentError};

/// The layer that is written.
const UPPER: usize = 0;

/// A tree that is being changed: its layers, of which the uppermost is written.
#[derive(Debug)]
pub struct Destination {
    layers: Layers,
    /// Inodes of sources that have a name here already. A second link to one would make two files
    /// of the tree one, so a second copy is a real one.
    linked: HashSet<InodeId>,
}

/// A directory of a [`Destination`] that exists in the upper layer.
#[derive(Clone, Debug)]
pub(crate) struct WriteDir {
    merged: MergedDir,
    upper: Arc<OwnedFd>,
    overlay: bool,
    marks: OverlayMarks,
}

/// Whom a path belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
}

impl Destination {
    /// The tree of `layers`, whose uppermost directory may be written and belongs to nobody else
    /// meanwhile: no overlay may be mounted on it.
    pub fn new(layers: Layers) -> Self {
        Self {
            layers,
            linked: HashSet::new(),
        }
    }

    /// Its layers, for looking at it.
    pub fn layers(&self) -> &Layers {
        &self.layers
    }

    /// Notes that an inode of a source will be linked in; no if it was before.
    pub(crate) fn claim(&mut self, inode: InodeId) -> bool {
        self.linked.insert(inode)
    }

    pub(crate) fn upper(&self) -> BorrowedFd<'_> {
        // `Layers` is never empty.
        self.layers.dirs()[UPPER].as_fd()
    }

    /// The root, to write in.
    pub(crate) fn root(&self) -> Result<WriteDir, Errno> {
        WriteDir::new(&self.layers, self.layers.root()?)
    }

    /// The directory at a real path, copied up if need be. It must exist.
    pub(crate) fn open(&self, real: &Path) -> Result<WriteDir, Errno> {
        let mut dir = self.root()?;
        for component in real.components() {
            match component {
                Component::Normal(name) => dir = dir.enter(&self.layers, name)?,
                Component::CurDir | Component::RootDir => {}
                Component::ParentDir | Component::Prefix(_) => return Err(Errno::INVAL),
            }
        }
        Ok(dir)
    }

    /// The directory at a real path that this operation made: there is nothing below it.
    pub(crate) fn open_fresh(&self, real: &Path) -> Result<WriteDir, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        Ok(self.fresh(open_beneath(self.upper(), real, flags)?))
    }

    fn fresh(&self, fd: OwnedFd) -> WriteDir {
        let upper = Arc::new(fd);
        let part = Part {
            layer: UPPER,
            fd: Arc::clone(&upper),
        };
        WriteDir {
            merged: self.layers.merged(vec![part]),
            upper,
            overlay: self.layers.is_overlay(),
            marks: self.layers.marks(),
        }
    }

    /// What is at a real path.
    pub(crate) fn lookup(&self, real: &Path) -> Result<Option<Metadata>, Errno> {
        lookup(&self.layers, real)
    }

    /// Makes the directory `name`, which does not exist, in `dir` and opens it.
    pub(crate) fn make_dir(&self, dir: &WriteDir, name: &OsStr) -> Result<WriteDir, Errno> {
        dir.make_dir(name)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        Ok(self.fresh(open_beneath(dir.upper(), Path::new(name), flags)?))
    }

    /// Makes the directory at a real path with those of its parents that are missing, and says
    /// which it made, uppermost first. An existing one is left as it is.
    pub(crate) fn make_dirs(
        &self,
        real: &Path,
        attributes: &NewAttributes,
    ) -> Result<Vec<PathBuf>, FileError> {
        // Most often it is there already; then nothing is to be copied up either.
        match self.lookup(real) {
            Ok(Some(metadata)) if metadata.is_dir() => return Ok(Vec::new()),
            Ok(_) | Err(Errno::NOTDIR) => {}
            Err(error) => return Err(FileError::io("stat", real, error)),
        }
        let mut made = Vec::new();
        let mut path = PathBuf::new();
        let mut dir = self
            .root()
            .map_err(|error| FileError::io("open", real, error))?;
        for component in real.components() {
            let Component::Normal(name) = component else {
                continue;
            };
            path.push(name);
            let fail = |error| FileError::io("make directory", &path, error);
            dir = match dir.child(name).map_err(fail)? {
                Some(child) if child.metadata.is_dir() => {
                    dir.enter(&self.layers, name).map_err(fail)?
                }
                Some(_) => return Err(fail(Errno::NOTDIR)),
                None => {
                    let new = self.make_dir(&dir, name).map_err(fail)?;
                    attributes.apply(new.upper()).map_err(fail)?;
                    made.push(path.clone());
                    new
                }
            };
        }
        Ok(made)
    }
}

/// What is at a real path of `layers`.
pub(crate) fn lookup(layers: &Layers, real: &Path) -> Result<Option<Metadata>, Errno> {
    let Some(name) = real.file_name() else {
        let root = layers.root()?;
        let top = root.parts().first().ok_or(Errno::NOENT)?;
        return metadata_at(top.fd.as_fd(), OsStr::new(".")).map(Some);
    };
    let parent = real.parent().unwrap_or(Path::new(""));
    match layers.open_dir(parent) {
        Ok(dir) => Ok(dir.child(name)?.map(|child| child.metadata)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

impl WriteDir {
    fn new(layers: &Layers, merged: MergedDir) -> Result<Self, Errno> {
        let part = merged
            .parts()
            .iter()
            .find(|part| part.layer == UPPER)
            .ok_or(Errno::NOENT)?;
        let upper = Arc::clone(&part.fd);
        Ok(Self {
            merged,
            upper,
            overlay: layers.is_overlay(),
            marks: layers.marks(),
        })
    }

    pub(crate) fn upper(&self) -> BorrowedFd<'_> {
        self.upper.as_fd()
    }

    pub(crate) fn child(&self, name: &OsStr) -> Result<Option<Child>, Errno> {
        self.merged.child(name)
    }

    pub(crate) fn merged(&self) -> &MergedDir {
        &self.merged
    }

    /// Has no lower layer a share in this directory?
    fn is_upper_only(&self) -> bool {
        self.merged.parts().len() == 1
    }

    /// Opens the directory `name`, after copying it up if only lower layers have it.
    pub(crate) fn enter(&self, layers: &Layers, name: &OsStr) -> Result<Self, Errno> {
        let mut child = self.merged.open_dir(name)?;
        if child.part(UPPER).is_none() {
            self.copy_up_dir(name, &child)?;
            child = self.merged.open_dir(name)?;
        }
        Self::new(layers, child)
    }

    /// Makes `name` in the upper layer like the uppermost of the lower ones, leaving the times of
    /// this directory as they were, as overlayfs does.
    fn copy_up_dir(&self, name: &OsStr, lower: &MergedDir) -> Result<(), Errno> {
        let from = &lower.parts().first().ok_or(Errno::NOENT)?.fd;
        let here = OsStr::new(".");
        let times_before = metadata_at(self.upper(), here)?;
        let metadata = metadata_at(from.as_fd(), here)?;
        rustix::fs::mkdirat(self.upper(), name, Mode::from_raw_mode(0o700))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let new = open_beneath(self.upper(), Path::new(name), flags)?;
        set_xattrs(new.as_fd(), read_xattrs_of(from.as_fd())?)?;
        set_attributes(new.as_fd(), &metadata)?;
        set_times(self.upper(), times_before.atime, times_before.mtime)
    }

    /// Makes the directory `name`, which does not exist, accessible to its owner only.
    fn make_dir(&self, name: &OsStr) -> Result<(), Errno> {
        let mode = Mode::from_raw_mode(0o700);
        match rustix::fs::mkdirat(self.upper(), name, mode) {
            Err(Errno::EXIST) if self.overlay => {
                self.take_whiteout(name)?;
                rustix::fs::mkdirat(self.upper(), name, mode)?;
            }
            result => result?,
        }
        let below = self.child_below(name)?;
        if below.is_some_and(|child| child.metadata.is_dir()) {
            let new = open_beneath(self.upper(), Path::new(name), OFlags::RDONLY)?;
            rustix::fs::fsetxattr(new, self.marks.opaque(), b"y", XattrFlags::empty())?;
        }
        Ok(())
    }

    /// Makes something that is no directory under `name` by `make`, which must fail if there is
    /// something already; a whiteout is moved out of the way. The merged tree has no such name.
    pub(crate) fn create<T>(
        &self,
        name: &OsStr,
        mut make: impl FnMut(BorrowedFd<'_>) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        match make(self.upper()) {
            Err(Errno::EXIST) if self.overlay => {
                self.take_whiteout(name)?;
                make(self.upper())
            }
            result => result,
        }
    }

    fn take_whiteout(&self, name: &OsStr) -> Result<(), Errno> {
        let metadata = metadata_at(self.upper(), name)?;
        if metadata.file_type() != FileType::CharacterDevice || metadata.rdev != (0, 0) {
            return Err(Errno::EXIST);
        }
        rustix::fs::unlinkat(self.upper(), name, AtFlags::empty())
    }

    /// What the lower layers have under `name`.
    fn child_below(&self, name: &OsStr) -> Result<Option<Child>, Errno> {
        if self.is_upper_only() {
            return Ok(None);
        }
        self.merged.child_below(name, UPPER + 1)
    }

    /// Takes `child`, which is what `name` is, out of the upper layer, so that something else can
    /// be made there that hides what lower layers have.
    pub(crate) fn clear(&self, name: &OsStr, child: &Child) -> Result<(), Errno> {
        if child.layer != UPPER {
            return Ok(());
        }
        if child.metadata.is_dir() {
            remove_tree(self.upper(), name)
        } else {
            rustix::fs::unlinkat(self.upper(), name, AtFlags::empty())
        }
    }

    /// Copies `child`, a file that is what `name` is, into the upper layer if only a lower one has
    /// it.
    pub(crate) fn copy_up(&self, name: &OsStr, child: &Child) -> Result<(), Errno> {
        if child.layer == UPPER {
            return Ok(());
        }
        let from = self.merged.part(child.layer).ok_or(Errno::NOENT)?;
        let linked = self.create(name, |upper| {
            rustix::fs::linkat(from, name, upper, name, AtFlags::empty())
        });
        match linked {
            Err(Errno::XDEV | Errno::MLINK | Errno::PERM | Errno::OPNOTSUPP) => {
                self.copy_up_file(from, name, &child.metadata)
            }
            result => result,
        }
    }

    fn copy_up_file(
        &self,
        from: BorrowedFd<'_>,
        name: &OsStr,
        metadata: &Metadata,
    ) -> Result<(), Errno> {
        if metadata.file_type() != FileType::RegularFile {
            return Err(Errno::OPNOTSUPP);
        }
        let from = open_beneath(from, Path::new(name), OFlags::RDONLY | OFlags::NONBLOCK)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let to = self.create(name, |upper| {
            rustix::fs::openat(upper, name, flags, Mode::from_raw_mode(0o600))
        })?;
        let never = AtomicBool::new(false);
        let copied = ContentCopier::default().copy(from.as_fd(), metadata, to.as_fd(), &never);
        copied.map_err(|error| match error {
            ContentError::Read(error) | ContentError::Write(error) => error,
            ContentError::Cancelled => Errno::CANCELED,
        })?;
        set_owner(
            to.as_fd(),
            Owner {
                uid: metadata.uid,
                gid: metadata.gid,
            },
        )?;
        set_xattrs(to.as_fd(), read_xattrs_of(from.as_fd())?)?;
        set_attributes(to.as_fd(), metadata)
    }

    /// Removes `child`, which is what `name` is, with everything beneath it.
    pub(crate) fn remove(&self, name: &OsStr, child: &Child) -> Result<(), Errno> {
        self.clear(name, child)?;
        if self.child_below(name)?.is_some() {
            let kind = FileType::CharacterDevice;
            rustix::fs::mknodat(self.upper(), name, kind, Mode::empty(), 0)?;
        }
        Ok(())
    }
}

/// Removes the directory `name` and all that is in it, without recursion: trees may be deep.
fn remove_tree(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    let mut path = PathBuf::from(name);
    let mut pending = vec![remove_files(parent, &path)?];
    while let Some(subdirs) = pending.last_mut() {
        if let Some(subdir) = subdirs.pop() {
            path.push(subdir);
            pending.push(remove_files(parent, &path)?);
            continue;
        }
        pending.pop();
        let above = path.parent().unwrap_or(Path::new(""));
        let above = open_beneath(parent, above, OFlags::PATH | OFlags::DIRECTORY)?;
        let last = path.file_name().ok_or(Errno::INVAL)?;
        rustix::fs::unlinkat(above, last, AtFlags::REMOVEDIR)?;
        path.pop();
    }
    Ok(())
}

/// Removes what is no directory from the directory at `path`, and says what is left.
fn remove_files(parent: BorrowedFd<'_>, path: &Path) -> Result<Vec<OsString>, Errno> {
    let fd = open_beneath(parent, path, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut subdirs = Vec::new();
    for (name, kind) in read_dir(fd.as_fd())? {
        let is_dir = match kind {
            FileType::Unknown => metadata_at(fd.as_fd(), &name)?.is_dir(),
            kind => kind == FileType::Directory,
        };
        if is_dir {
            subdirs.push(name);
            continue;
        }
        match rustix::fs::unlinkat(&fd, &name, AtFlags::empty()) {
            // An overlay mount lists whiteouts of a directory that only one layer has.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(subdirs)
}

/// What a directory or file that did not exist gets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewAttributes {
    pub(crate) permissions: u32,
    /// What the file system gives if `None`: ours, or a set-group-id directory's group.
    pub(crate) owner: Option<Owner>,
    /// Now if `None`.
    pub(crate) timestamp: Option<Timestamp>,
}

impl NewAttributes {
    pub(crate) fn apply(&self, file: BorrowedFd<'_>) -> Result<(), Errno> {
        if let Some(owner) = self.owner {
            set_owner(file, owner)?;
        }
        rustix::fs::fchmod(file, Mode::from_raw_mode(self.permissions))?;
        match self.timestamp {
            Some(time) => set_times(file, time, time),
            None => Ok(()),
        }
    }
}

pub(crate) fn set_owner(file: BorrowedFd<'_>, owner: Owner) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    rustix::fs::fchown(file, Some(uid), Some(gid))
}

/// Owner, permissions and times of `metadata`, in the order in which none undoes another.
pub(crate) fn set_attributes(file: BorrowedFd<'_>, metadata: &Metadata) -> Result<(), Errno> {
    set_owner(
        file,
        Owner {
            uid: metadata.uid,
            gid: metadata.gid,
        },
    )?;
    rustix::fs::fchmod(file, Mode::from_raw_mode(metadata.permissions()))?;
    set_times(file, metadata.atime, metadata.mtime)
}

pub(crate) fn set_times(
    file: BorrowedFd<'_>,
    atime: Timestamp,
    mtime: Timestamp,
) -> Result<(), Errno> {
    rustix::fs::futimens(file, &timestamps(atime, mtime))
}

pub(crate) fn timestamps(atime: Timestamp, mtime: Timestamp) -> Timestamps {
    let timespec = |time: Timestamp| Timespec {
        tv_sec: time.seconds,
        tv_nsec: i64::from(time.nanoseconds),
    };
    Timestamps {
        last_access: timespec(atime),
        last_modification: timespec(mtime),
    }
}

/// Sets extended attributes of an open file, without overlayfs' own. One that the file system or
/// our privileges do not allow is left out, as BuildKit does.
pub(crate) fn set_xattrs(to: BorrowedFd<'_>, xattrs: Vec<Xattr>) -> Result<(), Errno> {
    for (name, value) in xattrs {
        if OverlayMarks::is_mark(&name) {
            continue;
        }
        tolerated(rustix::fs::fsetxattr(
            to,
            name.as_os_str(),
            &value,
            XattrFlags::empty(),
        ))?;
    }
    Ok(())
}

/// Sets extended attributes of `name` in `dir`, of a link itself.
pub(crate) fn set_xattrs_at(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    xattrs: Vec<Xattr>,
) -> Result<(), Errno> {
    let path = path_at(dir, name);
    for (name, value) in xattrs {
        if OverlayMarks::is_mark(&name) {
            continue;
        }
        tolerated(rustix::fs::lsetxattr(
            &path,
            name.as_os_str(),
            &value,
            XattrFlags::empty(),
        ))?;
    }
    Ok(())
}

fn tolerated(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::NOTSUP | Errno::PERM | Errno::ACCESS | Errno::INVAL) => Ok(()),
        result => result,
    }
}

/// A path by which the calls for extended attributes, which know no directory descriptor, reach a
/// name.
pub(crate) fn path_at(dir: BorrowedFd<'_>, name: &OsStr) -> PathBuf {
    Path::new("/proc/self/fd")
        .join(dir.as_raw_fd().to_string())
        .join(name)
}
