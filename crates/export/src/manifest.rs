//! Manifests and indexes, as the OCI image specification and docker's schema 2 have them.

use std::collections::BTreeMap;

use weld_source::image::{Descriptor, Index, Manifest};

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
        let (bytes, descriptor) =
            manifest(Types::Oci, config, Vec::new(), BTreeMap::new()).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(json["schemaVersion"], 2);
        assert_eq!(json["config"]["size"], 2);
        assert!(json.get("annotations").is_none());
        assert_eq!(descriptor.digest, weld_digest::Digest::sha256_of(&bytes));
    }
}
