//! Reading tar archives: POSIX with PAX records, old and new GNU forms, the seventh edition's.
//!
//! Nothing of an archive is trusted: numbers are checked before they are used, and what an
//! archive makes us hold in memory is bounded.

use std::io::BufRead;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::sparse::{self, Segment};
use super::tar_write::BLOCK;
use super::{Entry, EntryKind, LayerError, pax};
use crate::snapshot::FileTime;

/// The most bytes of extended headers, long names or sparse maps of one entry.
const MAX_EXTENSION: u64 = 8 << 20;
/// The longest path or link target; the kernel takes none longer.
const MAX_PATH: usize = 4096;

/// Reads a tar archive, entry by entry.
pub struct TarReader<R> {
    stream: Stream<R>,
    /// Where the content of the current entry lies in its file.
    segments: Vec<Segment>,
    /// Bytes of the current entry in the stream, content and padding.
    content: u64,
    padding: u64,
}

/// What headers before an entry's own say of it.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<FileTime>,
    device: (Option<u32>, Option<u32>),
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: sparse::PaxSparse,
}

impl<R: BufRead> TarReader<R> {
    /// Reads the archive of an uncompressed stream.
    pub fn new(stream: R) -> Self {
        Self {
            stream: Stream {
                inner: stream,
                offset: 0,
            },
            segments: Vec::new(),
            content: 0,
            padding: 0,
        }
    }

