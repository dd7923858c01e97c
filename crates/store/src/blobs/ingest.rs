use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;
use weld_digest::{Algorithm, Digest, Hasher};

use super::growth::{self, Growing, Growth};
use super::{ANONYMOUS, BLOBS, BlobError, BlobInfo, BlobRecord, BlobRef, Blobs, lost, on_disk};
use crate::clock;
use crate::db::encode;
use crate::object::Object;
use crate::space::{Reservation, SpaceError};
use crate::usage::{self, NewUsage, RecordType};

/// What is announced of content that comes in. What is announced is verified.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// Its digest.
    pub digest: Option<Digest>,
    /// Its length in bytes.
    pub size: Option<u64>,
}

/// What a wish to ingest came to.
#[must_use]
pub enum Started {
    /// The announced blob is already here.
    Present(BlobRef),
    /// Write it.
    Ingest(Box<Ingest>),
}

/// Content that comes in. Nobody sees it before [`Ingest::commit`].
///
/// One with a reference that is dropped keeps what was written, for a later one with the same
/// reference to go on from; any other leaves nothing.
#[must_use]
pub struct Ingest {
    blobs: Blobs,
    /// What is put by for it.
    room: Reservation,
    name: String,
    path: PathBuf,
    file: File,
    expected: Expected,
    offset: u64,
    hasher: Hasher,
    /// If other than SHA-256 is announced, both are computed.
    announced: Option<Hasher>,
    resumable: Option<OwnedMutexGuard<()>>,
    keep: bool,
    /// Told of what comes in, if someone reads it meanwhile.
    growing: Option<Growing>,
}

impl Blobs {
    /// Starts to take content, or finds that the announced blob is here.
    ///
    /// With a `reference` (such as the digest) the ingest can be resumed: it starts at
    /// [`Ingest::offset`], after what an earlier one wrote. While another one with this reference
    /// runs in this process, this waits for its end; it must not be called on a reactor thread
    /// (there is [`Blobs::ingest_async`]).
    pub fn ingest(
        &self,
        reference: Option<&str>,
        expected: Expected,
    ) -> Result<Started, BlobError> {
        let turn = reference.map(|reference| self.turn(reference).blocking_lock_owned());
        self.start(reference, expected, turn)
    }

    /// As [`Blobs::ingest`], waiting for another one without blocking the thread.
    pub async fn ingest_async(
        &self,
        reference: Option<&str>,
        expected: Expected,
    ) -> Result<Started, BlobError> {
        let turn = match reference {
            Some(reference) => Some(self.turn(reference).lock_owned().await),
            None => None,
        };
        let (blobs, reference) = (self.clone(), reference.map(str::to_owned));
        let name = name_of(reference.as_deref(), &expected);
        tokio::task::spawn_blocking(move || blobs.start(reference.as_deref(), expected, turn))
            .await
            .unwrap_or_else(|stopped| {
                Err(BlobError::Write {
                    name,
                    action: "start",
                    source: io::Error::other(stopped),
                })
            })
    }

    fn turn(&self, reference: &str) -> Arc<tokio::sync::Mutex<()>> {
        let file_name = file_name(reference);
        let mut busy = self.0.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = busy.get(&file_name).and_then(Weak::upgrade) {
            return turn;
        }
        busy.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::default();
        busy.insert(file_name, Arc::downgrade(&turn));
        turn
    }

