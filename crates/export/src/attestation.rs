//! Statements on a result (in-toto attestations): what they say, what they are about, and how they
//! are read from where a build left them.

mod bundle;
mod sbom;
mod statement;

use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use weld_digest::Digest;
use weld_store::snapshot::{SnapshotError, SnapshotRef};

use crate::blocking::blocking;

pub(crate) use sbom::LayerFiles;
pub(crate) use statement::{StatedSubject, statement};

/// The type of the predicate that lists what is in a result, in SPDX's form.
pub const SPDX: &str = "https://spdx.dev/Document";
/// What the types of all versions of provenance begin with.
const PROVENANCE_PREFIX: &str = "https://slsa.dev/provenance/";
/// The largest predicate or statement, in bytes.
const MAX_CONTENT: u64 = 40 << 20;
/// The most statements of one bundle.
const MAX_STATEMENTS: usize = 1000;

/// A statement on a result, or a directory of them.
#[derive(Clone, Debug)]
pub struct Attestation {
    /// What it is.
    pub kind: AttestationKind,
    /// The type of the in-toto predicate; of a bundle's statements, if all have to have it.
    pub predicate_type: String,
    /// The file or directory in its content; what a file is called that it is written to.
    pub path: String,
    /// What it is about; the result if there is nothing.
    pub subjects: Vec<Subject>,
    /// What it says.
    pub content: AttestationContent,
    /// Whether it is left out where a result would get an index, or files, for its sake alone.
    pub inline_only: bool,
    /// The name of the file that lists the result itself, beside those on what it was made of.
    pub sbom_core: Option<String>,
}

/// What an attestation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttestationKind {
    /// An in-toto predicate.
    InToto,
    /// A directory of in-toto statements.
    Bundle,
}

/// What an attestation is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The result itself, maybe under a name.
    Result {
        /// The name; empty for none.
        name: String,
    },
    /// Something else.
    Named {
        /// Its name.
        name: String,
        /// Its digests.
        digests: Vec<Digest>,
    },
}

/// Where an attestation's content is.
#[derive(Clone)]
pub enum AttestationContent {
    /// In the files of a result; `None` for a result without files.
    Files(Option<SnapshotRef>),
    /// With the engine, which says it when the layers of the result are made.
    Predicate(Arc<dyn Predicate>),
}

impl fmt::Debug for AttestationContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Files(_) => "Files",
            Self::Predicate(_) => "Predicate",
        })
    }
}

/// A predicate that is made when it is asked for.
#[async_trait]
pub trait Predicate: Send + Sync + 'static {
    /// The predicate, as JSON.
    ///
    /// # Errors
    /// Why it cannot be made.
    async fn content(&self) -> Result<Bytes, Box<dyn Error + Send + Sync>>;
}

