//! The files of a result, read from the directories of its snapshot without a mount.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use tempfile::TempDir;
use weld_digest::{Algorithm, Hasher};
use weld_fileset::{Entry, Layers, OverlayMarks, Timestamp, WalkOptions, open_beneath, walk};
use weld_store::mount::MountSource;
use weld_store::snapshot::SnapshotRef;

use crate::attestation::{Loaded, StatedSubject, statement};
use crate::error::{read_error, write_error};
use crate::exporter::BuiltPlatform;
use crate::{AttestationError, ExportError};

/// The files of one platform's result.
pub(crate) struct Tree {
    /// The platform, as users write it.
    pub(crate) platform: String,
    /// All files in path order.
    pub(crate) entries: Vec<Entry>,
    /// `None` for a result without files.
    layers: Option<Layers>,
    epoch: Option<Timestamp>,
    // Keeps the directories.
    snapshot: Option<SnapshotRef>,
    // Holds the attestations.
    _added: Option<TempDir>,
}

/// How the files of attestations are called.
#[derive(Clone, Copy)]
pub(crate) struct AttestationNames<'a> {
    /// What all begin with.
    pub(crate) prefix: &'a str,
    /// Whether the platform is in the name, since several share a directory.
    pub(crate) platform: bool,
}

impl AttestationNames<'_> {
    fn name(self, attestation: &Loaded, platform: &str) -> String {
        let name = [self.prefix, attestation.file_name()].concat();
        if !self.platform {
            return name;
        }
        let platform = platform.replace('/', "_");
        match name.rsplit_once('.') {
            Some((stem, extension)) => format!("{stem}.{platform}.{extension}"),
            None => format!("{name}.{platform}"),
        }
    }
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
                epoch,
                snapshot: None,
                _added: None,
            });
        };
        let layers = layers(snapshot, None, &platform)?;
        Ok(Self {
            entries: list(&layers, epoch, &platform)?,
            platform,
            layers: Some(layers),
            epoch,
            snapshot: Some(snapshot.clone()),
            _added: None,
        })
    }

    /// The same with a file for each attestation beside the result's own files, which it is about.
    pub(crate) fn with_attestations(
        self,
        attestations: &[Loaded],
        naming: AttestationNames<'_>,
    ) -> Result<Self, ExportError> {
        if attestations.is_empty() {
            return Ok(self);
        }
        let failed = |source| ExportError::Attestation {
            platform: self.platform.clone(),
            source: Box::new(source),
        };
        let added = TempDir::new().map_err(write_error("create", std::env::temp_dir()))?;
        let subjects = self.subjects()?;
        for attestation in attestations {
            let name = naming.name(attestation, &self.platform);
            let path = added.path().join(&name);
            let content = statement(attestation, &subjects).map_err(failed)?;
            let created = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path);
            let written = created.and_then(|mut file| file.write_all(&content));
            match written {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    return Err(failed(AttestationError::Duplicate(name)));
                }
                Err(error) => return Err(write_error("write", path)(error)),
            }
        }
        // They lie above the result's files, as if a last step had written them.
        let layers = match &self.snapshot {
            Some(snapshot) => layers(snapshot, Some(added.path()), &self.platform)?,
            None => Layers::open([added.path()], OverlayMarks::Trusted)
                .map_err(|(path, errno)| read_error("open", path)(errno.into()))?,
        };
        Ok(Self {
            entries: list(&layers, self.epoch, &self.platform)?,
            layers: Some(layers),
            _added: Some(added),
            ..self
        })
    }

    /// Every regular file with its digest.
    fn subjects(&self) -> Result<Vec<StatedSubject>, ExportError> {
        let files = self.entries.iter();
        let files = files.filter(|entry| entry.metadata.file_type() == FileType::RegularFile);
        let subject = |entry: &Entry| {
            let mut hasher = Hasher::new(Algorithm::Sha256);
            let mut buffer = vec![0; 256 << 10];
            let mut file = self.file(entry)?;
            loop {
                match file.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(count) => hasher.update(buffer.get(..count).unwrap_or_default()),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(read_error("read", &entry.path)(error)),
                }
            }
            let name = entry.path.to_string_lossy();
            Ok(StatedSubject::new(name, &[hasher.finish()]))
        };
        files.map(subject).collect()
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

/// All files of a stack of directories; with an epoch, all are of that time.
fn list(
    layers: &Layers,
    epoch: Option<Timestamp>,
    platform: &str,
) -> Result<Vec<Entry>, ExportError> {
    let options = WalkOptions {
        xattrs: true,
        ..WalkOptions::default()
    };
    let mut entries =
        walk(layers, Path::new(""), &options).map_err(|source| ExportError::Walk {
            platform: platform.to_owned(),
            source,
        })?;
    for entry in &mut entries {
        entry.xattrs.retain(|(name, _)| is_kept(name));
        if let Some(epoch) = epoch {
            entry.metadata.mtime = epoch;
        }
    }
    Ok(entries)
}

/// The directories of a snapshot, uppermost first, with one more above them if there is one.
fn layers(
    snapshot: &SnapshotRef,
    above: Option<&Path>,
    platform: &str,
) -> Result<Layers, ExportError> {
    let spec = snapshot.mount_spec().map_err(|source| ExportError::Tree {
        platform: platform.to_owned(),
        source: Box::new(source),
    })?;
    let opened = match &spec.source {
        // An overlay of one directory is mounted as that directory.
        MountSource::Bind(path) => Layers::open(
            above.into_iter().chain([path.as_path()]),
            OverlayMarks::Trusted,
        ),
        MountSource::Overlay(overlay) => {
            let marks = match overlay.userxattr {
                true => OverlayMarks::User,
                false => OverlayMarks::Trusted,
            };
            let lowers = overlay.lowers.iter().map(|path| path.as_path());
            Layers::open(above.into_iter().chain(lowers), marks)
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
