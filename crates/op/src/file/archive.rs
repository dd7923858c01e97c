use std::io::{self, BufRead, Read};

use weld_store::layer::{self, decompress};

/// What a decompressor may take of memory, in KiB. `xz -9` needs 65 MiB.
const MAX_XZ_MEMORY: u32 = 512 * 1024;

const BZIP2: &[u8] = b"BZh";
const XZ: &[u8] = b"\xfd7zXZ\0";

/// Whether content that starts like this is a tar archive, as it is or compressed, rather than
/// text. The first 512 bytes tell.
pub fn is_archive(start: &[u8]) -> bool {
    // The magic of POSIX and GNU archives, in their first header.
    let is_tar = start.get(257..262) == Some(b"ustar");
    is_tar || layer::detect(start).is_some() || start.starts_with(BZIP2) || start.starts_with(XZ)
}

/// Undoes the compression that a stream's first bytes show (gzip, bzip2, xz, zstd), or passes it
/// as it is.
///
/// # Errors
/// What reading meets.
pub fn decompressed<'a>(
    mut stream: impl BufRead + Send + 'a,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    let start = stream.fill_buf()?;
    if start.starts_with(BZIP2) {
        return Ok(Box::new(bzip2::bufread::MultiBzDecoder::new(stream)));
    }
    if start.starts_with(XZ) {
        return Ok(Box::new(lzma_rust2::XzReader::new_mem_limit(
            stream,
            true,
            MAX_XZ_MEMORY,
        )));
    }
    decompress(stream)
}
