//! Where the pages of a log are, noted when the database is closed, so that opening it need not
//! read the log from its beginning.
//!
//! The note is a file beside the log. It counts only for the same boot, generation and seed, and
//! covers the log up to an end; groups behind that are read as ever. Without it the whole log is.
//! Layout, in little-endian integers: magic, generation, seed, end and checksum of the log there,
//! floor and length of the storage, number of pages, a page number and a place for each, and a
//! CRC-32 of all that.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const MAGIC: u64 = u64::from_le_bytes(*b"weldidx1");
const HEADER_NUMBERS: usize = 8;

/// What a log held when the database was closed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Index {
    pub(super) generation: u64,
    /// The checksum that the log goes on from.
    pub(super) seed: u64,
    /// How much of the log this covers, in bytes.
    pub(super) end: u64,
    /// The checksum of the log up to there.
    pub(super) checksum: u32,
    /// As of a layer of the storage.
    pub(super) floor: u64,
    pub(super) len: u64,
    /// Pages, and where in the log each is.
    pub(super) pages: Vec<(u64, u64)>,
}

impl Index {
    pub(super) fn path(log: &Path) -> PathBuf {
        log.with_extension("index")
    }

    pub(super) fn write(&self, log: &Path) -> io::Result<()> {
        let header = [
            MAGIC,
            self.generation,
            self.seed,
            self.end,
            u64::from(self.checksum),
            self.floor,
            self.len,
            self.pages.len() as u64,
        ];
        let pages = self.pages.iter().flat_map(|(page, at)| [*page, *at]);
        let mut bytes: Vec<u8> = header
            .into_iter()
            .chain(pages)
            .flat_map(u64::to_le_bytes)
            .collect();
        let sum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        // Written over: to a file that is cut off first, some file systems write what is new at once.
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(false);
        let file = options.open(Self::path(log))?;
        file.write_all_at(&bytes, 0)?;
        match file.metadata()?.len() > bytes.len() as u64 {
            true => file.set_len(bytes.len() as u64),
            false => Ok(()),
        }
    }

    pub(super) fn remove(log: &Path) -> io::Result<()> {
        match fs::remove_file(Self::path(log)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// `None` if there is none that is whole: it only saves time.
    pub(super) fn read(log: &Path) -> Option<Self> {
        let bytes = fs::read(Self::path(log)).ok()?;
        let (bytes, sum) = bytes.split_last_chunk()?;
        if crc32fast::hash(bytes) != u32::from_le_bytes(*sum) {
            return None;
        }
        let (numbers, rest) = bytes.as_chunks();
        let numbers: Vec<_> = numbers.iter().copied().map(u64::from_le_bytes).collect();
        let (header, pages) = numbers.split_first_chunk::<HEADER_NUMBERS>()?;
        let [magic, generation, seed, end, checksum, floor, len, count] = *header;
        let (pages, odd) = pages.as_chunks();
        let is_whole = magic == MAGIC
            && rest.is_empty()
            && odd.is_empty()
            && u64::try_from(pages.len()).is_ok_and(|found| found == count);
        is_whole.then_some(())?;
        Some(Self {
            generation,
            seed,
            end,
            checksum: u32::try_from(checksum).ok()?,
            floor,
            len,
            pages: pages.iter().map(|[page, at]| (*page, *at)).collect(),
        })
    }
}
