//! The walk: every wanted path of a tree, of one directory or of stacked layers, with its metadata, in path order.
//!
//! Directories, and pieces of large ones, are jobs: the first of them are done where the walk is
//! asked for, so that a small tree needs no other threads; the rest goes to rayon's pool. Each job opens its directory
//! anew from the root, so that the number of open files is that of the threads and no path is
//! resolved through a symbolic link, even while somebody changes the tree. Pieces carry the number
//! of their directory and are put in order at the end.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::ffi::{OsStr, OsString};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::Scope as Pool;
use rustix::fs::FileType;
use rustix::io::Errno;

use crate::beneath::metadata_at;
use crate::entry::{Entry, InodeId, Metadata, Xattr};
use crate::layers::{Layers, MergedDir, MergedName};
use crate::selection::{DirState, Selection};
use crate::xattrs::read_xattrs_at;

/// How many names of one directory a job takes.
const PIECE: usize = 256;
/// How many jobs are done by the caller before others are asked to help.
const ALONE: usize = 4;

/// Why a walk failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot {action} {path:?}: {error}")]
pub struct WalkError {
    /// What was tried.
    pub action: &'static str,
    /// Where, relative to the root; `.` is the root itself.
    pub path: PathBuf,
    /// What the system said.
    pub error: Errno,
}

/// What to walk, and how.
#[derive(Clone, Debug, Default)]
pub struct WalkOptions {
    /// Which paths are wanted.
    pub selection: Selection,
    /// Read extended attributes too.
    pub xattrs: bool,
}

/// Walks what `layers` show at `start` (a path without symbolic links; empty for the root), which
/// is not itself part of the result, on rayon's current pool. Paths are relative to `start`.
///
/// What vanishes during the walk is left out. A directory that may not be read is an error if it
/// is wanted itself; if it was only looked at for the sake of what may lie beneath, it is passed
/// over.
pub fn walk(layers: &Layers, start: &Path, options: &WalkOptions) -> Result<Vec<Entry>, WalkError> {
    let fail = |error| WalkError {
        action: "open directory",
        path: displayed(start),
        error,
    };
    let start_dir = layers.open_dir(start).map_err(fail)?;
    let shared = Shared {
        layers,
        start,
        options,
        next_dir: AtomicUsize::new(1),
        pieces: Mutex::new(Vec::new()),
        failed: AtomicBool::new(false),
        error: Mutex::new(None),
    };
    let top = Dir {
        number: 0,
        path: PathBuf::new(),
        layers: start_dir.parts().iter().map(|part| part.layer).collect(),
        state: DirState::default(),
        selected: true,
    };
    shared.run(top);
    if let Some(error) = shared
        .error
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
    {
        return Err(error);
    }
    let pieces = shared
        .pieces
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    let mut entries = in_order(pieces, shared.next_dir.into_inner());
    mark_hard_links(&mut entries);
    Ok(entries)
}

/// A directory that is due.
struct Dir {
    number: usize,
    path: PathBuf,
    /// The layers that may have a share in it.
    layers: Vec<usize>,
    state: DirState,
    selected: bool,
}

/// What is to be done.
enum Job {
    Visit(Dir),
    LookAt {
        dir: Arc<OpenDir>,
        index: usize,
        names: Vec<MergedName>,
    },
}

/// Who does jobs that come up.
#[derive(Clone, Copy)]
enum Workers<'w, 's> {
    /// The caller, one after the other.
    Caller(&'w RefCell<Vec<Job>>),
    Pool(&'w Pool<'s>),
}

/// A part of a directory's entries.
struct Piece {
    dir: usize,
    /// Its place among the pieces of the directory.
    index: usize,
    entries: Vec<Found>,
}

struct Found {
    entry: Entry,
    selected: bool,
    /// The number of the directory's own listing, if it is looked into.
    dir: Option<usize>,
}

struct Shared<'w> {
    layers: &'w Layers,
    start: &'w Path,
    options: &'w WalkOptions,
    next_dir: AtomicUsize,
    pieces: Mutex<Vec<Piece>>,
    failed: AtomicBool,
    error: Mutex<Option<WalkError>>,
}

