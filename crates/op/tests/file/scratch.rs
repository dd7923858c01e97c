//! Scratch trees, and a look at what is in them.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use rustix::fs::{FileType, Mode, OFlags};
use tempfile::TempDir;
use weld_fileset::{Layers, OverlayMarks, Selection, WalkOptions, walk};
use weld_op::file::{Context, Copy, Destination, FileError, Owner, Source};

static RUNNING: AtomicBool = AtomicBool::new(false);

pub(crate) fn context() -> Context<'static> {
    Context {
        cancelled: &RUNNING,
    }
}

/// A directory with trees in it.
pub(crate) struct Scratch {
    dir: TempDir,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes the tree `name` with `paths`: `dir/`, `file`, `file = content`, `link -> target`,
    /// each with its directories.
    pub(crate) fn tree(&self, name: &str, paths: &[&str]) -> PathBuf {
        let root = self.path(name);
        fs::create_dir_all(&root).unwrap();
        for path in paths {
            let (path, rest) = match (path.split_once(" -> "), path.split_once(" = ")) {
                (Some((path, target)), _) => (path, Some(("link", target))),
                (_, Some((path, content))) => (path, Some(("content", content))),
                _ => (*path, None),
            };
            let place = root.join(path);
            if path.ends_with('/') {
                fs::create_dir_all(place).unwrap();
                continue;
            }
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            match rest {
                Some(("link", target)) => symlink(target, place).unwrap(),
                Some((_, content)) => fs::write(place, content).unwrap(),
                None => fs::write(place, path).unwrap(),
            }
        }
        root
    }
}

pub(crate) fn open(path: &Path) -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).unwrap()
}

pub(crate) fn single(path: &Path) -> Layers {
    Layers::single(open(path))
}

pub(crate) fn stack(paths: &[PathBuf]) -> Layers {
    Layers::open(paths, OverlayMarks::Trusted).unwrap()
}

/// Copies between two plain directories, by copying.
pub(crate) fn copy(from: &Path, to: &Path, action: &Copy) -> Result<(), FileError> {
    copy_as(from, to, action, None, false)
}

pub(crate) fn copy_as(
    from: &Path,
    to: &Path,
    action: &Copy,
    owner: Option<Owner>,
    immutable: bool,
) -> Result<(), FileError> {
    let layers = single(from);
    let mut destination = Destination::new(single(to));
    action.run(
        Source {
            layers: &layers,
            immutable,
            sharing: None,
        },
        &mut destination,
        owner,
        &context(),
    )
}

pub(crate) fn action(src: &str, dest: &str) -> Copy {
    Copy {
        src: src.to_owned(),
        dest: dest.to_owned(),
        create_dest_path: true,
        ..Copy::default()
    }
}

/// As `COPY` in a Dockerfile has it.
pub(crate) fn dockerfile(src: &str, dest: &str) -> Copy {
    Copy {
        follow_symlink: true,
        dir_copy_contents: true,
        allow_wildcard: true,
        allow_empty_wildcard: true,
        ..action(src, dest)
    }
}

/// Everything in a tree: directories as `path/`, files with their content, links with their
/// target.
pub(crate) fn listing(root: &Path) -> Vec<String> {
    let entries = walk(&single(root), Path::new(""), &WalkOptions::default()).unwrap();
    entries
        .iter()
        .map(|entry| {
            let path = entry.path.to_str().unwrap();
            match entry.metadata.file_type() {
                FileType::Directory => format!("{path}/"),
                FileType::Symlink => {
                    format!(
                        "{path} -> {}",
                        entry.link_target.as_ref().unwrap().display()
                    )
                }
                FileType::RegularFile => {
                    let content = fs::read(root.join(path)).unwrap();
                    let content = String::from_utf8_lossy(&content).into_owned();
                    if content == path {
                        path.to_owned()
                    } else {
                        format!("{path} = {content}")
                    }
                }
                kind => format!("{path} {kind:?} {:?}", entry.metadata.rdev),
            }
        })
        .collect()
}

pub(crate) fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().permissions().mode() & 0o7777
}

pub(crate) fn owner(path: &Path) -> (u32, u32) {
    let metadata = path.symlink_metadata().unwrap();
    (metadata.uid(), metadata.gid())
}

/// Nanoseconds since 1970.
pub(crate) fn mtime(path: &Path) -> i64 {
    let metadata = path.symlink_metadata().unwrap();
    metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec()
}

pub(crate) fn set_mtime(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = rustix::fs::Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    let times = rustix::fs::Timestamps {
        last_access: time,
        last_modification: time,
    };
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, flags).unwrap();
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// All that can be told about each path of a tree, for comparing two. A time from `now` on is
/// "now".
pub(crate) fn details(root: &Path, now: i64) -> BTreeMap<PathBuf, String> {
    let options = WalkOptions {
        selection: Selection::all(),
        xattrs: true,
    };
    let fd = open(root);
    let proc = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    let layers = Layers::single(fd);
    let entries = walk(&layers, Path::new(""), &options).unwrap();
    let describe = |entry: &weld_fileset::Entry| {
        let metadata = &entry.metadata;
        let mtime = metadata.mtime.as_unix_nanos();
        let time = if mtime >= now {
            "now".to_owned()
        } else {
            mtime.to_string()
        };
        let content = if metadata.file_type() == FileType::RegularFile {
            let content = fs::read(proc.join(&entry.path)).unwrap();
            String::from_utf8_lossy(&content).into_owned()
        } else {
            String::new()
        };
        let xattrs: Vec<_> = entry
            .xattrs
            .iter()
            .filter(|(name, _)| !OverlayMarks::is_mark(name))
            .collect();
        format!(
            "{:o} {}:{} {} {:?} {:?} {:?} link {:?} {content:?}",
            metadata.mode,
            metadata.uid,
            metadata.gid,
            time,
            metadata.rdev,
            entry.link_target,
            xattrs,
            entry.hard_link.map(|first| &entries[first].path),
        )
    };
    entries
        .iter()
        .map(|entry| (entry.path.clone(), describe(entry)))
        .collect()
}

/// Now, in nanoseconds since 1970, as file systems see it: their clock runs behind by a tick.
pub(crate) fn now() -> i64 {
    let elapsed = std::time::UNIX_EPOCH.elapsed().unwrap();
    i64::try_from(elapsed.as_nanos()).unwrap() - 50_000_000
}
