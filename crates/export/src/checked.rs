//! Blobs are checked while they are copied: a medium that changed them must not go on into results.

use std::error::Error;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use weld_digest::{Digest, Hasher};
use weld_store::Store;

use crate::ExportError;
use crate::blocking::blocking;

/// A file is read in pieces of this many bytes.
const PIECE: usize = 256 << 10;
/// Smaller ones are not worth a thread.
const ALONE: u64 = 1 << 20;

/// A blob that is something else than its digest says.
#[derive(Debug, thiserror::Error)]
#[error("the content of blob {digest} has digest {actual}")]
struct DamagedBlob {
    digest: Digest,
    actual: Digest,
}

/// The check of a file's content, beside whoever copies it: what the kernel copies, nobody else sees.
pub(crate) struct Check {
    file: Arc<File>,
    size: u64,
    digest: Digest,
    stop: Arc<AtomicBool>,
    beside: Option<JoinHandle<io::Result<Digest>>>,
}

impl Check {
    /// Begins to check the first `size` bytes of a file.
    pub(crate) fn begin(file: &File, size: u64, digest: &Digest) -> io::Result<Self> {
        let mut check = Self {
            file: Arc::new(file.try_clone()?),
            size,
            digest: digest.clone(),
            stop: Arc::default(),
            beside: None,
        };
        if size > ALONE {
            let (file, stop) = (Arc::clone(&check.file), Arc::clone(&check.stop));
            let algorithm = digest.algorithm();
            let work = move || content(&file, size, Hasher::new(algorithm), &stop);
            // Where no thread is to be had, it is done at the end.
            check.beside = std::thread::Builder::new().spawn(work).ok();
        }
        Ok(check)
    }

    /// Says whether it is what its digest says.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        let actual = match self.beside.take() {
            Some(beside) => match beside.join() {
                Ok(digest) => digest?,
                Err(panic) => std::panic::resume_unwind(panic),
            },
            None => {
                let hasher = Hasher::new(self.digest.algorithm());
                content(&self.file, self.size, hasher, &self.stop)?
            }
        };
        if actual == self.digest {
            return Ok(());
        }
        let damaged = DamagedBlob {
            digest: self.digest.clone(),
            actual,
        };
        Err(io::Error::new(io::ErrorKind::InvalidData, damaged))
    }
}

/// An error and what it comes of, one after the other.
pub(crate) fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| {
        let error = *error;
        // What such an error holds is not its source, which is that of what it holds.
        let held = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        match held {
            Some(held) => Some(held as &(dyn Error + 'static)),
            None => error.source(),
        }
    })
}

/// The blob that proved damaged, if that is why something failed.
fn damaged_blob<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Digest> {
    let damaged = causes(error).find_map(|error| error.downcast_ref::<DamagedBlob>());
    damaged.map(|damaged| &damaged.digest)
}

/// Drops those blobs that are why an export failed, of `doubted` ones and of what the error names: they are fetched or made again then.
pub(crate) async fn drop_damaged(
    store: &Store,
    error: ExportError,
    mut doubted: Vec<Digest>,
) -> ExportError {
    doubted.extend(damaged_blob(&error).cloned());
    let blobs = store.blobs().clone();
    let dropped = blocking(move || {
        let is_dropped = |digest: &Digest| blobs.discard_if_damaged(digest).unwrap_or(false);
        doubted.retain(is_dropped);
        doubted
    });
    match dropped.await.into_iter().next() {
        Some(digest) => ExportError::Damaged {
            digest,
            source: Box::new(error),
        },
        None => error,
    }
}

impl Drop for Check {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn content(file: &File, size: u64, mut hasher: Hasher, stop: &AtomicBool) -> io::Result<Digest> {
    let mut piece = vec![0; PIECE.min(usize::try_from(size).unwrap_or(PIECE))];
    let mut position = 0;
    while position < size && !stop.load(Ordering::Relaxed) {
        let wanted = usize::try_from(size - position).unwrap_or(PIECE).min(PIECE);
        let count = match file.read_at(&mut piece[..wanted], position) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&piece[..count]);
        position += count as u64;
    }
    Ok(hasher.finish())
}
