//! Writing an existing layer anew, with other times or another compression.

use std::io::{self, BufRead};
use std::os::unix::ffi::OsStrExt;

use super::compress::LayerWriter;
use super::diff::DiffOptions;
use super::{EntryKind, LayerError, TarReader};

/// Writes the files of an uncompressed archive, all as they are but for what `options` ask.
pub fn rewrite<R: BufRead>(
    archive: R,
    options: DiffOptions<'_>,
    to: &mut LayerWriter,
) -> Result<(), LayerError> {
    let mut reader = TarReader::new(archive);
    while let Some(mut entry) = reader.next_entry()? {
        entry.mtime = entry.mtime.at_most(options.max_mtime);
        to.tar.entry(&entry).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => LayerError::Entry {
                path: std::ffi::OsStr::from_bytes(&entry.path).into(),
                what: "a device number too large for an archive",
            },
            _ => LayerError::Write(error),
        })?;
        let EntryKind::File { size } = entry.kind else {
            continue;
        };
        let mut end = 0;
        reader.content(|offset, bytes| {
            zeros(to, offset - end)?;
            end = offset + bytes.len() as u64;
            io::Write::write_all(&mut to.tar, bytes).map_err(LayerError::Write)
        })?;
        zeros(to, size - end)?;
    }
    reader.finish()?;
    Ok(())
}

fn zeros(to: &mut LayerWriter, count: u64) -> Result<(), LayerError> {
    let mut zeros = io::Read::take(io::repeat(0), count);
    io::copy(&mut zeros, &mut to.tar).map_err(LayerError::Write)?;
    Ok(())
}
