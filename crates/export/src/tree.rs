//! The files of a result, read from the directories of its snapshot without a mount.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use weld_fileset::{Entry, Layers, OverlayMarks, Timestamp, WalkOptions, open_beneath, walk};
use weld_store::mount::MountSource;
use weld_store::snapshot::SnapshotRef;

use crate::ExportError;
use crate::error::read_error;
use crate::exporter::BuiltPlatform;

/// The files of one platform's result.
pub(crate) struct Tree {
    /// The platform, as users write it.
    pub(crate) platform: String,
    /// All files in path order.
    pub(crate) entries: Vec<Entry>,
    /// `None` for a result without files.
    layers: Option<Layers>,
    // Keeps the directories.
    _snapshot: Option<SnapshotRef>,
}

impl Tree {
    /// Lists the files of a platform's result. With an epoch, all are of that time.
    pub(crate) fn open(
        built: &BuiltPlatform,
        epoch: Option<Timestamp>,
    ) -> Result<Self, ExportError> {
        let platform = built.platform.to_string();
        let Some(snapshot) = &built.tree else {
            return Ok(Self {
                platform,
                entries: Vec::new(),
                layers: None,
                _snapshot: None,
            });
        };
        let layers = layers(snapshot, &platform)?;
        let options = WalkOptions {
            xattrs: true,
            ..WalkOptions::default()
        };
        let mut entries =
            walk(&layers, Path::new(""), &options).map_err(|source| ExportError::Walk {
                platform: platform.clone(),
                source,
            })?;
        for entry in &mut entries {
            entry.xattrs.retain(|(name, _)| is_kept(name));
            if let Some(epoch) = epoch {
                entry.metadata.mtime = epoch;
            }
        }
        Ok(Self {
            platform,
            entries,
            layers: Some(layers),
            _snapshot: Some(snapshot.clone()),
        })
    }

    /// The name of the directory that the platform has where there are several.
    pub(crate) fn directory(&self) -> PathBuf {
        PathBuf::from(self.platform.replace('/', "_"))
    }

    /// Opens a regular file of it.
    pub(crate) fn file(&self, entry: &Entry) -> Result<File, ExportError> {
        let file = self.open_in(entry.layer, &entry.path, OFlags::RDONLY);
        let file = file.map_err(|errno| read_error("open", &entry.path)(errno.into()))?;
        Ok(File::from(file))
    }

    fn open_in(&self, layer: usize, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let layers = self.layers.as_ref();
        let layer = layers.and_then(|layers| layers.dirs().get(layer));
        open_beneath(layer.ok_or(Errno::NOENT)?.as_fd(), path, flags)
    }

    /// The first name of a file that has several.
    pub(crate) fn first_name(&self, entry: &Entry) -> Option<&Path> {
        let first = self.entries.get(entry.hard_link?)?;
        Some(&first.path)
    }

    /// The target of a symbolic link.
    pub(crate) fn link_target<'e>(&self, entry: &'e Entry) -> Result<&'e OsStr, ExportError> {
        let target = entry.link_target.as_ref().map(|target| target.as_os_str());
        target.ok_or_else(|| {
            read_error("read the link", &entry.path)(io::ErrorKind::InvalidData.into())
        })
    }
}

/// One directory of a tree, in each of the snapshot's layers, to open its files one after another.
pub(crate) struct SourceDirectories<'t> {
    tree: &'t Tree,
    path: &'t Path,
    opened: HashMap<usize, OwnedFd>,
}

impl<'t> SourceDirectories<'t> {
    pub(crate) fn new(tree: &'t Tree, path: &'t Path) -> Self {
        Self {
            tree,
            path,
            opened: HashMap::new(),
        }
    }

    pub(crate) fn tree(&self) -> &'t Tree {
        self.tree
    }

    /// Opens a regular file of the directory.
    pub(crate) fn file(&mut self, entry: &Entry) -> Result<File, ExportError> {
        let fail = |errno: Errno| read_error("open", &entry.path)(errno.into());
        let directory = match self.opened.entry(entry.layer) {
            Slot::Occupied(opened) => opened.into_mut(),
            Slot::Vacant(vacant) => {
                let flags = OFlags::PATH | OFlags::DIRECTORY;
                let opened = self
                    .tree
                    .open_in(entry.layer, self.path, flags)
                    .map_err(fail)?;
                vacant.insert(opened)
            }
        };
        let name = entry.path.file_name().unwrap_or_default();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::openat(&*directory, name, flags, Mode::empty()).map_err(fail)?;
        Ok(File::from(file))
    }
}

/// The directories of a snapshot, uppermost first.
fn layers(snapshot: &SnapshotRef, platform: &str) -> Result<Layers, ExportError> {
    let spec = snapshot.mount_spec().map_err(|source| ExportError::Tree {
        platform: platform.to_owned(),
        source: Box::new(source),
    })?;
    let opened = match &spec.source {
        // An overlay of one directory is mounted as that directory.
        MountSource::Bind(path) => Layers::open([path], OverlayMarks::Trusted),
        MountSource::Overlay(overlay) => {
            let marks = match overlay.userxattr {
                true => OverlayMarks::User,
                false => OverlayMarks::Trusted,
            };
            Layers::open(&overlay.lowers, marks)
        }
    };
    opened.map_err(|(path, errno)| read_error("open", path)(errno.into()))
}

/// Whether an attribute belongs to the file wherever it is: not the marks of an overlay, and not
/// the labels and hashes that a machine's security system gives to its files.
fn is_kept(name: &OsStr) -> bool {
    let bytes = name.as_encoded_bytes();
    if bytes.starts_with(b"security.") {
        return bytes == b"security.capability";
    }
    if bytes.starts_with(b"system.") {
        return bytes.starts_with(b"system.posix_acl_");
    }
    !OverlayMarks::is_mark(name)
}
