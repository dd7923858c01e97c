//! How frontends ask a daemon for solves (package `moby.buildkit.v1.frontend`,
//! `frontend/gateway/pb/gateway.proto`): what sources stand for.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost_types::Timestamp;

use crate::{pb, sourcepolicy};

/// Asks for an image's config.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ResolveImageConfigRequest {
    /// The reference.
    #[prost(string, tag = "1")]
    pub r#ref: String,
    /// The platform to choose of an index.
    #[prost(message, optional, tag = "2")]
    pub platform: Option<pb::Platform>,
    /// When the registry is asked.
    #[prost(string, tag = "3")]
    pub resolve_mode: String,
    /// What to call the step where progress is shown.
    #[prost(string, tag = "4")]
    pub log_name: String,
    /// 0 for a registry, 1 for an OCI layout.
    #[prost(int32, tag = "5")]
    pub resolver_type: i32,
    /// The session that serves the OCI layout.
    #[prost(string, tag = "6")]
    pub session_id: String,
    /// The OCI layout's name in the session.
    #[prost(string, tag = "7")]
    pub store_id: String,
    /// Further policies.
    #[prost(message, repeated, tag = "8")]
    pub source_policies: Vec<sourcepolicy::Policy>,
}

/// An image's config.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ResolveImageConfigResponse {
    /// The digest that the reference stands for.
    #[prost(string, tag = "1")]
    pub digest: String,
    /// The config.
    #[prost(bytes = "bytes", tag = "2")]
    pub config: Bytes,
    /// The reference to use instead.
    #[prost(string, tag = "3")]
    pub r#ref: String,
}

/// Asks what a source stands for.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ResolveSourceMetaRequest {
    /// The source.
    #[prost(message, optional, tag = "1")]
    pub source: Option<pb::SourceOp>,
    /// The platform to choose of an index.
    #[prost(message, optional, tag = "2")]
    pub platform: Option<pb::Platform>,
    /// What to call the step where progress is shown.
    #[prost(string, tag = "3")]
    pub log_name: String,
    /// When the registry is asked.
    #[prost(string, tag = "4")]
    pub resolve_mode: String,
    /// What is asked of a git repository.
    #[prost(message, optional, tag = "5")]
    pub git: Option<ResolveSourceGitRequest>,
    /// What is asked of an image.
    #[prost(message, optional, tag = "6")]
    pub image: Option<ResolveSourceImageRequest>,
    /// What is asked of a file behind a URL.
    #[prost(message, optional, tag = "7")]
    pub http: Option<ResolveSourceHttpRequest>,
    /// Further policies.
    #[prost(message, repeated, tag = "8")]
    pub source_policies: Vec<sourcepolicy::Policy>,
}

/// What a source stands for.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ResolveSourceMetaResponse {
    /// The source, as policies have changed it.
    #[prost(message, optional, tag = "1")]
    pub source: Option<pb::SourceOp>,
    /// If it is an image.
    #[prost(message, optional, tag = "2")]
    pub image: Option<ResolveSourceImageResponse>,
    /// If it is a git repository.
    #[prost(message, optional, tag = "3")]
    pub git: Option<ResolveSourceGitResponse>,
    /// If it is a file behind a URL.
    #[prost(message, optional, tag = "4")]
    pub http: Option<ResolveSourceHttpResponse>,
}

/// What is asked of an image.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ResolveSourceImageRequest {
    /// Leave the config out.
    #[prost(bool, tag = "1")]
    pub no_config: bool,
    /// Add the manifests that attest to it.
    #[prost(bool, tag = "2")]
    pub attestation_chain: bool,
    /// Predicate types of attestations to add.
    #[prost(string, repeated, tag = "3")]
    pub resolve_attestations: Vec<String>,
}