    /// The next entry; what was left of the content of the one before is skipped.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, LayerError> {
        self.stream.skip(self.content + self.padding)?;
        (self.content, self.padding) = (0, 0);
        self.segments.clear();
        let mut extensions = Extensions::default();
        loop {
            let Some(header) = self.stream.header()? else {
                return Ok(None);
            };
            match header.flag() {
                b'x' | b'X' => {
                    let records = self.extension(&header)?;
                    self.take_records(&records, &mut extensions)?;
                }
                b'L' => extensions.path = Some(self.long_name(&header)?),
                b'K' => extensions.link = Some(self.long_name(&header)?),
                // What holds for all entries is no property of a file: a commit's name, mostly.
                b'g' => drop(self.extension(&header)?),
                _ => return self.take_entry(&header, extensions).map(Some),
            }
        }
    }

    /// Hands the content of the current entry to `sink`, piece by piece, each with its place in
    /// the file. What no piece covers is zero.
    pub fn content<E: From<LayerError>>(
        &mut self,
        mut sink: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        for segment in std::mem::take(&mut self.segments) {
            let mut at = segment.offset;
            let mut left = segment.length;
            while left > 0 {
                let piece = self.stream.piece(left)?;
                let length = piece.len();
                sink(at, piece)?;
                self.stream.consume(length);
                at += length as u64;
                left -= length as u64;
                self.content = self.content.saturating_sub(length as u64);
            }
        }
        Ok(())
    }

    /// Reads what comes after the archive's end, so that the whole stream is seen.
    pub fn finish(mut self) -> Result<R, LayerError> {
        loop {
            let length = self
                .stream
                .inner
                .fill_buf()
                .map_err(LayerError::Read)?
                .len();
            if length == 0 {
                return Ok(self.stream.inner);
            }
            self.stream.consume(length);
        }
    }

    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, LayerError> {
        let size = header.size().ok_or_else(|| self.stream.malformed("size"))?;
        if size > MAX_EXTENSION {
            return Err(self
                .stream
                .malformed("an extended header of more than 8 MiB"));
        }
        let bytes = self.stream.bytes(size)?;
        self.stream.skip(padding(size))?;
        Ok(bytes)
    }

    fn long_name(&mut self, header: &Header) -> Result<Vec<u8>, LayerError> {
        let mut name = self.extension(header)?;
        let end = name
            .iter()
            .position(|&byte| byte == 0)
            .unwrap_or(name.len());
        name.truncate(end);
        Ok(name)
    }

    fn take_records(&self, records: &[u8], to: &mut Extensions) -> Result<(), LayerError> {
        let malformed = |what| self.stream.malformed(what);
        let records = pax::parse(records).ok_or_else(|| malformed("a PAX record"))?;
        let number = |value: &[u8]| decimal(value).ok_or_else(|| malformed("a PAX number"));
        let id = |value: &[u8]| {
            decimal(value)
                .and_then(|id| u32::try_from(id).ok())
                .ok_or_else(|| malformed("a PAX owner, group or device number"))
        };
        for (key, value) in records {
            match key {
                b"path" => to.path = Some(value.to_vec()),
                b"linkpath" => to.link = Some(value.to_vec()),
                b"size" => to.size = Some(number(value)?),
                b"uid" => to.uid = Some(id(value)?),
                b"gid" => to.gid = Some(id(value)?),
                b"mtime" => {
                    to.mtime = Some(time(value).ok_or_else(|| malformed("a PAX time"))?);
                }
                b"SCHILY.devmajor" => to.device.0 = Some(id(value)?),
                b"SCHILY.devminor" => to.device.1 = Some(id(value)?),
                _ => {
                    if let Some(name) = pax::xattr_name(key) {
                        to.xattrs.push((name, value.to_vec()));
                    } else if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                        to.sparse
                            .take(key, value)
                            .ok_or_else(|| malformed("a PAX sparse record"))?;
                    }
                }
            }
        }
        Ok(())
    }

    fn take_entry(
        &mut self,
        header: &Header,
        mut extensions: Extensions,
    ) -> Result<Entry, LayerError> {
        let path = extensions.sparse.name.take().or(extensions.path.take());
        let path = path.unwrap_or_else(|| header.path());
        let malformed = |what| LayerError::Entry {
            path: PathBuf::from(std::ffi::OsStr::from_bytes(&path)),
            what,
        };
        let target = extensions.link.take().unwrap_or_else(|| header.link());
        if path.len() > MAX_PATH || target.len() > MAX_PATH {
            return Err(malformed("a name of more than 4096 bytes"));
        }
        if path.contains(&0) || target.contains(&0) {
            return Err(malformed("a name with a NUL byte"));
        }
        let stored = match extensions.size {
            Some(size) => size,
            None => header.size().ok_or_else(|| malformed("malformed size"))?,
        };
        let device = |field: Option<u32>, at| {
            field
                .or_else(|| header.small(at, 8))
                .ok_or_else(|| malformed("malformed device number"))
        };
        let mut content = 0;
        let kind = match header.flag() {
            // Before there was a type for directories, a slash at the end made them.
            0 | b'0' | b'7' if path.ends_with(b"/") && !header.is_posix() => EntryKind::Directory,
            0 | b'0' | b'7' => {
                content = stored;
                EntryKind::File { size: stored }
            }
            b'S' => {
                content = stored;
                EntryKind::File { size: 0 }
            }
            b'1' => EntryKind::HardLink { target },
            b'2' => EntryKind::Symlink { target },
            b'3' => EntryKind::CharDevice {
                major: device(extensions.device.0, 329)?,
                minor: device(extensions.device.1, 337)?,
            },
            b'4' => EntryKind::BlockDevice {
                major: device(extensions.device.0, 329)?,
                minor: device(extensions.device.1, 337)?,
            },
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            _ => return Err(malformed("a type of file that layers do not have")),
        };
        let mode = header
            .number(100, 8)
            .ok_or_else(|| malformed("malformed mode"))?;
        let entry = Entry {
            mode: (mode & 0o7777) as u32,
            uid: extensions
                .uid
                .or_else(|| header.small(108, 8))
                .ok_or_else(|| malformed("malformed owner"))?,
            gid: extensions
                .gid
                .or_else(|| header.small(116, 8))
                .ok_or_else(|| malformed("malformed group"))?,
            mtime: match extensions.mtime {
                Some(mtime) => mtime,
                None => header.mtime().ok_or_else(|| malformed("malformed time"))?,
            },
            xattrs: deduplicated(std::mem::take(&mut extensions.xattrs)),
            kind,
            path,
        };
        // The types without content may name a size all the same; hard links of old archives do.
        self.content = content;
        self.padding = padding(content);
        self.lay_out(header, entry, &extensions)
    }

    /// Finds where the content goes, which for sparse files is said in three ways.
    fn lay_out(
        &mut self,
        header: &Header,
        mut entry: Entry,
        extensions: &Extensions,
    ) -> Result<Entry, LayerError> {
        let EntryKind::File { size } = &mut entry.kind else {
            return Ok(entry);
        };
        let stored = self.content;
        let fault = |path: &[u8]| LayerError::Entry {
            path: PathBuf::from(std::ffi::OsStr::from_bytes(path)),
            what: "malformed map of a sparse file",
        };
        let map = if header.flag() == b'S' {
            let map = self.old_gnu_map(header)?;
            *size = header.number(483, 12).ok_or_else(|| fault(&entry.path))?;
            Some(map)
        } else if extensions.sparse.map_in_content() {
            let (map, length) = self.map_in_content(stored)?;
            self.content -= length;
            Some(map)
        } else {
            extensions.sparse.map()
        };
        let Some(map) = map else {
            self.segments = vec![Segment {
                offset: 0,
                length: stored,
            }];
            return Ok(entry);
        };
        if let Some(real) = extensions.sparse.size {
            *size = real;
        }
        if !sparse::is_sound(&map, self.content, *size) {
            return Err(fault(&entry.path));
        }
        self.segments = map;
        Ok(entry)
    }

    fn old_gnu_map(&mut self, header: &Header) -> Result<Vec<Segment>, LayerError> {
        let mut map = Vec::new();
        let malformed = |stream: &Stream<R>| stream.malformed("the map of a sparse file");
        sparse::old_gnu_segments(&header.0[386..482], &mut map)
            .ok_or_else(|| malformed(&self.stream))?;
        let mut more = header.0[482] != 0;
        while more {
            let block = self.stream.bytes(BLOCK as u64)?;
            sparse::old_gnu_segments(&block[..504], &mut map)
                .ok_or_else(|| malformed(&self.stream))?;
            more = block[504] != 0;
            if map.len() as u64 * 24 > MAX_EXTENSION {
                return Err(self.stream.malformed("a sparse map of more than 8 MiB"));
            }
        }
        Ok(map)
    }

    /// The map that GNU's PAX form 1.0 keeps in front of the content, and its length there.
    fn map_in_content(&mut self, stored: u64) -> Result<(Vec<Segment>, u64), LayerError> {
        let mut text = sparse::MapText::default();
        let mut length = 0;
        loop {
            if length + BLOCK as u64 > stored.min(MAX_EXTENSION) {
                return Err(self.stream.malformed("the map of a sparse file"));
            }
            let block = self.stream.bytes(BLOCK as u64)?;
            length += BLOCK as u64;
            match text.push(&block) {
                Some(Some(map)) => return Ok((map, length)),
                Some(None) => {}
                None => return Err(self.stream.malformed("the map of a sparse file")),
            }
        }
    }
}

