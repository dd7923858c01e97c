//! Applying layers to a tree: archives are not trusted, and nothing outside of the tree is
//! reached whatever they hold.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType};

use super::beneath::{Beneath, components, joined};
use super::create::{self, Tree};
use super::{
    Entry, EntryKind, LayerError, TarReader, WHITEOUT_META_PREFIX, WHITEOUT_OPAQUE, WHITEOUT_PREFIX,
};
use crate::snapshot::FileTime;
use crate::snapshot::node::{Node, opaque_attribute, open_directory_at, set_xattr_at};
use crate::snapshot::remove::remove_at;

/// What an archive's marks of removal become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whiteouts {
    /// Marks of an overlay: the tree is a layer of its own.
    Overlay {
        /// Marks go into `user.overlay.*` attributes.
        userxattr: bool,
    },
    /// Removals: the tree holds all that is below the layer.
    Remove,
    /// Files of such names: the archive is no layer.
    Literal,
}

/// How an archive is applied.
pub struct ApplyOptions<'a> {
    /// What marks of removal become.
    pub whiteouts: Whiteouts,
    /// Who owns the files, instead of whom the archive says.
    pub owner: Option<(u32, u32)>,
    /// The time of all files, instead of what the archive says.
    pub mtime: Option<FileTime>,
    /// Opens the tree below this layer, from which directories that the archive goes through
    /// without an entry have their metadata, and files their links.
    pub parent: Option<&'a dyn Fn() -> Result<OwnedFd, LayerError>>,
}

impl ApplyOptions<'_> {
    /// Applies as the archive says.
    pub fn new(whiteouts: Whiteouts) -> Self {
        Self {
            whiteouts,
            owner: None,
            mtime: None,
            parent: None,
        }
    }
}

/// What was applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// How many entries the archive had.
    pub entries: u64,
    /// The sum of the sizes of its files.
    pub size: u64,
}

/// Applies an uncompressed archive to the tree at `root`, and reads its stream to the end.
pub fn apply<R: BufRead>(
    archive: R,
    root: BorrowedFd<'_>,
    options: &ApplyOptions<'_>,
) -> Result<Applied, LayerError> {
    let mut reader = TarReader::new(archive);
    let mut applier = Applier::new(root, options);
    let mut applied = Applied::default();
    while let Some(entry) = reader.next_entry()? {
        applied.entries += 1;
        if let EntryKind::File { size } = entry.kind {
            applied.size = applied.size.saturating_add(size);
        }
        applier.entry(entry, &mut reader)?;
    }
    applier.finish()?;
    reader.finish()?;
    Ok(applied)
}

struct Applier<'a> {
    whiteouts: Whiteouts,
    beneath: Beneath<'a>,
    tree: Tree<'a>,
    /// Paths that this archive made, so that its marks of removal spare them.
    made: HashSet<OsString>,
    /// Names that this archive marked as gone; a directory made there later hides what was.
    gone: HashSet<OsString>,
}

impl<'a> Applier<'a> {
    fn new(root: BorrowedFd<'a>, options: &'a ApplyOptions<'a>) -> Self {
        Self {
            whiteouts: options.whiteouts,
            beneath: Beneath::new(root),
            tree: Tree::new(options),
            made: HashSet::new(),
            gone: HashSet::new(),
        }
    }

    fn entry<R: BufRead>(
        &mut self,
        entry: Entry,
        reader: &mut TarReader<R>,
    ) -> Result<(), LayerError> {
        let fault = |what| LayerError::Entry {
            path: PathBuf::from(OsStr::from_bytes(&entry.path)),
            what,
        };
        let components =
            components(&entry.path).ok_or_else(|| fault("the path leads out of the root"))?;
        let Some((&name, parents)) = components.split_last() else {
            return self.tree.root(self.beneath.root(), &entry);
        };
        if name.as_bytes().len() > 255 {
            return Err(fault("a file name of more than 255 bytes"));
        }
        let path = joined(&components);
        let directory = self.directory(parents)?;
        if self.whiteouts != Whiteouts::Literal && name.as_bytes().starts_with(WHITEOUT_PREFIX) {
            return self.whiteout(&directory, name, parents, &entry);
        }
        if is_whiteout_device(&entry.kind) && self.whiteouts != Whiteouts::Literal {
            return self.gone(&directory, name, &path);
        }
        self.create(&directory, name, &path, &entry, reader)?;
        if self.whiteouts == Whiteouts::Remove {
            self.made.insert(path);
        }
        Ok(())
    }

