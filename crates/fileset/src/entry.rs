//! What a walk says about one path.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Statx, StatxTimestamp};

/// A point in time as a file system stores it: seconds since 1970 and nanoseconds within them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z, negative before.
    pub seconds: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nanoseconds: u32,
}

impl Timestamp {
    /// Nanoseconds since 1970, as BuildKit's wire format has them; saturates beyond the years
    /// 1677 and 2262.
    pub fn as_unix_nanos(self) -> i64 {
        self.seconds
            .checked_mul(1_000_000_000)
            .and_then(|nanos| nanos.checked_add(i64::from(self.nanoseconds)))
            .unwrap_or(if self.seconds < 0 { i64::MIN } else { i64::MAX })
    }

    /// The inverse of [`Self::as_unix_nanos`].
    pub fn from_unix_nanos(nanos: i64) -> Self {
        Self {
            seconds: nanos.div_euclid(1_000_000_000),
            // The remainder is below 10^9, so it fits.
            nanoseconds: nanos.rem_euclid(1_000_000_000) as u32,
        }
    }
}

impl From<StatxTimestamp> for Timestamp {
    fn from(time: StatxTimestamp) -> Self {
        Self {
            seconds: time.tv_sec,
            nanoseconds: time.tv_nsec,
        }
    }
}

/// Names one inode on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeId {
    /// Major and minor number of the file system's device.
    pub device: (u32, u32),
    /// The inode's number.
    pub inode: u64,
}

/// The metadata of one inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// `st_mode`: file type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes; for a symbolic link that of its target.
    pub size: u64,
    /// 512-byte blocks in use: fewer than `size` needs means that the file is sparse.
    pub blocks: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of content or metadata.
    pub ctime: Timestamp,
    /// Which inode this is.
    pub inode: InodeId,
    /// How many names the inode has.
    pub nlink: u32,
    /// Major and minor number that a device node stands for.
    pub rdev: (u32, u32),
}

impl Metadata {
    /// The type of the file.
    pub fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }

    /// The permission bits, with set-user-id, set-group-id and sticky.
    pub fn permissions(&self) -> u32 {
        self.mode & 0o7777
    }

    /// Is it a directory?
    pub fn is_dir(&self) -> bool {
        self.file_type() == FileType::Directory
    }
}

impl From<&Statx> for Metadata {
    fn from(stat: &Statx) -> Self {
        Self {
            mode: u32::from(stat.stx_mode),
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            size: stat.stx_size,
            blocks: stat.stx_blocks,
            atime: stat.stx_atime.into(),
            mtime: stat.stx_mtime.into(),
            ctime: stat.stx_ctime.into(),
            inode: InodeId {
                device: (stat.stx_dev_major, stat.stx_dev_minor),
                inode: stat.stx_ino,
            },
            nlink: stat.stx_nlink,
            rdev: (stat.stx_rdev_major, stat.stx_rdev_minor),
        }
    }
}

/// An extended attribute: its name with the namespace, and its value.
pub type Xattr = (OsString, Vec<u8>);

/// One path of a walked tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The path relative to the walk's root, without leading slash.
    pub path: PathBuf,
    /// The uppermost layer that has it; 0 in a tree of one directory.
    pub layer: usize,
    /// It is a directory that is not wanted itself, only on the way to what is.
    pub implied: bool,
    /// Its metadata.
    pub metadata: Metadata,
    /// The target of a symbolic link, as it is stored.
    pub link_target: Option<PathBuf>,
    /// For a further name of an inode in a layer: the index, in the walk's result, of the first.
    /// Directories and symbolic links have none.
    pub hard_link: Option<usize>,
    /// Extended attributes in the order of their names, if the walk was asked for them.
    pub xattrs: Vec<Xattr>,
}

impl Entry {
    /// Is it a directory?
    pub fn is_dir(&self) -> bool {
        self.metadata.is_dir()
    }

    /// The path's last component.
    pub fn name(&self) -> &Path {
        self.path.file_name().map_or(Path::new(""), Path::new)
    }
}
