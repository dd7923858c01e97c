//! OCI image layouts: directories of blobs with an index of the images in it.
//!
//! The whole is read-only here. Paths are made of digests, and files are opened beneath the
//! layout's directory, through no symbolic link that leads out of it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use serde::Deserialize;
use tokio::io::AsyncRead;
use weld_digest::{Digest, Hasher};

use crate::image::{
    ANNOTATION_REF_NAME, Descriptor, Document, DocumentError, Index, MAX_MANIFEST, Served,
    media_type,
};
use crate::reference::Reference;

/// The annotation in which containerd and docker keep an image's full name.
const ANNOTATION_IMAGE_NAME: &str = "io.containerd.image.name";

/// How many manifests of a layout are looked at for what they refer to.
const MAX_LISTED: usize = 1000;

/// An OCI image layout on disk.
#[derive(Debug)]
pub struct OciLayout {
    root: OwnedFd,
    path: PathBuf,
}

/// The blobs of a layout that is not on this machine.
#[async_trait]
pub trait BlobProvider: Send + Sync + 'static {
    /// What tells the layout from others, for people too.
    fn name(&self) -> &str;

    /// The content of a blob, not verified.
    ///
    /// # Errors
    /// What opening meets.
    async fn open(&self, digest: &Digest) -> io::Result<Box<dyn AsyncRead + Send + Unpin>>;
}

/// Which image of a layout is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// The only one.
    Only,
    /// The one that the index lists under this tag.
    Tag(String),
    /// The one of this digest, listed or not.
    Digest(Digest),
}

/// Why a layout does not give an image.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// There is no layout.
    #[error("{path} is not an OCI image layout: {reason}", path = path.display())]
    NotALayout {
        /// The directory.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A file cannot be read.
    #[error("cannot read {file} of the OCI layout {path}: {source}", path = path.display())]
    Read {
        /// The layout.
        path: PathBuf,
        /// The file in it.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// A document is none of an image.
    #[error("{file} of the OCI layout {path}: {source}", path = path.display())]
    Document {
        /// The layout.
        path: PathBuf,
        /// The file in it.
        file: String,
        /// Why.
        source: DocumentError,
    },
    /// A file is not what its digest says, or not of the stated size.
    #[error("blob {digest} of the OCI layout {path} is damaged: {reason}", path = path.display())]
    Damaged {
        /// The layout.
        path: PathBuf,
        /// The blob.
        digest: Digest,
        /// What is wrong.
        reason: String,
    },
    /// A layout that a client serves has no index to look a tag up in.
    #[error("an image of the client's OCI layout {0} must be named by its digest")]
    NoDigest(String),
    /// The wanted tag is not there.
    #[error("the OCI layout {path} has no image {tag:?}; it has {}", list(.available), path = path.display())]
    NoTag {
        /// The layout.
        path: PathBuf,
        /// What was wanted.
        tag: String,
        /// What is there.
        available: Vec<String>,
    },
    /// There are several images, or none, where one was expected.
    #[error(
        "the OCI layout {path} has {count} images ({}): name one by tag or digest",
        list(.available), path = path.display()
    )]
    NotOne {
        /// The layout.
        path: PathBuf,
        /// How many there are.
        count: usize,
        /// Their names.
        available: Vec<String>,
    },
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names.join(", ")
}

impl LayoutError {
    /// The same for who reads and writes: [`io::ErrorKind::InvalidData`] if what is there is not what it should be.
    pub(crate) fn into_io(self) -> io::Error {
        let kind = match &self {
            Self::Document { .. } | Self::Damaged { .. } => io::ErrorKind::InvalidData,
            Self::Read { source, .. } => source.kind(),
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, self)
    }
}

impl Selector {
    /// What a reference selects in a layout: its digest, else its tag, else the only image.
    pub fn of(reference: &Reference) -> Self {
        match (reference.digest(), reference.tag()) {
            (Some(digest), _) => Self::Digest(digest.clone()),
            (None, Some(tag)) => Self::Tag(tag.to_owned()),
            (None, None) => Self::Only,
        }
    }
}