impl Shared<'_> {
    fn run(&self, top: Dir) {
        let waiting = RefCell::new(vec![Job::Visit(top)]);
        for _ in 0..ALONE {
            let Some(job) = waiting.borrow_mut().pop() else {
                return;
            };
            self.do_job(Workers::Caller(&waiting), job);
        }
        let jobs = waiting.into_inner();
        if !jobs.is_empty() {
            rayon::scope(|pool| {
                for job in jobs {
                    self.add(Workers::Pool(pool), job);
                }
            });
        }
    }

    fn add<'s>(&'s self, workers: Workers<'_, 's>, job: Job) {
        match workers {
            Workers::Caller(waiting) => waiting.borrow_mut().push(job),
            Workers::Pool(pool) => {
                pool.spawn(move |pool| self.do_job(Workers::Pool(pool), job));
            }
        }
    }

    fn do_job<'s>(&'s self, workers: Workers<'_, 's>, job: Job) {
        match job {
            Job::Visit(dir) => self.visit(workers, dir),
            Job::LookAt { dir, index, names } => self.look_at(workers, &dir, index, names),
        }
    }

    fn visit<'s>(&'s self, workers: Workers<'_, 's>, dir: Dir) {
        if self.failed.load(Ordering::Relaxed) {
            return;
        }
        let opened = self
            .open(&dir)
            .map_err(|error| ("open directory", error))
            .and_then(|merged| {
                let names = merged
                    .names_once()
                    .map_err(|error| ("read directory", error))?;
                Ok((merged, names))
            });
        let (merged, names) = match opened {
            Ok(opened) => opened,
            Err((_, error)) if dir.number != 0 && has_vanished(error) => return,
            Err((_, Errno::ACCESS | Errno::PERM)) if !dir.selected => return,
            Err((action, error)) => return self.fail(action, &dir.path, error),
        };
        let dir = Arc::new(OpenDir { merged, dir });
        let mut names = names.into_iter();
        let mut index = 0;
        loop {
            let piece: Vec<_> = names.by_ref().take(PIECE).collect();
            if names.len() == 0 {
                return self.look_at(workers, &dir, index, piece);
            }
            let job = Job::LookAt {
                dir: Arc::clone(&dir),
                index,
                names: piece,
            };
            self.add(workers, job);
            index += 1;
        }
    }

    fn open(&self, dir: &Dir) -> Result<MergedDir, Errno> {
        self.layers
            .open_parts(&join(self.start, dir.path.as_os_str()), &dir.layers)
    }

    fn look_at<'s>(
        &'s self,
        workers: Workers<'_, 's>,
        dir: &OpenDir,
        index: usize,
        names: Vec<MergedName>,
    ) {
        let mut entries = Vec::with_capacity(names.len());
        for name in names {
            if self.failed.load(Ordering::Relaxed) {
                return;
            }
            if let Some(found) = self.look_at_one(workers, dir, name) {
                entries.push(found);
            }
        }
        let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        pieces.push(Piece {
            dir: dir.dir.number,
            index,
            entries,
        });
    }

    fn look_at_one<'s>(
        &'s self,
        workers: Workers<'_, 's>,
        dir: &OpenDir,
        name: MergedName,
    ) -> Option<Found> {
        let MergedName {
            name,
            kind,
            layer,
            below,
        } = name;
        let name = name.as_os_str();
        let selection = &self.options.selection;
        let path = join(&dir.dir.path, name);
        let fd = dir.merged.part(layer)?;
        if !matches!(kind, FileType::Directory | FileType::Unknown)
            && !selection.selects_leaf(&path, &dir.dir.state)
        {
            return None;
        }
        let metadata = match metadata_at(fd, name) {
            Ok(metadata) => metadata,
            Err(error) if has_vanished(error) => return None,
            Err(error) => {
                self.fail("stat", &path, error);
                return None;
            }
        };
        if !metadata.is_dir() {
            if kind == FileType::Unknown && !selection.selects_leaf(&path, &dir.dir.state) {
                return None;
            }
            let entry = self.entry(fd, layer, name, path, metadata)?;
            return Some(Found {
                entry,
                selected: true,
                dir: None,
            });
        }
        let verdict = selection.enter_dir(&path, &dir.dir.state);
        if !verdict.selected && verdict.descend.is_none() {
            return None;
        }
        let number = verdict.descend.map(|state| {
            let number = self.next_dir.fetch_add(1, Ordering::Relaxed);
            let dir = Dir {
                number,
                path: path.clone(),
                layers: [layer].into_iter().chain(below).collect(),
                state,
                selected: verdict.selected,
            };
            self.add(workers, Job::Visit(dir));
            number
        });
        let entry = self.entry(fd, layer, name, path, metadata)?;
        Some(Found {
            entry,
            selected: verdict.selected,
            dir: number,
        })
    }

    fn entry(
        &self,
        dir: BorrowedFd<'_>,
        layer: usize,
        name: &OsStr,
        path: PathBuf,
        metadata: Metadata,
    ) -> Option<Entry> {
        let link_target = if metadata.file_type() == FileType::Symlink {
            match rustix::fs::readlinkat(dir, name, Vec::new()) {
                Ok(target) => Some(OsString::from_vec(target.into_bytes()).into()),
                Err(error) if has_vanished(error) || error == Errno::INVAL => return None,
                Err(error) => {
                    self.fail("read link", &path, error);
                    return None;
                }
            }
        } else {
            None
        };
        let xattrs = if self.options.xattrs {
            self.xattrs(dir, name, &path)?
        } else {
            Vec::new()
        };
        Some(Entry {
            path,
            layer,
            implied: false,
            metadata,
            link_target,
            hard_link: None,
            xattrs,
        })
    }

    fn xattrs(&self, dir: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Option<Vec<Xattr>> {
        match read_xattrs_at(dir, Path::new(name)) {
            Ok(xattrs) => Some(xattrs),
            Err(error) if has_vanished(error) => None,
            Err(error) => {
                self.fail("read extended attributes of", path, error);
                None
            }
        }
    }

    fn fail(&self, action: &'static str, path: &Path, error: Errno) {
        self.failed.store(true, Ordering::Relaxed);
        let path = displayed(&join(self.start, path.as_os_str()));
        let mut slot = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        slot.get_or_insert(WalkError {
            action,
            path,
            error,
        });
    }
}

