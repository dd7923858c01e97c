//! What the file system says of one name: type, metadata, extended attributes.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags, Timespec, Timestamps, XattrFlags,
};
use rustix::io::Errno;

/// Extended attributes, sorted by name.
pub(crate) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// A time of a file, as Unix seconds and nanoseconds after them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileTime {
    /// Whole seconds since 1970, negative before.
    pub seconds: i64,
    /// Nanoseconds after the second, below 1,000,000,000.
    pub nanoseconds: u32,
}

impl FileTime {
    /// The time, or the beginning of the latest second that is allowed.
    pub(crate) fn at_most(self, latest: Option<i64>) -> Self {
        match latest {
            Some(seconds) if self.seconds >= seconds => Self {
                seconds,
                nanoseconds: 0,
            },
            _ => self,
        }
    }

    pub(crate) fn timespec(self) -> Timespec {
        Timespec {
            tv_sec: self.seconds,
            tv_nsec: i64::from(self.nanoseconds),
        }
    }

    /// Access and modification time both of this.
    pub(crate) fn timestamps(self) -> Timestamps {
        Timestamps {
            last_access: self.timespec(),
            last_modification: self.timespec(),
        }
    }
}

/// A file's type and metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) kind: FileType,
    /// Permissions with the set-id and sticky bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    /// Space on disk, in bytes.
    pub(crate) allocated: u64,
    pub(crate) mtime: FileTime,
    pub(crate) ctime: FileTime,
    /// Device numbers of a device file.
    pub(crate) device: (u32, u32),
    /// What tells whether two names are one file: the file system and the inode.
    pub(crate) inode: (u64, u64),
    pub(crate) links: u32,
}

impl Node {
    /// The file of a name in a directory; a symlink itself.
    pub(crate) fn at(directory: impl AsFd, name: &OsStr) -> io::Result<Self> {
        Self::statx(directory, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// The file of a descriptor.
    pub(crate) fn of(file: impl AsFd) -> io::Result<Self> {
        Self::statx(file, OsStr::new(""), AtFlags::EMPTY_PATH)
    }

    /// The file of a path beneath a directory, without following symlinks.
    pub(crate) fn beneath(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            Ok(file) => Self::of(file),
            // Something else is on the way there.
            Err(Errno::LOOP | Errno::NOTDIR) => Err(io::ErrorKind::NotFound.into()),
            Err(error) => Err(error.into()),
        }
    }

    fn statx(directory: impl AsFd, name: &OsStr, flags: AtFlags) -> io::Result<Self> {
        let flags = flags | AtFlags::NO_AUTOMOUNT;
        let stat = rustix::fs::statx(directory, name, flags, StatxFlags::BASIC_STATS)?;
        let device = rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor);
        let time = |time: rustix::fs::StatxTimestamp| FileTime {
            seconds: time.tv_sec,
            nanoseconds: time.tv_nsec,
        };
        Ok(Self {
            kind: FileType::from_raw_mode(stat.stx_mode.into()),
            mode: u32::from(stat.stx_mode) & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            size: stat.stx_size,
            allocated: stat.stx_blocks * 512,
            mtime: time(stat.stx_mtime),
            ctime: time(stat.stx_ctime),
            device: (stat.stx_rdev_major, stat.stx_rdev_minor),
            inode: (device, stat.stx_ino),
            links: stat.stx_nlink,
        })
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.kind == FileType::Directory
    }

    pub(crate) fn is_file(&self) -> bool {
        self.kind == FileType::RegularFile
    }

    pub(crate) fn is_symlink(&self) -> bool {
        self.kind == FileType::Symlink
    }

    /// Whether an overlay takes this file for the mark that a name is gone.
    pub(crate) fn is_whiteout(&self) -> bool {
        self.kind == FileType::CharacterDevice && self.device == (0, 0)
    }
}

/// The attribute by which an overlay knows that a directory hides what is below it.
pub(crate) fn opaque_attribute(userxattr: bool) -> &'static str {
    if userxattr {
        "user.overlay.opaque"
    } else {
        "trusted.overlay.opaque"
    }
}

/// Whether an attribute is an overlay's own mark and no property of the file.
pub(crate) fn is_overlay_attribute(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}

/// A path by which attribute calls, which know no directory descriptors, reach a name.
fn path_at(directory: impl AsFd, name: &OsStr) -> PathBuf {
    let mut path = format!("/proc/self/fd/{}/", directory.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name.as_bytes());
    PathBuf::from(OsString::from_vec(path))
}

