//! A log of page writes, in front of the database's file.
//!
//! A file has a header (magic, generation, boot, seed) and groups one after the other. A group
//! has a header (magic, number of entries, length of the storage after it, checksum), a table of
//! entries and the pages that the entries write, in their order. An entry is a page number, or a
//! length, marked by its highest bit, that the storage is set to. Integers are little-endian. A
//! checksum covers its group and, by starting from the checksum before, all groups before it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::index::Index;
use super::storage::{PAGE, Page};

const MAGIC: &[u8; 8] = b"weldlog1";
const GROUP_MAGIC: u32 = 0x7077_6c64;
const HEADER_LEN: u64 = 32;
const GROUP_HEADER_LEN: usize = 24;
/// Marks an entry that sets the length.
const LENGTH: u64 = 1 << 63;
/// Groups longer than this are not written, and so not read.
const MAX_ENTRIES: u32 = 1 << 20;

/// How many entries of a group are read with its header.
const USUAL_ENTRIES: usize = 60;

/// A change of the storage.
pub(super) enum Entry<'a> {
    /// A page with its new content.
    Write(u64, &'a Page),
    /// A new length, in bytes.
    SetLen(u64),
}

/// A change that is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Logged {
    /// A page, and where in the file its content is.
    Write(u64, u64),
    /// A new length, in bytes.
    SetLen(u64),
}

/// A log of one generation.
pub(super) struct Log {
    pub(super) file: File,
    pub(super) generation: u64,
    /// Whether it was begun on this boot of the machine: then nothing of it was lost.
    pub(super) same_boot: bool,
    /// Where the next group comes.
    pub(super) end: u64,
    /// The checksum so far.
    pub(super) checksum: u32,
    /// There was something behind its last whole group when it was opened.
    pub(super) is_cut: bool,
    seed: u64,
    /// What its index covers.
    indexed: u64,
}

