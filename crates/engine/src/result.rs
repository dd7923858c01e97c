//! What a frontend answers.

use std::collections::BTreeMap;

use bytes::Bytes;
use weld_export::{AttestationContent, AttestationKind, Subject};

use crate::error::BuildError;
use crate::reference::Ref;

/// The metadata of an attestation that is only attached where that costs nothing.
const INLINE_ONLY: &str = "inline-only";
/// The metadata of a scan that names the file on the result itself.
pub(crate) const SBOM_CORE: &str = "sbom-core";

/// What a frontend answers: file systems that can be built, and what is said of them.
#[derive(Clone, Debug, Default)]
pub struct FrontendResult {
    /// The file systems.
    pub refs: Refs,
    /// What exporters and clients read, by BuildKit's keys, such as `containerimage.config` or
    /// `containerimage.config/linux/amd64`.
    pub metadata: BTreeMap<String, Bytes>,
    /// Attestations of each file system, by its name.
    pub attestations: BTreeMap<String, Vec<Attestation>>,
}

/// The file systems of a result; one that is absent is empty.
#[derive(Clone, Debug)]
pub enum Refs {
    /// One without a name.
    Single(Option<Ref>),
    /// Several by name, mostly that of a platform.
    Map(BTreeMap<String, Option<Ref>>),
}

impl Default for Refs {
    fn default() -> Self {
        Self::Single(None)
    }
}

impl Refs {
    /// Each with its name, if it has one; without a file system where it is known to be empty.
    pub fn named(&self) -> Vec<(Option<&str>, Option<&Ref>)> {
        match self {
            Self::Single(reference) => vec![(None, reference.as_ref())],
            Self::Map(refs) => refs
                .iter()
                .map(|(name, reference)| (Some(name.as_str()), reference.as_ref()))
                .collect(),
        }
    }
}

impl FrontendResult {
    /// A result of one file system.
    pub fn single(reference: Option<Ref>) -> Self {
        Self {
            refs: Refs::Single(reference),
            ..Self::default()
        }
    }

    /// Whether a frontend has listed already what is in it.
    pub(crate) fn has_sbom(&self) -> bool {
        let mut all = self.attestations.values().flatten();
        all.any(|attestation| attestation.predicate_type == weld_export::SPDX)
    }

    /// Every file system that is not known to be empty, those of attestations last.
    pub fn each_ref(&self) -> impl Iterator<Item = &Ref> {
        let (single, map) = match &self.refs {
            Refs::Single(reference) => (reference.as_ref(), None),
            Refs::Map(refs) => (None, Some(refs)),
        };
        let attested = self.attestations.values().flatten();
        single
            .into_iter()
            .chain(map.into_iter().flat_map(BTreeMap::values).flatten())
            .chain(attested.filter_map(|attestation| attestation.reference.as_ref()))
    }
}

/// A statement on a result.
#[derive(Clone, Debug)]
pub struct Attestation {
    /// What it is.
    pub kind: AttestationKind,
    /// What exporters read, by BuildKit's keys.
    pub metadata: BTreeMap<String, Bytes>,
    /// What holds it.
    pub reference: Option<Ref>,
    /// Where in there.
    pub path: String,
    /// The type of the in-toto predicate.
    pub predicate_type: String,
    /// What it is about.
    pub subjects: Vec<Subject>,
}

impl Attestation {
    /// The same as exporters read it; what holds it is built.
    pub(crate) async fn to_export(&self) -> Result<weld_export::Attestation, BuildError> {
        let files = match &self.reference {
            Some(reference) => reference.tree().await?.snapshot().cloned(),
            None => None,
        };
        let text = |key: &str| {
            let value = self.metadata.get(key)?;
            Some(String::from_utf8_lossy(value).into_owned())
        };
        Ok(weld_export::Attestation {
            kind: self.kind,
            predicate_type: self.predicate_type.clone(),
            path: self.path.clone(),
            subjects: self.subjects.clone(),
            content: AttestationContent::Files(files),
            inline_only: text(INLINE_ONLY).as_deref() == Some("true"),
            sbom_core: text(SBOM_CORE),
        })
    }
}
