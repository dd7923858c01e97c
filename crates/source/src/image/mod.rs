//! Image documents: descriptors, manifests and indexes, in OCI's and in docker's media types.
//!
//! The types are our own and small: digests are [`Digest`] from the moment of parsing, and
//! docker's form of a document differs from OCI's by its media types alone. The image
//! configuration stays bytes here, since docker's fields beyond OCI's must survive.

pub mod media_type;

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use weld_digest::Digest;

pub use weld_llb::{Platform, PlatformMatcher};

/// The annotation that marks a manifest in an index as being about another one.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
/// Its value for manifests whose layers are statements on the other one.
const ATTESTATION: &str = "attestation-manifest";
/// The annotation that says which other one.
const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";
/// The annotation in which a layout's index names an image.
pub const ANNOTATION_REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The largest manifest or index that is read; registries refuse larger ones.
pub const MAX_MANIFEST: u64 = 4 << 20;
/// The largest image configuration that is read.
pub const MAX_CONFIG: u64 = 8 << 20;

/// Names some content: what it is, its digest and its size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the content is.
    #[serde(default)]
    pub media_type: String,
    /// The digest of the content.
    pub digest: Digest,
    /// The length of the content, in bytes.
    pub size: u64,
    /// Where else the content may be fetched from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Notes.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "nullable"
    )]
    pub annotations: BTreeMap<String, String>,
    /// In an index: what the manifest is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// The type of an artifact, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The content itself, in base64, where it is small.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
}

/// An image: a configuration and layers, lowest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// OCI's or docker's media type of a manifest.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// The type of an artifact, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The configuration.
    pub config: Descriptor,
    /// The layers, lowest first.
    #[serde(default, deserialize_with = "nullable")]
    pub layers: Vec<Descriptor>,
    /// What the artifact is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Notes.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "nullable"
    )]
    pub annotations: BTreeMap<String, String>,
}

/// Images for several platforms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// OCI's media type of an index or docker's of a manifest list.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// The type of an artifact, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The manifests.
    #[serde(default, deserialize_with = "nullable")]
    pub manifests: Vec<Descriptor>,
    /// What the artifact is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Notes.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "nullable"
    )]
    pub annotations: BTreeMap<String, String>,
}

/// A parsed manifest or index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Box<Manifest>),
    /// Several.
    Index(Box<Index>),
}

/// Why bytes are no document of an image.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// The media type is none of an image.
    #[error("media type {0:?} is not an image manifest or index")]
    MediaType(String),
    /// The document is of docker's first schema, which was withdrawn.
    #[error(
        "the image has a manifest of docker's schema 1, which is not supported any more: push it \
         again with a current tool"
    )]
    Schema1,
    /// It is not JSON of the right shape.
    #[error("malformed {kind}: {source}")]
    Json {
        /// What it should be.
        kind: &'static str,
        /// Where it fails.
        source: serde_json::Error,
    },
    /// It reads as both a manifest and an index, so that two readers could see two images.
    #[error("ambiguous document: it has fields of a manifest and of an index")]
    Ambiguous,
    /// Its `schemaVersion` is unknown.
    #[error("schema version {0} is not supported")]
    SchemaVersion(u32),
    /// Its `mediaType` is not the one that it was announced with.
    #[error("the document says that it is {stated:?} but was served as {served:?}")]
    Mismatch {
        /// In the document.
        stated: String,
        /// By the registry or the descriptor.
        served: String,
    },
}

/// Why an index has no image for a platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no image for platform {wanted}; there is {}", list(.available))]
pub struct NoMatchError {
    /// What was wanted.
    pub wanted: String,
    /// What the index has.
    pub available: Vec<String>,
}

fn list(platforms: &[String]) -> String {
    if platforms.is_empty() {
        return "none".to_owned();
    }
    platforms.join(", ")
}

/// Reads an explicit `null` as the default, as Go's encoder writes empty lists and maps.
fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Descriptor {
    /// The descriptor of `content`.
    pub fn of(media_type: impl Into<String>, content: &[u8]) -> Self {
        Self::new(media_type, Digest::sha256_of(content), content.len() as u64)
    }

    /// A descriptor without notes.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: None,
            artifact_type: None,
            data: None,
        }
    }

    /// Whether this is an attestation of another manifest, not an image.
    pub fn is_attestation(&self) -> bool {
        self.annotations.contains_key(REFERENCE_TYPE)
    }

    /// Whether this is the manifest of the statements on `image`.
    pub fn attests(&self, image: &Digest) -> bool {
        let is = |key, value: &str| self.annotations.get(key).is_some_and(|own| own == value);
        is(REFERENCE_TYPE, ATTESTATION) && is(REFERENCE_DIGEST, &image.to_string())
    }

    /// Whether this is a layer that its registry may not distribute, to be fetched from
    /// [`urls`](Self::urls).
    pub fn is_foreign_layer(&self) -> bool {
        media_type::is_foreign_layer(&self.media_type)
    }
}