    fn directory(&mut self, components: &[&OsStr]) -> Result<Rc<OwnedFd>, LayerError> {
        self.beneath
            .directory(components, &mut self.tree)
            .map_err(|fault| fault.into_layer_error(&joined(components)))
    }

    fn create<R: BufRead>(
        &mut self,
        directory: &OwnedFd,
        name: &OsStr,
        path: &OsStr,
        entry: &Entry,
        reader: &mut TarReader<R>,
    ) -> Result<(), LayerError> {
        if entry.kind == EntryKind::Directory {
            return self.create_directory(directory, name, path, entry);
        }
        if let EntryKind::HardLink { target } = &entry.kind {
            return self.link(directory, name, path, target);
        }
        let created = create::file(directory.as_fd(), name);
        match &entry.kind {
            EntryKind::File { size } => {
                let file = match created.regular() {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                        self.clear(directory, name, path)?;
                        created.regular()
                    }
                    result => result,
                };
                let file = file.map_err(self.tree.error("create", path))?;
                self.tree.fill(&file, path, *size, reader)?;
                self.tree.set_file_metadata(file.as_fd(), path, entry)
            }
            kind => {
                match created.special(kind) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                        self.clear(directory, name, path)?;
                        created.special(kind)
                    }
                    result => result,
                }
                .map_err(self.tree.error("create", path))?;
                self.tree.set_metadata(directory.as_fd(), name, path, entry)
            }
        }
    }

    fn create_directory(
        &mut self,
        directory: &OwnedFd,
        name: &OsStr,
        path: &OsStr,
        entry: &Entry,
    ) -> Result<(), LayerError> {
        let mut opaque = self.gone.contains(path);
        let created = create::file(directory.as_fd(), name);
        match created.directory() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let node = Node::at(directory, name).map_err(self.tree.error("read", path))?;
                if node.is_directory() {
                    if self.whiteouts == Whiteouts::Remove {
                        self.tree
                            .remove_other_xattrs(directory.as_fd(), name, path, entry)?;
                    }
                } else {
                    // What it hides is what the file before it hid.
                    opaque |= self.overlays();
                    self.clear(directory, name, path)?;
                    created
                        .directory()
                        .map_err(self.tree.error("create", path))?;
                }
            }
            result => result.map_err(self.tree.error("create", path))?,
        }
        if opaque {
            self.make_opaque(directory, name, path)?;
        }
        self.tree
            .set_directory_metadata(directory.as_fd(), name, path, entry)
    }

    fn link(
        &mut self,
        directory: &OwnedFd,
        name: &OsStr,
        path: &OsStr,
        target: &[u8],
    ) -> Result<(), LayerError> {
        let fault = |what| LayerError::Entry {
            path: PathBuf::from(path),
            what,
        };
        let target =
            components(target).ok_or_else(|| fault("the link's target leads out of the root"))?;
        let Some((&target_name, parents)) = target.split_last() else {
            return Err(fault("the link's target is the root"));
        };
        let target_path = joined(&target);
        if target_path == path {
            return Ok(());
        }
        let target_directory = self.directory(parents)?;
        let node = match Node::at(&*target_directory, target_name) {
            Ok(node) => Some(node),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(self.tree.error("read", &target_path)(error)),
        };
        match node {
            Some(node) if node.is_directory() => {
                return Err(fault("the link's target is a directory"));
            }
            Some(node) if self.overlays() && node.is_whiteout() => {
                return Err(fault("the link's target is removed by the same layer"));
            }
            Some(_) => {}
            None => {
                let copied =
                    self.tree
                        .copy_up(target_directory.as_fd(), target_name, &target_path)?;
                if !copied {
                    return Err(fault("the link's target is missing"));
                }
            }
        }
        let link = || {
            let flags = AtFlags::empty();
            rustix::fs::linkat(&*target_directory, target_name, directory, name, flags)
                .map_err(io::Error::from)
        };
        match link() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.clear(directory, name, path)?;
                link()
            }
            result => result,
        }
        .map_err(self.tree.error("link", path))
        // The metadata in a link's entry is that of its file, which has it already.
    }

    /// Handles a name that starts as a mark of removal.
    fn whiteout(
        &mut self,
        directory: &OwnedFd,
        name: &OsStr,
        parents: &[&OsStr],
        entry: &Entry,
    ) -> Result<(), LayerError> {
        let bytes = name.as_bytes();
        if bytes == WHITEOUT_OPAQUE {
            return self.opaque(parents);
        }
        if bytes.starts_with(WHITEOUT_META_PREFIX) {
            // Other names of this form were AUFS's own and mean nothing any more.
            return Ok(());
        }
        let gone = OsStr::from_bytes(&bytes[WHITEOUT_PREFIX.len()..]);
        if gone.is_empty() || gone == "." || gone == ".." {
            return Err(LayerError::Entry {
                path: PathBuf::from(OsStr::from_bytes(&entry.path)),
                what: "a mark of removal without a name",
            });
        }
        let path = joined(&[parents, &[gone]].concat());
        self.gone(directory, gone, &path)
    }

    /// Removes a name of what is below the layer, sparing what the layer itself made.
    fn gone(&mut self, directory: &OwnedFd, name: &OsStr, path: &OsStr) -> Result<(), LayerError> {
        let found = match Node::at(directory, name) {
            Ok(node) => Some(node),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(self.tree.error("read", path)(error)),
        };
        if !self.overlays() {
            if found.is_some() {
                self.remove_unmade(directory, name, path)?;
            }
            return Ok(());
        }
        self.gone.insert(path.to_owned());
        match found {
            Some(node) if node.is_directory() => self.make_opaque(directory, name, path),
            Some(_) => Ok(()),
            None => rustix::fs::mknodat(
                directory,
                name,
                FileType::CharacterDevice,
                rustix::fs::Mode::empty(),
                0,
            )
            .map_err(|errno| self.tree.error("mark as removed", path)(errno.into())),
        }
    }

    fn opaque(&mut self, parents: &[&OsStr]) -> Result<(), LayerError> {
        let path = joined(parents);
        let directory = self.directory(parents)?;
        if self.overlays() {
            return self.make_opaque(&directory, OsStr::new("."), &path);
        }
        let names = open_directory_at(&*directory, OsStr::new("."))
            .and_then(crate::snapshot::node::names)
            .map_err(self.tree.error("list", &path))?;
        for name in names {
            let path = joined(&[parents, &[&name]].concat());
            self.remove_unmade(&directory, &name, &path)?;
        }
        Ok(())
    }

    /// Removes a name and what is below it but for what the layer made.
    fn remove_unmade(
        &mut self,
        directory: &OwnedFd,
        name: &OsStr,
        path: &OsStr,
    ) -> Result<(), LayerError> {
        let below = [path.as_bytes(), b"/"].concat();
        let made = |path: &OsStr| path.as_bytes().starts_with(&below);
        if !self.made.contains(path) && !self.made.iter().any(|path| made(path)) {
            return self.clear(directory, name, path);
        }
        let is_directory = Node::at(directory, name).is_ok_and(|node| node.is_directory());
        if !is_directory {
            return Ok(());
        }
        // The recursion is as deep as paths that the archive made.
        let inner = open_directory_at(directory, name).map_err(self.tree.error("open", path))?;
        let names = crate::snapshot::node::names(&inner).map_err(self.tree.error("list", path))?;
        for name in names {
            let path = joined(&[path, &name]);
            self.remove_unmade(&inner, &name, &path)?;
        }
        Ok(())
    }

    fn clear(&mut self, directory: &OwnedFd, name: &OsStr, path: &OsStr) -> Result<(), LayerError> {
        self.beneath.forget();
        remove_at(directory.as_fd(), name).map_err(self.tree.error("replace", path))
    }

    fn overlays(&self) -> bool {
        matches!(self.whiteouts, Whiteouts::Overlay { .. })
    }

    fn make_opaque(
        &self,
        directory: &OwnedFd,
        name: &OsStr,
        path: &OsStr,
    ) -> Result<(), LayerError> {
        let Whiteouts::Overlay { userxattr } = self.whiteouts else {
            return Ok(());
        };
        let attribute = opaque_attribute(userxattr);
        set_xattr_at(directory, name, attribute.as_bytes(), b"y")
            .map_err(|errno| self.tree.error("mark as opaque", path)(errno.into()))
    }

    fn finish(self) -> Result<(), LayerError> {
        self.tree.finish(&self.beneath)
    }
}

/// A device with no numbers is what an overlay marks removals with, and no device.
fn is_whiteout_device(kind: &EntryKind) -> bool {
    matches!(kind, EntryKind::CharDevice { major: 0, minor: 0 })
}
