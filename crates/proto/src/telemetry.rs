//! Spans from clients and steps (packages `opentelemetry.proto.collector.trace.v1`,
//! `opentelemetry.proto.trace.v1` and others of OpenTelemetry's protocol).

use bytes::Bytes;

/// The service's stubs.
pub mod trace_service_client {
    pub use super::stubs::trace_service_client::TraceServiceClient;
}

/// The service's stubs.
pub mod trace_service_server {
    pub use super::stubs::trace_service_server::{TraceService, TraceServiceServer};
}

#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::nursery
)]
mod stubs {
    include!(concat!(
        env!("OUT_DIR"),
        "/opentelemetry.proto.collector.trace.v1.TraceService.rs"
    ));
}

/// Spans.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExportTraceServiceRequest {
    /// The spans, by what they came from.
    #[prost(message, repeated, tag = "1")]
    pub resource_spans: Vec<ResourceSpans>,
}

/// Taken.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExportTraceServiceResponse {}

/// The spans of one process.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ResourceSpans {
    /// The process.
    #[prost(message, optional, tag = "1")]
    pub resource: Option<Resource>,
    /// The spans, by what made them.
    #[prost(message, repeated, tag = "2")]
    pub scope_spans: Vec<ScopeSpans>,
    /// The names' schema.
    #[prost(string, tag = "3")]
    pub schema_url: String,
}

/// What spans came from.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Resource {
    /// What is said of it.
    #[prost(message, repeated, tag = "1")]
    pub attributes: Vec<KeyValue>,
    /// How much was not said.
    #[prost(uint32, tag = "2")]
    pub dropped_attributes_count: u32,
}

/// The spans of one library.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ScopeSpans {
    /// The library.
    #[prost(message, optional, tag = "1")]
    pub scope: Option<InstrumentationScope>,
    /// The spans.
    #[prost(message, repeated, tag = "2")]
    pub spans: Vec<Span>,
    /// The names' schema.
    #[prost(string, tag = "3")]
    pub schema_url: String,
}

/// A library.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InstrumentationScope {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its version.
    #[prost(string, tag = "2")]
    pub version: String,
    /// What is said of it.
    #[prost(message, repeated, tag = "3")]
    pub attributes: Vec<KeyValue>,
    /// How much was not said.
    #[prost(uint32, tag = "4")]
    pub dropped_attributes_count: u32,
}

/// A stretch of time in which something was done.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Span {
    /// The trace's 16 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub trace_id: Bytes,
    /// The span's 8 bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub span_id: Bytes,
    /// What else travels with the trace.
    #[prost(string, tag = "3")]
    pub trace_state: String,
    /// The span in which this one lies.
    #[prost(bytes = "bytes", tag = "4")]
    pub parent_span_id: Bytes,
    /// What was done.
    #[prost(string, tag = "5")]
    pub name: String,
    /// On which side of a call.
    #[prost(int32, tag = "6")]
    pub kind: i32,
    /// When it began.
    #[prost(fixed64, tag = "7")]
    pub start_time_unix_nano: u64,
    /// When it ended.
    #[prost(fixed64, tag = "8")]
    pub end_time_unix_nano: u64,
    /// What is said of it.
    #[prost(message, repeated, tag = "9")]
    pub attributes: Vec<KeyValue>,
    /// How much was not said.
    #[prost(uint32, tag = "10")]
    pub dropped_attributes_count: u32,
    /// What happened meanwhile.
    #[prost(message, repeated, tag = "11")]
    pub events: Vec<SpanEvent>,
    /// How much of that was not said.
    #[prost(uint32, tag = "12")]
    pub dropped_events_count: u32,
    /// What it has to do with.
    #[prost(message, repeated, tag = "13")]
    pub links: Vec<SpanLink>,
    /// How much of that was not said.
    #[prost(uint32, tag = "14")]
    pub dropped_links_count: u32,
    /// How it ended.
    #[prost(message, optional, tag = "15")]
    pub status: Option<SpanStatus>,
}

/// A moment in a span.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SpanEvent {
    /// When.
    #[prost(fixed64, tag = "1")]
    pub time_unix_nano: u64,
    /// What.
    #[prost(string, tag = "2")]
    pub name: String,
    /// What is said of it.
    #[prost(message, repeated, tag = "3")]
    pub attributes: Vec<KeyValue>,
    /// How much was not said.
    #[prost(uint32, tag = "4")]
    pub dropped_attributes_count: u32,
}

/// Another span.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SpanLink {
    /// Its trace.
    #[prost(bytes = "bytes", tag = "1")]
    pub trace_id: Bytes,
    /// The span.
    #[prost(bytes = "bytes", tag = "2")]
    pub span_id: Bytes,
    /// What else travels with the trace.
    #[prost(string, tag = "3")]
    pub trace_state: String,
    /// What is said of it.
    #[prost(message, repeated, tag = "4")]
    pub attributes: Vec<KeyValue>,
    /// How much was not said.
    #[prost(uint32, tag = "5")]
    pub dropped_attributes_count: u32,
}

/// How a span ended.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SpanStatus {
    /// What a person reads.
    #[prost(string, tag = "2")]
    pub message: String,
    /// 0 where nothing is said, 1 for good, 2 for an error.
    #[prost(int32, tag = "3")]
    pub code: i32,
}

/// An attribute.
#[derive(Clone, PartialEq, prost::Message)]
pub struct KeyValue {
    /// Its name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Its value.
    #[prost(message, optional, tag = "2")]
    pub value: Option<AnyValue>,
}

/// A value of any kind.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AnyValue {
    /// The value.
    #[prost(oneof = "Value", tags = "1, 2, 3, 4, 5, 6, 7")]
    pub value: Option<Value>,
}

/// A value of any kind.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Value {
    /// Text.
    #[prost(string, tag = "1")]
    String(String),
    /// A truth.
    #[prost(bool, tag = "2")]
    Bool(bool),
    /// A whole number.
    #[prost(int64, tag = "3")]
    Int(i64),
    /// A number.
    #[prost(double, tag = "4")]
    Double(f64),
    /// Several.
    #[prost(message, tag = "5")]
    Array(ArrayValue),
    /// Several with names.
    #[prost(message, tag = "6")]
    Map(KeyValueList),
    /// Bytes.
    #[prost(bytes = "bytes", tag = "7")]
    Bytes(Bytes),
}

/// Several values.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ArrayValue {
    /// The values.
    #[prost(message, repeated, tag = "1")]
    pub values: Vec<AnyValue>,
}

/// Several values with names.
#[derive(Clone, PartialEq, prost::Message)]
pub struct KeyValueList {
    /// The values.
    #[prost(message, repeated, tag = "1")]
    pub values: Vec<KeyValue>,
}