/// The extended attributes of a name, without following a symlink; none where the file system
/// has none.
pub(crate) fn xattrs_at(directory: impl AsFd, name: &OsStr) -> io::Result<Xattrs> {
    let path = path_at(directory, name);
    read_xattrs(
        |buffer| rustix::fs::llistxattr(&path, buffer),
        |name, buffer| rustix::fs::lgetxattr(&path, name, buffer),
    )
}

/// The extended attributes of an open file; none where the file system has none.
pub(crate) fn xattrs_of(file: impl AsFd) -> io::Result<Xattrs> {
    let file = file.as_fd();
    read_xattrs(
        |buffer| rustix::fs::flistxattr(file, buffer),
        |name, buffer| rustix::fs::fgetxattr(file, name, buffer),
    )
}

fn read_xattrs(
    list: impl Fn(&mut [u8]) -> Result<usize, Errno>,
    get: impl Fn(&OsStr, &mut [u8]) -> Result<usize, Errno>,
) -> io::Result<Xattrs> {
    let names = match grown(&list) {
        Ok(names) => names,
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(errno) => return Err(errno.into()),
    };
    let mut xattrs = Vec::new();
    for name in names
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
    {
        match grown(&|buffer: &mut [u8]| get(OsStr::from_bytes(name), buffer)) {
            Ok(value) => xattrs.push((name.to_vec(), value)),
            // It went away, or it is one that may be listed but not read.
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::ACCESS) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    xattrs.sort();
    Ok(xattrs)
}

/// What a call writes into a buffer that is made as large as it asks for.
fn grown(read: &impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut first = [0; 256];
    match read(&mut first) {
        Ok(length) => return Ok(first[..length.min(first.len())].to_vec()),
        Err(Errno::RANGE) => {}
        Err(errno) => return Err(errno),
    }
    // The kernel's limit for a value and for a list of names.
    let mut buffer = vec![0; 65536];
    let length = read(&mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

/// The value of one attribute of a name, if it has it.
pub(crate) fn xattr_at(
    directory: impl AsFd,
    name: &OsStr,
    attribute: &str,
) -> io::Result<Option<Vec<u8>>> {
    let path = path_at(directory, name);
    match grown(&|buffer: &mut [u8]| rustix::fs::lgetxattr(&path, attribute, buffer)) {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Sets an attribute of a name, without following a symlink.
pub(crate) fn set_xattr_at(
    directory: impl AsFd,
    name: &OsStr,
    attribute: &[u8],
    value: &[u8],
) -> Result<(), Errno> {
    let path = path_at(directory, name);
    let attribute = CString::new(attribute).map_err(|_| Errno::INVAL)?;
    rustix::fs::lsetxattr(&path, attribute.as_c_str(), value, XattrFlags::empty())
}

/// Removes an attribute of a name, without following a symlink.
pub(crate) fn remove_xattr_at(
    directory: impl AsFd,
    name: &OsStr,
    attribute: &[u8],
) -> Result<(), Errno> {
    let path = path_at(directory, name);
    let attribute = CString::new(attribute).map_err(|_| Errno::INVAL)?;
    rustix::fs::lremovexattr(&path, attribute.as_c_str())
}

/// Sets an attribute of an open file.
pub(crate) fn set_xattr_of(
    file: BorrowedFd<'_>,
    attribute: &[u8],
    value: &[u8],
) -> Result<(), Errno> {
    let attribute = CString::new(attribute).map_err(|_| Errno::INVAL)?;
    rustix::fs::fsetxattr(file, attribute.as_c_str(), value, XattrFlags::empty())
}

/// Opens a directory of a name, not through a symlink, to list or to work in.
pub(crate) fn open_directory_at(directory: impl AsFd, name: &OsStr) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(
        directory,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// Opens a regular file of a name to read, not through a symlink.
pub(crate) fn open_file_at(directory: impl AsFd, name: &OsStr) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(
        directory,
        name,
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK,
        Mode::empty(),
    )?)
}

/// The names in a directory, in byte order.
pub(crate) fn sorted_names(directory: impl AsFd) -> io::Result<Vec<OsString>> {
    let mut names = names(directory)?;
    names.sort_unstable();
    Ok(names)
}

/// The names in a directory, in the file system's order.
pub(crate) fn names(directory: impl AsFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name.to_vec()));
        }
    }
    Ok(names)
}

/// The target of a symlink of a name.
pub(crate) fn read_link_at(directory: impl AsFd, name: &OsStr) -> io::Result<Vec<u8>> {
    Ok(rustix::fs::readlinkat(directory, name, Vec::new())?.into_bytes())
}
