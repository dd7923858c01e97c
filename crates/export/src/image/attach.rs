//! Attestations of an image: for each platform a manifest of statements beside the image's own.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde_json::json;
use weld_digest::Digest;
use weld_llb::reference::Reference;
use weld_llb::{Platform, purl};
use weld_source::image::{Descriptor, media_type};

use super::{Assembly, ImageManifest, Parts};
use crate::ExportError;
use crate::attestation::{self, LayerFiles, Loaded, StatedSubject, statement};
use crate::blocking::blocking;
use crate::exporter::BuiltPlatform;
use crate::manifest;

/// The type of a statement.
const STATEMENT_TYPE: &str = "application/vnd.in-toto+json";
const ANNOTATION_PREDICATE: &str = "in-toto.io/predicate-type";
const ANNOTATION_REFERENCE_TYPE: &str = "vnd.docker.reference.type";
const ANNOTATION_REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";
const REFERENCE_TYPE: &str = "attestation-manifest";

/// The platform of what is for none.
fn unknown() -> Platform {
    Platform::new("unknown", "unknown", "")
}

impl Assembly<'_> {
    /// Whether anything is attached for which the image needs an index.
    pub(super) fn has_attestations(&self) -> bool {
        let mut platforms = self.built.platforms.iter();
        platforms.any(|platform| {
            attestation::any(&platform.attestations, self.options.inline_attestations)
        })
    }

    /// Attaches what is said of one platform's image, which is the `number`-th of the parts.
    pub(super) async fn attach(
        &self,
        parts: &mut Parts,
        number: usize,
        platform: &BuiltPlatform,
    ) -> Result<(), ExportError> {
        // An index that there is anyway has all.
        if platform.attestations.is_empty() || !self.has_index() {
            return Ok(());
        }
        if !self.options.oci_types {
            return Err(ExportError::AttestationTypes);
        }
        let failed = |source| ExportError::Attestation {
            platform: platform.platform.to_string(),
            source: Box::new(source),
        };
        let Some(image) = parts.manifests.get(number) else {
            return Ok(());
        };
        let target = image.descriptor.clone();
        let layers: Vec<Digest> = image.layers.iter().map(|one| one.digest.clone()).collect();
        let mut loaded = attestation::load(&platform.attestations, true)
            .await
            .map_err(failed)?;
        supplement(platform, layers, &mut loaded).await;
        let subjects = self.subjects(&target.digest, &platform.platform);
        let mut statements = Vec::with_capacity(loaded.len());
        for one in &loaded {
            let content = Bytes::from(statement(one, &subjects).map_err(failed)?);
            let mut descriptor = Descriptor::of(STATEMENT_TYPE, &content);
            descriptor.annotations =
                BTreeMap::from([(ANNOTATION_PREDICATE.to_owned(), one.predicate_type.clone())]);
            self.put(parts, "attestation", content, &descriptor).await?;
            statements.push(descriptor);
        }
        self.add_manifest(parts, target, statements).await
    }

    async fn add_manifest(
        &self,
        parts: &mut Parts,
        target: Descriptor,
        statements: Vec<Descriptor>,
    ) -> Result<(), ExportError> {
        let config = match self.options.oci_artifact {
            true => b"{}".to_vec(),
            false => config(&statements),
        };
        let config_type = match self.options.oci_artifact {
            true => media_type::OCI_EMPTY,
            false => self.types().config(),
        };
        let mut config_descriptor = Descriptor::of(config_type, &config);
        if self.options.oci_artifact {
            // As the OCI image specification has its empty descriptor.
            config_descriptor.data = Some(BASE64.encode(&config));
        }
        let subject = self.options.oci_artifact.then(|| {
            let media_type = target.media_type.clone();
            Descriptor::new(media_type, target.digest.clone(), target.size)
        });
        let (bytes, mut descriptor) = manifest::attestations(
            self.types(),
            config_descriptor.clone(),
            statements.clone(),
            subject,
        )
        .map_err(|source| ExportError::Encode {
            what: "attestation manifest",
            source,
        })?;
        descriptor.platform = Some(unknown());
        descriptor.annotations = BTreeMap::from([
            (
                ANNOTATION_REFERENCE_TYPE.to_owned(),
                REFERENCE_TYPE.to_owned(),
            ),
            (
                ANNOTATION_REFERENCE_DIGEST.to_owned(),
                target.digest.to_string(),
            ),
        ]);
        let bytes = Bytes::from(bytes);
        self.put(parts, "config", config.into(), &config_descriptor)
            .await?;
        self.put(parts, "attestation manifest", bytes.clone(), &descriptor)
            .await?;
        parts.manifests.push(ImageManifest {
            descriptor,
            bytes,
            config: config_descriptor,
            layers: statements,
        });
        Ok(())
    }

    /// The image as statements name it: under each of its names.
    fn subjects(&self, digest: &Digest, platform: &Platform) -> Vec<StatedSubject> {
        let names = self.options.names.iter();
        names
            .filter_map(|name| name.parse::<Reference>().ok())
            .map(|name| {
                let name = purl::of_image(purl::DOCKER, &name, Some(platform), &[]);
                StatedSubject::new(name, std::slice::from_ref(digest))
            })
            .collect()
    }
}

/// The config of a manifest of statements that is an image like any other.
fn config(statements: &[Descriptor]) -> Vec<u8> {
    let digests: Vec<_> = statements.iter().map(|one| &one.digest).collect();
    json!({
        "architecture": "unknown",
        "os": "unknown",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": digests},
    })
    .to_string()
    .into_bytes()
}

async fn supplement(platform: &BuiltPlatform, layers: Vec<Digest>, loaded: &mut [Loaded]) {
    let Some(tree) = platform.tree.clone() else {
        return;
    };
    if !loaded.iter().any(Loaded::wants_layers) {
        return;
    }
    let files = blocking(move || LayerFiles::of(&tree, &layers)).await;
    let wanting = loaded.iter_mut().filter(|one| one.wants_layers());
    wanting.for_each(|one| one.supplement(&files));
}
