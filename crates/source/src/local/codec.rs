//! The byte form of an index: a header, the number of entries, the entries, and the SHA-256 of
//! all of it. Numbers are little-endian base 128; bytes are preceded by their length.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use weld_digest::{Digest, Hasher};
use weld_fileset::{InodeId, Timestamp, Xattr};

use super::index::{DecodeIndexError, IndexEntry};
use super::stat::{Change, Stat};

const HEADER: &[u8] = b"weld tree index 1\n";
const CHECKSUM: usize = 32;

const HAS_TARGET: u64 = 1;
const HAS_LINK: u64 = 2;
const HAS_CHANGE: u64 = 4;
const HAS_DIGEST: u64 = 8;
const IS_SETTLED: u64 = 16;

pub(super) fn encode(entries: &[IndexEntry]) -> Vec<u8> {
    let mut out = Encoder(HEADER.to_vec());
    out.0.reserve(entries.len() * 128);
    out.number(entries.len() as u64);
    for entry in entries {
        out.entry(entry);
    }
    let checksum = Digest::sha256_of(&out.0);
    out.0.extend_from_slice(checksum.bytes());
    out.0
}

pub(super) fn decode(bytes: &[u8]) -> Result<Vec<IndexEntry>, DecodeIndexError> {
    if !bytes.starts_with(HEADER) {
        return Err(DecodeIndexError::Version);
    }
    let split = bytes.len().checked_sub(CHECKSUM);
    let (content, checksum) = split
        .and_then(|at| bytes.split_at_checked(at))
        .ok_or(DecodeIndexError::Damaged)?;
    let mut hasher = Hasher::sha256();
    hasher.update(content);
    if hasher.finish().bytes() != checksum {
        return Err(DecodeIndexError::Damaged);
    }
    let mut decoder = Decoder {
        bytes: content,
        at: HEADER.len(),
    };
    let count = decoder.number()?;
    let mut entries = Vec::new();
    for _ in 0..count {
        entries.push(decoder.entry()?);
    }
    match decoder.at == content.len() {
        true => Ok(entries),
        false => Err(decoder.malformed()),
    }
}

struct Encoder(Vec<u8>);

impl Encoder {
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn time(&mut self, time: Timestamp) {
        // Zigzag: small numbers of either sign are short.
        self.number(((time.seconds << 1) ^ (time.seconds >> 63)) as u64);
        self.number(time.nanoseconds.into());
    }

    fn entry(&mut self, entry: &IndexEntry) {
        let stat = &entry.stat;
        let flag = |set: bool, bit: u64| if set { bit } else { 0 };
        self.number(
            flag(stat.link_target.is_some(), HAS_TARGET)
                | flag(stat.hard_link.is_some(), HAS_LINK)
                | flag(stat.change.is_some(), HAS_CHANGE)
                | flag(entry.digest.is_some(), HAS_DIGEST)
                | flag(entry.settled, IS_SETTLED),
        );
        self.bytes(stat.path.as_os_str().as_bytes());
        for number in [stat.mode, stat.uid, stat.gid, stat.rdev.0, stat.rdev.1] {
            self.number(number.into());
        }
        self.number(stat.size);
        self.time(stat.mtime);
        for path in [&stat.link_target, &stat.hard_link].into_iter().flatten() {
            self.bytes(path.as_os_str().as_bytes());
        }
        self.number(stat.xattrs.len() as u64);
        for (name, value) in &stat.xattrs {
            self.bytes(name.as_bytes());
            self.bytes(value);
        }
        if let Some(change) = &stat.change {
            self.time(change.ctime);
            self.number(change.inode.device.0.into());
            self.number(change.inode.device.1.into());
            self.number(change.inode.inode);
        }
        if let Some(digest) = &entry.digest {
            // Of files' contents; always SHA-256.
            self.0.extend_from_slice(digest.bytes());
        }
    }
}

struct Decoder<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Decoder<'a> {
    fn malformed(&self) -> DecodeIndexError {
        DecodeIndexError::Malformed(self.at)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeIndexError> {
        let end = self.at.checked_add(length);
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or_else(|| self.malformed())?;
        self.at += length;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u64, DecodeIndexError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = *self.take(1)?.first().ok_or_else(|| self.malformed())?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(self.malformed())
    }

    fn small(&mut self) -> Result<u32, DecodeIndexError> {
        let number = self.number()?;
        u32::try_from(number).map_err(|_| self.malformed())
    }

    fn bytes(&mut self) -> Result<&'a [u8], DecodeIndexError> {
        let length = self.number()?;
        let length = usize::try_from(length).map_err(|_| self.malformed())?;
        self.take(length)
    }

    fn text(&mut self) -> Result<OsString, DecodeIndexError> {
        Ok(OsStr::from_bytes(self.bytes()?).to_owned())
    }

    fn path(&mut self, present: bool) -> Result<Option<PathBuf>, DecodeIndexError> {
        Ok(match present {
            true => Some(PathBuf::from(OsString::from_vec(self.bytes()?.to_vec()))),
            false => None,
        })
    }

    fn time(&mut self) -> Result<Timestamp, DecodeIndexError> {
        let zigzag = self.number()?;
        Ok(Timestamp {
            seconds: (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64),
            nanoseconds: self.small()?,
        })
    }

    fn xattrs(&mut self) -> Result<Vec<Xattr>, DecodeIndexError> {
        let count = self.number()?;
        (0..count)
            .map(|_| Ok((self.text()?, self.bytes()?.to_vec())))
            .collect()
    }

    fn change(&mut self) -> Result<Change, DecodeIndexError> {
        Ok(Change {
            ctime: self.time()?,
            inode: InodeId {
                device: (self.small()?, self.small()?),
                inode: self.number()?,
            },
        })
    }

    fn digest(&mut self) -> Result<Digest, DecodeIndexError> {
        let hash = self.take(CHECKSUM)?;
        let hash = hash.try_into().map_err(|_| self.malformed())?;
        Ok(Digest::from_sha256(hash))
    }

    fn entry(&mut self) -> Result<IndexEntry, DecodeIndexError> {
        let flags = self.number()?;
        let has = |bit: u64| flags & bit != 0;
        let stat = Stat {
            path: self.text()?.into(),
            mode: self.small()?,
            uid: self.small()?,
            gid: self.small()?,
            rdev: (self.small()?, self.small()?),
            size: self.number()?,
            mtime: self.time()?,
            link_target: self.path(has(HAS_TARGET))?,
            hard_link: self.path(has(HAS_LINK))?,
            xattrs: self.xattrs()?,
            change: match has(HAS_CHANGE) {
                true => Some(self.change()?),
                false => None,
            },
        };
        Ok(IndexEntry {
            stat,
            digest: match has(HAS_DIGEST) {
                true => Some(self.digest()?),
                false => None,
            },
            settled: has(IS_SETTLED),
        })
    }
}
