//! A context that comes as an archive on standard input.

use std::io::{BufReader, Read};
use std::path::Path;

pub use weld_op::file::is_archive;
use weld_store::layer::{self, ApplyOptions, LayerError, Whiteouts};

/// Why an archive cannot be unpacked.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct UnpackError(#[from] LayerError);

/// Unpacks an archive into an empty directory; nothing outside of it is touched.
///
/// # Errors
/// [`UnpackError`] names the entry that is at fault.
pub fn unpack_context(archive: impl Read + Send, directory: &Path) -> Result<(), UnpackError> {
    let root = layer::open_root(directory)?;
    let archive = weld_op::file::decompressed(BufReader::new(archive)).map_err(LayerError::Read)?;
    let options = ApplyOptions::new(Whiteouts::Literal);
    layer::unpack(archive, std::os::fd::AsFd::as_fd(&root), &options)?;
    Ok(())
}