impl OciLayout {
    /// Opens the layout at `path`.
    ///
    /// # Errors
    /// [`LayoutError::NotALayout`].
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, LayoutError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Marker {
            image_layout_version: String,
        }
        let layout = Self::of_blobs(path)?;
        let no_layout = |reason: String| LayoutError::NotALayout {
            path: layout.path.clone(),
            reason,
        };
        let marker = layout
            .read("oci-layout", 4096)
            .map_err(|error| match error {
                LayoutError::Read { source, .. } => no_layout(format!("oci-layout: {source}")),
                other => other,
            })?;
        let marker: Marker = serde_json::from_slice(&marker)
            .map_err(|error| no_layout(format!("oci-layout: {error}")))?;
        match marker.image_layout_version.split('.').next() {
            Some("1") => Ok(layout),
            _ => Err(no_layout(format!(
                "its version {:?} is not supported",
                marker.image_layout_version
            ))),
        }
    }

    /// Opens a directory that has the blobs of a layout, but need not have its index: a store's.
    ///
    /// # Errors
    /// [`LayoutError::NotALayout`] if it is no directory.
    pub fn of_blobs(path: impl Into<PathBuf>) -> Result<Self, LayoutError> {
        let path = path.into();
        Self::open_blobs(&path).map_err(|error| LayoutError::NotALayout {
            reason: error.to_string(),
            path,
        })
    }

    /// The same; `None` if there is no such directory.
    ///
    /// # Errors
    /// As [`OciLayout::of_blobs`].
    pub fn of_blobs_if_there(path: &Path) -> Result<Option<Self>, LayoutError> {
        match Self::open_blobs(path) {
            Ok(layout) => Ok(Some(layout)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(LayoutError::NotALayout {
                reason: error.to_string(),
                path: path.to_owned(),
            }),
        }
    }

    fn open_blobs(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            root: rustix::fs::open(path, flags, Mode::empty())?,
            path: path.to_owned(),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the layout lists.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub fn index(&self) -> Result<Index, LayoutError> {
        const FILE: &str = "index.json";
        let bytes = self.read(FILE, MAX_MANIFEST)?;
        let document = Document::parse(&bytes, media_type::OCI_INDEX);
        match document.map_err(|source| self.bad_document(FILE.to_owned(), source))? {
            Document::Index(index) => Ok(*index),
            Document::Manifest(manifest) => Err(self.bad_document(
                FILE.to_owned(),
                DocumentError::MediaType(manifest.media_type),
            )),
        }
    }

    /// The manifest or index of an image, verified.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub fn resolve(&self, selector: &Selector) -> Result<Served, LayoutError> {
        match selector {
            Selector::Digest(digest) => {
                let listed = self.index().ok().and_then(|index| {
                    let mut manifests = index.manifests.into_iter();
                    manifests.find(|entry| entry.digest == *digest)
                });
                match listed {
                    Some(descriptor) => self.document(&descriptor),
                    None => self.unlisted(digest),
                }
            }
            Selector::Tag(tag) => {
                let index = self.index()?;
                let entry = index.manifests.iter().find(|entry| is_named(entry, tag));
                let entry = entry.ok_or_else(|| LayoutError::NoTag {
                    path: self.path.clone(),
                    tag: tag.clone(),
                    available: names(&index),
                })?;
                self.document(entry)
            }
            Selector::Only => {
                let index = self.index()?;
                let images: Vec<_> = index
                    .manifests
                    .iter()
                    .filter(|entry| !entry.is_attestation())
                    .collect();
                match images.as_slice() {
                    [only] => self.document(only),
                    // Tools list an image once for each of its names.
                    [first, rest @ ..] if rest.iter().all(|entry| entry.digest == first.digest) => {
                        self.document(first)
                    }
                    _ => Err(LayoutError::NotOne {
                        path: self.path.clone(),
                        count: images.len(),
                        available: names(&index),
                    }),
                }
            }
        }
    }

    /// The manifests that the layout lists and that have `subject` as their subject, each with the type of what it is.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>, LayoutError> {
        let mut referrers = Vec::new();
        let listed = self.index()?.manifests;
        for mut entry in listed.into_iter().take(MAX_LISTED) {
            // What it lists and does not have refers to nothing that could be read.
            if self.find_blob(&entry.digest)?.is_none() {
                continue;
            }
            let Document::Manifest(manifest) = self.document(&entry)?.document else {
                continue;
            };
            let refers = |other: &Descriptor| other.digest == *subject;
            if manifest.subject.as_ref().is_some_and(refers) {
                let own = manifest.artifact_type;
                entry.artifact_type = own.or(Some(manifest.config.media_type));
                referrers.push(entry);
            }
        }
        Ok(referrers)
    }

    /// The manifest or index that a descriptor names, verified.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub fn document(&self, descriptor: &Descriptor) -> Result<Served, LayoutError> {
        let bytes = self.bytes(descriptor, MAX_MANIFEST)?;
        self.parse(&descriptor.digest, bytes, &descriptor.media_type)
    }

    /// A blob in memory, verified.
    ///
    /// # Errors
    /// [`LayoutError`], also if it is larger than `limit` bytes.
    pub fn bytes(&self, descriptor: &Descriptor, limit: u64) -> Result<Bytes, LayoutError> {
        let bytes = self.read(&blob_path(&descriptor.digest), limit)?;
        if bytes.len() as u64 != descriptor.size {
            return Err(self.damaged(
                &descriptor.digest,
                format!(
                    "it has {} bytes instead of {}",
                    bytes.len(),
                    descriptor.size
                ),
            ));
        }
        self.verify(&descriptor.digest, &bytes)?;
        Ok(bytes)
    }

    /// A blob's file, of the stated size but not verified: whoever copies it should digest it on
    /// the way.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub fn file(&self, descriptor: &Descriptor) -> Result<File, LayoutError> {
        let file = self.blob(&descriptor.digest)?;
        let length = file
            .metadata()
            .map_err(|source| self.unreadable(&blob_path(&descriptor.digest), source))?
            .len();
        if length != descriptor.size {
            return Err(self.damaged(
                &descriptor.digest,
                format!("it has {length} bytes instead of {}", descriptor.size),
            ));
        }
        Ok(file)
    }

    /// A blob's file and length, not verified; `None` if there is none.
    ///
    /// # Errors
    /// [`LayoutError::Read`].
    pub fn find_blob(&self, digest: &Digest) -> Result<Option<(File, u64)>, LayoutError> {
        let path = blob_path(digest);
        let opened = self.open_file(&path).and_then(|file| {
            let length = file.metadata()?.len();
            Ok((file, length))
        });
        match opened {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(self.unreadable(&path, source)),
        }
    }

    /// As [`file`](Self::file), of a blob of which only the digest is known.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub fn blob(&self, digest: &Digest) -> Result<File, LayoutError> {
        let path = blob_path(digest);
        self.open_file(&path)
            .map_err(|source| self.unreadable(&path, source))
    }

    fn unlisted(&self, digest: &Digest) -> Result<Served, LayoutError> {
        let bytes = self.read(&blob_path(digest), MAX_MANIFEST)?;
        self.verify(digest, &bytes)?;
        self.parse(digest, bytes, "")
    }

    fn parse(&self, digest: &Digest, bytes: Bytes, kind: &str) -> Result<Served, LayoutError> {
        let document = Document::parse(&bytes, kind)
            .map_err(|source| self.bad_document(blob_path(digest), source))?;
        let size = bytes.len() as u64;
        Ok(Served {
            descriptor: Descriptor::new(document.media_type(), digest.clone(), size),
            bytes,
            document,
        })
    }

    fn verify(&self, digest: &Digest, bytes: &[u8]) -> Result<(), LayoutError> {
        let mut hasher = Hasher::new(digest.algorithm());
        hasher.update(bytes);
        let actual = hasher.finish();
        if actual == *digest {
            return Ok(());
        }
        Err(self.damaged(digest, format!("its content has digest {actual}")))
    }

    fn read(&self, file: &str, limit: u64) -> Result<Bytes, LayoutError> {
        let read = self.open_file(file).and_then(|opened| {
            let mut bytes = Vec::new();
            opened
                .take(limit.saturating_add(1))
                .read_to_end(&mut bytes)?;
            Ok(bytes)
        });
        let bytes = read.map_err(|source| self.unreadable(file, source))?;
        if bytes.len() as u64 > limit {
            let source = io::Error::other(format!("it is larger than {limit} bytes"));
            return Err(self.unreadable(file, source));
        }
        Ok(bytes.into())
    }

    fn open_file(&self, file: &str) -> io::Result<File> {
        // Tools may link blobs to each other, but only within the layout.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let odd = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
        let opened = rustix::fs::openat2(self.root.as_fd(), file, flags, Mode::empty(), resolve);
        let file = match opened {
            Ok(file) => File::from(file),
            Err(Errno::XDEV) => return Err(odd("it is a link that leads out of the layout")),
            Err(Errno::LOOP) => return Err(odd("it is a link that leads to itself")),
            Err(Errno::NXIO) => return Err(odd("it is no file")),
            Err(errno) => return Err(errno.into()),
        };
        let metadata = file.metadata()?;
        match (metadata.is_file(), metadata.is_dir()) {
            (true, _) => Ok(file),
            (_, true) => Err(odd("it is a directory, and no file")),
            _ => Err(odd("it is no file")),
        }
    }

    fn unreadable(&self, file: &str, source: io::Error) -> LayoutError {
        LayoutError::Read {
            path: self.path.clone(),
            file: file.to_owned(),
            source,
        }
    }

    fn bad_document(&self, file: String, source: DocumentError) -> LayoutError {
        LayoutError::Document {
            path: self.path.clone(),
            file,
            source,
        }
    }

    fn damaged(&self, digest: &Digest, reason: String) -> LayoutError {
        LayoutError::Damaged {
            path: self.path.clone(),
            digest: digest.clone(),
            reason,
        }
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

/// Whether an entry has this tag: by itself, or at the end of a full name.
fn is_named(entry: &Descriptor, tag: &str) -> bool {
    let annotation = |name: &str| entry.annotations.get(name);
    let is_tag_of = |name: &String| {
        let reference = name.parse::<Reference>().ok();
        reference.is_some_and(|reference| reference.tag() == Some(tag))
    };
    annotation(ANNOTATION_REF_NAME).is_some_and(|name| name == tag || is_tag_of(name))
        || annotation(ANNOTATION_IMAGE_NAME).is_some_and(is_tag_of)
}

fn names(index: &Index) -> Vec<String> {
    let images = index
        .manifests
        .iter()
        .filter(|entry| !entry.is_attestation());
    images
        .map(|entry| match entry.annotations.get(ANNOTATION_REF_NAME) {
            Some(name) => name.clone(),
            None => entry.digest.to_string(),
        })
        .collect()
}
