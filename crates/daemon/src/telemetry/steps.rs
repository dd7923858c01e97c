//! The spans of a build and of its steps.

use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use weld_proto::telemetry::{
    AnyValue, ExportTraceServiceRequest, InstrumentationScope, KeyValue, Resource, ResourceSpans,
    ScopeSpans, Span, SpanStatus, Value,
};

use super::SpanContext;

/// What a build's own span is called: the call that asks for it.
const BUILD: &str = "moby.buildkit.v1.Control/Solve";
/// Kinds of spans.
const INTERNAL: i32 = 1;
const SERVER: i32 = 2;
/// The state of a span that failed.
const ERROR: i32 = 2;

/// A step of a build that has begun.
pub(crate) struct StepSpan {
    pub(crate) digest: String,
    pub(crate) name: String,
    pub(crate) started: SystemTime,
    pub(crate) completed: SystemTime,
    pub(crate) cached: bool,
    pub(crate) error: String,
}

pub(super) fn spans(
    parent: Option<SpanContext>,
    build: SpanContext,
    time: Range<SystemTime>,
    error: Option<&str>,
    steps: Vec<StepSpan>,
) -> ExportTraceServiceRequest {
    let mut spans = Vec::with_capacity(steps.len() + 1);
    spans.push(Span {
        kind: SERVER,
        status: status(error.unwrap_or_default()),
        ..span(build, parent, BUILD.to_owned(), time.start, time.end)
    });
    for step in steps {
        // Without randomness there are no names for spans.
        let Some(context) = build.another() else {
            break;
        };
        let (started, completed) = (step.started, step.completed);
        spans.push(Span {
            kind: INTERNAL,
            status: status(&step.error),
            attributes: vec![
                attribute("vertex", Value::String(step.digest)),
                attribute("cached", Value::Bool(step.cached)),
            ],
            ..span(context, Some(build), step.name, started, completed)
        });
    }
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource {
                attributes: vec![attribute("service.name", Value::String("weld".to_owned()))],
                dropped_attributes_count: 0,
            }),
            scope_spans: vec![ScopeSpans {
                scope: Some(InstrumentationScope {
                    name: "weld".to_owned(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    ..InstrumentationScope::default()
                }),
                spans,
                schema_url: String::new(),
            }],
            schema_url: String::new(),
        }],
    }
}

fn span(
    context: SpanContext,
    parent: Option<SpanContext>,
    name: String,
    started: SystemTime,
    completed: SystemTime,
) -> Span {
    let parent = parent.map(|parent| Bytes::copy_from_slice(&parent.span));
    Span {
        trace_id: Bytes::copy_from_slice(&context.trace),
        span_id: Bytes::copy_from_slice(&context.span),
        parent_span_id: parent.unwrap_or_default(),
        name,
        start_time_unix_nano: nanoseconds(started),
        end_time_unix_nano: nanoseconds(completed),
        ..Span::default()
    }
}

fn status(error: &str) -> Option<SpanStatus> {
    (!error.is_empty()).then(|| SpanStatus {
        message: error.to_owned(),
        code: ERROR,
    })
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
    }
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
