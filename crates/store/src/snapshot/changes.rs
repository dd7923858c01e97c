//! The changes that a tree makes to the tree below it.

use std::cell::OnceCell;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::iter::Peekable;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::vec::IntoIter;

use super::node::{
    Node, is_overlay_attribute, opaque_attribute, open_directory_at, open_file_at, read_link_at,
    sorted_names, xattr_at, xattrs_at,
};

/// One change. Changes come in the order of the names in each directory, a directory's own
/// before those in it; what is changed in a directory comes with a change of the directory.
pub(crate) enum Change<'a> {
    /// This file is there now, new or changed.
    Put(Found<'a>),
    /// What was at this path is gone.
    Remove(&'a [u8]),
}

/// A file where it was found.
pub(crate) struct Found<'a> {
    /// Its path from the root.
    pub(crate) path: &'a [u8],
    pub(crate) directory: BorrowedFd<'a>,
    pub(crate) name: &'a OsStr,
    pub(crate) node: &'a Node,
}

/// A fault of reading a tree.
#[derive(Debug)]
pub(crate) struct TreeError {
    pub(crate) action: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) source: io::Error,
}

/// How the files of a directory relate to those below it.
enum Mode {
    /// They are an overlay's own: whiteouts say what is gone, and what of the directory below has
    /// no counterpart stays. What is equal below is no change: it was only copied up.
    Layer(OwnedFd),
    /// As above, but nothing of the directory below stays.
    Opaque(OwnedFd),
    /// They are the whole: what is equal below is no change, what has no counterpart is gone.
    Whole(OwnedFd),
    /// There is nothing below them.
    New,
}

/// Which times a layer has.
#[derive(Clone, Copy, Default)]
pub(crate) struct LayerTimes<'a> {
    /// What is as late as this, in seconds since 1970, or later, counts as of this time.
    pub(crate) max: Option<i64>,
    /// A tree below, whose files have the times that they have: its layers are not written anew.
    pub(crate) kept: Option<BorrowedFd<'a>>,
}

/// How an overlay's upper directory is read.
#[derive(Clone, Copy)]
pub(crate) struct Reading<'a> {
    /// Marks are in `user.overlay.*` attributes.
    pub(crate) userxattr: bool,
    /// A directory of another time is a change, not only what is in it: a tree that changes are
    /// applied to becomes exactly what the overlay shows.
    pub(crate) directory_times: bool,
    pub(crate) times: LayerTimes<'a>,
}

