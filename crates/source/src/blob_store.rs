//! Stores of blobs that can also be written to: where a client keeps a build cache.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use tokio::io::{AsyncRead, ReadBuf};
use weld_digest::{Digest, Hasher};

use crate::image::{ANNOTATION_REF_NAME, Descriptor, Index, media_type};
use crate::index_lock::{IndexLock, LockWait, at};
use crate::oci_layout::{BlobProvider, LayoutError, OciLayout};
use crate::partial::partial_name;
use crate::set_aside::{make_directory, put_aside};

/// A store of blobs that takes more of them.
#[async_trait]
pub trait BlobStore: BlobProvider {
    /// The length of a blob, in bytes; `None` if it is not there.
    ///
    /// # Errors
    /// What asking meets.
    async fn size(&self, digest: &Digest) -> io::Result<Option<u64>>;

    /// Whether it has a blob of this digest and length.
    ///
    /// # Errors
    /// What asking meets.
    async fn has(&self, digest: &Digest, size: u64) -> io::Result<bool> {
        Ok(self.size(digest).await? == Some(size))
    }

    /// Takes the content of `file`, of this digest and length, unless it is there.
    ///
    /// # Errors
    /// What reading and writing meet; the store then has nothing new. [`io::ErrorKind::ResourceBusy`] if it is somebody else's to
    /// write, who does not.
    async fn put(&self, digest: &Digest, size: u64, file: &Path) -> io::Result<()>;
}

/// An OCI layout in a directory of this machine, as a store.
///
/// A blob that is another than its digest says counts as not there, so that it is written anew; a large one once that was found by reading it.
#[derive(Clone, Debug)]
pub struct LayoutStore {
    path: PathBuf,
    name: String,
    /// Blobs whose content is not what their digest says.
    damaged: Noted,
    /// Blobs that were compared with their digests.
    compared: Noted,
}

/// Blobs of a layout that have something in common, for as long as somebody has the layout.
#[derive(Clone, Debug, Default)]
struct Noted(Arc<Mutex<HashSet<Digest>>>);

impl Noted {
    /// Most that are remembered.
    const MOST: usize = 10_000;

    fn all(&self) -> std::sync::MutexGuard<'_, HashSet<Digest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, digest: &Digest) {
        let mut all = self.all();
        if all.len() < Self::MOST {
            all.insert(digest.clone());
        }
    }

    fn has(&self, digest: &Digest) -> bool {
        self.all().contains(digest)
    }

    fn remove(&self, digest: &Digest) {
        self.all().remove(digest);
    }
}

