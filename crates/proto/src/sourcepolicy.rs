//! Which sources may be used (package `moby.buildkit.v1.sourcepolicy`,
//! `sourcepolicy/pb/policy.proto`).

use std::collections::BTreeMap;

/// What to do with sources that match.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Rule {
    /// What to do.
    #[prost(enumeration = "PolicyAction", tag = "1")]
    pub action: i32,
    /// With which.
    #[prost(message, optional, tag = "2")]
    pub selector: Option<Selector>,
    /// What they become.
    #[prost(message, optional, tag = "3")]
    pub updates: Option<Update>,
}

/// What a source becomes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Update {
    /// Its new identifier; empty to keep it.
    #[prost(string, tag = "1")]
    pub identifier: String,
    /// Attributes that are set.
    #[prost(btree_map = "string, string", tag = "2")]
    pub attrs: BTreeMap<String, String>,
}

/// Which sources match.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Selector {
    /// The identifier.
    #[prost(string, tag = "1")]
    pub identifier: String,
    /// How it is compared.
    #[prost(enumeration = "MatchType", tag = "2")]
    pub match_type: i32,
    /// What else must be so.
    #[prost(message, repeated, tag = "3")]
    pub constraints: Vec<AttrConstraint>,
}

/// What to do with a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum PolicyAction {
    /// Use it.
    Allow = 0,
    /// Fail.
    Deny = 1,
    /// Use another.
    Convert = 2,
}

/// What an attribute must be.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AttrConstraint {
    /// The attribute's name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// What it is compared with.
    #[prost(string, tag = "2")]
    pub value: String,
    /// How it is compared.
    #[prost(enumeration = "AttrMatch", tag = "3")]
    pub condition: i32,
}

/// How an attribute is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum AttrMatch {
    /// It is the value.
    Equal = 0,
    /// It is not the value.
    NotEqual = 1,
    /// It matches the value as a regular expression.
    Matches = 2,
}

/// Rules, in order.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Policy {
    /// The version of this format: 1.
    #[prost(int64, tag = "1")]
    pub version: i64,
    /// The rules.
    #[prost(message, repeated, tag = "2")]
    pub rules: Vec<Rule>,
}

/// How an identifier is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum MatchType {
    /// `*` stands for anything.
    Wildcard = 0,
    /// It is the same.
    Exact = 1,
    /// It matches as a regular expression.
    Regex = 2,
}