    fn start(
        &self,
        reference: Option<&str>,
        expected: Expected,
        turn: Option<OwnedMutexGuard<()>>,
    ) -> Result<Started, BlobError> {
        if let Some(digest) = &expected.digest
            && let Some(blob) = self.get(digest)?
        {
            return Ok(Started::Present(blob));
        }
        let name = name_of(reference, &expected);
        let file_name = match reference {
            Some(reference) => file_name(reference),
            None => format!("{ANONYMOUS}{}", self.0.sequence.next()?),
        };
        let path = self.0.ingests.join(file_name);
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true);
        let file = match options.open(&path) {
            // Somebody deleted the directory under a process that runs.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(&self.0.ingests).and_then(|()| options.open(&path))
            }
            file => file,
        };
        let file = file.map_err(write_error(&name, "create"))?;
        let announced = expected
            .digest
            .as_ref()
            .map(Digest::algorithm)
            .filter(|algorithm| *algorithm != Algorithm::Sha256)
            .map(Hasher::new);
        let mut ingest = Ingest {
            blobs: self.clone(),
            room: self.0.space.growing(),
            name,
            path,
            file,
            expected,
            offset: 0,
            hasher: Hasher::sha256(),
            announced,
            resumable: turn,
            keep: false,
            growing: None,
        };
        ingest.resume()?;
        if let Some(size) = ingest.expected.size {
            let missing = size.saturating_sub(ingest.offset);
            let reserved = self.0.space.reserve(missing);
            ingest.room = reserved.map_err(space_error(&ingest.name))?;
        }
        Ok(Started::Ingest(Box::new(ingest)))
    }
}

/// A reference's file: any text can be a reference.
fn file_name(reference: &str) -> String {
    Digest::sha256_of(reference).hex()
}

fn name_of(reference: Option<&str>, expected: &Expected) -> String {
    reference
        .map(str::to_owned)
        .or_else(|| expected.digest.as_ref().map(ToString::to_string))
        .unwrap_or_else(|| "content".to_owned())
}

fn write_error<'a>(
    name: &'a str,
    action: &'static str,
) -> impl FnOnce(io::Error) -> BlobError + 'a {
    move |source| BlobError::Write {
        name: name.to_owned(),
        action,
        source,
    }
}

fn space_error(name: &str) -> impl FnOnce(SpaceError) -> BlobError + '_ {
    move |source| BlobError::Space {
        name: name.to_owned(),
        source: Box::new(source),
    }
}

impl Ingest {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// How many bytes are already here: content has to go on from this place.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Takes the next bytes.
    pub fn append(&mut self, content: &[u8]) -> Result<(), BlobError> {
        let end = self.offset + content.len() as u64;
        if let Some(expected) = self.expected.size
            && end > expected
        {
            self.restart()?;
            return Err(BlobError::WrongSize {
                name: self.name.clone(),
                expected,
                actual: end,
            });
        }
        let len = content.len() as u64;
        self.room.take(len).map_err(space_error(&self.name))?;
        if let Err(error) = self.file.write_all(content) {
            // How much of it was written is not known.
            drop(self.file.set_len(self.offset));
            return Err(write_error(&self.name, "write")(error));
        }
        self.room.spend(len);
        self.hash(content);
        self.offset = end;
        if let Some(growing) = &self.growing {
            growing.reached(end);
        }
        Ok(())
    }

    /// Lets one other read the content while it comes in, until this ends or starts anew.
    pub fn follow(&mut self) -> Result<Growth, BlobError> {
        let (growing, growth) =
            growth::of(&self.path, self.offset).map_err(write_error(&self.name, "open"))?;
        self.growing = Some(growing);
        Ok(growth)
    }

    /// Drops what is here and starts anew, as when the other side cannot resume.
    pub fn restart(&mut self) -> Result<(), BlobError> {
        self.file
            .set_len(0)
            .map_err(write_error(&self.name, "truncate"))?;
        self.offset = 0;
        self.growing = None;
        self.hasher = Hasher::sha256();
        self.announced = self.expected.digest.as_ref().and_then(|digest| {
            self.announced
                .as_ref()
                .map(|_| Hasher::new(digest.algorithm()))
        });
        Ok(())
    }

