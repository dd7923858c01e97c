//! The build cache in BuildKit's form: an index or a manifest of layers, and a config that says which keys lead to them.

mod actions_cache;
mod attributes;
mod config;
mod merge;
mod merge_into;
mod mount_options;
mod mounts;
mod object_options;
mod options;
mod order;
mod read;
mod upload;
mod write;

pub use actions_cache::DEFAULT_SCOPE;
pub use attributes::{export_attributes, import_attributes};
pub use config::{CONFIG_MEDIA_TYPE, CacheConfig, LayerNotes, LayerRow, RecordRow, ResultRow};
pub use merge_into::{Unmerged, merge_into, merge_into_layout};
pub use mount_options::{MountExport, MountPlace, MountSelection};
pub use mounts::{
    Chunk, MAX_MOUNTS_CONFIG, MountContent, MountPackError, Mounts, MountsReadError, PackedMount,
    mounts_parts, pack_mount, read_mounts, unpack_chunk, write_mounts,
};
pub use object_options::{ObjectCache, SECRET_ATTRIBUTES};
pub use options::{
    CacheDestination, CacheExportOptions, CacheOptionError, CacheOrigin, TIMEOUTS, ignores_errors,
    is_merged, timeout,
};
pub use read::{CacheReadError, cache_parts, read_config, read_inline, read_noted};
pub use upload::{
    CacheLayer, CacheSink, CacheWriteError, Destination, LayerFetch, WrittenCache, write_cache,
};
pub(crate) use write::image_records;
pub use write::{CacheManifest, ManifestOptions, write_manifest, write_noted};

use std::sync::Arc;

use weld_digest::Digest;
use weld_source::image::Descriptor;

/// The annotation of a layer that tells the digest of its content as it is unpacked.
pub const ANNOTATION_UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// The annotation of a layer that tells when it was made, as BuildKit has it.
pub const ANNOTATION_CREATED: &str = "buildkit/createdat";
/// The annotation of a layer that tells by what it was made, as BuildKit has it.
pub const ANNOTATION_DESCRIPTION: &str = "buildkit/description";

/// A result that can be carried away: layers, lowest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// The layers; each has [`ANNOTATION_UNCOMPRESSED`].
    pub layers: Vec<Arc<Descriptor>>,
}

impl Remote {
    /// The digests of the layers as they are unpacked; `None` where one does not tell.
    pub fn diff_ids(&self) -> Option<Vec<Digest>> {
        let of =
            |layer: &Arc<Descriptor>| layer.annotations.get(ANNOTATION_UNCOMPRESSED)?.parse().ok();
        self.layers.iter().map(of).collect()
    }
}

#[cfg(test)]
mod tests;