impl Log {
    /// Begins a generation that follows a log which ended with the checksum `seed`.
    pub(super) fn create(path: &Path, generation: u64, seed: u32, boot: u64) -> io::Result<Self> {
        // Before there is a log that it could be taken to belong to.
        Index::remove(path)?;
        let file = options().create(true).truncate(true).open(path)?;
        let mut header = Vec::with_capacity(HEADER_LEN as usize);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&generation.to_le_bytes());
        header.extend_from_slice(&boot.to_le_bytes());
        header.extend_from_slice(&u64::from(seed).to_le_bytes());
        file.write_all_at(&header, 0)?;
        Ok(Self {
            file,
            generation,
            same_boot: true,
            end: HEADER_LEN,
            checksum: checksum(seed, &[&header]),
            is_cut: false,
            seed: u64::from(seed),
            indexed: 0,
        })
    }

    /// Reads the log of a generation that follows `seed`, up to its last whole group, or from the
    /// end of its index on, which is returned then; `None` if there is no such log.
    pub(super) fn open(
        path: &Path,
        generation: u64,
        seed: Option<u32>,
        boot: u64,
        mut each: impl FnMut(Logged),
    ) -> io::Result<Option<(Self, Option<Index>)>> {
        let file = match options().open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let length = file.metadata()?.len();
        let mut header = [0; HEADER_LEN as usize];
        if length < HEADER_LEN {
            return Ok(None);
        }
        file.read_exact_at(&mut header, 0)?;
        let found_seed = number(&header[24..]);
        let is_it = header.starts_with(MAGIC)
            && number(&header[8..]) == generation
            && seed.is_none_or(|seed| u64::from(seed) == found_seed);
        if !is_it {
            return Ok(None);
        }
        let mut log = Self {
            file,
            generation,
            same_boot: number(&header[16..]) == boot,
            end: HEADER_LEN,
            checksum: checksum(found_seed as u32, &[&header]),
            is_cut: false,
            seed: found_seed,
            indexed: 0,
        };
        let index = log.read_index(path, length);
        if let Some(index) = &index {
            (log.end, log.checksum) = (index.end, index.checksum);
            log.indexed = index.end;
        }
        while let Some(group) = log.read_group(length)? {
            // On the same boot only the last group can be torn, by the end of the process.
            let is_last = group.end + GROUP_HEADER_LEN as u64 > length;
            if (is_last || !log.same_boot) && !log.verify(&group)? {
                break;
            }
            group.entries.iter().copied().for_each(&mut each);
            log.end = group.end;
            log.checksum = group.checksum;
        }
        log.is_cut = log.end < length;
        log.file.set_len(log.end)?;
        Ok(Some((log, index)))
    }

    /// The generation that the log at a path has, if it is one.
    pub(super) fn generation_of(path: &Path) -> io::Result<Option<u64>> {
        let header = Self::header_of(path)?;
        let header = header.filter(|header| header.starts_with(MAGIC));
        Ok(header.map(|header| number(&header[8..])))
    }

    /// The boot of the machine on which the log at a path was begun, if it is one.
    pub(super) fn boot_of(path: &Path) -> io::Result<Option<u64>> {
        let header = Self::header_of(path)?;
        let header = header.filter(|header| header.starts_with(MAGIC));
        Ok(header.map(|header| number(&header[16..])))
    }

    /// Whether what is at a path is neither a log nor one that was only begun.
    pub(super) fn is_garbage(path: &Path) -> io::Result<bool> {
        let header = Self::header_of(path)?;
        Ok(header.is_some_and(|header| {
            !header.starts_with(MAGIC) && header.iter().any(|byte| *byte != 0)
        }))
    }

    fn header_of(path: &Path) -> io::Result<Option<[u8; HEADER_LEN as usize]>> {
        let mut header = [0; HEADER_LEN as usize];
        let read = File::open(path).and_then(|file| file.read_exact_at(&mut header, 0));
        match read {
            Ok(()) => Ok(Some(header)),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The index, if it belongs to this log and nothing of what it covers can be torn.
    fn read_index(&self, path: &Path, length: u64) -> Option<Index> {
        if !self.same_boot {
            return None;
        }
        let index = Index::read(path)?;
        let belongs = index.generation == self.generation
            && index.seed == self.seed
            && (HEADER_LEN..=length).contains(&index.end);
        belongs.then_some(index)
    }

    /// Whether there is more in it than its index tells: the next to open it would read that, and not notice if some of it was gone.
    pub(super) fn wants_index(&self) -> bool {
        self.end > self.indexed.max(HEADER_LEN)
    }

    /// Notes what this log holds, `pages` of which each is at a place, for the next to open it.
    pub(super) fn write_index(
        &self,
        path: &Path,
        pages: Vec<(u64, u64)>,
        floor: u64,
        len: u64,
    ) -> io::Result<()> {
        let index = Index {
            generation: self.generation,
            seed: self.seed,
            end: self.end,
            checksum: self.checksum,
            floor,
            len,
            pages,
        };
        index.write(path)
    }

    /// Appends a group; returns where each page of it is. After an error the log is as before.
    pub(super) fn append(&mut self, entries: &[Entry<'_>]) -> io::Result<Vec<Logged>> {
        if entries.len() > MAX_ENTRIES as usize {
            return Err(io::Error::other("a group has too many entries"));
        }
        let table_len = entries.len() * 8;
        let mut at = self.end + (GROUP_HEADER_LEN + table_len) as u64;
        let mut logged = Vec::with_capacity(entries.len());
        let mut bytes = vec![0; GROUP_HEADER_LEN];
        for entry in entries {
            let (code, place) = match *entry {
                Entry::Write(page, _) => (page, Logged::Write(page, at)),
                Entry::SetLen(length) => (length | LENGTH, Logged::SetLen(length)),
            };
            if matches!(entry, Entry::Write(..)) {
                at += PAGE as u64;
            }
            bytes.extend_from_slice(&code.to_le_bytes());
            logged.push(place);
        }
        for entry in entries {
            if let Entry::Write(_, content) = entry {
                bytes.extend_from_slice(&content[..]);
            }
        }
        bytes[..4].copy_from_slice(&GROUP_MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&(entries.len() as u32).to_le_bytes());
        bytes[8..16].copy_from_slice(&self.generation.to_le_bytes());
        let sum = checksum(self.checksum, &[&bytes]);
        bytes[16..20].copy_from_slice(&sum.to_le_bytes());
        if let Err(error) = self.file.write_all_at(&bytes, self.end) {
            // What is left behind the end is not read: it is no whole group.
            drop(self.file.set_len(self.end));
            return Err(error);
        }
        self.end = at;
        self.checksum = sum;
        Ok(logged)
    }

    fn read_group(&self, length: u64) -> io::Result<Option<Group>> {
        let table_at = self.end + GROUP_HEADER_LEN as u64;
        if table_at > length {
            return Ok(None);
        }
        // The table of most groups comes with the header.
        let mut start = [0; GROUP_HEADER_LEN + 8 * USUAL_ENTRIES];
        let present = usize::try_from(length - self.end).unwrap_or(usize::MAX);
        let start = &mut start[..present.min(GROUP_HEADER_LEN + 8 * USUAL_ENTRIES)];
        self.file.read_exact_at(start, self.end)?;
        let (header, start) = start.split_at(GROUP_HEADER_LEN);
        let count = number_32(&header[4..]);
        let is_group = number_32(header) == GROUP_MAGIC
            && number(&header[8..]) == self.generation
            && count <= MAX_ENTRIES;
        let table_len = count as usize * 8;
        let pages_at = table_at + table_len as u64;
        if !is_group || pages_at > length {
            return Ok(None);
        }
        let mut table = vec![0; table_len];
        match start.get(..table_len) {
            Some(start) => table.copy_from_slice(start),
            None => self.file.read_exact_at(&mut table, table_at)?,
        }
        let mut end = pages_at;
        let mut entries = Vec::with_capacity(count as usize);
        for code in table.chunks_exact(8).map(number) {
            if code & LENGTH != 0 {
                entries.push(Logged::SetLen(code & !LENGTH));
            } else {
                entries.push(Logged::Write(code, end));
                end += PAGE as u64;
            }
        }
        Ok((end <= length).then_some(Group {
            entries,
            end,
            checksum: number_32(&header[16..]),
        }))
    }

    fn verify(&self, group: &Group) -> io::Result<bool> {
        let mut bytes = vec![0; (group.end - self.end) as usize];
        self.file.read_exact_at(&mut bytes, self.end)?;
        bytes[16..20].fill(0);
        Ok(checksum(self.checksum, &[&bytes]) == group.checksum)
    }
}

struct Group {
    entries: Vec<Logged>,
    end: u64,
    checksum: u32,
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options
}

fn checksum(seed: u32, parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

/// The number that bytes start with; 0 if they are too few, which callers exclude.
fn number(bytes: &[u8]) -> u64 {
    bytes
        .first_chunk()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn number_32(bytes: &[u8]) -> u32 {
    bytes
        .first_chunk()
        .map_or(0, |bytes| u32::from_le_bytes(*bytes))
}