struct OpenDir {
    merged: MergedDir,
    dir: Dir,
}

fn displayed(path: &Path) -> PathBuf {
    if path.as_os_str().is_empty() {
        PathBuf::from(".")
    } else {
        path.to_owned()
    }
}

/// The tree changed under the walk: what was listed is gone, or is something else now.
fn has_vanished(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
}

fn join(dir: &Path, name: &OsStr) -> PathBuf {
    if name.is_empty() {
        return dir.to_owned();
    }
    let dir = dir.as_os_str().as_bytes();
    let mut path = Vec::with_capacity(dir.len() + 1 + name.len());
    if !dir.is_empty() {
        path.extend_from_slice(dir);
        path.push(b'/');
    }
    path.extend_from_slice(name.as_bytes());
    OsString::from_vec(path).into()
}

/// A directory whose entries are being put in order.
struct Frame {
    entries: std::vec::IntoIter<Found>,
    /// The directory itself while it is not wanted and nothing beneath it was.
    held_back: Option<Entry>,
}

/// Puts the pieces in path order and leaves out directories that are not wanted and hold nothing
/// that is.
fn in_order(mut pieces: Vec<Piece>, dirs: usize) -> Vec<Entry> {
    pieces.sort_unstable_by_key(|piece| (piece.dir, piece.index));
    let total = pieces.iter().map(|piece| piece.entries.len()).sum();
    let mut listings: Vec<Vec<Found>> = Vec::new();
    listings.resize_with(dirs, Vec::new);
    for piece in pieces {
        match listings.get_mut(piece.dir) {
            Some(listing) if listing.is_empty() => *listing = piece.entries,
            Some(listing) => listing.extend(piece.entries),
            None => {}
        }
    }
    let mut take = |dir: usize| {
        listings
            .get_mut(dir)
            .map(std::mem::take)
            .unwrap_or_default()
    };

    let mut ordered = Vec::with_capacity(total);
    let mut frames = vec![Frame {
        entries: take(0).into_iter(),
        held_back: None,
    }];
    while let Some(frame) = frames.last_mut() {
        let Some(found) = frame.entries.next() else {
            frames.pop();
            continue;
        };
        if found.selected {
            ordered.extend(frames.iter_mut().filter_map(|frame| frame.held_back.take()));
        }
        let held_back = if found.selected {
            ordered.push(found.entry);
            None
        } else {
            Some(Entry {
                implied: true,
                ..found.entry
            })
        };
        if let Some(dir) = found.dir {
            frames.push(Frame {
                entries: take(dir).into_iter(),
                held_back,
            });
        }
    }
    ordered
}

fn mark_hard_links(entries: &mut [Entry]) {
    // An inode that several layers share is no hard link of the tree: it is there because a copy
    // was made by linking, and each layer stands for files of its own.
    let mut first: HashMap<(usize, InodeId), usize> = HashMap::new();
    for (index, entry) in entries.iter_mut().enumerate() {
        let kind = entry.metadata.file_type();
        if entry.metadata.nlink < 2 || matches!(kind, FileType::Directory | FileType::Symlink) {
            continue;
        }
        match first.entry((entry.layer, entry.metadata.inode)) {
            Slot::Occupied(slot) => entry.hard_link = Some(*slot.get()),
            Slot::Vacant(slot) => {
                slot.insert(index);
            }
        }
    }
}