impl LayoutStore {
    /// The layout at `path`, which need not be there yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self {
            name: path.display().to_string(),
            path,
            damaged: Noted::default(),
            compared: Noted::default(),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        let algorithm = self.path.join("blobs").join(digest.algorithm().name());
        algorithm.join(digest.hex())
    }

    /// A blob's file and length, not verified; `None` if there is none.
    ///
    /// # Errors
    /// What opening meets.
    pub fn find(&self, digest: &Digest) -> io::Result<Option<(File, u64)>> {
        // Asked once whether it is there: others may be about to write the first blob.
        match OciLayout::of_blobs_if_there(&self.path) {
            Ok(Some(layout)) => layout.find_blob(digest).map_err(LayoutError::into_io),
            Ok(None) => Ok(None),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// Whether it has a blob of this digest and length that another wrote. A small one is compared with its digest, unless that was done
    /// before; `left` says how many bytes may be read for that, and is reduced by it.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] if what is there is another than its digest says, or what reading meets.
    pub fn has_of_others(&self, digest: &Digest, size: u64, left: &mut u64) -> io::Result<bool> {
        let found = self.find(digest)?;
        if found.is_none_or(|(_, length)| length != size) {
            return Ok(false);
        }
        let is_looked_at = size <= LOOKED_AT && size <= *left && !self.compared.has(digest);
        if is_looked_at {
            *left -= size;
            self.sound(digest)?;
        }
        match self.damaged.has(digest) {
            true => {
                let reason = format!("blob {digest} is damaged");
                Err(io::Error::new(io::ErrorKind::InvalidData, reason))
            }
            false => Ok(true),
        }
    }

    /// Starts to write a blob. It is there when [`LayoutWriter::commit`] says so, and not before.
    ///
    /// # Errors
    /// What making files meets.
    pub fn write(&self, digest: &Digest) -> io::Result<LayoutWriter> {
        let algorithm = digest.algorithm().name();
        for directory in ["blobs", &format!("blobs/{algorithm}"), "ingest"] {
            make_directory(&self.path, &self.path.join(directory))?;
        }
        let partial = self.path.join("ingest").join(partial_name());
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&partial)
            .map_err(at("create", &partial))?;
        Ok(LayoutWriter {
            file,
            partial: Some(partial),
            store: self.clone(),
            hasher: Hasher::new(digest.algorithm()),
            expected: digest.clone(),
            length: 0,
        })
    }

    /// What the index lists under a tag; `None` if nothing.
    ///
    /// # Errors
    /// What reading meets, also if it is no index.
    pub fn tagged(&self, tag: &str) -> io::Result<Option<Descriptor>> {
        Ok(under(&self.index()?, tag).cloned())
    }

    /// Lists a manifest under a tag, in place of what was listed under it. An index that is none is set aside.
    ///
    /// # Errors
    /// What reading and writing meet.
    pub fn tag(
        &self,
        tag: &str,
        descriptor: Descriptor,
        wait: &dyn LockWait,
    ) -> io::Result<Option<SetAside>> {
        self.retag(tag, wait, |_| Ok(descriptor))
    }

    /// The same, where what is listed depends on what was; nobody else changes the index meanwhile.
    ///
    /// # Errors
    /// What reading and writing meet, or `choose`.
    pub fn retag(
        &self,
        tag: &str,
        wait: &dyn LockWait,
        choose: impl FnOnce(Option<Descriptor>) -> io::Result<Descriptor>,
    ) -> io::Result<Option<SetAside>> {
        fs::create_dir_all(&self.path)?;
        let _lock = IndexLock::take(&self.path, wait)?;
        let marker = self.path.join("oci-layout");
        let is_marked = |file: fs::Metadata| file.is_file() && file.len() > 0;
        if !fs::metadata(&marker).is_ok_and(is_marked) {
            self.replace(&marker, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        let (mut index, aside) = match self.index() {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                (empty_index(), Some(self.set_aside(error)?))
            }
            index => (index?, None),
        };
        let mut descriptor = choose(under(&index, tag).cloned())?;
        index.manifests.retain(|entry| {
            match entry.annotations.get(ANNOTATION_REF_NAME) {
                // One manifest may have several tags.
                Some(name) => name != tag,
                None => entry.digest != descriptor.digest,
            }
        });
        descriptor
            .annotations
            .insert(ANNOTATION_REF_NAME.to_owned(), tag.to_owned());
        index.manifests.push(descriptor);
        let encoded = serde_json::to_vec(&index)?;
        self.replace(&self.path.join(INDEX), &encoded)?;
        Ok(aside)
    }

    /// Writes a small file of it, whole or not at all.
    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let partial = self.path.join(partial_name());
        fs::write(&partial, content).map_err(at("write", &partial))?;
        self.place(&partial, path)
    }

    /// Puts a file in its place, in which there may be something else.
    fn place(&self, partial: &Path, path: &Path) -> io::Result<()> {
        match fs::rename(partial, path) {
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                put_aside(&self.path, path)?;
                fs::rename(partial, path)
            }
            renamed => renamed,
        }
        .map_err(at("write", path))
    }

    /// What is listed; [`io::ErrorKind::InvalidData`] if the index is none.
    fn index(&self) -> io::Result<Index> {
        let read = match OciLayout::of_blobs_if_there(&self.path) {
            Ok(Some(layout)) => layout.index().map_err(LayoutError::into_io),
            Ok(None) => Ok(empty_index()),
            Err(error) => Err(io::Error::other(error)),
        };
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(empty_index()),
            read => read,
        }
    }

    fn set_aside(&self, reason: io::Error) -> io::Result<SetAside> {
        let path = put_aside(&self.path, &self.path.join(INDEX))?;
        Ok(SetAside { path, reason })
    }

    /// The length of a blob that is there and not known to be damaged; a small one is looked at.
    fn sound(&self, digest: &Digest) -> io::Result<Option<u64>> {
        let (file, length) = match self.find(digest) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            // What is in its place, or in that of a directory above it, is no blob.
            Err(error) if is_odd(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        if !self.damaged.has(digest) && length <= LOOKED_AT {
            let mut hasher = Hasher::new(digest.algorithm());
            let mut content = Vec::new();
            // What cannot be read is of no use to anybody else either.
            let is_read = file.take(LOOKED_AT).read_to_end(&mut content).is_ok();
            hasher.update(&content);
            match is_read && hasher.finish() == *digest {
                true => self.compared.add(digest),
                false => self.damaged.add(digest),
            }
        }
        Ok((!self.damaged.has(digest)).then_some(length))
    }

    /// Copies a blob into it, unless it is there.
    fn copy(&self, digest: &Digest, size: u64, file: &Path) -> io::Result<()> {
        if self.sound(digest)? == Some(size) {
            return Ok(());
        }
        let mut source = File::open(file)?;
        let mut writer = self.write(digest)?;
        let mut piece = vec![0; 256 << 10];
        loop {
            match source.read(&mut piece)? {
                0 => break,
                count => writer.append(&piece[..count])?,
            }
        }
        writer.commit()?;
        self.damaged.remove(digest);
        Ok(())
    }
}

