//! Decisions on sources (package `moby.buildkit.v1.sourcepolicy.policysession`,
//! `sourcepolicy/policysession/policysession.proto`).

use std::collections::BTreeMap;

use crate::frontend::{ResolveSourceMetaRequest, ResolveSourceMetaResponse};
use crate::pb;

/// Asks what to do with a source.
pub const CHECK_POLICY: &str =
    "/moby.buildkit.v1.sourcepolicy.policysession.PolicyVerifier/CheckPolicy";

/// Asks what to do with a source.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CheckPolicyRequest {
    /// The platform that it is for.
    #[prost(message, optional, tag = "1")]
    pub platform: Option<pb::Platform>,
    /// The source, and what is known of it.
    #[prost(message, optional, tag = "2")]
    pub source: Option<ResolveSourceMetaResponse>,
    /// What the daemon can do.
    #[prost(btree_map = "string, bool", tag = "3")]
    pub caps: BTreeMap<String, bool>,
}

/// What to do with a source, or what has to be known first.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CheckPolicyResponse {
    /// Which of the two.
    #[prost(oneof = "check_policy_response::Result", tags = "1, 2")]
    pub result: Option<check_policy_response::Result>,
}

/// What [`CheckPolicyResponse`] has a choice of.
pub mod check_policy_response {
    use super::{DecisionResponse, ResolveSourceMetaRequest};

    /// A decision, or a question.
    #[derive(Clone, PartialEq, prost::Oneof)]
    #[allow(
        clippy::large_enum_variant,
        reason = "prost decodes in place; one is alive per message"
    )]
    pub enum Result {
        /// What to do.
        #[prost(message, tag = "1")]
        Decision(DecisionResponse),
        /// What has to be known.
        #[prost(message, tag = "2")]
        Request(ResolveSourceMetaRequest),
    }
}

/// What to do with a source.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DecisionResponse {
    /// What to do.
    #[prost(enumeration = "crate::sourcepolicy::PolicyAction", tag = "1")]
    pub action: i32,
    /// Why it must not be used.
    #[prost(message, repeated, tag = "2")]
    pub deny_messages: Vec<DenyMessage>,
    /// What it becomes.
    #[prost(message, optional, tag = "3")]
    pub update: Option<pb::SourceOp>,
}

/// Why a source must not be used.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DenyMessage {
    /// The reason.
    #[prost(string, tag = "1")]
    pub message: String,
}
