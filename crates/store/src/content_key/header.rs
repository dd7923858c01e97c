//! The digest of one file: BuildKit's, which is that of docker's tarsum of version 1.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::FileType;
use weld_digest::Hasher;

use crate::snapshot::node::{
    Node, is_overlay_attribute, open_file_at, read_link_at, xattrs_at, xattrs_of,
};

/// Files are read in pieces of this size.
const PIECE: usize = 128 << 10;

/// What the digest of a file begins with.
///
/// One who has a file pass by, such as when it is copied, finds its content key by feeding the
/// content to [`hasher`](Self::hasher)'s hasher, with no need to read the file again.
pub struct FileHeader<'a> {
    /// The file's type.
    pub kind: FileType,
    /// Permissions with the set-id and sticky bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The length of a regular file.
    pub size: u64,
    /// The target of a symlink.
    pub target: &'a [u8],
    /// The numbers of a device.
    pub device: (u32, u32),
    /// Extended attributes, sorted by name.
    pub xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

impl FileHeader<'_> {
    /// Starts the digest of a file with this header.
    pub fn hasher(&self) -> Hasher {
        // A header names the type by a character; sockets are taken for regular files.
        let (flag, size) = match self.kind {
            FileType::Directory => ("5", 0),
            FileType::Symlink => ("2", 0),
            FileType::CharacterDevice => ("3", 0),
            FileType::BlockDevice => ("4", 0),
            FileType::Fifo => ("6", 0),
            _ => ("0", self.size),
        };
        let mode = match self.kind {
            FileType::Symlink => self.mode | 0o777,
            _ => self.mode,
        };
        let (major, minor) = match self.kind {
            FileType::CharacterDevice | FileType::BlockDevice => self.device,
            _ => (0, 0),
        };
        let mut text = format!(
            "namemode{mode}uid{}gid{}size{size}typeflag{flag}linkname",
            self.uid, self.gid
        )
        .into_bytes();
        text.extend_from_slice(self.target);
        text.extend_from_slice(format!("unamegnamedevmajor{major}devminor{minor}").as_bytes());
        for (name, value) in self.xattrs {
            if counts(name) {
                text.extend_from_slice(name);
                text.extend_from_slice(value);
            }
        }
        let mut hasher = Hasher::sha256();
        hasher.update(&text);
        hasher
    }
}

/// Whether an attribute is part of a file's identity, and not what the machine adds to it.
fn counts(name: &[u8]) -> bool {
    let of_the_machine = name.starts_with(b"security.") || name.starts_with(b"system.");
    name == b"security.capability" || !(of_the_machine || is_overlay_attribute(name))
}

/// The digest of a file, of a directory without what is in it.
pub(super) fn digest_at(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<[u8; 32]> {
    let node = Node::at(directory, name)?;
    if node.is_file() {
        return digest_file(directory, name);
    }
    let target = if node.is_symlink() {
        read_link_at(directory, name)?
    } else {
        Vec::new()
    };
    let xattrs = xattrs_at(directory, name)?;
    let header = FileHeader {
        kind: node.kind,
        mode: node.mode,
        uid: node.uid,
        gid: node.gid,
        size: node.size,
        target: &target,
        device: node.device,
        xattrs: &xattrs,
    };
    Ok(finish(header.hasher()))
}

fn digest_file(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<[u8; 32]> {
    let file = open_file_at(directory, name)?;
    let node = Node::of(&file)?;
    let xattrs = xattrs_of(&file)?;
    let header = FileHeader {
        kind: node.kind,
        mode: node.mode,
        uid: node.uid,
        gid: node.gid,
        size: node.size,
        target: &[],
        device: node.device,
        xattrs: &xattrs,
    };
    let mut hasher = header.hasher();
    let mut buffer = vec![0; PIECE.min(usize::try_from(node.size).unwrap_or(PIECE).max(1))];
    loop {
        let count = rustix::io::retry_on_intr(|| rustix::io::read(file.as_fd(), &mut buffer))?;
        if count == 0 {
            return Ok(finish(hasher));
        }
        hasher.update(&buffer[..count]);
    }
}

pub(super) fn finish(hasher: Hasher) -> [u8; 32] {
    hasher.finish().as_sha256().copied().unwrap_or_default()
}
