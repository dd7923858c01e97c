//! What attests to an image: the statements that its index names, and who signed them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use weld_digest::Digest;
use weld_llb::Platform;
use weld_llb::reference::Reference;
use weld_source::image::{Descriptor, Document, Manifest, Served};
use weld_source::oci_layout::Selector;

use super::{ImageError, Place, open_layout};
use crate::Worker;
use crate::session::Session;

/// The annotation of a statement's layer that says what it states.
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";
/// The artifact types of signatures, the preferred one first.
const SIGNATURES: [&str; 2] = [
    "application/vnd.dev.sigstore.bundle.v0.3+json",
    "application/vnd.dev.cosign.artifact.sig.v1+json",
];
/// The most that is told of one image, in bytes: clients take messages of 16 MiB.
const MAX_ATTESTED: u64 = 12 << 20;

/// The documents by which what is stated of an image can be checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttestationChain {
    /// The digest of the index.
    pub root: Digest,
    /// The digest of the platform's manifest, which is not among the contents.
    pub image_manifest: Digest,
    /// The digest of the manifest whose layers are statements on it.
    pub attestation_manifest: Option<Digest>,
    /// The digests of the manifests that sign that one: at most one.
    pub signature_manifests: Vec<Digest>,
    /// The index, these manifests, what the signature has, and the statements that were asked for.
    pub contents: BTreeMap<Digest, AttestedContent>,
}

/// A document of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttestedContent {
    /// What names it.
    pub descriptor: Descriptor,
    /// The document.
    pub bytes: Bytes,
}

impl Worker {
    /// What attests to an image for a platform, in a registry or in an OCI layout that the session offers, with those of its
    /// statements that are of one of `predicates`; `None` if the reference names no index, which alone has room for attestations.
    ///
    /// # Errors
    /// [`ImageError`].
    pub async fn attestation_chain(
        &self,
        session: Option<&Arc<dyn Session>>,
        layout: Option<&str>,
        text: &str,
        platform: &Platform,
        predicates: &[String],
    ) -> Result<Option<AttestationChain>, ImageError> {
        let place = match layout {
            Some(layout) => open_layout(session, layout).await?,
            None => Place::registry(self, session),
        };
        // What the build uses, wherever its tag points by now.
        let resolved = self.resolve_once(session, &place, text, platform).await?;
        let reference: Reference = text.parse::<Reference>()?.with_default_tag();
        if resolved.digest == resolved.manifest_digest {
            return Ok(None);
        }
        let root = match &place {
            Place::Layout(layout) => {
                let selector = Selector::Digest(resolved.digest.clone());
                layout.resolve(selector).await?
            }
            Place::Registry(_) => {
                let root = Descriptor::new("", resolved.digest.clone(), 0);
                self.document(&place, &reference, &root).await?
            }
        };
        let Document::Index(index) = &root.document else {
            return Ok(None);
        };
        let attesting = index
            .manifests
            .iter()
            .find(|entry| entry.attests(&resolved.manifest_digest))
            .cloned();
        let size = root.bytes.len() as u64;
        let root = AttestedContent {
            descriptor: Descriptor::new(root.document.media_type(), resolved.digest.clone(), size),
            bytes: root.bytes,
        };
        let mut gathering = Gathering {
            worker: self,
            place: &place,
            reference: &reference,
            left: MAX_ATTESTED,
            chain: AttestationChain {
                root: resolved.digest.clone(),
                image_manifest: resolved.manifest_digest.clone(),
                attestation_manifest: None,
                signature_manifests: Vec::new(),
                contents: BTreeMap::new(),
            },
        };
        gathering.add(root)?;
        if let Some(attesting) = attesting {
            gathering.attestations(attesting, predicates).await?;
        }
        Ok(Some(gathering.chain))
    }
}

/// A chain that is put together.
struct Gathering<'a> {
    worker: &'a Worker,
    place: &'a Place,
    reference: &'a Reference,
    /// How much more it may have, in bytes.
    left: u64,
    chain: AttestationChain,
}

impl Gathering<'_> {
    async fn attestations(
        &mut self,
        attesting: Descriptor,
        predicates: &[String],
    ) -> Result<(), ImageError> {
        let digest = attesting.digest.clone();
        let manifest = self.manifest(attesting).await?;
        self.chain.attestation_manifest = Some(digest.clone());
        self.signature(&digest).await?;
        for layer in manifest.layers {
            let predicate = layer.annotations.get(PREDICATE_TYPE);
            if predicate.is_some_and(|predicate| predicates.contains(predicate)) {
                self.layer(layer).await?;
            }
        }
        Ok(())
    }

    /// The signature of the statements' manifest, if the registry or the layout knows of one.
    async fn signature(&mut self, attesting: &Digest) -> Result<(), ImageError> {
        let referrers = match self.place {
            Place::Registry(registry) => {
                let repository = self.reference.repository();
                registry.referrers(repository, attesting).await?
            }
            Place::Layout(layout) => layout.referrers(attesting).await?,
        };
        let signature = SIGNATURES.iter().find_map(|wanted| {
            let mut referrers = referrers.iter();
            referrers.find(|referrer| referrer.artifact_type.as_deref() == Some(*wanted))
        });
        let Some(signature) = signature.cloned() else {
            return Ok(());
        };
        let digest = signature.digest.clone();
        let manifest = self.manifest(signature).await?;
        self.chain.signature_manifests.push(digest);
        for layer in manifest.layers {
            self.layer(layer).await?;
        }
        Ok(())
    }

    async fn manifest(&mut self, descriptor: Descriptor) -> Result<Manifest, ImageError> {
        let (worker, reference) = (self.worker, self.reference);
        let served: Served = worker.document(self.place, reference, &descriptor).await?;
        worker.keep(reference, &served).await?;
        let Document::Manifest(manifest) = served.document else {
            return Err(ImageError::Nested(reference.to_string()));
        };
        self.add(AttestedContent {
            descriptor,
            bytes: served.bytes,
        })?;
        Ok(*manifest)
    }

    async fn layer(&mut self, descriptor: Descriptor) -> Result<(), ImageError> {
        if self.chain.contents.contains_key(&descriptor.digest) {
            return Ok(());
        }
        if descriptor.size > self.left {
            return Err(self.too_large());
        }
        let (place, reference) = (self.place, self.reference);
        let bytes = self.worker.content(place, reference, &descriptor).await?;
        self.add(AttestedContent { descriptor, bytes })
    }

    fn add(&mut self, content: AttestedContent) -> Result<(), ImageError> {
        let size = content.bytes.len() as u64;
        self.left = self
            .left
            .checked_sub(size)
            .ok_or_else(|| self.too_large())?;
        let digest = content.descriptor.digest.clone();
        self.chain.contents.insert(digest, content);
        Ok(())
    }

    fn too_large(&self) -> ImageError {
        ImageError::AttestationsTooLarge {
            reference: self.reference.to_string(),
            limit: MAX_ATTESTED,
        }
    }
}