/// The manifests that attest to an image.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AttestationChain {
    /// The digest of the index.
    #[prost(string, tag = "1")]
    pub root: String,
    /// The digest of the platform's manifest.
    #[prost(string, tag = "2")]
    pub image_manifest: String,
    /// The digest of the manifest with its attestations.
    #[prost(string, tag = "3")]
    pub attestation_manifest: String,
    /// The digests of manifests with signatures.
    #[prost(string, repeated, tag = "4")]
    pub signature_manifests: Vec<String>,
    /// Their content by digest.
    #[prost(btree_map = "string, message", tag = "5")]
    pub blobs: BTreeMap<String, Blob>,
}

/// A blob.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Blob {
    /// What describes it.
    #[prost(message, optional, tag = "1")]
    pub descriptor: Option<Descriptor>,
    /// Its content.
    #[prost(bytes = "bytes", tag = "2")]
    pub data: Bytes,
}

/// What describes a blob.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Descriptor {
    /// Its media type.
    #[prost(string, tag = "1")]
    pub media_type: String,
    /// Its digest.
    #[prost(string, tag = "2")]
    pub digest: String,
    /// Its size in bytes.
    #[prost(int64, tag = "3")]
    pub size: i64,
    /// What is said of it.
    #[prost(btree_map = "string, string", tag = "5")]
    pub annotations: BTreeMap<String, String>,
}

/// What an image stands for.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ResolveSourceImageResponse {
    /// The digest of its index or manifest.
    #[prost(string, tag = "1")]
    pub digest: String,
    /// Its config.
    #[prost(bytes = "bytes", tag = "2")]
    pub config: Bytes,
    /// The manifests that attest to it.
    #[prost(message, optional, tag = "3")]
    pub attestation_chain: Option<AttestationChain>,
}

/// What is asked of a git repository.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ResolveSourceGitRequest {
    /// Add the objects of the commit and its tag.
    #[prost(bool, tag = "1")]
    pub return_object: bool,
}

/// What a git reference stands for.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ResolveSourceGitResponse {
    /// The object that it names.
    #[prost(string, tag = "1")]
    pub checksum: String,
    /// Its full name.
    #[prost(string, tag = "2")]
    pub r#ref: String,
    /// The commit, if the object is a tag.
    #[prost(string, tag = "3")]
    pub commit_checksum: String,
    /// The commit's object.
    #[prost(bytes = "bytes", tag = "4")]
    pub commit_object: Bytes,
    /// The tag's object.
    #[prost(bytes = "bytes", tag = "5")]
    pub tag_object: Bytes,
}

/// What is asked of a file behind a URL.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ResolveSourceHttpRequest {
    /// A checksum of the content.
    #[prost(message, optional, tag = "1")]
    pub checksum_request: Option<ChecksumRequest>,
}

/// What is behind a URL.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ResolveSourceHttpResponse {
    /// The content's digest.
    #[prost(string, tag = "1")]
    pub checksum: String,
    /// What the file is called.
    #[prost(string, tag = "2")]
    pub filename: String,
    /// When it was last changed.
    #[prost(message, optional, tag = "3")]
    pub last_modified: Option<Timestamp>,
    /// The checksum that was asked for.
    #[prost(message, optional, tag = "4")]
    pub checksum_response: Option<ChecksumResponse>,
}

/// Asks for a checksum of content with bytes behind it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ChecksumRequest {
    /// The algorithm.
    #[prost(enumeration = "ChecksumAlgo", tag = "1")]
    pub algo: i32,
    /// The bytes behind it.
    #[prost(bytes = "bytes", tag = "2")]
    pub suffix: Bytes,
}

/// The algorithm of a [`ChecksumRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum ChecksumAlgo {
    /// SHA-256.
    Sha256 = 0,
    /// SHA-384.
    Sha384 = 1,
    /// SHA-512.
    Sha512 = 2,
}

/// A checksum of content with bytes behind it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ChecksumResponse {
    /// The checksum.
    #[prost(string, tag = "1")]
    pub digest: String,
    /// The bytes behind it.
    #[prost(bytes = "bytes", tag = "2")]
    pub suffix: Bytes,
}