/// The later of equal names wins, as with all PAX records.
fn deduplicated(mut xattrs: Vec<(Vec<u8>, Vec<u8>)>) -> Vec<(Vec<u8>, Vec<u8>)> {
    xattrs.reverse();
    xattrs.sort_by(|one, other| one.0.cmp(&other.0));
    xattrs.dedup_by(|later, earlier| later.0 == earlier.0);
    xattrs
}

fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.trim().parse().ok()
}

/// A PAX time: seconds with any number of decimals, the sign before all of it.
fn time(text: &[u8]) -> Option<FileTime> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !decimals.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanoseconds: u32 = format!("{decimals:0<9}").get(..9)?.parse().ok()?;
    if nanoseconds > 0 && text.starts_with('-') {
        return Some(FileTime {
            seconds: seconds.checked_sub(1)?,
            nanoseconds: 1_000_000_000 - nanoseconds,
        });
    }
    Some(FileTime {
        seconds,
        nanoseconds,
    })
}

/// An archive's bytes, counted.
struct Stream<R> {
    inner: R,
    offset: u64,
}

impl<R: BufRead> Stream<R> {
    fn malformed(&self, what: &'static str) -> LayerError {
        LayerError::Malformed {
            offset: self.offset,
            what,
        }
    }

    /// At least one byte and at most `limit`, to be consumed.
    fn piece(&mut self, limit: u64) -> Result<&[u8], LayerError> {
        let offset = self.offset;
        let buffer = self.inner.fill_buf().map_err(LayerError::Read)?;
        if buffer.is_empty() {
            return Err(LayerError::Truncated { offset });
        }
        let length = buffer
            .len()
            .min(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(&buffer[..length])
    }

    fn consume(&mut self, length: usize) {
        self.inner.consume(length);
        self.offset += length as u64;
    }

    fn skip(&mut self, mut count: u64) -> Result<(), LayerError> {
        while count > 0 {
            let length = self.piece(count)?.len();
            self.consume(length);
            count -= length as u64;
        }
        Ok(())
    }

    /// So many bytes, which the caller has bounded.
    fn bytes(&mut self, count: u64) -> Result<Vec<u8>, LayerError> {
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < count {
            let piece = self.piece(count - bytes.len() as u64)?;
            let length = piece.len();
            bytes.extend_from_slice(piece);
            self.consume(length);
        }
        Ok(bytes)
    }

    /// The next header that is one; `None` at the end of the archive: zeros, or no more bytes.
    fn header(&mut self) -> Result<Option<Header>, LayerError> {
        if self.inner.fill_buf().map_err(LayerError::Read)?.is_empty() {
            return Ok(None);
        }
        let start = self.offset;
        let bytes = self.bytes(BLOCK as u64)?;
        let mut block = [0; BLOCK];
        block.copy_from_slice(&bytes);
        if block.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let header = Header(block);
        if header.is_intact() {
            return Ok(Some(header));
        }
        Err(LayerError::Malformed {
            offset: start,
            what: "no tar header (its checksum does not match)",
        })
    }
}

/// A header block whose checksum is right.
struct Header([u8; BLOCK]);

impl Header {
    fn is_intact(&self) -> bool {
        let Some(stated) = self.number(148, 8) else {
            return false;
        };
        let summed = |value: fn(u8) -> i64| -> i64 {
            let sum = self.0.iter().enumerate().map(|(index, &byte)| {
                value(if (148..156).contains(&index) {
                    b' '
                } else {
                    byte
                })
            });
            sum.sum()
        };
        // Some old programs summed signed bytes.
        i64::try_from(stated).is_ok_and(|stated| {
            stated == summed(i64::from) || stated == summed(|byte| i64::from(byte.cast_signed()))
        })
    }

