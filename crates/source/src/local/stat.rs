use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::FileType;
use weld_fileset::{InodeId, Timestamp, Xattr, compare_paths};

/// The most paths that a tree may have.
const MAX_PATHS: usize = 16 << 20;

/// What a provider says about one path of its tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Relative to the tree's root, without a leading slash.
    pub path: PathBuf,
    /// `st_mode`: file type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length of a file, in bytes.
    pub size: u64,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// The target of a symbolic link.
    pub link_target: Option<PathBuf>,
    /// For a further name of a file: the first one's path.
    pub hard_link: Option<PathBuf>,
    /// Major and minor number that a device node stands for.
    pub rdev: (u32, u32),
    /// Extended attributes in the order of their names.
    pub xattrs: Vec<Xattr>,
    /// By what else a change shows, if the provider sees the file system itself.
    pub change: Option<Change>,
}

/// By what a change shows even if size and time of the content stayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Last change of content or metadata.
    pub ctime: Timestamp,
    /// Which inode it is.
    pub inode: InodeId,
}

/// Why a provider's stats are no tree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatError {
    /// A path is absolute, empty, or has `.` or `..` in it.
    #[error("path {0:?} is not a plain relative path")]
    Path(PathBuf),
    /// A path comes before, or again after, the one that it follows.
    #[error("path {path:?} is out of order after {previous:?}")]
    Order {
        /// The path.
        path: PathBuf,
        /// The one before.
        previous: PathBuf,
    },
    /// The directory of a path was not listed as one.
    #[error("path {0:?} is not in a directory that was listed before")]
    Parent(PathBuf),
    /// A hard link is to something that is no file listed before.
    #[error("path {path:?} is a hard link to {target:?}, which is no file listed before")]
    HardLink {
        /// The path.
        path: PathBuf,
        /// What it links to.
        target: PathBuf,
    },
    /// A symbolic link has no target.
    #[error("path {0:?} is a symbolic link without a target")]
    NoTarget(PathBuf),
    /// The file type is none.
    #[error("path {path:?} has an unknown file type (mode {mode:o})")]
    Type {
        /// The path.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// There are too many paths.
    #[error("more than {MAX_PATHS} paths")]
    TooMany,
}

impl Stat {
    /// The type of the file.
    pub fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.file_type() == FileType::Directory
    }

    /// Whether it is a file with content of its own, not a further name of one.
    pub fn has_content(&self) -> bool {
        self.file_type() == FileType::RegularFile && self.hard_link.is_none()
    }

    /// The permission bits, with set-user-id, set-group-id and sticky.
    pub fn permissions(&self) -> u32 {
        self.mode & 0o7777
    }
}

/// Checks that stats are a tree in path order, whoever they came from.
pub(super) fn check(stats: &[Stat]) -> Result<(), StatError> {
    if stats.len() > MAX_PATHS {
        return Err(StatError::TooMany);
    }
    // The directories above the current path.
    let mut open: Vec<&Path> = Vec::new();
    let mut files: HashSet<&Path> = HashSet::new();
    let linked = stats.iter().any(|stat| stat.hard_link.is_some());
    let mut previous: Option<&Path> = None;
    for stat in stats {
        let path = stat.path.as_path();
        check_plain(path)?;
        if let Some(previous) = previous
            && compare_paths(previous, path).is_ge()
        {
            return Err(StatError::Order {
                path: path.to_owned(),
                previous: previous.to_owned(),
            });
        }
        previous = Some(path);
        let parent = path.parent().unwrap_or(Path::new(""));
        while open.last().is_some_and(|dir| *dir != parent) {
            open.pop();
        }
        if parent != Path::new("") && open.is_empty() {
            return Err(StatError::Parent(path.to_owned()));
        }
        check_type(stat)?;
        if let Some(target) = &stat.hard_link
            && !(files.contains(target.as_path()) && stat.file_type() == FileType::RegularFile)
        {
            return Err(StatError::HardLink {
                path: path.to_owned(),
                target: target.clone(),
            });
        }
        if stat.is_dir() {
            open.push(path);
        } else if linked && stat.has_content() {
            files.insert(path);
        }
    }
    Ok(())
}

fn check_plain(path: &Path) -> Result<(), StatError> {
    let bytes = path.as_os_str().as_bytes();
    let plain = !bytes.is_empty()
        && !bytes.contains(&0)
        // Components skip double and trailing slashes: the bytes must be just them.
        && bytes.split(|byte| *byte == b'/').all(|part| {
            let mut components = Path::new(OsStr::from_bytes(part)).components();
            matches!(components.next(), Some(Component::Normal(_)))
        });
    if plain {
        return Ok(());
    }
    Err(StatError::Path(path.to_owned()))
}

fn check_type(stat: &Stat) -> Result<(), StatError> {
    match stat.file_type() {
        FileType::Symlink if stat.link_target.is_none() => {
            Err(StatError::NoTarget(stat.path.clone()))
        }
        FileType::Unknown | FileType::Socket => Err(StatError::Type {
            path: stat.path.clone(),
            mode: stat.mode,
        }),
        _ => Ok(()),
    }
}