    /// Verifies what is here, puts it into its place and has the database know it. Later updates
    /// may name it: they commit with it or after it.
    ///
    /// If it is not what was announced, it is dropped; if it is too short, it is kept for a later
    /// ingest with this reference.
    pub fn commit(mut self, info: BlobInfo) -> Result<BlobRef, BlobError> {
        let digest = self.verify()?;
        let pin = self.blobs.0.pins.pin(Object::Blob(digest.clone()));
        let blobs = self.blobs.clone();
        if let Some(blob) = blobs.get(&digest)? {
            self.discard();
            drop(blobs.annotate(&blob, info));
            return Ok(blob);
        }
        let record = BlobRecord {
            size: self.offset,
            sequence: blobs.0.sequence.next()?,
            created: clock::seconds(),
            info,
        };
        // Before anybody finds its record. It is pinned, so it is not swept for having none.
        self.publish(&digest)?;
        blobs.0.pending().insert(digest.clone(), record.clone());
        save(&blobs, &digest, &record)?;
        Ok(BlobRef {
            digest,
            record: Arc::new(record),
            pin,
            blobs,
        })
    }

    /// Drops it with what was written.
    pub fn abort(mut self) {
        self.discard();
    }

    fn hash(&mut self, content: &[u8]) {
        self.hasher.update(content);
        if let Some(announced) = &mut self.announced {
            announced.update(content);
        }
    }

    /// Takes up what an earlier ingest wrote.
    fn resume(&mut self) -> Result<(), BlobError> {
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let len = match self.file.read(&mut buffer) {
                Ok(0) => break,
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(write_error(&self.name, "resume")(error)),
            };
            self.hash(&buffer[..len]);
            self.offset += len as u64;
        }
        match self.expected.size {
            Some(size) if self.offset > size => self.restart(),
            _ => Ok(()),
        }
    }

    fn verify(&mut self) -> Result<Digest, BlobError> {
        if let Some(expected) = self.expected.size
            && expected != self.offset
        {
            return Err(BlobError::WrongSize {
                name: self.name.clone(),
                expected,
                actual: self.offset,
            });
        }
        let digest = self.hasher.clone().finish();
        let actual = match &self.announced {
            Some(announced) => announced.clone().finish(),
            None => digest.clone(),
        };
        match &self.expected.digest {
            Some(expected) if *expected != actual => {
                let error = BlobError::WrongDigest {
                    name: self.name.clone(),
                    expected: expected.clone(),
                    actual,
                };
                self.discard();
                Err(error)
            }
            _ => Ok(actual),
        }
    }

    fn publish(&mut self, digest: &Digest) -> Result<(), BlobError> {
        let target = self.blobs.0.path(digest);
        let renamed = fs::rename(&self.path, &target).or_else(|error| {
            // Only sha256's directory is made with the layout.
            match target.parent() {
                Some(parent) if error.kind() == io::ErrorKind::NotFound => {
                    fs::create_dir_all(parent)?;
                    // It may be the first of its algorithm, too: then nothing is found to be lost.
                    drop(lost::note(&self.blobs.0.db));
                    fs::rename(&self.path, &target)
                }
                _ => Err(error),
            }
        });
        renamed.map_err(write_error(&self.name, "rename into place"))?;
        self.keep = true;
        Ok(())
    }

    fn discard(&mut self) {
        remove(&self.path);
        self.keep = true;
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove a temporary file");
    }
}

fn save(blobs: &Blobs, digest: &Digest, record: &BlobRecord) -> Result<(), BlobError> {
    let key = digest.to_string();
    let object = Object::Blob(digest.clone());
    let usage = NewUsage {
        record_type: RecordType::Internal,
        description: record.info.media_type.clone().unwrap_or_default(),
        mutable: false,
        size: Some(on_disk(record.size)),
    };
    let row = encode(record)?;
    let (inner, digest) = (blobs.0.clone(), digest.clone());
    drop(blobs.0.db.update_then(
        move |tx| {
            tx.open_table(BLOBS)?.insert(key.as_str(), row.as_slice())?;
            usage::record(tx, &object, &usage)
        },
        move |_| {
            inner.pending().remove(&digest);
        },
    ));
    Ok(())
}

impl Write for Ingest {
    fn write(&mut self, content: &[u8]) -> io::Result<usize> {
        self.append(content).map_err(io::Error::other)?;
        Ok(content.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if self.resumable.is_none() && !self.keep {
            remove(&self.path);
        }
    }
}
