use std::io;
use std::path::PathBuf;

use weld_digest::Digest;
use weld_fileset::WalkError;
use weld_source::reference::ParseReferenceError;
use weld_source::registry::RegistryError;
use weld_store::snapshot::SnapshotError;
use weld_store::{BlobError, SpaceError};

use crate::{AttestationError, ConfigError, OptionError, checked};

/// Why a result was not exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// An attribute cannot be used.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// A name of the image is none.
    #[error("output type={kind}: name {name:?}: {source}")]
    Name {
        /// The exporter.
        kind: &'static str,
        /// The name.
        name: String,
        /// What is wrong with it.
        source: Box<ParseReferenceError>,
    },
    /// There is nowhere to push to.
    #[error("output type={kind}: push needs a name (name=REGISTRY/REPOSITORY:TAG)")]
    NoName {
        /// The exporter.
        kind: &'static str,
    },
    /// A tag and no tag were asked for at once.
    #[error("output type={kind}: {name} has a tag or digest, which push-by-digest excludes")]
    TaggedByDigest {
        /// The exporter.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// This kind of result goes elsewhere.
    #[error("output type={kind}: needs {needs} as its destination")]
    Target {
        /// The exporter.
        kind: &'static str,
        /// What it needs.
        needs: &'static str,
    },
    /// An archive would garble a terminal.
    #[error("output type={kind}: dest=FILE is needed; an archive is not written to a terminal")]
    Terminal {
        /// The exporter.
        kind: &'static str,
    },
    /// Docker's archives hold one image.
    #[error(
        "output type=docker: cannot hold images for several platforms ({platforms}); use type=oci"
    )]
    SeveralPlatforms {
        /// The platforms that were built.
        platforms: String,
    },
    /// An annotation is for an index, and there is none.
    #[error("annotation {key:?}: an image for one platform has no index")]
    NoIndex {
        /// The annotation.
        key: String,
    },
    /// A layer could not be read or made.
    #[error("{platform}: {source}")]
    Layer {
        /// Of which image.
        platform: String,
        /// What went wrong.
        source: Box<SnapshotError>,
    },
    /// A layer's blob is not here.
    #[error(
        "{platform}: the blob of layer {digest} is not in the store: weld store check --repair drops what is made of it, and the next build makes it again"
    )]
    LayerGone {
        /// Of which image.
        platform: String,
        /// The blob.
        digest: Digest,
    },
    /// The image's config cannot be completed.
    #[error("{platform}: {source}")]
    Config {
        /// Of which image.
        platform: String,
        /// What is wrong with it.
        source: ConfigError,
    },
    /// A document of the image could not be encoded.
    #[error("cannot encode the image's {what}: {source}")]
    Encode {
        /// Which document.
        what: &'static str,
        /// Why.
        source: serde_json::Error,
    },
    /// A blob of the image could not be kept or read.
    #[error("cannot {action} the image's {what}: {source}")]
    Blob {
        /// What was tried.
        action: &'static str,
        /// With what.
        what: &'static str,
        /// Why it failed.
        source: Box<BlobError>,
    },
    /// It could not be pushed.
    #[error("failed to push {name}: {source}")]
    Push {
        /// The image's name.
        name: String,
        /// What failed.
        source: Box<RegistryError>,
    },
    /// The result's files could not be looked at.
    #[error("{platform}: the files of the result: {source}")]
    Tree {
        /// Of which result.
        platform: String,
        /// What failed.
        source: Box<SnapshotError>,
    },
    /// The result's files could not be listed.
    #[error("{platform}: the files of the result: {source}")]
    Walk {
        /// Of which result.
        platform: String,
        /// What failed.
        source: WalkError,
    },
    /// Two platforms have the same file, and no directories of their own.
    #[error(
        "cannot overwrite {} from {first} with {second} when split option is disabled: use platform-split=true or other names",
        path.display()
    )]
    Overwrite {
        /// The file.
        path: PathBuf,
        /// The platform that has it.
        first: String,
        /// The platform that has it too.
        second: String,
    },
    /// A file of the result could not be read.
    #[error("cannot {action} {path:?} of the result: {source}")]
    Read {
        /// What was tried.
        action: &'static str,
        /// Where in the result.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file or directory could not be written.
    #[error("cannot {action} {path}: {source}", path = .path.display())]
    Write {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What is to be said of the result cannot be.
    #[error("{platform}: {source}")]
    Attestation {
        /// Of which result.
        platform: String,
        /// Why.
        source: Box<AttestationError>,
    },
    /// Docker's media types have no attestations.
    #[error("cannot export attestations with \"oci-mediatypes=false\"")]
    AttestationTypes,
    /// The client did not take it.
    #[error("cannot send the result to the client: {source}")]
    Client {
        /// Why.
        source: io::Error,
    },
    /// Deleting what is not in the result would delete the machine's files.
    #[error("output type=local: mode=delete is refused for {path}", path = .0.display())]
    DeleteRoot(PathBuf),
    /// A blob was not what its digest says. It is dropped now.
    #[error(
        "{source}: blob {digest} was damaged in the store, and is dropped: build again, and it is fetched or made anew"
    )]
    Damaged {
        /// The first such blob.
        digest: Digest,
        /// How it was noticed.
        source: Box<ExportError>,
    },
    /// It does not fit on the disk that it shares with the store, and no more room can be made there.
    #[error("{met}: {shortage}")]
    Full {
        /// What met with that.
        met: Box<ExportError>,
        /// Why there is no room.
        #[source]
        shortage: SpaceError,
    },
    /// The export was cancelled.
    #[error("the export was cancelled")]
    Cancelled,
}

impl ExportError {
    /// Whether there was no room for it, where it was written or in the store.
    pub fn is_full_disk(&self) -> bool {
        let met = |error: &(dyn std::error::Error + 'static)| {
            let kind = error.downcast_ref().map(io::Error::kind);
            matches!(
                kind,
                Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            )
        };
        self.says_why_full() || checked::causes(self).any(met)
    }

    /// Whether it says who has the room that it lacked; otherwise it is what the system says.
    pub fn says_why_full(&self) -> bool {
        let says = |error: &(dyn std::error::Error + 'static)| {
            error.is::<SpaceError>() || error.is::<Box<SpaceError>>()
        };
        checked::causes(self).any(says)
    }

    /// Whether no result could ever be exported as it was asked for.
    pub const fn is_request_error(&self) -> bool {
        matches!(
            self,
            Self::Option(_)
                | Self::Name { .. }
                | Self::NoName { .. }
                | Self::TaggedByDigest { .. }
                | Self::Target { .. }
                | Self::Terminal { .. }
                | Self::DeleteRoot(_)
        )
    }
}

/// For `map_err`: a failure to write.
pub(crate) fn write_error(
    action: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> ExportError {
    let path = path.into();
    move |source| ExportError::Write {
        action,
        path,
        source,
    }
}

/// For `map_err`: a failure to read a file of the result.
pub(crate) fn read_error(
    action: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> ExportError {
    let path = path.into();
    move |source| ExportError::Read {
        action,
        path,
        source,
    }
}
