//! Directories seen as overlayfs would show them, without a mount.
//!
//! A [`Layers`] is a stack of directories, uppermost first. A name in an upper one hides what is
//! below unless both are directories, which merge. A character device 0:0 (a whiteout) hides the
//! name altogether; a directory marked opaque hides the directories below it. Real files keep
//! their real inodes, so that they can be linked or cloned into another layer of the file system.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::beneath::{metadata_at, open_beneath};
use crate::entry::Metadata;
use crate::listing::read_dir;

/// The namespace in which overlayfs keeps its marks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OverlayMarks {
    /// `trusted.overlay.*`: mounts made with privilege.
    #[default]
    Trusted,
    /// `user.overlay.*`: mounts with `userxattr`.
    User,
}

impl OverlayMarks {
    /// The attribute that makes a directory opaque, with the value `y`.
    pub fn opaque(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.opaque",
            Self::User => "user.overlay.opaque",
        }
    }

    /// Is `name` an attribute of overlayfs' own, in whichever namespace?
    pub fn is_mark(name: &OsStr) -> bool {
        let name = name.as_encoded_bytes();
        name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
    }
}

/// A stack of directories, uppermost first; at least one.
#[derive(Clone, Debug)]
pub struct Layers {
    dirs: Vec<Arc<OwnedFd>>,
    /// Whiteouts and opaque marks count.
    overlay: bool,
    marks: OverlayMarks,
    /// Opening the root in many layers takes a while, and every path starts there.
    root: OnceLock<MergedDir>,
}

/// A directory of a stack: what each layer has at its path, uppermost first.
#[derive(Clone, Debug)]
pub struct MergedDir {
    parts: Vec<Part>,
    overlay: bool,
    marks: OverlayMarks,
}

/// One layer's share of a merged directory.
#[derive(Clone, Debug)]
pub struct Part {
    /// The layer's place in the stack.
    pub layer: usize,
    /// The directory in it, open for reading.
    pub fd: Arc<OwnedFd>,
}

/// What a name in a merged directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Child {
    /// The uppermost layer that has it.
    pub layer: usize,
    /// Its metadata there.
    pub metadata: Metadata,
}

impl Layers {
    /// One plain directory, in which nothing counts as a whiteout.
    pub fn single(dir: OwnedFd) -> Self {
        Self {
            dirs: vec![Arc::new(dir)],
            overlay: false,
            marks: OverlayMarks::default(),
            root: OnceLock::new(),
        }
    }

    /// The directories `dirs`, uppermost first, as an overlay of them, even if it is only one;
    /// `None` if there is none.
    pub fn stack(dirs: Vec<OwnedFd>, marks: OverlayMarks) -> Option<Self> {
        let dirs: Vec<_> = dirs.into_iter().map(Arc::new).collect();
        (!dirs.is_empty()).then_some(Self {
            dirs,
            overlay: true,
            marks,
            root: OnceLock::new(),
        })
    }

    /// The same of the directories at `paths`. Symbolic links in `paths` are followed:
    /// they are the host's own.
    pub fn open<P: AsRef<Path>>(
        paths: impl IntoIterator<Item = P>,
        marks: OverlayMarks,
    ) -> Result<Self, (PathBuf, Errno)> {
        let mut dirs = Vec::new();
        for path in paths {
            let path = path.as_ref();
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let dir = rustix::fs::open(path, flags, Mode::empty())
                .map_err(|error| (path.to_owned(), error))?;
            dirs.push(dir);
        }
        Self::stack(dirs, marks).ok_or((PathBuf::new(), Errno::NOENT))
    }

    /// The directories, uppermost first.
    pub fn dirs(&self) -> &[Arc<OwnedFd>] {
        &self.dirs
    }

    /// In which namespace the marks are.
    pub fn marks(&self) -> OverlayMarks {
        self.marks
    }

    /// Do whiteouts and opaque marks count?
    pub fn is_overlay(&self) -> bool {
        self.overlay
    }

    /// A directory of this stack out of the layers' shares, uppermost first.
    pub fn merged(&self, parts: Vec<Part>) -> MergedDir {
        MergedDir {
            parts,
            overlay: self.overlay,
            marks: self.marks,
        }
    }

