//! What is written is read again, whatever it is.
#![allow(clippy::unwrap_used, reason = "helpers may fail their test")]

use std::sync::Arc;

use proptest::prelude::*;
use weld_solver::{
    CacheSourceId, CancelCause, Digest, EdgeState, GraphSize, KeyId, MergeReason, OpCall, RecordId,
    Refusal, RequestOutcome, TraceEdge, TraceEvent, TraceInput, TraceStamp, TraceVertex,
    WaitReason,
};
use weld_trace::{Kind, Line, encode};

fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest)
}

fn input() -> impl Strategy<Value = TraceInput> {
    (any::<u64>(), any::<u64>(), any::<u32>()).prop_map(|(edge, vertex, output)| TraceInput {
        edge,
        vertex,
        output,
    })
}

fn edge() -> impl Strategy<Value = TraceEdge> {
    (digest(), any::<u32>(), any::<u64>()).prop_map(|(vertex, output, id)| TraceEdge {
        vertex,
        output,
        id,
    })
}

fn vertex() -> impl Strategy<Value = TraceVertex> {
    (digest(), any::<u64>()).prop_map(|(digest, id)| TraceVertex { digest, id })
}

fn text() -> impl Strategy<Value = Arc<str>> {
    any::<String>().prop_map(Arc::from)
}

fn state() -> impl Strategy<Value = EdgeState> {
    prop_oneof![
        Just(EdgeState::Initial),
        Just(EdgeState::CacheFast),
        Just(EdgeState::CacheSlow),
        Just(EdgeState::Complete)
    ]
}

fn call() -> impl Strategy<Value = OpCall> {
    prop_oneof![
        Just(OpCall::CacheMap),
        Just(OpCall::Preprocess),
        Just(OpCall::SlowKey),
        Just(OpCall::Exec)
    ]
}

