//! The config of a cache manifest, as BuildKit's `cacheconfig.v0` has it.

use serde::{Deserialize, Serialize};
use weld_digest::Digest;

/// Its media type.
pub const CONFIG_MEDIA_TYPE: &str = "application/vnd.buildkit.cacheconfig.v0";

/// Layers, and records that lead to them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheConfig {
    /// Layers; each is used with all its parents.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<LayerRow>,
    /// Records.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<RecordRow>,
}

/// One layer on its parent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRow {
    /// The digest of its blob.
    pub blob: Digest,
    /// Position of the parent; -1 for none. BuildKit leaves a 0 out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub parent: i64,
    /// What is known of its blob, where no manifest tells.
    #[serde(
        default,
        rename = "annotations",
        skip_serializing_if = "Option::is_none"
    )]
    pub notes: Option<LayerNotes>,
}

/// What is known of a layer's blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerNotes {
    /// Its media type.
    #[serde(
        default,
        rename = "mediaType",
        skip_serializing_if = "String::is_empty"
    )]
    pub media_type: String,
    /// The digest of its content as it is unpacked.
    #[serde(default, rename = "diffID", skip_serializing_if = "Option::is_none")]
    pub diff_id: Option<Digest>,
    /// Its length, in bytes.
    #[serde(default)]
    pub size: u64,
    /// When it was made, by RFC 3339; BuildKit writes the year 1 where it does not know.
    #[serde(default, rename = "createdAt", skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
}

/// One key: of what, from which records, with which results.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordRow {
    /// Results, by their uppermost layer.
    #[serde(default, rename = "layers", skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<ResultRow>,
    /// Results whose layers are told one by one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chains: Vec<ChainRow>,
    /// What it is of.
    pub digest: Digest,
    /// Per input, what can stand there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<Vec<InputRow>>,
}

/// A result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultRow {
    /// Position of its uppermost layer.
    pub layer: i64,
    /// When it was made.
    #[serde(default = "epoch", rename = "createdAt", with = "time::serde::rfc3339")]
    pub created_at: time::OffsetDateTime,
}

/// A result whose layers are told one by one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainRow {
    /// Positions of its layers, lowest first.
    pub layers: Vec<i64>,
    /// When it was made.
    #[serde(default = "epoch", rename = "createdAt", with = "time::serde::rfc3339")]
    pub created_at: time::OffsetDateTime,
}

/// A record that can stand for an input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputRow {
    /// What part of it is used.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub selector: String,
    /// Position of the record.
    pub link: i64,
}

const fn is_zero(number: &i64) -> bool {
    *number == 0
}

const fn epoch() -> time::OffsetDateTime {
    time::OffsetDateTime::UNIX_EPOCH
}
