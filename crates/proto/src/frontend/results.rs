//! How frontends ask a daemon for solves (package `moby.buildkit.v1.frontend`,
//! `frontend/gateway/pb/gateway.proto`): results.

use std::collections::BTreeMap;

use crate::google::Status;
use crate::pb;

/// File systems, and what is said of them.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Result {
    /// What is said of them, by key.
    #[prost(btree_map = "string, bytes", tag = "10")]
    pub metadata: BTreeMap<String, Vec<u8>>,
    /// Attestations by the name of the file system that they are about.
    #[prost(btree_map = "string, message", tag = "12")]
    pub attestations: BTreeMap<String, Attestations>,
    /// The file systems.
    #[prost(oneof = "result::Result", tags = "1, 2, 3, 4")]
    pub result: Option<result::Result>,
}

/// What [`Result`](super::Result) has a choice of.
pub mod result {
    use super::{Ref, RefMap, RefMapDeprecated};

    /// The file systems of a result.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Result {
        /// The id of one, for clients that know no definitions.
        #[prost(string, tag = "1")]
        RefDeprecated(String),
        /// The ids of several by name, for clients that know no definitions.
        #[prost(message, tag = "2")]
        RefsDeprecated(RefMapDeprecated),
        /// One.
        #[prost(message, tag = "3")]
        Ref(Ref),
        /// Several by name.
        #[prost(message, tag = "4")]
        Refs(RefMap),
    }
}

/// Ids of file systems by name.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RefMapDeprecated {
    /// The ids.
    #[prost(btree_map = "string, string", tag = "1")]
    pub refs: BTreeMap<String, String>,
}

/// A file system.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Ref {
    /// Its id among those of the client; empty for an empty one.
    #[prost(string, tag = "1")]
    pub id: String,
    /// What builds it.
    #[prost(message, optional, tag = "2")]
    pub def: Option<pb::Definition>,
}

/// File systems by name.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RefMap {
    /// The file systems.
    #[prost(btree_map = "string, message", tag = "1")]
    pub refs: BTreeMap<String, Ref>,
}

/// Attestations of one file system.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Attestations {
    /// The attestations.
    #[prost(message, repeated, tag = "1")]
    pub attestation: Vec<Attestation>,
}

/// A statement on a result.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Attestation {
    /// What it is.
    #[prost(enumeration = "AttestationKind", tag = "1")]
    pub kind: i32,
    /// What is said of it, by key.
    #[prost(btree_map = "string, bytes", tag = "2")]
    pub metadata: BTreeMap<String, Vec<u8>>,
    /// What holds it.
    #[prost(message, optional, tag = "3")]
    pub r#ref: Option<Ref>,
    /// Where in there.
    #[prost(string, tag = "4")]
    pub path: String,
    /// The type of the in-toto predicate.
    #[prost(string, tag = "5")]
    pub in_toto_predicate_type: String,
    /// What it is about.
    #[prost(message, repeated, tag = "6")]
    pub in_toto_subjects: Vec<InTotoSubject>,
}

/// What an [`Attestation`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum AttestationKind {
    /// An in-toto predicate.
    InToto = 0,
    /// A directory of in-toto statements.
    Bundle = 1,
}

/// What an attestation is about.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InTotoSubject {
    /// Whether it is the result itself.
    #[prost(enumeration = "InTotoSubjectKind", tag = "1")]
    pub kind: i32,
    /// Its digests.
    #[prost(string, repeated, tag = "2")]
    pub digest: Vec<String>,
    /// Its name.
    #[prost(string, tag = "3")]
    pub name: String,
}

/// What an [`InTotoSubject`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum InTotoSubjectKind {
    /// The result itself.
    Self_ = 0,
    /// What its name and digests say.
    Raw = 1,
}

/// What a frontend has come to.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReturnRequest {
    /// Its result.
    #[prost(message, optional, tag = "1")]
    pub result: Option<Result>,
    /// Why it failed.
    #[prost(message, optional, tag = "2")]
    pub error: Option<Status>,
}

/// Nothing.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ReturnResponse {}
