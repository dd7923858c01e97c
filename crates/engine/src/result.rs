//! What a frontend answers.

use std::collections::BTreeMap;

use bytes::Bytes;
use weld_digest::Digest;

use crate::reference::Ref;

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

/// What an attestation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttestationKind {
    /// An in-toto predicate.
    InToto,
    /// A directory of in-toto statements.
    Bundle,
}

/// What an attestation is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The result itself, maybe under a name.
    Result {
        /// The name; empty for none.
        name: String,
    },
    /// Something else.
    Named {
        /// Its name.
        name: String,
        /// Its digests.
        digests: Vec<Digest>,
    },
}
