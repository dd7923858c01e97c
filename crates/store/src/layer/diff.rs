//! Writing the changes of a tree as a layer.

use std::collections::HashMap;
use std::collections::hash_map;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{FileType, SeekFrom};
use rustix::io::Errno;

use super::compress::LayerWriter;
use super::{Entry, EntryKind, LayerError, WHITEOUT_PREFIX};
use crate::snapshot::FileTime;
use crate::snapshot::changes::{
    Change, Found, LayerTimes, Reading, TreeError, layer_changes, tree_changes_timed,
};
use crate::snapshot::node::{
    Node, Xattrs, is_overlay_attribute, open_file_at, read_link_at, xattrs_at, xattrs_of,
};

/// What a layer is made of.
#[derive(Clone, Copy)]
pub enum DiffSource<'a> {
    /// The upper directory of an overlay, and the tree below it.
    Layer {
        /// The directory.
        upper: BorrowedFd<'a>,
        /// The root of what it was mounted over.
        below: Option<BorrowedFd<'a>>,
        /// Marks are in `user.overlay.*` attributes.
        userxattr: bool,
    },
    /// Two whole trees.
    Trees {
        /// The one before, or nothing.
        lower: Option<BorrowedFd<'a>>,
        /// The one after.
        upper: BorrowedFd<'a>,
    },
}

/// How a layer is written.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiffOptions<'a> {
    /// No file is newer than this; what was is as old. As `SOURCE_DATE_EPOCH` asks.
    pub max_mtime: Option<i64>,
    /// The tree of the layers below that keep their times, such as a base image's.
    pub kept: Option<BorrowedFd<'a>>,
}

impl From<TreeError> for LayerError {
    fn from(error: TreeError) -> Self {
        Self::File {
            action: error.action,
            path: error.path,
            source: error.source,
        }
    }
}

/// Writes the changes of `source` as an archive.
pub fn write_diff(
    source: DiffSource<'_>,
    options: DiffOptions<'_>,
    to: &mut LayerWriter,
) -> Result<(), LayerError> {
    let mut diff = Diff {
        to,
        options,
        links: HashMap::new(),
    };
    let times = LayerTimes {
        max: options.max_mtime,
        kept: options.kept,
    };
    let visit = |change: Change<'_>| diff.change(change);
    match source {
        DiffSource::Layer {
            upper,
            below,
            userxattr,
        } => {
            let reading = Reading {
                userxattr,
                directory_times: false,
                times,
            };
            layer_changes(upper, below, reading, visit)
        }
        DiffSource::Trees { lower, upper } => tree_changes_timed(lower, upper, times, visit),
    }
}

struct Diff<'a> {
    to: &'a mut LayerWriter,
    options: DiffOptions<'a>,
    /// The first path of each file that has several names. A file may have names in other
    /// snapshots, which do not count.
    links: HashMap<(u64, u64), Vec<u8>>,
}