impl Document {
    /// Reads a manifest or index. `served` is the media type that it was announced with, empty
    /// if there was none.
    ///
    /// # Errors
    /// [`DocumentError`] says why it is none.
    pub fn parse(bytes: &[u8], served: &str) -> Result<Self, DocumentError> {
        let probe: Probe = parse(bytes, "image document")?;
        let stated = probe.media_type.unwrap_or_default();
        if media_type::is_schema1(served)
            || media_type::is_schema1(&stated)
            || probe.schema_version == 1
        {
            return Err(DocumentError::Schema1);
        }
        if probe.schema_version != 2 {
            return Err(DocumentError::SchemaVersion(probe.schema_version));
        }
        if !stated.is_empty() && media_type::is_document(served) && stated != served {
            return Err(DocumentError::Mismatch {
                stated,
                served: served.to_owned(),
            });
        }
        let is_manifest = probe.config.is_some() || probe.layers.is_some();
        let is_index = probe.manifests.is_some();
        if is_manifest && is_index {
            return Err(DocumentError::Ambiguous);
        }
        let kind = if stated.is_empty() { served } else { &stated };
        match () {
            () if media_type::is_index(kind) => Self::parse_index(bytes, kind),
            () if media_type::is_manifest(kind) => Self::parse_manifest(bytes, kind),
            () if media_type::is_generic(kind) && is_index => {
                Self::parse_index(bytes, media_type::OCI_INDEX)
            }
            () if media_type::is_generic(kind) && is_manifest => {
                Self::parse_manifest(bytes, media_type::OCI_MANIFEST)
            }
            () => Err(DocumentError::MediaType(kind.to_owned())),
        }
    }

    /// Its media type.
    pub fn media_type(&self) -> &str {
        match self {
            Self::Manifest(manifest) => &manifest.media_type,
            Self::Index(index) => &index.media_type,
        }
    }

    fn parse_manifest(bytes: &[u8], kind: &str) -> Result<Self, DocumentError> {
        let mut manifest: Manifest = parse(bytes, "image manifest")?;
        kind.clone_into(&mut manifest.media_type);
        Ok(Self::Manifest(Box::new(manifest)))
    }

    fn parse_index(bytes: &[u8], kind: &str) -> Result<Self, DocumentError> {
        let mut index: Index = parse(bytes, "image index")?;
        kind.clone_into(&mut index.media_type);
        Ok(Self::Index(Box::new(index)))
    }
}

/// The fields by which the kinds of documents are told apart.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    #[serde(default)]
    schema_version: u32,
    media_type: Option<String>,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    manifests: Option<serde::de::IgnoredAny>,
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8], kind: &'static str) -> Result<T, DocumentError> {
    serde_json::from_slice(bytes).map_err(|source| DocumentError::Json { kind, source })
}

impl Index {
    /// The image that serves `wanted`: the best match, the first among equals.
    /// Attestations are passed over. An entry that states no platform is taken if nothing that
    /// states one matches.
    ///
    /// # Errors
    /// [`NoMatchError`] lists what there is.
    pub fn select(&self, wanted: &Platform) -> Result<&Descriptor, NoMatchError> {
        let matcher = wanted.matcher();
        let images = || {
            self.manifests
                .iter()
                .filter(|entry| !entry.is_attestation())
        };
        let best = images()
            .filter_map(|entry| {
                let rank = matcher.rank(entry.platform.as_ref()?)?;
                Some((rank, entry))
            })
            // The first among equals: `min_by_key` keeps it.
            .min_by_key(|(rank, _)| *rank)
            .map(|(_, entry)| entry);
        best.or_else(|| images().find(|entry| entry.platform.is_none()))
            .ok_or_else(|| NoMatchError {
                wanted: wanted.to_string(),
                available: images()
                    .filter_map(|entry| entry.platform.as_ref())
                    .map(ToString::to_string)
                    .collect(),
            })
    }
}

/// A manifest or index as it was served, with its descriptor.
#[derive(Clone, Debug)]
pub struct Served {
    /// Media type, digest and size of [`bytes`](Self::bytes).
    pub descriptor: Descriptor,
    /// The document as it is, to be stored under its digest.
    pub bytes: Bytes,
    /// The same, parsed.
    pub document: Document,
}

#[cfg(test)]
mod tests;