/// Whether what is somewhere is not what it should be.
fn is_odd(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::NotADirectory
    )
}

/// Longest blob, in bytes, of which the content is looked at before it counts as there: a longer one has its length until it is read.
const LOOKED_AT: u64 = 8 << 20;

/// The file of a layout that says what is in it.
const INDEX: &str = "index.json";

fn empty_index() -> Index {
    Index {
        schema_version: 2,
        media_type: media_type::OCI_INDEX.to_owned(),
        artifact_type: None,
        manifests: Vec::new(),
        subject: None,
        annotations: std::collections::BTreeMap::new(),
    }
}

/// What an index lists under a tag.
fn under<'i>(index: &'i Index, tag: &str) -> Option<&'i Descriptor> {
    index.manifests.iter().find(|entry| {
        let name = entry.annotations.get(ANNOTATION_REF_NAME);
        name.is_some_and(|name| name == tag)
    })
}

/// An index that was none, and what it listed is not known.
#[derive(Debug)]
pub struct SetAside {
    /// Where it is now.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: io::Error,
}

/// A blob that is read, and compared with its digest meanwhile.
struct Verifying {
    file: tokio::fs::File,
    hasher: Option<Hasher>,
    expected: Digest,
    damaged: Noted,
}

impl AsyncRead for Verifying {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.file).poll_read(context, buffer))?;
        let read = buffer.filled().get(before..).unwrap_or_default();
        if !read.is_empty() {
            if let Some(hasher) = &mut this.hasher {
                hasher.update(read);
            }
        } else if buffer.remaining() > 0
            && let Some(hasher) = this.hasher.take()
            && hasher.finish() != this.expected
        {
            this.damaged.add(&this.expected);
        }
        Poll::Ready(Ok(()))
    }
}

/// A blob on its way into a layout. Dropped before it is committed, it leaves nothing.
#[must_use = "the blob is not there before it is committed"]
pub struct LayoutWriter {
    file: File,
    partial: Option<PathBuf>,
    store: LayoutStore,
    hasher: Hasher,
    expected: Digest,
    length: u64,
}

impl LayoutWriter {
    /// How much was written, in bytes.
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Writes more.
    ///
    /// # Errors
    /// What writing meets.
    pub fn append(&mut self, piece: &[u8]) -> io::Result<()> {
        self.file.write_all(piece)?;
        self.hasher.update(piece);
        self.length += piece.len() as u64;
        Ok(())
    }

    /// Puts the blob in place.
    ///
    /// # Errors
    /// If its content is another than its digest says, or it cannot be put there.
    pub fn commit(mut self) -> io::Result<()> {
        let algorithm = self.expected.algorithm();
        let hasher = std::mem::replace(&mut self.hasher, Hasher::new(algorithm));
        let actual = hasher.finish();
        if actual != self.expected {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("blob {} came with digest {actual}", self.expected),
            ));
        }
        if let Some(partial) = &self.partial {
            self.store
                .place(partial, &self.store.blob(&self.expected))?;
            self.store.compared.add(&self.expected);
        }
        self.partial = None;
        Ok(())
    }
}

impl Drop for LayoutWriter {
    fn drop(&mut self) {
        if let Some(partial) = &self.partial
            && let Err(error) = fs::remove_file(partial)
        {
            tracing::warn!(path = %partial.display(), %error, "cannot remove a partial blob");
        }
    }
}

#[async_trait]
impl BlobProvider for LayoutStore {
    fn name(&self) -> &str {
        &self.name
    }

    async fn open(&self, digest: &Digest) -> io::Result<Box<dyn AsyncRead + Send + Unpin>> {
        let (store, wanted) = (self.clone(), digest.clone());
        let found = tokio::task::spawn_blocking(move || store.find(&wanted)).await??;
        match found {
            Some((file, _)) => Ok(Box::new(Verifying {
                file: tokio::fs::File::from_std(file),
                hasher: Some(Hasher::new(digest.algorithm())),
                expected: digest.clone(),
                damaged: self.damaged.clone(),
            })),
            None => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("{} has no blob {digest}", self.name),
            )),
        }
    }
}