fn event() -> impl Strategy<Value = TraceEvent> {
    let graph = prop_oneof![
        Just(TraceEvent::Resumed),
        (text(), any::<bool>()).prop_map(|(job, session)| TraceEvent::JobOpened { job, session }),
        (text(), any::<bool>())
            .prop_map(|(job, session)| TraceEvent::SessionChanged { job, session }),
        text().prop_map(|job| TraceEvent::JobDiscarded { job }),
        (
            vertex(),
            text(),
            prop::collection::vec(input(), 0..4),
            any::<bool>(),
            any::<bool>()
        )
            .prop_map(|(vertex, name, inputs, ignore_cache, never_merge)| {
                TraceEvent::VertexCreated {
                    vertex,
                    name,
                    inputs: inputs.into(),
                    ignore_cache,
                    never_merge,
                }
            }),
        vertex().prop_map(|vertex| TraceEvent::VertexFreed { vertex }),
        (edge(), prop::option::of(state()))
            .prop_map(|(edge, state)| TraceEvent::EdgeFreed { edge, state }),
        (
            prop::option::of(text()),
            prop::option::of(vertex()),
            edge(),
            any::<u64>(),
            prop::option::of((any::<u64>(), any::<u64>()))
        )
            .prop_map(|(job, parent, root, id, size)| TraceEvent::Loaded {
                job,
                parent,
                root,
                id,
                size: size.map(|(vertices, created)| GraphSize { vertices, created }),
            }),
        (
            any::<u64>(),
            prop::option::of(text()),
            prop::option::of(any::<u64>()),
            edge()
        )
            .prop_map(|(request, job, task, edge)| TraceEvent::Requested {
                request,
                job,
                task,
                edge,
            }),
        (
            any::<u64>(),
            prop_oneof![
                Just(RequestOutcome::Built),
                Just(RequestOutcome::Failed),
                Just(RequestOutcome::Cancelled)
            ]
        )
            .prop_map(|(request, outcome)| TraceEvent::Answered { request, outcome }),
        (edge(), state()).prop_map(|(edge, state)| TraceEvent::State { edge, state }),
        (edge(), digest(), any::<bool>()).prop_map(|(edge, key, stored)| TraceEvent::Key {
            edge,
            key: KeyId(key),
            stored,
        }),
        (
            edge(),
            prop::option::of(any::<u32>()),
            any::<bool>(),
            any::<u32>()
        )
            .prop_map(|(edge, input, hit, records)| TraceEvent::Queried {
                edge,
                input,
                hit,
                records,
            }),
    ];
    let work = prop_oneof![
        (
            edge(),
            edge(),
            prop::option::of(prop_oneof![
                Just(MergeReason::FastKey),
                Just(MergeReason::SlowKey)
            ])
        )
            .prop_map(|(source, target, reason)| TraceEvent::Merged {
                source,
                target,
                reason,
            }),
        (
            edge(),
            edge(),
            prop_oneof![
                Just(Refusal::NeverMerge),
                Just(Refusal::IgnoreCache),
                Just(Refusal::Ancestor),
                Just(Refusal::BothComplete)
            ]
        )
            .prop_map(|(edge, other, reason)| TraceEvent::MergeRefused {
                edge,
                other,
                reason,
            }),
        (
            any::<u64>(),
            vertex(),
            call(),
            prop::option::of(any::<u32>()),
            prop::option::of(digest())
        )
            .prop_map(
                |(task, vertex, call, input, actor)| TraceEvent::CallStarted {
                    task,
                    vertex,
                    call,
                    input,
                    actor,
                }
            ),
        (
            any::<u64>(),
            vertex(),
            call(),
            prop::option::of(digest()),
            prop::option::of(text())
        )
            .prop_map(
                |(task, vertex, call, digest, error)| TraceEvent::CallEnded {
                    task,
                    vertex,
                    call,
                    digest,
                    error,
                }
            ),
        (any::<u64>(), vertex(), any::<u64>()).prop_map(|(task, vertex, micros)| {
            TraceEvent::UnderWay {
                task,
                vertex,
                micros,
            }
        }),
        (any::<u64>(), edge(), any::<u64>()).prop_map(|(task, edge, record)| {
            TraceEvent::LoadStarted {
                task,
                edge,
                record: RecordId(record),
                source: CacheSourceId::LOCAL,
            }
        }),
        (any::<u64>(), edge()).prop_map(|(task, edge)| TraceEvent::LoadEnded { task, edge }),
        (any::<u64>(), edge(), any::<u64>(), text()).prop_map(|(task, edge, record, reason)| {
            TraceEvent::LoadFailed {
                task,
                edge,
                record: RecordId(record),
                reason,
            }
        }),
        (
            any::<u64>(),
            vertex(),
            prop_oneof![
                Just(CancelCause::NotNeeded),
                Just(CancelCause::RequestCancelled),
                Just(CancelCause::JobDiscarded),
                Just(CancelCause::Merged),
                Just(CancelCause::Failed)
            ]
        )
            .prop_map(|(task, vertex, cause)| TraceEvent::CallCancelled {
                task,
                vertex,
                cause,
            }),
        (any::<u64>(), vertex())
            .prop_map(|(task, vertex)| TraceEvent::CallDropped { task, vertex }),
        (
            any::<u64>(),
            vertex(),
            prop_oneof![Just(WaitReason::Slot), Just(WaitReason::Lock)]
        )
            .prop_map(|(task, vertex, reason)| TraceEvent::SlotAwaited {
                task,
                vertex,
                reason,
            }),
        (any::<u64>(), vertex()).prop_map(|(task, vertex)| TraceEvent::SlotTaken { task, vertex }),
        text().prop_map(|reason| TraceEvent::SaveFailed { reason }),
        (any::<u32>(), text())
            .prop_map(|(source, reason)| TraceEvent::SourceFailed { source, reason }),
        edge().prop_map(|edge| TraceEvent::ResultLost { edge }),
        (digest(), text()).prop_map(|(vertex, job)| TraceEvent::SessionLent { vertex, job }),
        (digest(), digest()).prop_map(|(vertex, next)| TraceEvent::Fallback { vertex, next }),
        (digest(), text()).prop_map(|(vertex, why)| TraceEvent::Explained { vertex, why }),
        text().prop_map(|invariant| TraceEvent::Broken { invariant }),
    ];
    prop_oneof![graph, work]
}

