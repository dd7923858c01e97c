//! Which files of a source may be linked into a destination.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use weld_fileset::Metadata;
use weld_store::mount::{MountSource, MountSpec};
use weld_store::snapshot::{MutableSnapshot, SharedFiles, SnapshotRef, Snapshots};

/// What a source and a destination have in common. A file that the destination has already must
/// not get a second name there: both would be one file.
pub struct Sharing<'s> {
    snapshots: &'s Snapshots,
    /// The directories of the source's layers, uppermost first.
    source: Vec<PathBuf>,
    /// Whether files of each may be linked at all; found out and noted on first use.
    allowed: Vec<OnceLock<bool>>,
    /// The directory that is written.
    written: PathBuf,
    /// The directories below it.
    below: Vec<PathBuf>,
    parent: Option<SnapshotRef>,
    /// The files there that other snapshots have, too; `None` if they cannot be told.
    shared: OnceLock<Option<SharedFiles>>,
}

impl std::fmt::Debug for Sharing<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sharing")
            .field("source", &self.source)
            .field("written", &self.written)
            .finish_non_exhaustive()
    }
}

impl<'s> Sharing<'s> {
    /// Between what is mounted by `source` and a new snapshot.
    pub(crate) fn new(
        snapshots: &'s Snapshots,
        source: &MountSpec,
        destination: &MutableSnapshot,
        destination_spec: &MountSpec,
    ) -> Self {
        let source = directories(source);
        Self {
            snapshots,
            allowed: source.iter().map(|_| OnceLock::new()).collect(),
            source,
            written: destination.files().to_owned(),
            below: directories(destination_spec),
            parent: destination.parent().cloned(),
            shared: OnceLock::new(),
        }
    }

    /// Whether a file of one of the source's layers may have a name at `to`, a path of the
    /// destination. Where that cannot be told it is copied, which is right as well.
    pub(crate) fn may_link(&self, layer: usize, metadata: &Metadata, to: &Path) -> bool {
        let allowed = match (self.allowed.get(layer), self.source.get(layer)) {
            (Some(allowed), Some(files)) => *allowed.get_or_init(|| self.begin(files)),
            _ => false,
        };
        // A file of one name is nowhere else.
        allowed && (metadata.nlink == 1 || !self.is_elsewhere(metadata, to))
    }

    /// Notes that files are shared, before the first one is.
    fn begin(&self, files: &Path) -> bool {
        !self.below.iter().any(|other| other == files)
            && self.snapshots.mark_shared(files).is_ok()
            && self.snapshots.mark_shared(&self.written).is_ok()
    }

    fn is_elsewhere(&self, metadata: &Metadata, to: &Path) -> bool {
        let shared = self.shared.get_or_init(|| match &self.parent {
            Some(parent) => parent.shared_files().ok(),
            None => Some(SharedFiles::default()),
        });
        let (major, minor) = metadata.inode.device;
        let inode = (rustix::fs::makedev(major, minor), metadata.inode.inode);
        let to = to.strip_prefix("/").unwrap_or(to).as_os_str().as_bytes();
        shared
            .as_ref()
            .is_none_or(|shared| shared.is_elsewhere(inode, to))
    }
}

/// The directories of a mount, uppermost first.
fn directories(spec: &MountSpec) -> Vec<PathBuf> {
    match &spec.source {
        MountSource::Bind(path) => vec![path.clone()],
        MountSource::Overlay(overlay) => {
            let upper = overlay.upper.as_ref().map(|upper| &upper.upper);
            upper.into_iter().chain(&overlay.lowers).cloned().collect()
        }
    }
}
