use crate::snapshot::{FileTime, node::Xattrs};

/// One file of an archive, without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The path as the archive has it.
    pub path: Vec<u8>,
    /// What the file is.
    pub kind: EntryKind,
    /// Permissions with the set-id and sticky bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// When the content was last changed.
    pub mtime: FileTime,
    /// Extended attributes, sorted by name.
    pub xattrs: Xattrs,
}

/// What a file of an archive is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file of so many bytes, which follow.
    File {
        /// The length of the content, holes included.
        size: u64,
    },
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink {
        /// What it holds.
        target: Vec<u8>,
    },
    /// Another name of a file before it.
    HardLink {
        /// The path of that file.
        target: Vec<u8>,
    },
    /// A character device.
    CharDevice {
        /// The major number.
        major: u32,
        /// The minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// The major number.
        major: u32,
        /// The minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}