    /// The directory `path`, in which no component may be a symbolic link.
    pub fn open_dir(&self, path: &Path) -> Result<MergedDir, Errno> {
        let mut dir = self.root()?;
        for component in path.components() {
            match component {
                Component::Normal(name) => dir = dir.open_dir(name)?,
                Component::CurDir | Component::RootDir => {}
                Component::ParentDir | Component::Prefix(_) => return Err(Errno::INVAL),
            }
        }
        Ok(dir)
    }

    /// The merged root.
    pub fn root(&self) -> Result<MergedDir, Errno> {
        if let Some(root) = self.root.get() {
            return Ok(root.clone());
        }
        let all: Vec<usize> = (0..self.dirs.len()).collect();
        let root = self.open_parts(Path::new(""), &all)?;
        Ok(self.root.get_or_init(|| root).clone())
    }

    /// Opens the directory `path`, which holds no symbolic link, in those of `layers` that count.
    pub(crate) fn open_parts(&self, path: &Path, layers: &[usize]) -> Result<MergedDir, Errno> {
        let mut parts = Vec::with_capacity(layers.len());
        for (at, layer) in layers.iter().copied().enumerate() {
            let Some(dir) = self.dirs.get(layer) else {
                continue;
            };
            let fd = open_beneath(dir.as_fd(), path, OFlags::RDONLY | OFlags::DIRECTORY)?;
            let last = at + 1 == layers.len() || is_opaque(fd.as_fd(), self.marks)?;
            parts.push(Part {
                layer,
                fd: Arc::new(fd),
            });
            if last {
                break;
            }
        }
        Ok(MergedDir {
            parts,
            overlay: self.overlay,
            marks: self.marks,
        })
    }
}