#[async_trait]
impl BlobStore for LayoutStore {
    async fn size(&self, digest: &Digest) -> io::Result<Option<u64>> {
        let (store, wanted) = (self.clone(), digest.clone());
        tokio::task::spawn_blocking(move || store.sound(&wanted)).await?
    }

    async fn put(&self, digest: &Digest, size: u64, file: &Path) -> io::Result<()> {
        let (store, digest) = (self.clone(), digest.clone());
        let file = file.to_owned();
        tokio::task::spawn_blocking(move || store.copy(&digest, size, &file)).await?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody else writes.
    struct Never;

    impl LockWait for Never {
        fn begins(&self, lock: &Path) {
            panic!("{} is held", lock.display());
        }

        fn is_stopped(&self) -> bool {
            false
        }
    }

    #[tokio::test]
    async fn what_is_put_is_found_and_tagged() {
        let directory = tempfile::tempdir().unwrap();
        let store = LayoutStore::new(directory.path().join("cache"));
        let digest = Digest::sha256_of(b"content");
        assert_eq!(store.size(&digest).await.unwrap(), None);
        assert!(store.tagged("latest").unwrap().is_none());
        let file = directory.path().join("file");
        fs::write(&file, b"content").unwrap();
        store.put(&digest, 7, &file).await.unwrap();
        store.put(&digest, 7, &file).await.unwrap();
        assert_eq!(store.size(&digest).await.unwrap(), Some(7));
        for tag in ["latest", "other", "latest"] {
            let descriptor = Descriptor::new(media_type::OCI_MANIFEST, digest.clone(), 7);
            store.tag(tag, descriptor, &Never).unwrap();
        }
        assert_eq!(store.tagged("latest").unwrap().unwrap().digest, digest);
        assert!(OciLayout::open(store.path()).is_ok(), "a layout for others");
    }

    #[tokio::test]
    async fn a_blob_that_proved_damaged_is_written_anew() {
        let directory = tempfile::tempdir().unwrap();
        let store = LayoutStore::new(directory.path().join("cache"));
        let digest = Digest::sha256_of(b"content");
        let file = directory.path().join("file");
        fs::write(&file, b"content").unwrap();
        store.put(&digest, 7, &file).await.unwrap();
        fs::write(store.blob(&digest), b"contemt").unwrap();
        store.put(&digest, 7, &file).await.unwrap();
        assert_eq!(fs::read(store.blob(&digest)).unwrap(), b"content");
        fs::write(store.blob(&digest), b"contemt").unwrap();
        assert_eq!(store.size(&digest).await.unwrap(), None);
        store.put(&digest, 7, &file).await.unwrap();
        assert_eq!(store.size(&digest).await.unwrap(), Some(7));
        // A large one is known once it was read.
        let large = vec![1; LOOKED_AT as usize + 1];
        let (digest, size) = (Digest::sha256_of(&large), large.len() as u64);
        fs::write(&file, &large).unwrap();
        store.put(&digest, size, &file).await.unwrap();
        fs::write(store.blob(&digest), vec![2; large.len()]).unwrap();
        assert_eq!(store.size(&digest).await.unwrap(), Some(size));
        let mut read = Vec::new();
        let mut blob = store.open(&digest).await.unwrap();
        tokio::io::copy(&mut blob, &mut read).await.unwrap();
        assert_eq!(store.size(&digest).await.unwrap(), None);
        store.put(&digest, size, &file).await.unwrap();
        assert_eq!(fs::read(store.blob(&digest)).unwrap(), large);
    }

    #[test]
    fn an_index_that_is_none_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let store = LayoutStore::new(directory.path());
        let descriptor =
            || Descriptor::new(media_type::OCI_MANIFEST, Digest::sha256_of(b"content"), 7);
        assert!(store.tag("latest", descriptor(), &Never).unwrap().is_none());
        for damage in ["", "{\"manifests\": 3", "[]"] {
            fs::write(directory.path().join(INDEX), damage).unwrap();
            assert!(store.tagged("latest").is_err());
            let aside = store.tag("latest", descriptor(), &Never).unwrap().unwrap();
            assert_eq!(fs::read_to_string(aside.path).unwrap(), damage);
            assert!(store.tagged("latest").unwrap().is_some());
        }
    }

    #[tokio::test]
    async fn a_blob_that_is_not_what_it_says_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let store = LayoutStore::new(directory.path());
        let digest = Digest::sha256_of(b"content");
        let file = directory.path().join("file");
        fs::write(&file, b"another").unwrap();
        assert!(store.put(&digest, 7, &file).await.is_err());
        assert_eq!(store.size(&digest).await.unwrap(), None);
        let ingests = fs::read_dir(directory.path().join("ingest")).unwrap();
        assert_eq!(ingests.count(), 0);
    }
}