    fn flag(&self) -> u8 {
        self.0[156]
    }

    fn is_posix(&self) -> bool {
        &self.0[257..263] == b"ustar\0"
    }

    fn text(&self, at: usize, length: usize) -> &[u8] {
        let field = &self.0[at..at + length];
        let end = field.iter().position(|&byte| byte == 0).unwrap_or(length);
        &field[..end]
    }

    fn path(&self) -> Vec<u8> {
        let name = self.text(0, 100);
        // Other forms keep other things where POSIX has a prefix.
        if !self.is_posix() || self.0[345] == 0 {
            return name.to_vec();
        }
        [self.text(345, 155), b"/", name].concat()
    }

    fn link(&self) -> Vec<u8> {
        self.text(157, 100).to_vec()
    }

    fn number(&self, at: usize, length: usize) -> Option<u64> {
        number(&self.0[at..at + length]).and_then(|number| u64::try_from(number).ok())
    }

    fn small(&self, at: usize, length: usize) -> Option<u32> {
        self.number(at, length)
            .and_then(|number| u32::try_from(number).ok())
    }

    fn size(&self) -> Option<u64> {
        self.number(124, 12)
    }

    fn mtime(&self) -> Option<FileTime> {
        Some(FileTime {
            seconds: number(&self.0[136..148])?,
            nanoseconds: 0,
        })
    }
}

/// A field's number: octal digits between spaces and NULs, or GNU's big-endian binary.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let (&first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        let negative = first & 0x40 != 0;
        let start = if negative {
            -1
        } else {
            i64::from(first & 0x3f)
        };
        return rest.iter().try_fold(start, |number, &byte| {
            number.checked_mul(256)?.checked_add(i64::from(byte))
        });
    }
    let blank = |byte: &u8| *byte == b' ' || *byte == 0;
    let start = field
        .iter()
        .position(|byte| !blank(byte))
        .unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(blank).unwrap_or(digits.len());
    digits[..end].iter().try_fold(0i64, |number, &digit| {
        if !(b'0'..=b'7').contains(&digit) {
            return None;
        }
        number.checked_mul(8)?.checked_add(i64::from(digit - b'0'))
    })
}
