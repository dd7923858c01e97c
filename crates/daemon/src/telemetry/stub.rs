//! Spans as BuildKit's history has them: the JSON of OpenTelemetry's Go types, an object a line.

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use weld_proto::telemetry::{self, AnyValue, KeyValue, ResourceSpans, ScopeSpans, Span};

/// A span with what it came from.
pub(super) fn line(resource: &ResourceSpans, scope: &ScopeSpans, span: &Span) -> Vec<u8> {
    let parent = match span.parent_span_id.is_empty() {
        true => context(&[0; 16], &[0; 8], false),
        false => context(&span.trace_id, &span.parent_span_id, false),
    };
    let library = scope.scope.as_ref();
    let library = json!({
        "Name": library.map_or("", |library| &library.name),
        "Version": library.map_or("", |library| &library.version),
        "SchemaURL": scope.schema_url,
    });
    let events = span.events.iter().map(|event| {
        json!({
            "Name": event.name,
            "Attributes": attributes(&event.attributes),
            "DroppedAttributeCount": event.dropped_attributes_count,
            "Time": moment(event.time_unix_nano),
        })
    });
    let links = span.links.iter().map(|link| {
        json!({
            "SpanContext": context(&link.trace_id, &link.span_id, true),
            "Attributes": attributes(&link.attributes),
            "DroppedAttributeCount": link.dropped_attributes_count,
        })
    });
    let status = span.status.as_ref();
    let from = resource.resource.as_ref();
    let value = json!({
        "Name": span.name,
        "SpanContext": context(&span.trace_id, &span.span_id, true),
        "Parent": parent,
        "SpanKind": span.kind,
        "StartTime": moment(span.start_time_unix_nano),
        "EndTime": moment(span.end_time_unix_nano),
        "Attributes": attributes(&span.attributes),
        "Events": events.collect::<Vec<_>>(),
        "Links": links.collect::<Vec<_>>(),
        "Status": {
            "Code": match status.map_or(0, |status| status.code) {
                1 => "Ok",
                2 => "Error",
                _ => "Unset",
            },
            "Description": status.map_or("", |status| &status.message),
        },
        "DroppedAttributes": span.dropped_attributes_count,
        "DroppedEvents": span.dropped_events_count,
        "DroppedLinks": span.dropped_links_count,
        "ChildSpanCount": 0,
        "Resource": attributes(from.map_or(&[], |from| &from.attributes)),
        "InstrumentationLibrary": library,
    });
    let mut line = value.to_string().into_bytes();
    line.push(b'\n');
    line
}

fn context(trace: &[u8], span: &[u8], sampled: bool) -> Value {
    json!({
        "TraceID": hex(trace, 16),
        "SpanID": hex(span, 8),
        "TraceFlags": if sampled { "01" } else { "00" },
        "TraceState": "",
        "Remote": false,
    })
}

/// An id, which has this many bytes whatever was sent.
fn hex(bytes: &[u8], length: usize) -> String {
    let all = bytes.iter().copied().chain(std::iter::repeat(0));
    all.take(length).map(|byte| format!("{byte:02x}")).collect()
}

fn attributes(attributes: &[KeyValue]) -> Vec<Value> {
    let attributes = attributes.iter().filter_map(|attribute| {
        let (kind, value) = typed(attribute.value.as_ref()?)?;
        Some(json!({"Key": attribute.key, "Value": {"Type": kind, "Value": value}}))
    });
    attributes.collect()
}

/// What readers take for sure: lists are of text, other things are told as text.
fn typed(value: &AnyValue) -> Option<(&'static str, Value)> {
    Some(match value.value.as_ref()? {
        telemetry::Value::String(text) => ("STRING", json!(text)),
        telemetry::Value::Bool(truth) => ("BOOL", json!(truth)),
        telemetry::Value::Int(number) => ("INT64", json!(number)),
        telemetry::Value::Double(number) if number.is_finite() => ("FLOAT64", json!(number)),
        telemetry::Value::Array(array) => {
            let values = array.values.iter().filter_map(typed);
            let texts = values.map(|(_, value)| text(value));
            ("STRINGSLICE", json!(texts.collect::<Vec<_>>()))
        }
        telemetry::Value::Map(map) => ("STRING", json!(json!(attributes(&map.values)).to_string())),
        telemetry::Value::Double(number) => ("STRING", json!(number.to_string())),
        telemetry::Value::Bytes(bytes) => {
            use base64::Engine as _;
            (
                "STRING",
                json!(base64::prelude::BASE64_STANDARD.encode(bytes)),
            )
        }
    })
}

fn text(value: Value) -> Value {
    match value {
        Value::String(_) => value,
        other => json!(other.to_string()),
    }
}

fn moment(nanoseconds: u64) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(nanoseconds));
    let time = time.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    time.format(&Rfc3339).unwrap_or_default()
}
