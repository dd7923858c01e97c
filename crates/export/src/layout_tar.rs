//! A tar archive of an OCI layout in the writing.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use weld_digest::{Algorithm, Digest};
use weld_store::{BlobRef, Growth};

use crate::stream::Stream;

const BLOCK: usize = 512;
/// The largest size that a header's field holds: eleven octal digits.
const MAX_SIZE: u64 = 0o77_777_777_777;
/// A blob in the making is copied in pieces of this many bytes.
const PIECE: u64 = 8 << 20;

/// An archive that blobs are added to, each once.
pub(crate) struct LayoutTar<'a> {
    out: Stream<'a>,
    written: BTreeSet<Digest>,
}

impl<'a> LayoutTar<'a> {
    pub(crate) fn begin(mut out: Stream<'a>) -> io::Result<Self> {
        directory(&mut out, "blobs/")?;
        directory(&mut out, "blobs/sha256/")?;
        Ok(Self {
            out,
            written: BTreeSet::new(),
        })
    }

    /// Goes on with one that [`pause`](Self::pause) stopped.
    pub(crate) const fn resume(out: Stream<'a>, written: BTreeSet<Digest>) -> Self {
        Self { out, written }
    }

    /// Writes all that was gathered, and returns which blobs are there.
    pub(crate) fn pause(mut self) -> io::Result<BTreeSet<Digest>> {
        self.out.flush()?;
        Ok(self.written)
    }

    /// Adds a blob, unless it is there.
    pub(crate) fn blob(&mut self, digest: &Digest, file: &Path, size: u64) -> io::Result<()> {
        if !self.is_new(digest)? {
            return Ok(());
        }
        let file = File::open(file)?;
        self.header(&blob_path(digest), size)?;
        self.out.copy_blob(&file, size, digest)?;
        self.pad(size)?;
        self.written.insert(digest.clone());
        Ok(())
    }

    /// Adds a blob while it is made; `made` waits for what it came to, and has nothing if it came
    /// to nothing. The archive must be a file that can be written anywhere.
    pub(crate) fn growing(
        &mut self,
        growth: &Growth,
        made: impl FnOnce() -> Option<BlobRef>,
    ) -> io::Result<()> {
        // Digest and length, for the header, are known at the end.
        self.out.write_all(&[0; BLOCK])?;
        let start = self.out.position()? - BLOCK as u64;
        let mut copied = 0;
        loop {
            let length = growth.wait_for(copied + PIECE);
            if length == copied {
                break;
            }
            self.out.copy_file(growth.file(), length - copied)?;
            copied = length;
        }
        let Some(blob) = made() else {
            return Err(io::Error::other("a layer was not completed"));
        };
        if blob.size() != copied {
            return Err(io::Error::other(format!(
                "{copied} of {} bytes of a layer were seen",
                blob.size()
            )));
        }
        if !self.is_new(blob.digest())? {
            return self.out.truncate(start);
        }
        let header = header(
            tar::EntryType::Regular,
            &blob_path(blob.digest()),
            0o444,
            copied,
        )?;
        self.out.write_at(header.as_bytes(), start)?;
        self.pad(copied)?;
        self.written.insert(blob.digest().clone());
        Ok(())
    }

    /// Adds a file.
    pub(crate) fn file(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        let size = content.len() as u64;
        self.header(name, size)?;
        self.out.write_all(content)?;
        self.pad(size)
    }

    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()
    }

    /// Whether a blob is not there yet, for which there is a directory then.
    fn is_new(&mut self, digest: &Digest) -> io::Result<bool> {
        if self.written.contains(digest) {
            return Ok(false);
        }
        let algorithm = digest.algorithm();
        let mut written = self.written.iter();
        if algorithm != Algorithm::Sha256 && written.all(|other| other.algorithm() != algorithm) {
            directory(&mut self.out, &format!("blobs/{}/", algorithm.name()))?;
        }
        Ok(true)
    }

    fn header(&mut self, name: &str, size: u64) -> io::Result<()> {
        let header = header(tar::EntryType::Regular, name, 0o444, size)?;
        self.out.write_all(header.as_bytes())
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let padding = (BLOCK - (size % BLOCK as u64) as usize) % BLOCK;
        self.out.write_all(&[0; BLOCK][..padding])
    }
}

/// Where a blob is in a layout.
pub(crate) fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

fn header(kind: tar::EntryType, name: &str, mode: u32, size: u64) -> io::Result<tar::Header> {
    // Larger ones need the base-256 numbers of GNU tar.
    let mut header = match size {
        0..=MAX_SIZE => tar::Header::new_ustar(),
        _ => tar::Header::new_gnu(),
    };
    header.set_entry_type(kind);
    header.set_path(name)?;
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    Ok(header)
}

fn directory(out: &mut Stream<'_>, name: &str) -> io::Result<()> {
    out.write_all(header(tar::EntryType::Directory, name, 0o755, 0)?.as_bytes())
}
