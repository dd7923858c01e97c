//! Manifests and indexes, as the OCI image specification and docker's schema 2 have them.

use std::collections::BTreeMap;

use weld_source::image::{Descriptor, Index, Manifest, media_type};

/// Which family of media types is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Types {
    Oci,
    Docker,
}

impl Types {
    pub(crate) const fn config(self) -> &'static str {
        match self {
            Self::Oci => media_type::OCI_CONFIG,
            Self::Docker => media_type::DOCKER_CONFIG,
        }
    }

    const fn manifest(self) -> &'static str {
        match self {
            Self::Oci => media_type::OCI_MANIFEST,
            Self::Docker => media_type::DOCKER_MANIFEST,
        }
    }

    pub(crate) const fn index(self) -> &'static str {
        match self {
            Self::Oci => media_type::OCI_INDEX,
            Self::Docker => media_type::DOCKER_MANIFEST_LIST,
        }
    }

    /// A layer's media type in this family; one that is in none stays.
    pub(crate) fn layer(self, media_type: &str) -> &str {
        match self {
            Self::Oci => media_type::oci_layer_type(media_type),
            Self::Docker => media_type::docker_layer_type(media_type),
        }
    }
}

/// The type of a layer that may be distributed, of the same content.
pub(crate) fn distributable(media_type: &str) -> String {
    media_type
        .replacen("layer.nondistributable.v1", "layer.v1", 1)
        .replacen("rootfs.foreign.diff", "rootfs.diff", 1)
}

/// A manifest's bytes and its descriptor.
pub(crate) fn manifest(
    types: Types,
    config: Descriptor,
    layers: Vec<Descriptor>,
    annotations: BTreeMap<String, String>,
) -> Result<(Vec<u8>, Descriptor), serde_json::Error> {
    let manifest = Manifest {
        schema_version: 2,
        media_type: types.manifest().to_owned(),
        artifact_type: None,
        config,
        layers,
        subject: None,
        annotations,
    };
    let bytes = serde_json::to_vec_pretty(&manifest)?;
    let descriptor = Descriptor::of(types.manifest(), &bytes);
    Ok((bytes, descriptor))
}

/// What an attestation manifest is as an artifact.
const ATTESTATION: &str = "application/vnd.docker.attestation.manifest.v1+json";

/// A manifest of statements on another one, as bytes and descriptor. With a `subject` it is an
/// artifact about that one; without, it is an image like any other.
pub(crate) fn attestations(
    types: Types,
    config: Descriptor,
    statements: Vec<Descriptor>,
    subject: Option<Descriptor>,
) -> Result<(Vec<u8>, Descriptor), serde_json::Error> {
    let manifest = Manifest {
        schema_version: 2,
        media_type: types.manifest().to_owned(),
        artifact_type: subject.is_some().then(|| ATTESTATION.to_owned()),
        config,
        layers: statements,
        subject,
        annotations: BTreeMap::new(),
    };
    let bytes = serde_json::to_vec_pretty(&manifest)?;
    let descriptor = Descriptor::of(types.manifest(), &bytes);
    Ok((bytes, descriptor))
}

/// An index's bytes and its descriptor.
pub(crate) fn index(
    types: Types,
    manifests: Vec<Descriptor>,
    annotations: BTreeMap<String, String>,
) -> Result<(Vec<u8>, Descriptor), serde_json::Error> {
    let index = Index {
        schema_version: 2,
        media_type: types.index().to_owned(),
        artifact_type: None,
        manifests,
        subject: None,
        annotations,
    };
    let bytes = serde_json::to_vec_pretty(&index)?;
    let descriptor = Descriptor::of(types.index(), &bytes);
    Ok((bytes, descriptor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layer_types_change_families_and_back() {
        for oci in [
            media_type::OCI_LAYER,
            media_type::OCI_LAYER_GZIP,
            media_type::OCI_LAYER_ZSTD,
        ] {
            let docker = Types::Docker.layer(oci);
            assert_ne!(docker, oci);
            assert_eq!(Types::Oci.layer(docker), oci);
            assert_eq!(Types::Oci.layer(oci), oci);
        }
        assert_eq!(Types::Oci.layer("text/plain"), "text/plain");
    }

    #[test]
    fn layers_can_be_made_distributable() {
        for (from, to) in [
            (
                media_type::DOCKER_FOREIGN_LAYER_GZIP,
                media_type::DOCKER_LAYER_GZIP,
            ),
            (
                "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
                media_type::OCI_LAYER_GZIP,
            ),
            (media_type::OCI_LAYER_ZSTD, media_type::OCI_LAYER_ZSTD),
        ] {
            assert_eq!(distributable(from), to);
        }
    }

    #[test]
    fn a_manifest_has_the_fields_of_the_specification() {
        let config = Descriptor::of(media_type::OCI_CONFIG, b"{}");
        let (bytes, descriptor) =
            manifest(Types::Oci, config, Vec::new(), BTreeMap::new()).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(json["schemaVersion"], 2);
        assert_eq!(json["config"]["size"], 2);
        assert!(json.get("annotations").is_none());
        assert_eq!(descriptor.digest, weld_digest::Digest::sha256_of(&bytes));
    }
}
