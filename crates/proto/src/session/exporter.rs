//! Exporters that the client names once the result is known (package `moby.exporter.v1`).

use std::collections::BTreeMap;

/// [`FindExportersRequest`] to [`FindExportersResponse`].
pub const FIND_EXPORTERS: &str = "/moby.exporter.v1.Exporter/FindExporters";
/// [`FinalizeExportRequest`] to [`FinalizeExportResponse`].
pub const FINALIZE_EXPORT: &str = "/moby.exporter.v1.Exporter/FinalizeExport";

/// Tells what was built.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct FindExportersRequest {
    /// The result's metadata.
    #[prost(btree_map = "string, bytes", tag = "1")]
    pub metadata: BTreeMap<String, Vec<u8>>,
    /// The names of the result's parts.
    #[prost(string, repeated, tag = "2")]
    pub refs: Vec<String>,
}

/// What shall become of it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct FindExportersResponse {
    /// The exporters.
    #[prost(message, repeated, tag = "1")]
    pub exporters: Vec<ExporterRequest>,
}

/// One exporter.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ExporterRequest {
    /// Its name.
    #[prost(string, tag = "1")]
    pub r#type: String,
    /// Its attributes.
    #[prost(btree_map = "string, string", tag = "2")]
    pub attrs: BTreeMap<String, String>,
}

/// Tells what the exporters told.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct FinalizeExportRequest {
    /// Their response.
    #[prost(btree_map = "string, string", tag = "1")]
    pub exporter_response: BTreeMap<String, String>,
}

/// Understood.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct FinalizeExportResponse {}
