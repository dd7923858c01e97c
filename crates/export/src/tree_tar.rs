//! The files of results as one tar archive.

use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::FileType;
use weld_fileset::Entry as Found;
use weld_fileset::Timestamp;
use weld_store::layer::{Entry, EntryKind, TarWriter};
use weld_store::snapshot::FileTime;

use crate::ExportError;
use crate::error::{read_error, write_error};
use crate::stream::Stream;
use crate::tree::Tree;

/// How much of a file is read at a time.
const PIECE: usize = 256 << 10;

/// An archive that is being written.
pub(crate) struct TreeTar<'a> {
    tar: TarWriter<Stream<'a>>,
    /// How users know the archive.
    path: &'a Path,
    buffer: Vec<u8>,
}

impl<'a> TreeTar<'a> {
    pub(crate) fn new(out: Stream<'a>, path: &'a Path) -> Self {
        Self {
            tar: TarWriter::new(out),
            path,
            buffer: vec![0; PIECE],
        }
    }

    /// Adds a directory for the files of `tree`, and these; the same files always give the same
    /// bytes.
    pub(crate) fn add_split(
        &mut self,
        tree: &Tree,
        epoch: Option<Timestamp>,
    ) -> Result<(), ExportError> {
        let prefix = [tree.directory().as_os_str().as_bytes(), b"/"].concat();
        self.header(&Entry {
            path: prefix.clone(),
            kind: EntryKind::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: file_time(epoch.unwrap_or_default()),
            xattrs: Vec::new(),
        })?;
        self.add(tree, &prefix)
    }

    /// Adds the files of `tree` with `prefix` before their paths.
    pub(crate) fn add(&mut self, tree: &Tree, prefix: &[u8]) -> Result<(), ExportError> {
        for found in &tree.entries {
            if let Some(kind) = kind(tree, found, prefix)? {
                self.entry(tree, found, kind, prefix)?;
            }
        }
        Ok(())
    }

    /// Ends the archive.
    pub(crate) fn finish(self) -> Result<(), ExportError> {
        let ended = self.tar.finish().and_then(|mut out| out.flush());
        ended.map_err(write_error("write", self.path))
    }

    fn entry(
        &mut self,
        tree: &Tree,
        found: &Found,
        kind: EntryKind,
        prefix: &[u8],
    ) -> Result<(), ExportError> {
        let mut path = [prefix, found.path.as_os_str().as_bytes()].concat();
        if kind == EntryKind::Directory {
            path.push(b'/');
        }
        let (is_link, size) = match &kind {
            EntryKind::HardLink { .. } => (true, 0),
            EntryKind::File { size } => (false, *size),
            _ => (false, 0),
        };
        let xattrs = match is_link {
            true => Vec::new(),
            false => found
                .xattrs
                .iter()
                .map(|(name, value)| (name.as_bytes().to_vec(), value.clone()))
                .collect(),
        };
        self.header(&Entry {
            path,
            kind,
            mode: found.metadata.permissions(),
            uid: found.metadata.uid,
            gid: found.metadata.gid,
            mtime: file_time(found.metadata.mtime),
            xattrs,
        })?;
        match size {
            0 => Ok(()),
            size => self.content(tree, found, size),
        }
    }

    fn header(&mut self, entry: &Entry) -> Result<(), ExportError> {
        let written = self.tar.entry(entry);
        written.map_err(write_error("write", self.path))
    }

    fn content(&mut self, tree: &Tree, found: &Found, size: u64) -> Result<(), ExportError> {
        let mut file = tree.file(found)?;
        let mut left = size;
        while left > 0 {
            let room = self
                .buffer
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            let piece = &mut self.buffer[..room];
            let count = match file.read(piece) {
                Ok(0) => {
                    let error = io::ErrorKind::UnexpectedEof.into();
                    return Err(read_error("read", &found.path)(error));
                }
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(read_error("read", &found.path)(error)),
            };
            self.tar
                .write_all(&piece[..count])
                .map_err(write_error("write", self.path))?;
            left -= count as u64;
        }
        Ok(())
    }
}

/// What an entry is in an archive; `None` for what archives do not have.
fn kind(tree: &Tree, found: &Found, prefix: &[u8]) -> Result<Option<EntryKind>, ExportError> {
    if let Some(first) = tree.first_name(found) {
        let target = [prefix, first.as_os_str().as_bytes()].concat();
        return Ok(Some(EntryKind::HardLink { target }));
    }
    let (major, minor) = found.metadata.rdev;
    Ok(Some(match found.metadata.file_type() {
        FileType::RegularFile => EntryKind::File {
            size: found.metadata.size,
        },
        FileType::Directory => EntryKind::Directory,
        FileType::Symlink => EntryKind::Symlink {
            target: tree.link_target(found)?.as_bytes().to_vec(),
        },
        FileType::CharacterDevice => EntryKind::CharDevice { major, minor },
        FileType::BlockDevice => EntryKind::BlockDevice { major, minor },
        FileType::Fifo => EntryKind::Fifo,
        // A socket means nothing without the program that listens.
        _ => return Ok(None),
    }))
}

fn file_time(time: Timestamp) -> FileTime {
    FileTime {
        seconds: time.seconds,
        nanoseconds: time.nanoseconds,
    }
}