/// Why an attestation cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum AttestationError {
    /// Nothing says what its file is called.
    #[error("attestation does not have set path")]
    NoPath,
    /// Only the engine says how a result was made.
    #[error("frontend may not set provenance attestations")]
    Provenance,
    /// The same, within a bundle.
    #[error("frontend may not bundle provenance attestations")]
    BundledProvenance,
    /// A statement is not of the type that its bundle is of.
    #[error("bundle entry {found} does not match required predicate type {required}")]
    PredicateType {
        /// The statement's type.
        found: String,
        /// The bundle's.
        required: String,
    },
    /// It cannot be read.
    #[error("cannot read attestation {path}: {source}")]
    Read {
        /// Where in the result.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The files that hold it cannot be opened.
    #[error("cannot open the files of attestation {path}: {source}")]
    Files {
        /// Where in the result.
        path: String,
        /// Why.
        source: Box<SnapshotError>,
    },
    /// It is larger than anybody would read.
    #[error("{path} exceeds {MAX_CONTENT} bytes")]
    TooLarge {
        /// Where in the result.
        path: String,
    },
    /// There are more statements than anybody would read.
    #[error("{path} has more than {MAX_STATEMENTS} statements")]
    TooMany {
        /// Where in the result.
        path: String,
    },
    /// It is not JSON, or no statement.
    #[error("cannot decode attestation {path}: {source}")]
    Decode {
        /// Where in the result.
        path: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// Two attestations would be one file.
    #[error("duplicate attestation path name {0}")]
    Duplicate(String),
    /// The engine cannot make it.
    #[error("cannot make attestation {path}: {source}")]
    Predicate {
        /// What it is called.
        path: String,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// What the engine made of it is none.
    #[error("cannot encode attestation: {0}")]
    Encode(serde_json::Error),
}

/// An attestation that was read.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    pub(crate) path: String,
    pub(crate) predicate_type: String,
    pub(crate) subjects: Vec<Subject>,
    /// The predicate, as JSON.
    pub(crate) predicate: Bytes,
    sbom_core: Option<String>,
}

impl Loaded {
    /// Whether it lists what is in the result itself.
    pub(crate) fn is_core(&self) -> bool {
        let stem = self.file_name().split('.').next();
        self.sbom_core.is_some() && self.sbom_core.as_deref() == stem
    }

    /// The last part of its path.
    pub(crate) fn file_name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

/// Whether any of them is told where a result would get an index, or files, for its sake.
pub(crate) fn any(attestations: &[Attestation], inline: bool) -> bool {
    attestations.iter().any(|one| inline || !one.inline_only)
}

/// Reads all attestations of one result, each statement of a bundle for itself, what is about the
/// result itself before what is about its origins. `inline`: also those that are
/// [`Attestation::inline_only`].
pub(crate) async fn load(
    attestations: &[Attestation],
    inline: bool,
) -> Result<Vec<Loaded>, AttestationError> {
    let mut loaded = Vec::new();
    for attestation in attestations {
        if attestation.inline_only && !inline {
            continue;
        }
        match (attestation.kind, &attestation.content) {
            (AttestationKind::Bundle, AttestationContent::Predicate(_)) => {
                return Err(AttestationError::NoPath);
            }
            (AttestationKind::InToto, _) if attestation.path.is_empty() => {
                return Err(AttestationError::NoPath);
            }
            (AttestationKind::Bundle, AttestationContent::Files(files)) => {
                let (bundle, files) = (attestation.clone(), files.clone());
                loaded.extend(blocking(move || bundle::read(&bundle, files.as_ref())).await?);
            }
            (AttestationKind::InToto, content) => {
                loaded.push(load_one(attestation, content).await?);
            }
        }
    }
    loaded.sort_by_key(|one| !one.is_core());
    Ok(loaded)
}

async fn load_one(
    attestation: &Attestation,
    content: &AttestationContent,
) -> Result<Loaded, AttestationError> {
    let path = &attestation.path;
    let predicate = match content {
        AttestationContent::Predicate(predicate) => {
            let made = predicate.content().await;
            made.map_err(|source| AttestationError::Predicate {
                path: path.clone(),
                source,
            })?
        }
        AttestationContent::Files(_)
            if attestation.predicate_type.starts_with(PROVENANCE_PREFIX) =>
        {
            return Err(AttestationError::Provenance);
        }
        AttestationContent::Files(files) => {
            let (path, files) = (path.clone(), files.clone());
            blocking(move || {
                let root = open_root(files.as_ref(), &path)?;
                read_file(root.as_fd(), &path)
            })
            .await?
            .into()
        }
    };
    Ok(Loaded {
        path: path.clone(),
        predicate_type: attestation.predicate_type.clone(),
        subjects: attestation.subjects.clone(),
        predicate,
        sbom_core: attestation.sbom_core.clone(),
    })
}

fn open_root(files: Option<&SnapshotRef>, path: &str) -> Result<File, AttestationError> {
    let files = files.ok_or_else(|| AttestationError::Read {
        path: path.to_owned(),
        source: io::ErrorKind::NotFound.into(),
    })?;
    let root = files.root().map_err(|source| AttestationError::Files {
        path: path.to_owned(),
        source: Box::new(source),
    })?;
    Ok(File::from(root))
}

/// Opens what is at a path beneath a root; links lead nowhere else.
fn open_in(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> io::Result<File> {
    let path = match path.trim_start_matches('/') {
        "" => ".",
        path => path,
    };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let opened = rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)?;
    Ok(File::from(opened))
}

fn read_file(root: BorrowedFd<'_>, path: &str) -> Result<Vec<u8>, AttestationError> {
    let failed = |source| AttestationError::Read {
        path: path.to_owned(),
        source,
    };
    let file = open_in(root, path, OFlags::empty()).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(failed(io::Error::other("it is not a regular file")));
    }
    let mut content = Vec::new();
    let mut limited = file.take(MAX_CONTENT + 1);
    limited.read_to_end(&mut content).map_err(failed)?;
    match content.len() as u64 > MAX_CONTENT {
        true => Err(AttestationError::TooLarge {
            path: path.to_owned(),
        }),
        false => Ok(content),
    }
}
