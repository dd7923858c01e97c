//! Writing tar archives: POSIX headers, with PAX records for what does not fit in them, laid out
//! as Go's archive/tar does (in PAX format), so that layers of equal files have the digests that
//! containerd and BuildKit give them where those keep the same metadata.

use std::io::{self, Write};

use super::pax;
use super::{Entry, EntryKind};
use crate::snapshot::FileTime;

pub(super) const BLOCK: usize = 512;

/// The largest number in a field of 7 and of 11 octal digits.
const MAX_OCTAL_7: u64 = 0o7_777_777;
const MAX_OCTAL_11: u64 = 0o77_777_777_777;

/// Writes a tar archive.
#[must_use = "an archive needs its end"]
pub struct TarWriter<W> {
    out: W,
    /// Bytes of content that the last entry still lacks, and the padding after them.
    missing: u64,
    padding: usize,
}

impl<W: Write> TarWriter<W> {
    /// An archive that goes to `out`.
    pub fn new(out: W) -> Self {
        Self {
            out,
            missing: 0,
            padding: 0,
        }
    }

    /// Writes the header of an entry; a regular file's content follows through [`Write`].
    pub fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        self.finish_entry()?;
        let records = records(entry);
        if !records.is_empty() {
            let block = extended_header(&entry.path, records.len())?;
            self.out.write_all(&block)?;
            self.out.write_all(&records)?;
            self.pad(padding(records.len() as u64))?;
        }
        self.out.write_all(&header(entry)?)?;
        if let EntryKind::File { size } = entry.kind {
            self.missing = size;
            self.padding = padding(size);
        }
        Ok(())
    }

    /// Ends the archive.
    pub fn finish(mut self) -> io::Result<W> {
        self.finish_entry()?;
        self.pad(2 * BLOCK)?;
        Ok(self.out)
    }

    /// Where the archive goes. Content that is written there past this value is announced with
    /// [`TarWriter::passed`].
    pub(super) fn out(&mut self) -> &mut W {
        &mut self.out
    }

    /// Notes that `count` bytes of content were written past this value.
    pub(super) fn passed(&mut self, count: u64) {
        self.missing = self.missing.saturating_sub(count);
    }

    fn finish_entry(&mut self) -> io::Result<()> {
        if self.missing != 0 {
            return Err(io::Error::other("an archive entry lacks content"));
        }
        let padding = std::mem::take(&mut self.padding);
        self.pad(padding)
    }

    fn pad(&mut self, count: usize) -> io::Result<()> {
        self.out.write_all(&[0; 2 * BLOCK][..count])
    }
}

/// Content of the last entry; more than its size is refused.
impl<W: Write> Write for TarWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = usize::try_from(self.missing).unwrap_or(usize::MAX);
        let count = self.out.write(&bytes[..bytes.len().min(room)])?;
        self.missing -= count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn padding(size: u64) -> usize {
    (BLOCK - (size % BLOCK as u64) as usize) % BLOCK
}

/// The PAX records of what an entry's header cannot hold, in the order of their keys.
fn records(entry: &Entry) -> Vec<u8> {
    let mut records: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut add = |key: &str, value: Vec<u8>| records.push((key.as_bytes().to_vec(), value));
    let number = |number: u64| number.to_string().into_bytes();
    if !fits(&entry.path, 100) {
        add("path", entry.path.clone());
    }
    if let Some(target) = link_target(entry)
        && !fits(target, 100)
    {
        add("linkpath", target.to_vec());
    }
    for (key, id) in [("uid", entry.uid), ("gid", entry.gid)] {
        if u64::from(id) > MAX_OCTAL_7 {
            add(key, number(id.into()));
        }
    }
    if let EntryKind::File { size } = entry.kind
        && size > MAX_OCTAL_11
    {
        add("size", number(size));
    }
    if entry.mtime.nanoseconds != 0 || octal_seconds(entry.mtime).is_none() {
        add("mtime", time(entry.mtime));
    }
    for (name, value) in &entry.xattrs {
        records.push((pax::xattr_key(name), value.clone()));
    }
    records.sort();
    let mut bytes = Vec::new();
    for (key, value) in records {
        pax::push(&mut bytes, &key, &value);
    }
    bytes
}

fn link_target(entry: &Entry) -> Option<&[u8]> {
    match &entry.kind {
        EntryKind::Symlink { target } | EntryKind::HardLink { target } => Some(target),
        _ => None,
    }
}

fn fits(text: &[u8], length: usize) -> bool {
    text.len() <= length && text.is_ascii()
}

fn octal_seconds(time: FileTime) -> Option<u64> {
    u64::try_from(time.seconds)
        .ok()
        .filter(|&seconds| seconds <= MAX_OCTAL_11)
}