impl Diff<'_> {
    fn change(&mut self, change: Change<'_>) -> Result<(), LayerError> {
        match change {
            Change::Put(found) => self.put(&found),
            Change::Remove(path) => self.remove(path),
        }
    }

    fn remove(&mut self, path: &[u8]) -> Result<(), LayerError> {
        let start = path
            .iter()
            .rposition(|&byte| byte == b'/')
            .map_or(0, |slash| slash + 1);
        let (directory, name) = path.split_at(start);
        self.header(&Entry {
            path: [directory, WHITEOUT_PREFIX, name].concat(),
            kind: EntryKind::File { size: 0 },
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: FileTime::default(),
            xattrs: Vec::new(),
        })
    }

    fn put(&mut self, found: &Found<'_>) -> Result<(), LayerError> {
        if found.name.as_bytes().starts_with(WHITEOUT_PREFIX) {
            return Err(LayerError::Entry {
                path: path_of(found.path),
                what: "a file of this name cannot be kept in a layer, where it means a removal",
            });
        }
        if let Some(target) = self.earlier_name(found) {
            let entry = entry(
                found,
                EntryKind::HardLink { target },
                Vec::new(),
                self.options,
            );
            return self.header(&entry);
        }
        let kind = match found.node.kind {
            FileType::RegularFile => return self.regular(found),
            // A socket means nothing without the program that listens.
            FileType::Socket => return Ok(()),
            FileType::Directory => EntryKind::Directory,
            FileType::Symlink => EntryKind::Symlink {
                target: read_link_at(found.directory, found.name)
                    .map_err(fault("read the link", found.path))?,
            },
            FileType::Fifo => EntryKind::Fifo,
            kind => {
                let (major, minor) = found.node.device;
                match kind {
                    FileType::CharacterDevice => EntryKind::CharDevice { major, minor },
                    FileType::BlockDevice => EntryKind::BlockDevice { major, minor },
                    _ => {
                        return Err(LayerError::Entry {
                            path: path_of(found.path),
                            what: "a type of file that layers do not have",
                        });
                    }
                }
            }
        };
        let xattrs = xattrs_at(found.directory, found.name)
            .map_err(fault("read the attributes of", found.path))?;
        self.header(&entry(found, kind, xattrs, self.options))
    }

    /// The name in this layer under which the file was already written.
    fn earlier_name(&mut self, found: &Found<'_>) -> Option<Vec<u8>> {
        if found.node.is_directory() || found.node.links < 2 {
            return None;
        }
        match self.links.entry(found.node.inode) {
            hash_map::Entry::Occupied(first) => Some(first.get().clone()),
            hash_map::Entry::Vacant(vacant) => {
                vacant.insert(found.path.to_vec());
                None
            }
        }
    }

    fn regular(&mut self, found: &Found<'_>) -> Result<(), LayerError> {
        let file = open_file_at(found.directory, found.name).map_err(fault("open", found.path))?;
        let xattrs = xattrs_of(&file).map_err(fault("read the attributes of", found.path))?;
        let node = Node::of(&file).map_err(fault("read", found.path))?;
        let kind = EntryKind::File { size: node.size };
        let found = Found {
            node: &node,
            ..*found
        };
        self.header(&entry(&found, kind, xattrs, self.options))?;
        self.content(&file, &node)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => LayerError::Changed {
                    path: path_of(found.path),
                },
                io::ErrorKind::BrokenPipe => LayerError::Write(error),
                _ => fault("read", found.path)(error),
            })
    }

    /// Writes a file's content; holes are not read, but are written as the zeros they are.
    fn content(&mut self, file: &OwnedFd, node: &Node) -> io::Result<()> {
        let tar = &mut self.to.tar;
        if node.allocated >= node.size {
            tar.out().take_file(file, 0, node.size)?;
            tar.passed(node.size);
            return Ok(());
        }
        let mut at = 0;
        while at < node.size {
            let (start, end) = match rustix::fs::seek(file, SeekFrom::Data(at)) {
                Ok(start) => (start, rustix::fs::seek(file, SeekFrom::Hole(start))?),
                Err(Errno::NXIO) => (node.size, node.size),
                Err(Errno::INVAL) => (at, node.size),
                Err(errno) => return Err(errno.into()),
            };
            let (start, end) = (start.min(node.size), end.min(node.size));
            io::copy(&mut io::Read::take(io::repeat(0), start - at), tar)?;
            tar.out().take_file(file, start, end - start)?;
            tar.passed(end - start);
            at = end;
        }
        Ok(())
    }

    fn header(&mut self, entry: &Entry) -> Result<(), LayerError> {
        self.to
            .tar
            .entry(entry)
            .map_err(|error| match error.kind() {
                io::ErrorKind::InvalidInput => LayerError::Entry {
                    path: path_of(&entry.path),
                    what: "a device number too large for an archive",
                },
                _ => LayerError::Write(error),
            })
    }
}

fn entry(found: &Found<'_>, kind: EntryKind, mut xattrs: Xattrs, options: DiffOptions) -> Entry {
    xattrs.retain(|(name, _)| is_kept(name));
    let mut path = found.path.to_vec();
    if kind == EntryKind::Directory {
        path.push(b'/');
    }
    Entry {
        path,
        kind,
        mode: found.node.mode,
        uid: found.node.uid,
        gid: found.node.gid,
        mtime: found.node.mtime.at_most(options.max_mtime),
        xattrs,
    }
}

/// Whether an attribute belongs to the file wherever it is: not the marks of an overlay, and not
/// the labels and hashes that a machine's security system gives to its files.
pub(super) fn is_kept(name: &[u8]) -> bool {
    if name.starts_with(b"security.") {
        return name == b"security.capability";
    }
    if name.starts_with(b"system.") {
        return name.starts_with(b"system.posix_acl_");
    }
    !is_overlay_attribute(name)
}

fn path_of(path: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(path))
}

fn fault(action: &'static str, path: &[u8]) -> impl FnOnce(io::Error) -> LayerError {
    let path = path_of(path);
    move |source| LayerError::File {
        action,
        path,
        source,
    }
}

/// Opens the root of a tree.
pub fn open_root(path: &std::path::Path) -> Result<OwnedFd, LayerError> {
    crate::snapshot::node::open_directory_at(rustix::fs::CWD, path.as_os_str())
        .map_err(fault("open", path.as_os_str().as_bytes()))
}

/// The root of a mount, to walk in.
pub(crate) fn root_of(mount: &crate::mount::Mounted) -> Result<OwnedFd, LayerError> {
    crate::snapshot::node::open_directory_at(mount.as_fd(), OsStr::new("."))
        .map_err(fault("open", b"."))
}
