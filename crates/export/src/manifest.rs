//! Manifests and indexes, as the OCI image specification and docker's schema 2 have them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weld_digest::Digest;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// The pairs of media types that mean the same: OCI's and docker's.
const LAYER_TYPES: [(&str, &str); 5] = [
    (
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar",
    ),
    (
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
    ),
    (
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
    ),
    (
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    ),
    (
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ),
];

/// A reference to a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// What the blob is.
    #[serde(rename = "mediaType")]
    pub media_type: String,
    /// The blob's digest.
    pub digest: Digest,
    /// The blob's length in bytes.
    pub size: u64,
    /// Where else the blob can be had.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Notes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<serde_json::Value>,
}

impl Descriptor {
    pub(crate) fn of(media_type: &str, content: &[u8]) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: Digest::sha256_of(content),
            size: content.len() as u64,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: None,
        }
    }
}

#[derive(Serialize)]
struct Manifest<'a> {
    #[serde(rename = "schemaVersion")]
    schema_version: u32,
    #[serde(rename = "mediaType")]
    media_type: &'a str,
    config: &'a Descriptor,
    layers: &'a [Descriptor],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Index<'a> {
    #[serde(rename = "schemaVersion")]
    schema_version: u32,
    #[serde(rename = "mediaType")]
    media_type: &'a str,
    manifests: &'a [Descriptor],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
}

/// Which family of media types is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Types {
    Oci,
    Docker,
}

impl Types {
    pub(crate) const fn config(self) -> &'static str {
        match self {
            Self::Oci => OCI_CONFIG,
            Self::Docker => DOCKER_CONFIG,
        }
    }

    const fn manifest(self) -> &'static str {
        match self {
            Self::Oci => OCI_MANIFEST,
            Self::Docker => DOCKER_MANIFEST,
        }
    }

    pub(crate) const fn index(self) -> &'static str {
        match self {
            Self::Oci => OCI_INDEX,
            Self::Docker => DOCKER_INDEX,
        }
    }

    /// A layer's media type in this family; one that is in none stays.
    pub(crate) fn layer(self, media_type: &str) -> String {
        let pair = LAYER_TYPES
            .iter()
            .find(|(oci, docker)| *oci == media_type || *docker == media_type);
        match (pair, self) {
            (Some((oci, _)), Self::Oci) => (*oci).to_owned(),
            (Some((_, docker)), Self::Docker) => (*docker).to_owned(),
            (None, _) => media_type.to_owned(),
        }
    }
}

/// A manifest's bytes and its descriptor.
pub(crate) fn manifest(
    types: Types,
    config: &Descriptor,
    layers: &[Descriptor],
    annotations: &BTreeMap<String, String>,
) -> Result<(Vec<u8>, Descriptor), serde_json::Error> {
    let media_type = types.manifest();
    let manifest = Manifest {
        schema_version: 2,
        media_type,
        config,
        layers,
        annotations,
    };
    let bytes = serde_json::to_vec_pretty(&manifest)?;
    let descriptor = Descriptor::of(media_type, &bytes);
    Ok((bytes, descriptor))
}

/// An index's bytes and its descriptor.
pub(crate) fn index(
    types: Types,
    manifests: &[Descriptor],
    annotations: &BTreeMap<String, String>,
) -> Result<(Vec<u8>, Descriptor), serde_json::Error> {
    let media_type = types.index();
    let bytes = serde_json::to_vec_pretty(&Index {
        schema_version: 2,
        media_type,
        manifests,
        annotations,
    })?;
    let descriptor = Descriptor::of(media_type, &bytes);
    Ok((bytes, descriptor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layer_types_change_families_and_back() {
        for (oci, docker) in LAYER_TYPES {
            assert_eq!(Types::Docker.layer(oci), docker);
            assert_eq!(Types::Oci.layer(docker), oci);
            assert_eq!(Types::Oci.layer(oci), oci);
        }
        assert_eq!(Types::Oci.layer("text/plain"), "text/plain");
    }

    #[test]
    fn a_manifest_has_the_fields_of_the_specification() {
        let config = Descriptor::of(OCI_CONFIG, b"{}");
        let (bytes, descriptor) = manifest(Types::Oci, &config, &[], &BTreeMap::new()).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(json["schemaVersion"], 2);
        assert_eq!(json["config"]["size"], 2);
        assert!(json.get("annotations").is_none());
        assert_eq!(descriptor.digest, Digest::sha256_of(&bytes));
    }
}
