//! Layers: the changes of a snapshot as a tar archive, and back.
//!
//! The format is that of the OCI image specification (layer.md): a tar archive in which a file
//! `.wh.NAME` says that NAME is gone and a file `.wh..wh..opq` that its directory hides all that
//! is below it. What is written depends on nothing but the files, so that equal trees give equal
//! digests; what is read is not trusted.

mod apply;
mod beneath;
mod chunk;
mod compress;
mod create;
mod deflate;
mod diff;
mod entry;
mod error;
mod parallel;
mod pax;
mod rewrite;
mod sparse;
mod tar_read;
mod tar_write;
mod unpack;
mod zstandard;

pub use apply::{Applied, ApplyOptions, Whiteouts, apply};
pub use compress::{Compression, LayerWriter, ParseCompressionError, Written, write};
pub(crate) use diff::root_of;
pub use diff::{DiffOptions, DiffSource, open_root, write_diff};
pub use entry::{Entry, EntryKind};
pub use error::LayerError;
pub use rewrite::rewrite;
pub use tar_read::TarReader;
pub use tar_write::TarWriter;
pub use unpack::{Unpacked, decompress, detect, unpack};

/// The prefix of a name that says that the rest of it is gone.
pub(crate) const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// The prefix of names that have a meaning of their own.
pub(crate) const WHITEOUT_META_PREFIX: &[u8] = b".wh..wh.";
/// The name that makes its directory hide all that is below it.
pub(crate) const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";
