use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use weld_fileset::{
    Entry, Layers, Selection, SelectionError, SelectionOptions, WalkError, WalkOptions,
    compare_paths, open_beneath, read_xattrs_at, walk,
};

use super::ends::{ProviderError, TreeProvider};
use super::index::TreeIndex;
use super::stat::{Change, Stat};

/// The extended attributes of how many files a job reads.
const XATTRS_PIECE: usize = 64;

/// Provides a directory of this machine, as docker's and BuildKit's clients do: owners are root,
/// sockets are left out.
pub struct HostDir {
    root: OwnedFd,
    path: PathBuf,
    options: SelectionOptions,
}

/// Why a directory cannot be provided.
#[derive(Debug, thiserror::Error)]
pub enum HostDirError {
    /// It cannot be opened.
    #[error("cannot open directory {path}: {error}", path = path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// Why.
        error: Errno,
    },
    /// The patterns are refused.
    #[error(transparent)]
    Selection(#[from] SelectionError),
    /// It cannot be walked.
    #[error("{path}: {source}", path = path.display())]
    Walk {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: WalkError,
    },
    /// Extended attributes cannot be read.
    #[error("cannot read the extended attributes of {path}: {error}", path = path.display())]
    Xattrs {
        /// The file.
        path: PathBuf,
        /// Why.
        error: Errno,
    },
}

impl HostDir {
    /// Provides what `options` select of the directory at `path`.
    ///
    /// # Errors
    /// [`HostDirError::Open`].
    pub fn open(path: impl Into<PathBuf>, options: SelectionOptions) -> Result<Self, HostDirError> {
        let path = path.into();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root =
            rustix::fs::open(&path, flags, Mode::empty()).map_err(|error| HostDirError::Open {
                path: path.clone(),
                error,
            })?;
        Ok(Self {
            root,
            path,
            options,
        })
    }

    fn walk(&self) -> Result<Vec<Entry>, HostDirError> {
        let options = WalkOptions {
            selection: Selection::new(self.root.as_fd(), &self.options)?,
            // Read where something changed: a change of them changes the inode's ctime.
            xattrs: false,
        };
        let failed = |source| HostDirError::Walk {
            path: self.path.clone(),
            source,
        };
        let root = self.root.try_clone().map_err(|error| HostDirError::Open {
            path: self.path.clone(),
            error: Errno::from_io_error(&error).unwrap_or(Errno::MFILE),
        })?;
        walk(&Layers::single(root), Path::new(""), &options).map_err(failed)
    }

    fn read_xattrs(&self, stat: &mut Stat) -> Result<(), HostDirError> {
        match read_xattrs_at(self.root.as_fd(), &stat.path) {
            Ok(mut xattrs) => {
                xattrs.retain(|(name, _)| !name.as_encoded_bytes().starts_with(b"com.apple."));
                stat.xattrs = xattrs;
                Ok(())
            }
            // Gone meanwhile: reading it will tell.
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(error) => Err(HostDirError::Xattrs {
                path: self.path.join(&stat.path),
                error,
            }),
        }
    }
}

impl TreeProvider for HostDir {
    fn stats(&self, known: &TreeIndex) -> Result<Vec<Stat>, ProviderError> {
        let entries = self.walk().map_err(ProviderError::new)?;
        let mut stats = stats(entries);
        let mut changed = with_known_xattrs(&mut stats, known);
        let read = if changed.len() > XATTRS_PIECE {
            let changed = changed.par_iter_mut().with_min_len(XATTRS_PIECE);
            changed.try_for_each(|stat| self.read_xattrs(stat))
        } else {
            // Without starting threads.
            let mut changed = changed.into_iter();
            changed.try_for_each(|stat| self.read_xattrs(stat))
        };
        read.map_err(ProviderError::new)?;
        Ok(stats)
    }

    fn open(&self, _number: usize, stat: &Stat) -> io::Result<Box<dyn Read + Send>> {
        // Not to hang on a pipe that took the file's place.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = File::from(open_beneath(self.root.as_fd(), &stat.path, flags)?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::other(
                "it was replaced by something that is no file",
            ));
        }
        Ok(Box::new(file))
    }
}

fn stats(entries: Vec<Entry>) -> Vec<Stat> {
    let firsts: Vec<Option<PathBuf>> = entries
        .iter()
        .map(|entry| Some(entries.get(entry.hard_link?)?.path.clone()))
        .collect();
    entries
        .into_iter()
        .zip(firsts)
        .filter(|(entry, _)| entry.metadata.file_type() != FileType::Socket)
        .map(|(entry, first)| stat(entry, first))
        .collect()
}

fn stat(entry: Entry, first: Option<PathBuf>) -> Stat {
    let metadata = entry.metadata;
    let is_device = matches!(
        metadata.file_type(),
        FileType::CharacterDevice | FileType::BlockDevice
    );
    Stat {
        path: entry.path,
        mode: metadata.mode,
        uid: 0,
        gid: 0,
        size: match metadata.file_type() {
            FileType::RegularFile => metadata.size,
            _ => 0,
        },
        mtime: metadata.mtime,
        link_target: entry.link_target,
        // Other kinds than files are made anew under each name.
        hard_link: first.filter(|_| metadata.file_type() == FileType::RegularFile),
        rdev: if is_device { metadata.rdev } else { (0, 0) },
        xattrs: Vec::new(),
        change: Some(Change {
            ctime: metadata.ctime,
            inode: metadata.inode,
        }),
    }
}

/// Takes over the attributes of what did not change; the others are still to be read.
fn with_known_xattrs<'s>(stats: &'s mut [Stat], known: &TreeIndex) -> Vec<&'s mut Stat> {
    let mut known = known.entries().iter().peekable();
    let mut changed = Vec::new();
    for stat in stats {
        while known
            .next_if(|entry| compare_paths(&entry.stat.path, &stat.path).is_lt())
            .is_some()
        {}
        match known.next_if(|entry| entry.stat.path == stat.path) {
            Some(entry) if entry.settled && entry.stat.change == stat.change => {
                stat.xattrs.clone_from(&entry.stat.xattrs);
            }
            _ => changed.push(stat),
        }
    }
    changed
}