/// Seconds with as many decimals as are not zero.
fn time(time: FileTime) -> Vec<u8> {
    if time.nanoseconds == 0 {
        return time.seconds.to_string().into_bytes();
    }
    // Before 1970 the written number counts down: -0.25 is second -1 and 750,000,000 ns.
    let (sign, seconds, nanoseconds) = if time.seconds < 0 {
        ("-", -(time.seconds + 1), 1_000_000_000 - time.nanoseconds)
    } else {
        ("", time.seconds, time.nanoseconds)
    };
    let text = format!("{sign}{seconds}.{nanoseconds:09}");
    text.trim_end_matches('0').as_bytes().to_vec()
}

fn header(entry: &Entry) -> io::Result<[u8; BLOCK]> {
    let mut block = Block::new();
    let (flag, size, major, minor) = match entry.kind {
        EntryKind::File { size } => (b'0', size, 0, 0),
        EntryKind::HardLink { .. } => (b'1', 0, 0, 0),
        EntryKind::Symlink { .. } => (b'2', 0, 0, 0),
        EntryKind::CharDevice { major, minor } => (b'3', 0, major, minor),
        EntryKind::BlockDevice { major, minor } => (b'4', 0, major, minor),
        EntryKind::Directory => (b'5', 0, 0, 0),
        EntryKind::Fifo => (b'6', 0, 0, 0),
    };
    if u64::from(major.max(minor)) > MAX_OCTAL_7 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a device number too large for a tar archive",
        ));
    }
    let or_zero = |number: u64, max| if number > max { 0 } else { number };
    block.name(0, &entry.path);
    block.octal(100, 8, entry.mode.into());
    block.octal(108, 8, or_zero(entry.uid.into(), MAX_OCTAL_7));
    block.octal(116, 8, or_zero(entry.gid.into(), MAX_OCTAL_7));
    block.octal(124, 12, or_zero(size, MAX_OCTAL_11));
    block.octal(136, 12, octal_seconds(entry.mtime).unwrap_or(0));
    block.0[156] = flag;
    if let Some(target) = link_target(entry) {
        block.name(157, target);
    }
    block.octal(329, 8, major.into());
    block.octal(337, 8, minor.into());
    Ok(block.finish())
}

fn extended_header(path: &[u8], length: usize) -> io::Result<[u8; BLOCK]> {
    if length as u64 > MAX_OCTAL_11 {
        return Err(io::Error::other(
            "extended attributes too large for a tar archive",
        ));
    }
    let trimmed = path.strip_suffix(b"/").unwrap_or(path);
    let (directory, file) = match trimmed.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => trimmed.split_at(slash + 1),
        None => (&[][..], trimmed),
    };
    let name = [directory, b"PaxHeaders.0/", file].concat();
    let ascii: Vec<u8> = name.into_iter().filter(u8::is_ascii).take(100).collect();
    let end = ascii
        .iter()
        .rposition(|&byte| byte != b'/')
        .map_or(0, |last| last + 1);
    let mut block = Block::new();
    block.name(0, &ascii[..end]);
    block.octal(100, 8, 0);
    block.octal(108, 8, 0);
    block.octal(116, 8, 0);
    block.octal(124, 12, length as u64);
    block.octal(136, 12, 0);
    block.0[156] = b'x';
    Ok(block.finish())
}

/// A header block being filled.
struct Block([u8; BLOCK]);

impl Block {
    fn new() -> Self {
        Self([0; BLOCK])
    }

    /// A text of at most 100 bytes; what is longer or not ASCII is here only for readers without
    /// PAX. A name that is cut must not seem to be a directory's.
    fn name(&mut self, at: usize, text: &[u8]) {
        let field = &mut self.0[at..at + 100];
        let ascii = text.iter().filter(|byte| byte.is_ascii());
        let total = ascii.clone().count();
        for (to, from) in field.iter_mut().zip(ascii) {
            *to = *from;
        }
        if total > field.len() && field.ends_with(b"/") {
            let end = field
                .iter()
                .rposition(|&byte| byte != b'/')
                .map_or(0, |last| last + 1);
            field[end..].fill(0);
        }
    }

    /// Octal digits that fill the field, and a NUL.
    fn octal(&mut self, at: usize, width: usize, mut number: u64) {
        for digit in self.0[at..at + width - 1].iter_mut().rev() {
            *digit = b'0' + (number & 7) as u8;
            number >>= 3;
        }
    }

    fn finish(mut self) -> [u8; BLOCK] {
        self.0[257..265].copy_from_slice(b"ustar\x0000");
        self.0[148..156].fill(b' ');
        let sum: u64 = self.0.iter().map(|&byte| u64::from(byte)).sum();
        self.octal(148, 7, sum);
        self.0[154] = 0;
        self.0
    }
}
