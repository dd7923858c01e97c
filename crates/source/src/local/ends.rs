//! The two ends of a sync: whose tree it is, and where the copy is.

use std::error::Error;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::path::Path;

use weld_digest::Hasher;

use super::index::TreeIndex;
use super::stat::Stat;

/// Why a provider cannot tell or give what there is.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ProviderError(Box<dyn Error + Send + Sync>);

impl ProviderError {
    /// Wraps the provider's own error.
    pub fn new(error: impl Error + Send + Sync + 'static) -> Self {
        Self(Box::new(error))
    }
}

/// Whose tree it is. All functions may block; several threads call [`open`](Self::open).
pub trait TreeProvider: Send + Sync + 'static {
    /// What there is now, in path order. `known` is what there was the last time, from which it
    /// may take what it can tell not to have changed, such as extended attributes.
    ///
    /// # Errors
    /// [`ProviderError`].
    fn stats(&self, known: &TreeIndex) -> Result<Vec<Stat>, ProviderError>;

    /// Tells which files, by their numbers among the stats, will be opened, in this order, so
    /// that one who is far away can send ahead.
    fn announce(&self, wanted: &[usize]) {
        let _ = wanted;
    }

    /// The content of a file, by its number among the stats.
    ///
    /// # Errors
    /// What opening meets.
    fn open(&self, number: usize, stat: &Stat) -> io::Result<Box<dyn Read + Send>>;

    /// Tells that nothing more will be asked.
    ///
    /// # Errors
    /// If the other end did not mean what it sent.
    fn finish(&self) -> Result<(), ProviderError> {
        Ok(())
    }

    /// Has all that waits for the provider, now or later, fail: nobody wants it any more.
    fn cancel(&self) {}

    /// How many files are best read at a time.
    fn parallel(&self) -> usize {
        std::thread::available_parallelism().map_or(2, usize::from)
    }
}

/// Where the copy is. All functions may block.
pub trait TreeTarget: Send + Sync + 'static {
    /// Called once before the first change. Until the new index is kept, the target is like
    /// neither: whoever keeps the old one should forget it here.
    ///
    /// # Errors
    /// What forgetting meets.
    fn begin(&self) -> io::Result<()>;

    /// Whether files have this extended attribute in the copy.
    fn takes(&self, attribute: &OsStr) -> bool {
        let _ = attribute;
        true
    }

    /// Removes a file, or a directory that is empty by now.
    ///
    /// # Errors
    /// What removing meets; that it is not there is none.
    fn remove(&self, stat: &Stat) -> io::Result<()>;

    /// What the digest of a file begins with, before its content: nothing, or a header made of
    /// the parts of its metadata that count.
    fn hasher(&self, stat: &Stat) -> Hasher {
        let _ = stat;
        Hasher::sha256()
    }

    /// Makes a directory; its metadata are set later.
    ///
    /// # Errors
    /// What making meets.
    fn make_dir(&self, stat: &Stat) -> io::Result<()>;

    /// Makes a file with its metadata, in place of one that may be there. Several threads call
    /// this.
    ///
    /// # Errors
    /// What writing meets, and what reading `content` meets.
    fn make_file(&self, stat: &Stat, content: &mut dyn Read) -> io::Result<()>;

    /// Makes a symbolic link, a device node or a pipe with its metadata.
    ///
    /// # Errors
    /// What making meets.
    fn make_node(&self, stat: &Stat) -> io::Result<()>;

    /// Makes a further name of `first`.
    ///
    /// # Errors
    /// What linking meets.
    fn hard_link(&self, stat: &Stat, first: &Path) -> io::Result<()>;

    /// Sets owner, permissions, attributes and times of a directory that is there.
    ///
    /// # Errors
    /// What setting meets.
    fn set_metadata(&self, stat: &Stat) -> io::Result<()>;
}