impl MergedDir {
    /// The layers' shares, uppermost first.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The share of the layer at `layer` in the stack.
    pub fn part(&self, layer: usize) -> Option<BorrowedFd<'_>> {
        self.parts
            .iter()
            .find(|part| part.layer == layer)
            .map(|part| part.fd.as_fd())
    }

    /// What `name` is; `None` if it is not there.
    pub fn child(&self, name: &OsStr) -> Result<Option<Child>, Errno> {
        self.child_below(name, 0)
    }

    /// What `name` would be without the layers above `layer` in the stack.
    pub fn child_below(&self, name: &OsStr, layer: usize) -> Result<Option<Child>, Errno> {
        for part in self.parts.iter().filter(|part| part.layer >= layer) {
            match metadata_at(part.fd.as_fd(), name) {
                Ok(metadata) if self.overlay && is_whiteout(&metadata) => return Ok(None),
                Ok(metadata) => {
                    return Ok(Some(Child {
                        layer: part.layer,
                        metadata,
                    }));
                }
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The directory `name`. [`Errno::NOENT`] if there is nothing, [`Errno::NOTDIR`] if it is
    /// something else, a symbolic link too.
    pub fn open_dir(&self, name: &OsStr) -> Result<Self, Errno> {
        let mut parts = Vec::new();
        for (at, part) in self.parts.iter().enumerate() {
            let fd = match open_beneath(
                part.fd.as_fd(),
                Path::new(name),
                OFlags::RDONLY | OFlags::DIRECTORY,
            ) {
                Ok(fd) => fd,
                Err(Errno::NOENT) => continue,
                // Something that is no directory ends the merge, or hides what is below.
                Err(Errno::NOTDIR | Errno::LOOP) if !parts.is_empty() => break,
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    return Err(self.child(name)?.map_or(Errno::NOENT, |_| Errno::NOTDIR));
                }
                Err(error) => return Err(error),
            };
            let last = at + 1 == self.parts.len() || is_opaque(fd.as_fd(), self.marks)?;
            parts.push(Part {
                layer: part.layer,
                fd: Arc::new(fd),
            });
            if last {
                break;
            }
        }
        if parts.is_empty() {
            return Err(Errno::NOENT);
        }
        Ok(Self {
            parts,
            overlay: self.overlay,
            marks: self.marks,
        })
    }

    /// The target of the symbolic link `name` that [`Self::child`] found in `layer`.
    pub fn read_link(&self, name: &OsStr, layer: usize) -> Result<Vec<u8>, Errno> {
        let dir = self.part(layer).ok_or(Errno::NOENT)?;
        Ok(rustix::fs::readlinkat(dir, name, Vec::new())?.into_bytes())
    }

    /// Opens the regular file `name` that [`Self::child`] found in `layer`, for reading.
    pub fn open_file(&self, name: &OsStr, layer: usize) -> Result<OwnedFd, Errno> {
        let dir = self.part(layer).ok_or(Errno::NOENT)?;
        open_beneath(dir, Path::new(name), OFlags::RDONLY | OFlags::NONBLOCK)
    }

    /// The merged names, sorted by bytes.
    pub fn names(&self) -> Result<Vec<MergedName>, Errno> {
        // Whoever shares the descriptors shares the place that was read up to.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let reopened = self.parts.iter().map(|part| {
            let fd = open_beneath(part.fd.as_fd(), Path::new(""), flags)?;
            Ok(Part {
                layer: part.layer,
                fd: Arc::new(fd),
            })
        });
        let parts = reopened.collect::<Result<_, Errno>>()?;
        Self { parts, ..*self }.names_once()
    }

    /// The same where the directories were opened for nothing else.
    pub(crate) fn names_once(&self) -> Result<Vec<MergedName>, Errno> {
        if let ([part], false) = (self.parts.as_slice(), self.overlay) {
            let layer = part.layer;
            let names = read_dir(part.fd.as_fd())?;
            return Ok(names
                .into_iter()
                .map(|(name, kind)| MergedName {
                    name,
                    kind,
                    layer,
                    below: Vec::new(),
                })
                .collect());
        }
        let mut all = Vec::new();
        for part in &self.parts {
            let names = read_dir(part.fd.as_fd())?;
            all.extend(names.into_iter().map(|(name, kind)| (name, kind, part)));
        }
        // Stable: within a name the layers stay in order.
        all.sort_by(|a, b| a.0.cmp(&b.0));
        let mut merged: Vec<MergedName> = Vec::with_capacity(all.len());
        let mut hidden: Option<OsString> = None;
        for (name, kind, part) in all {
            if hidden.as_ref() == Some(&name) {
                continue;
            }
            let kind = match kind {
                FileType::Unknown | FileType::CharacterDevice => {
                    match metadata_at(part.fd.as_fd(), &name) {
                        Ok(metadata) if is_whiteout(&metadata) => {
                            hidden = Some(name);
                            continue;
                        }
                        Ok(metadata) => metadata.file_type(),
                        Err(Errno::NOENT) => continue,
                        Err(error) => return Err(error),
                    }
                }
                kind => kind,
            };
            match merged.last_mut() {
                Some(above) if above.name == name && kind == FileType::Directory => {
                    above.below.push(part.layer);
                }
                Some(above) if above.name == name => hidden = Some(name),
                _ => {
                    if kind != FileType::Directory {
                        hidden = Some(name.clone());
                    }
                    merged.push(MergedName {
                        name,
                        kind,
                        layer: part.layer,
                        below: Vec::new(),
                    });
                }
            }
        }
        Ok(merged)
    }
}

/// A name in a merged directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergedName {
    /// The name.
    pub name: OsString,
    /// Its type; `Unknown` only where neither merging nor the file system tells.
    pub kind: FileType,
    /// The uppermost layer that has it.
    pub layer: usize,
    /// For a directory: further layers that may have a share in it, unless an upper one is opaque.
    pub(crate) below: Vec<usize>,
}

fn is_whiteout(metadata: &Metadata) -> bool {
    metadata.file_type() == FileType::CharacterDevice && metadata.rdev == (0, 0)
}

fn is_opaque(dir: BorrowedFd<'_>, marks: OverlayMarks) -> Result<bool, Errno> {
    let mut value = [0_u8; 8];
    match rustix::fs::fgetxattr(dir, marks.opaque(), &mut value[..]) {
        Ok(len) => Ok(value.get(..len) == Some(b"y")),
        Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE) => Ok(false),
        Err(error) => Err(error),
    }
}
