//! Capabilities of a service (package `moby.buildkit.v1.apicaps`, `util/apicaps/pb/caps.proto`).

/// Something that a service can do.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ApiCap {
    /// Its name.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Whether it can.
    #[prost(bool, tag = "2")]
    pub enabled: bool,
    /// Whether it should no longer be used.
    #[prost(bool, tag = "3")]
    pub deprecated: bool,
    /// Why it cannot, for programs.
    #[prost(string, tag = "4")]
    pub disabled_reason: String,
    /// Why it cannot, for people.
    #[prost(string, tag = "5")]
    pub disabled_reason_msg: String,
    /// What can be used in its place.
    #[prost(string, tag = "6")]
    pub disabled_alternative: String,
}