/// The texts of an event, by the names of their fields.
fn texts(event: &TraceEvent) -> Vec<(&'static str, &str)> {
    match event {
        TraceEvent::JobOpened { job, .. }
        | TraceEvent::SessionChanged { job, .. }
        | TraceEvent::JobDiscarded { job }
        | TraceEvent::SessionLent { job, .. } => vec![("job", job)],
        TraceEvent::VertexCreated { name, .. } => vec![("name", name)],
        TraceEvent::Explained { why, .. } => vec![("why", why)],
        TraceEvent::Broken { invariant } => vec![("invariant", invariant)],
        TraceEvent::SaveFailed { reason }
        | TraceEvent::SourceFailed { reason, .. }
        | TraceEvent::LoadFailed { reason, .. } => vec![("error", reason)],
        _ => Vec::new(),
    }
}

/// The edge of an event that is about one.
fn edge_of(event: &TraceEvent) -> Option<TraceEdge> {
    match event {
        TraceEvent::EdgeFreed { edge, .. }
        | TraceEvent::Requested { edge, .. }
        | TraceEvent::State { edge, .. }
        | TraceEvent::Key { edge, .. }
        | TraceEvent::Queried { edge, .. }
        | TraceEvent::LoadStarted { edge, .. }
        | TraceEvent::LoadEnded { edge, .. }
        | TraceEvent::LoadFailed { edge, .. }
        | TraceEvent::ResultLost { edge }
        | TraceEvent::Loaded { root: edge, .. } => Some(*edge),
        _ => None,
    }
}

proptest! {
    #[test]
    fn every_event_is_json_and_is_read_as_it_was(event in event(), position in any::<u64>(), micros in any::<u64>()) {
        let mut bytes = Vec::new();
        encode(&mut bytes, TraceStamp { position, micros }, &event);
        prop_assert_eq!(bytes.pop(), Some(b'\n'));
        prop_assert!(!bytes.contains(&b'\n'));
        // Two readers that have nothing in common: serde's and ours.
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let line = Line::parse(&bytes).unwrap();
        prop_assert_ne!(line.kind, Kind::Other);
        prop_assert_eq!(json["event"].as_str(), Some(line.kind.name()));
        prop_assert_eq!((line.position, line.time), (position, micros));
        for (field, text) in texts(&event) {
            prop_assert_eq!(json[field].as_str(), Some(text));
            let read = match field {
                "job" => line.job,
                "name" => line.name,
                "why" => line.why,
                "invariant" => line.invariant,
                _ => line.error,
            };
            let read = read.map(weld_trace::Text::value);
            prop_assert_eq!(read.as_deref(), Some(text));
        }
        if let Some(edge) = edge_of(&event) {
            prop_assert_eq!(line.edge, Some(edge.id));
            prop_assert_eq!(line.output, Some(u64::from(edge.output)));
            let vertex = format!("sha256:{}", edge.vertex);
            prop_assert_eq!(line.vertex.map(weld_trace::Text::raw), Some(vertex.as_str()));
        }
    }

    #[test]
    fn no_line_makes_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[\\[\\]{}\":,a-z0-9 \\\\]{0,80}") {
        let _ = Line::parse(&bytes);
        let _ = Line::parse(text.as_bytes());
        let nearly = format!("{{\"event\":\"state\",{text}}}");
        let _ = Line::parse(nearly.as_bytes());
    }
}
