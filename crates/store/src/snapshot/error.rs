use std::io;
use std::path::PathBuf;

use weld_digest::Digest;

use super::changes::TreeError;
use super::made_with::MadeWith;
use crate::blobs::BlobError;
use crate::content_key::KeyError;
use crate::db::DbError;
use crate::layer::LayerError;
use crate::mount::MountError;
use crate::object::SnapshotId;
use crate::space::SpaceError;

/// Why a snapshot cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// There is none of this number.
    #[error("snapshot {0}: not found")]
    NotFound(SnapshotId),
    /// There is no room for it.
    #[error("{0}")]
    Space(#[from] Box<SpaceError>),
    /// Its files are not here yet, only what blob they come from.
    #[error("snapshot {id}: its layer {digest} is not unpacked")]
    NotUnpacked {
        /// Which snapshot.
        id: SnapshotId,
        /// The blob.
        digest: Digest,
    },
    /// A file of it could not be handled.
    #[error("snapshot {id}: {action} {path:?}: {source}")]
    File {
        /// Which snapshot.
        id: SnapshotId,
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A layer of it could not be written or applied.
    #[error("snapshot {id}: {source}")]
    Layer {
        /// Which snapshot.
        id: SnapshotId,
        /// What went wrong.
        source: LayerError,
    },
    /// A layer is not what was announced.
    #[error("snapshot {id}: the layer's content has digest {actual}, expected {expected}")]
    WrongDiffId {
        /// Which snapshot.
        id: SnapshotId,
        /// What was announced.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// It cannot be mounted.
    #[error("snapshot {id}: {source}")]
    Mount {
        /// Which snapshot.
        id: SnapshotId,
        /// What went wrong.
        source: MountError,
    },
    /// It has no content key.
    #[error("snapshot {id}: content key: {source}")]
    Key {
        /// Which snapshot.
        id: SnapshotId,
        /// What went wrong.
        source: KeyError,
    },
    /// A blob of it could not be read or written.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The database failed.
    #[error(transparent)]
    Db(#[from] DbError),
    /// Overlay mounts are wanted and cannot be had.
    #[error("overlay mounts cannot be made in {}: the kernel or the file system does not allow them", .0.display())]
    NoOverlay(PathBuf),
    /// Snapshots that are there were made another way, and would be read wrongly.
    #[error(
        "the snapshots in {} were made {made}, and here they are made {here}: \
         use the directory as they were made, choose another one, or delete it",
        root.display()
    )]
    MadeOtherwise {
        /// The state directory.
        root: PathBuf,
        /// How they were made.
        made: Box<MadeWith>,
        /// How this process makes them.
        here: Box<MadeWith>,
    },
    /// Snapshots that are there were made in a way that this version does not know.
    #[error("the snapshots in {} were made in a way that this version does not know ({made:?}): a later one made them", root.display())]
    MadeUnknown {
        /// The state directory.
        root: PathBuf,
        /// What it says of how they were made.
        made: String,
    },
    /// The directory of snapshots cannot be used.
    #[error("{action} {path:?}: {source}")]
    Directory {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl SnapshotError {
    pub(super) fn layer(id: SnapshotId) -> impl FnOnce(LayerError) -> Self {
        move |source| Self::Layer { id, source }
    }

    pub(super) fn mount(id: SnapshotId) -> impl FnOnce(MountError) -> Self {
        move |source| Self::Mount { id, source }
    }

    pub(super) fn tree(id: SnapshotId) -> impl FnOnce(TreeError) -> Self {
        move |error| Self::File {
            id,
            action: error.action,
            path: error.path,
            source: error.source,
        }
    }

    pub(super) fn file(
        id: SnapshotId,
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File {
            id,
            action,
            path,
            source,
        }
    }
}
