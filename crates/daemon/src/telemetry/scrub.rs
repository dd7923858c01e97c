//! Spans without the secrets of caches: clients tell the command lines that they were started with.

use weld_engine::mask_secrets;
use weld_proto::telemetry::{AnyValue, ExportTraceServiceRequest, KeyValue, Value};

/// How deep values lie in values that are looked into; those below are dropped.
const MAX_DEPTH: usize = 8;

/// Masks secrets in all that is said of spans and of what they come from.
pub(super) fn scrub(request: &mut ExportTraceServiceRequest) {
    for resource in &mut request.resource_spans {
        if let Some(resource) = &mut resource.resource {
            all(&mut resource.attributes);
        }
        for span in resource
            .scope_spans
            .iter_mut()
            .flat_map(|scope| &mut scope.spans)
        {
            span.name = mask_secrets(&span.name).into_owned();
            all(&mut span.attributes);
            for event in &mut span.events {
                all(&mut event.attributes);
            }
            if let Some(status) = &mut span.status {
                status.message = mask_secrets(&status.message).into_owned();
            }
        }
    }
}

fn all(attributes: &mut [KeyValue]) {
    for attribute in attributes {
        one(attribute.value.as_mut(), 0);
    }
}

fn one(value: Option<&mut AnyValue>, depth: usize) {
    let Some(any) = value else { return };
    if depth == MAX_DEPTH {
        any.value = None;
        return;
    }
    match &mut any.value {
        Some(Value::String(text)) => *text = mask_secrets(text).into_owned(),
        Some(Value::Array(array)) => {
            for value in &mut array.values {
                one(Some(value), depth + 1);
            }
        }
        Some(Value::Map(map)) => {
            for pair in &mut map.values {
                one(pair.value.as_mut(), depth + 1);
            }
        }
        Some(Value::Bool(_) | Value::Int(_) | Value::Double(_) | Value::Bytes(_)) | None => {}
    }
}
