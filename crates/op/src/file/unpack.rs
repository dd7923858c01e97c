//! Unpacking an archive where a copy is told to.

use std::path::Path;

use weld_fileset::Layers;

use super::copy::Copy;
use super::destination::{Destination, Owner};
use super::{Context, FileError};

pub(crate) fn unpack(
    _action: &Copy,
    _source: &Layers,
    _path: &Path,
    _destination: &mut Destination,
    _owner: Option<Owner>,
    _context: &Context<'_>,
) -> Result<bool, FileError> {
    Ok(false)
}