/// Visits the changes that an overlay's upper directory makes to the tree `below`.
///
/// Marks that a directory hides all below it are told as the removals that they amount to: an
/// overlay marks every new directory so, also where there is nothing to hide.
pub(crate) fn layer_changes<E: From<TreeError>>(
    upper: BorrowedFd<'_>,
    below: Option<BorrowedFd<'_>>,
    reading: Reading<'_>,
    visit: impl FnMut(Change<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let walk = Walk {
        opaque: opaque_attribute(reading.userxattr),
        directory_times: reading.directory_times,
        times: reading.times,
        path: Vec::new(),
        stack: Vec::new(),
        names: OnceCell::new(),
        names_below: OnceCell::new(),
        visit,
    };
    let root = walk.opened(upper, OsStr::new("."))?;
    let opaque = walk.is_opaque(&root, OsStr::new("."))?;
    let mode = match below {
        Some(below) if opaque => Mode::Opaque(walk.opened(below, OsStr::new("."))?),
        Some(below) => Mode::Layer(walk.opened(below, OsStr::new("."))?),
        None => Mode::New,
    };
    walk.run(root, mode)
}

/// Visits the changes that make the tree `lower` into the tree `upper`.
pub(crate) fn tree_changes<E: From<TreeError>>(
    lower: Option<BorrowedFd<'_>>,
    upper: BorrowedFd<'_>,
    visit: impl FnMut(Change<'_>) -> Result<(), E>,
) -> Result<(), E> {
    tree_changes_timed(lower, upper, LayerTimes::default(), visit)
}

/// The same, with the times that a layer has.
pub(crate) fn tree_changes_timed<E: From<TreeError>>(
    lower: Option<BorrowedFd<'_>>,
    upper: BorrowedFd<'_>,
    times: LayerTimes<'_>,
    visit: impl FnMut(Change<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let walk = Walk {
        opaque: opaque_attribute(false),
        directory_times: false,
        times,
        path: Vec::new(),
        stack: Vec::new(),
        names: OnceCell::new(),
        names_below: OnceCell::new(),
        visit,
    };
    let root = walk.opened(upper, OsStr::new("."))?;
    let mode = match lower {
        Some(lower) => Mode::Whole(walk.opened(lower, OsStr::new("."))?),
        None => Mode::New,
    };
    walk.run(root, mode)
}

struct Walk<'a, V> {
    opaque: &'static str,
    directory_times: bool,
    times: LayerTimes<'a>,
    path: Vec<u8>,
    stack: Vec<Level>,
    /// Names of files that have several, counted when it matters.
    names: OnceCell<Names>,
    names_below: OnceCell<Names>,
    visit: V,
}

/// How many names files have, by their inodes.
type Names = HashMap<(u64, u64), usize>;

/// A directory being visited.
struct Level {
    directory: OwnedFd,
    mode: Mode,
    names: Peekable<IntoIter<OsString>>,
    names_below: Peekable<IntoIter<OsString>>,
    path_length: usize,
    /// The directory itself, if its change was not told yet, since it is none without others.
    untold: Option<Node>,
}

impl<E: From<TreeError>, V: FnMut(Change<'_>) -> Result<(), E>> Walk<'_, V> {
    fn run(mut self, root: OwnedFd, mode: Mode) -> Result<(), E> {
        self.enter(root, mode, None)?;
        while let Some(level) = self.stack.last_mut() {
            let next = next_name(&mut level.names, &mut level.names_below);
            self.path.truncate(level.path_length);
            let Some((name, above, below)) = next else {
                self.stack.pop();
                continue;
            };
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name.as_bytes());
            if above {
                self.file(&name, below)?;
            } else {
                self.told()?;
                (self.visit)(Change::Remove(&self.path))?;
            }
        }
        Ok(())
    }

    fn file(&mut self, name: &OsStr, below: bool) -> Result<(), E> {
        let Some(level) = self.stack.last() else {
            return Ok(());
        };
        let node = Node::at(&level.directory, name).map_err(self.fault("read"))?;
        let whiteouts = !matches!(level.mode, Mode::Whole(_));
        if whiteouts && node.is_whiteout() {
            self.told()?;
            return (self.visit)(Change::Remove(&self.path));
        }
        let (unchanged, mode) = match self.mode_of(name, &node, below)? {
            Child::Same(_) if !node.is_directory() => return Ok(()),
            Child::Same(mode) => (true, mode),
            Child::Changed(mode) => (false, mode),
        };
        if !unchanged {
            self.told()?;
            self.put(name, &node)?;
        }
        if node.is_directory() {
            let Some(level) = self.stack.last() else {
                return Ok(());
            };
            let directory =
                open_directory_at(&level.directory, name).map_err(self.fault("open"))?;
            self.enter(directory, mode, unchanged.then_some(node))?;
        }
        Ok(())
    }

    /// How a file relates to what is below it.
    fn mode_of(&self, name: &OsStr, node: &Node, below: bool) -> Result<Child, E> {
        let Some(level) = self.stack.last() else {
            return Ok(Child::Changed(Mode::New));
        };
        match &level.mode {
            Mode::New => Ok(Child::Changed(Mode::New)),
            Mode::Opaque(_) | Mode::Whole(_) if !below => Ok(Child::Changed(Mode::New)),
            Mode::Layer(lower) => {
                let lower_node = match Node::at(lower, name) {
                    Ok(lower_node) => lower_node,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        return Ok(Child::Changed(Mode::New));
                    }
                    Err(error) => return Err(self.fault("read")(error).into()),
                };
                let open = || open_directory_at(lower, name).map_err(self.fault("open"));
                if node.is_directory() && self.is_opaque(&level.directory, name)? {
                    return Ok(Child::Changed(match lower_node.is_directory() {
                        true => Mode::Opaque(open()?),
                        false => Mode::New,
                    }));
                }
                let same = is_same(
                    lower,
                    &lower_node,
                    &level.directory,
                    node,
                    name,
                    |lower, upper| self.is_same_time(lower, upper),
                )
                .map_err(self.fault("compare"))?
                    && (!self.directory_times || lower_node.mtime == node.mtime)
                    && self.has_as_many_names(node, &lower_node)?;
                let mode = match node.is_directory() && lower_node.is_directory() {
                    true => Mode::Layer(open()?),
                    false => Mode::New,
                };
                Ok(match same {
                    true => Child::Same(mode),
                    false => Child::Changed(mode),
                })
            }
            Mode::Opaque(lower) => {
                let lower_node = Node::at(lower, name).map_err(self.fault("read"))?;
                if !node.is_directory() || !lower_node.is_directory() {
                    return Ok(Child::Changed(Mode::New));
                }
                let lower = open_directory_at(lower, name).map_err(self.fault("open"))?;
                Ok(Child::Changed(Mode::Opaque(lower)))
            }
            Mode::Whole(lower) => {
                let lower_node = Node::at(lower, name).map_err(self.fault("read"))?;
                let same = is_same(
                    lower,
                    &lower_node,
                    &level.directory,
                    node,
                    name,
                    |lower, upper| self.is_same_time(lower, upper),
                )
                .map_err(self.fault("compare"))?
                    && self.has_as_many_names(node, &lower_node)?;
                let mode = if node.is_directory() && lower_node.is_directory() {
                    Mode::Whole(open_directory_at(lower, name).map_err(self.fault("open"))?)
                } else {
                    Mode::New
                };
                Ok(if same {
                    Child::Same(mode)
                } else {
                    Child::Changed(mode)
                })
            }
        }
    }

    /// Whether a file's time in the image is the same without an entry in the layer: as those of the layers below are written.
    fn is_same_time(&self, lower: &Node, upper: &Node) -> io::Result<bool> {
        if lower.mtime == upper.mtime {
            return Ok(true);
        }
        let (below, above) = (
            lower.mtime.at_most(self.times.max),
            upper.mtime.at_most(self.times.max),
        );
        if below != above {
            return Ok(false);
        }
        let Some(kept) = self.times.kept.filter(|_| below != lower.mtime) else {
            return Ok(true);
        };
        match Node::beneath(kept, &self.path) {
            Ok(kept) => Ok(kept.mtime != lower.mtime),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// A file with a new name beside it comes with all its names, so that they are one file again. Names in other trees, with which a file
    /// may be shared at one time and not at another, do not count.
    fn has_as_many_names(&self, node: &Node, lower_node: &Node) -> Result<bool, E> {
        let is_one = node.inode == lower_node.inode || node.links < 2 && lower_node.links < 2;
        let Some(root) = self
            .stack
            .first()
            .filter(|_| !is_one && !node.is_directory())
        else {
            return Ok(true);
        };
        let below = match &root.mode {
            Mode::Layer(below) | Mode::Opaque(below) | Mode::Whole(below) => below,
            Mode::New => return Ok(true),
        };
        let count = |cell: &OnceCell<Names>, root, node: &Node| -> Result<usize, E> {
            if node.links < 2 {
                return Ok(1);
            }
            if cell.get().is_none() {
                let _ = cell.set(names_in(root).map_err(self.fault("count the names of"))?);
            }
            let names = cell.get().and_then(|names| names.get(&node.inode));
            Ok(names.copied().unwrap_or(1))
        };
        let above = count(&self.names, &root.directory, node)?;
        Ok(above == count(&self.names_below, below, lower_node)?)
    }

    fn is_opaque(&self, directory: &OwnedFd, name: &OsStr) -> Result<bool, E> {
        let value = xattr_at(directory, name, self.opaque).map_err(self.fault("read"))?;
        Ok(value.is_some_and(|value| value == b"y"))
    }

    fn enter(&mut self, directory: OwnedFd, mode: Mode, untold: Option<Node>) -> Result<(), E> {
        let names = sorted_names(&directory).map_err(self.fault("list"))?;
        let names_below = match &mode {
            Mode::Layer(_) | Mode::New => Vec::new(),
            Mode::Opaque(lower) | Mode::Whole(lower) => {
                sorted_names(lower).map_err(self.fault("list"))?
            }
        };
        self.stack.push(Level {
            directory,
            mode,
            names: names.into_iter().peekable(),
            names_below: names_below.into_iter().peekable(),
            path_length: self.path.len(),
            untold,
        });
        Ok(())
    }

    /// Tells the changes of the directories above the current path that were not told yet.
    fn told(&mut self) -> Result<(), E> {
        let first = self.stack.iter().rposition(|level| level.untold.is_none());
        for index in first.map_or(0, |first| first + 1)..self.stack.len() {
            let Some(node) = self
                .stack
                .get_mut(index)
                .and_then(|level| level.untold.take())
            else {
                continue;
            };
            let length = self.stack[index].path_length;
            let path = &self.path[..length];
            let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
            let Some(above) = index.checked_sub(1).and_then(|above| self.stack.get(above)) else {
                continue;
            };
            (self.visit)(Change::Put(Found {
                path,
                directory: above.directory.as_fd(),
                name: OsStr::from_bytes(name),
                node: &node,
            }))?;
        }
        Ok(())
    }

    fn put(&mut self, name: &OsStr, node: &Node) -> Result<(), E> {
        let Some(level) = self.stack.last() else {
            return Ok(());
        };
        (self.visit)(Change::Put(Found {
            path: &self.path,
            directory: level.directory.as_fd(),
            name,
            node,
        }))
    }

    fn opened(&self, directory: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, E> {
        open_directory_at(directory, name).map_err(|error| self.fault("open")(error).into())
    }

    fn fault(&self, action: &'static str) -> impl FnOnce(io::Error) -> TreeError + use<E, V> {
        let path = PathBuf::from(OsStr::from_bytes(&self.path));
        move |source| TreeError {
            action,
            path,
            source,
        }
    }
}

/// A file's relation to what is below, and that of the files in it.
enum Child {
    Same(Mode),
    Changed(Mode),
}

/// The least name of two sorted lists, and in which of them it is.
fn next_name(
    names: &mut Peekable<IntoIter<OsString>>,
    below: &mut Peekable<IntoIter<OsString>>,
) -> Option<(OsString, bool, bool)> {
    let order = match (names.peek(), below.peek()) {
        (None, None) => return None,
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (Some(name), Some(below)) => name.cmp(below),
    };
    match order {
        Ordering::Less => names.next().map(|name| (name, true, false)),
        Ordering::Greater => below.next().map(|name| (name, false, true)),
        Ordering::Equal => {
            below.next();
            names.next().map(|name| (name, true, true))
        }
    }
}

/// Whether two files of a name are one, or are equal in all that a layer keeps; directories
/// without what is in them.
fn is_same(
    lower: &OwnedFd,
    lower_node: &Node,
    upper: &OwnedFd,
    node: &Node,
    name: &OsStr,
    is_same_time: impl FnOnce(&Node, &Node) -> io::Result<bool>,
) -> io::Result<bool> {
    if node.inode == lower_node.inode {
        return Ok(true);
    }
    let facts = |node: &Node| (node.kind, node.mode, node.uid, node.gid, node.device);
    if facts(node) != facts(lower_node) {
        return Ok(false);
    }
    // A directory's own size and time follow from how it was filled, and come with what is in it.
    if !node.is_directory() && (node.size != lower_node.size || !is_same_time(lower_node, node)?) {
        return Ok(false);
    }
    let xattrs = |directory: &OwnedFd| {
        xattrs_at(directory, name).map(|mut xattrs| {
            xattrs.retain(|(name, _)| !is_overlay_attribute(name));
            xattrs
        })
    };
    if xattrs(lower)? != xattrs(upper)? {
        return Ok(false);
    }
    if node.is_symlink() {
        return Ok(read_link_at(lower, name)? == read_link_at(upper, name)?);
    }
    // Files that are written within one tick of the kernel's clock have the same time, and times can be set.
    if node.is_file() {
        return has_same_content(lower, upper, name, node.size);
    }
    Ok(true)
}

/// How many names in a tree each file has that may have several.
fn names_in(root: &OwnedFd) -> io::Result<Names> {
    let mut names = Names::new();
    let mut ahead = vec![PathBuf::from(".")];
    while let Some(path) = ahead.pop() {
        let directory = open_directory_at(root, path.as_os_str())?;
        for name in sorted_names(&directory)? {
            let node = Node::at(&directory, &name)?;
            if node.is_directory() {
                ahead.push(path.join(name));
            } else if node.links > 1 {
                *names.entry(node.inode).or_default() += 1;
            }
        }
    }
    Ok(names)
}

fn has_same_content(lower: &OwnedFd, upper: &OwnedFd, name: &OsStr, size: u64) -> io::Result<bool> {
    use std::os::unix::fs::FileExt;
    let lower = std::fs::File::from(open_file_at(lower, name)?);
    let upper = std::fs::File::from(open_file_at(upper, name)?);
    let mut buffers = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut at = 0;
    while at < size {
        let room = usize::try_from(size - at)
            .unwrap_or(usize::MAX)
            .min(64 << 10);
        lower.read_exact_at(&mut buffers.0[..room], at)?;
        upper.read_exact_at(&mut buffers.1[..room], at)?;
        if buffers.0[..room] != buffers.1[..room] {
            return Ok(false);
        }
        at += room as u64;
    }
    Ok(true)
}
