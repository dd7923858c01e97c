//! A context that comes as an archive on standard input.

use std::io::Read;
use std::path::Path;

use weld_store::layer::{self, ApplyOptions, LayerError, Whiteouts};

/// Why an archive cannot be unpacked.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct UnpackError(#[from] LayerError);

/// Whether content that starts like this is a tar archive, compressed or not, rather than text.
pub fn is_archive(start: &[u8]) -> bool {
    // The magic of POSIX and GNU archives, in their first header.
    let is_tar = start.get(257..262) == Some(b"ustar");
    is_tar || layer::detect(start).is_some()
}

/// Unpacks an archive into an empty directory; nothing outside of it is touched.
///
/// # Errors
/// [`UnpackError`] names the entry that is at fault.
pub fn unpack_context(archive: impl Read + Send, directory: &Path) -> Result<(), UnpackError> {
    let root = layer::open_root(directory)?;
    let options = ApplyOptions::new(Whiteouts::Literal);
    layer::unpack(archive, std::os::fd::AsFd::as_fd(&root), &options)?;
    Ok(())
}
