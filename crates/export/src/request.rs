use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::client::ClientTarget;
use crate::destination;

/// What kind of result is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportKind {
    /// The files, into a directory.
    Local,
    /// The files, as one tar archive.
    Tar,
    /// An image, as an archive of an OCI layout, or as the layout itself (`tar=false`).
    OciArchive,
    /// An image, as an archive that `docker load` reads.
    DockerArchive,
    /// An image made of blobs in the store, pushed with `push=true`.
    Image,
    /// Nothing: what was built stays in the cache.
    CacheOnly,
}

impl ExportKind {
    /// The name that `--output type=` has for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Tar => "tar",
            Self::OciArchive => "oci",
            Self::DockerArchive => "docker",
            Self::Image => "image",
            Self::CacheOnly => "cacheonly",
        }
    }

    /// Whether the result is an image.
    pub const fn is_image(self) -> bool {
        matches!(self, Self::Image | Self::OciArchive | Self::DockerArchive)
    }
}

/// Where a result goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExportTarget {
    /// Nowhere outside of the store and registries.
    Nowhere,
    /// Into this directory, which is made if it is not there.
    Directory(PathBuf),
    /// Into this file, which is replaced when the result is whole.
    File(PathBuf),
    /// To standard output.
    Stdout,
    /// To a client at the other end of a connection.
    Client(ClientTarget),
}

/// One wanted result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportRequest {
    /// What kind.
    pub kind: ExportKind,
    /// The exporter's attributes, by BuildKit's names.
    pub attrs: BTreeMap<String, String>,
    /// Where to.
    pub target: ExportTarget,
}

impl ExportRequest {
    /// Whether it can be tried again when it failed half-way: nobody has seen anything of it then.
    pub fn is_repeatable(&self) -> bool {
        match &self.target {
            ExportTarget::Nowhere | ExportTarget::Directory(_) => true,
            target @ ExportTarget::File(_) => destination::is_replaced(target),
            ExportTarget::Stdout | ExportTarget::Client(_) => false,
        }
    }

    /// A request without attributes.
    pub const fn new(kind: ExportKind, target: ExportTarget) -> Self {
        Self {
            kind,
            attrs: BTreeMap::new(),
            target,
        }
    }
}
