//! Spans of OpenTelemetry: those that clients send and those of builds. They are kept with the
//! history of the build that they belong to, and passed on to a collector if there is one.

mod collector;
mod forward;
mod scrub;
mod steps;
mod stub;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use weld_proto::telemetry::{ExportTraceServiceRequest, ResourceSpans};

use forward::Forwarder;
pub use forward::{ForwardError, OtlpConfig, OtlpProtocol};
pub(crate) use steps::StepSpan;

/// The metadata of a call in which its span is named (W3C's trace context).
const TRACE_PARENT: &str = "traceparent";
/// How long spans of a build may come after its end: clients send theirs when they are done.
const LATE: Duration = Duration::from_secs(3);
/// The most bytes that are kept of one trace.
const MAX_TRACE: usize = 16 << 20;
/// The most traces that are waited for after their builds' ends; what is more is not waited for.
const MAX_WAITING: usize = 1024;

/// A span of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SpanContext {
    trace: [u8; 16],
    span: [u8; 8],
}

/// The spans of a daemon.
pub(crate) struct Telemetry {
    traces: Mutex<HashMap<[u8; 16], Recording>>,
    /// By the names of builds that have ended, those whose late spans are waited for.
    waiting: Mutex<HashMap<String, Waiting>>,
    forwarder: Option<Forwarder>,
    received: AtomicU64,
}

/// The spans of a trace that has builds.
#[derive(Default)]
struct Recording {
    builds: usize,
    /// One object of JSON a line.
    lines: Vec<u8>,
}

#[derive(Clone)]
struct Waiting {
    /// Ends the waiting.
    enough: CancellationToken,
    /// Fires when the trace is kept.
    kept: CancellationToken,
}

/// How many spans there were.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SpanCounts {
    pub(crate) received: u64,
    pub(crate) forwarded: u64,
    pub(crate) dropped: u64,
}

impl SpanContext {
    /// The span that a call is part of, if it says so.
    pub(crate) fn of_call(metadata: &MetadataMap) -> Option<Self> {
        Self::parse(metadata.get(TRACE_PARENT)?.to_str().ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let (version, trace, span) = (parts.next()?, parts.next()?, parts.next()?);
        let context = Self {
            trace: bytes_of(trace)?,
            span: bytes_of(span)?,
        };
        let valid = version.len() == 2 && version != "ff";
        (valid && context.trace != [0; 16] && context.span != [0; 8]).then_some(context)
    }

    /// A span of a trace of its own.
    fn new_trace() -> Option<Self> {
        Some(Self {
            trace: crate::random::bytes()?,
            span: crate::random::bytes()?,
        })
    }

    /// Another span of the same trace.
    fn another(self) -> Option<Self> {
        Some(Self {
            span: crate::random::bytes()?,
            ..self
        })
    }
}

/// Bytes in lower-case hexadecimal digits.
fn bytes_of<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if text.len() != 2 * N || !text.as_bytes().iter().all(digits) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).ok()?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(bytes)
}

impl Telemetry {
    /// Passes spans on as `config` says.
    pub(crate) fn new(config: Option<&OtlpConfig>) -> Result<Arc<Self>, ForwardError> {
        Ok(Arc::new(Self {
            traces: Mutex::default(),
            waiting: Mutex::default(),
            forwarder: config.map(Forwarder::start).transpose()?,
            received: AtomicU64::new(0),
        }))
    }

    /// Takes spans: for the builds of their traces, and for the collector.
    pub(crate) fn take(&self, mut request: ExportTraceServiceRequest) {
        scrub::scrub(&mut request);
        let count = forward::count(&request);
        self.received.fetch_add(count, Ordering::Relaxed);
        let mut traces = self.traces();
        if !traces.is_empty() {
            for resource in &request.resource_spans {
                keep(&mut traces, resource);
            }
        }
        drop(traces);
        if let Some(forwarder) = &self.forwarder {
            forwarder.send(request, count);
        }
    }

    pub(crate) fn counts(&self) -> SpanCounts {
        let (forwarded, dropped) = self
            .forwarder
            .as_ref()
            .map_or((0, 0), |forwarder| forwarder.counts());
        SpanCounts {
            received: self.received.load(Ordering::Relaxed),
            forwarded,
            dropped,
        }
    }

    /// Keeps the spans of a build's trace from now on: that of the call that asked for it, or one
    /// of its own if there is a collector to pass it on to.
    pub(crate) fn record(self: &Arc<Self>, parent: Option<SpanContext>) -> Option<Recorder> {
        let build = match parent {
            Some(parent) => parent.another()?,
            None if self.forwarder.is_some() => SpanContext::new_trace()?,
            None => return None,
        };
        self.traces().entry(build.trace).or_default().builds += 1;
        Some(Recorder {
            telemetry: Arc::clone(self),
            parent,
            build,
        })
    }

    /// Has the trace of a build that has ended kept at once, and waits until it is.
    pub(crate) async fn finalize(&self, reference: &str) {
        let waiting = self.waiting().get(reference).cloned();
        if let Some(waiting) = waiting {
            waiting.enough.cancel();
            waiting.kept.cancelled().await;
        }
    }

    /// The trace of a build of which none was recorded, as the history keeps them: a span of its
    /// own and those of its steps. `None` without randomness.
    pub(crate) fn trace_of(
        time: Range<SystemTime>,
        error: Option<&str>,
        steps: Vec<StepSpan>,
    ) -> Option<Vec<u8>> {
        let build = SpanContext::new_trace()?;
        let mut spans = steps::spans(None, build, time, error, steps);
        scrub::scrub(&mut spans);
        let mut lines = Vec::new();
        for resource in &spans.resource_spans {
            for scope in &resource.scope_spans {
                for span in &scope.spans {
                    let line = stub::line(resource, scope, span);
                    if lines.len() + line.len() <= MAX_TRACE {
                        lines.extend_from_slice(&line);
                    }
                }
            }
        }
        Some(lines)
    }

    fn traces(&self) -> MutexGuard<'_, HashMap<[u8; 16], Recording>> {
        self.traces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<String, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn keep(traces: &mut HashMap<[u8; 16], Recording>, resource: &ResourceSpans) {
    for scope in &resource.scope_spans {
        for span in &scope.spans {
            let id = <[u8; 16]>::try_from(&span.trace_id[..]);
            let Some(recording) = id.ok().and_then(|id| traces.get_mut(&id)) else {
                continue;
            };
            let line = stub::line(resource, scope, span);
            if recording.lines.len() + line.len() <= MAX_TRACE {
                recording.lines.extend_from_slice(&line);
            }
        }
    }
}

/// Keeps the spans of one build's trace until it is dropped.
pub(crate) struct Recorder {
    telemetry: Arc<Telemetry>,
    parent: Option<SpanContext>,
    /// The build's own span.
    build: SpanContext,
}

impl Recorder {
    /// Tells the spans of the build itself and of its steps.
    pub(crate) fn tell(&self, started: SystemTime, error: Option<&str>, steps: Vec<StepSpan>) {
        let time = started..SystemTime::now();
        let spans = steps::spans(self.parent, self.build, time, error, steps);
        self.telemetry.take(spans);
    }

    /// Waits for spans that come late, until it is enough for somebody; returns all of them. What
    /// is done with them is to be told by dropping the second part.
    pub(crate) async fn late(self, reference: &str, ending: &CancellationToken) -> (Vec<u8>, Kept) {
        let waiting = Waiting {
            enough: CancellationToken::new(),
            kept: CancellationToken::new(),
        };
        let room = {
            let mut all = self.telemetry.waiting();
            let room = all.len() < MAX_WAITING;
            all.insert(reference.to_owned(), waiting.clone());
            room
        };
        let kept = Kept {
            telemetry: Arc::clone(&self.telemetry),
            reference: reference.to_owned(),
            token: waiting.kept,
        };
        if room {
            tokio::select! {
                () = tokio::time::sleep(LATE) => {}
                () = waiting.enough.cancelled() => {}
                () = ending.cancelled() => {}
            }
        }
        let traces = self.telemetry.traces();
        let lines = traces.get(&self.build.trace);
        let lines = lines.map_or_else(Vec::new, |recording| recording.lines.clone());
        drop(traces);
        (lines, kept)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let mut traces = self.telemetry.traces();
        if let Some(recording) = traces.get_mut(&self.build.trace) {
            recording.builds -= 1;
            if recording.builds == 0 {
                traces.remove(&self.build.trace);
            }
        }
    }
}

/// Tells those who wait for a build's trace that it is kept, when dropped.
pub(crate) struct Kept {
    telemetry: Arc<Telemetry>,
    reference: String,
    token: CancellationToken,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.telemetry.waiting().remove(&self.reference);
        self.token.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_of_a_call_is_read() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let context = SpanContext::parse(text).unwrap();
        assert_eq!(context.trace[0], 0x0a);
        assert_eq!(context.span[7], 0x31);
        for text in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319\u{e9}-b7ad6b7169203331-01",
        ] {
            assert_eq!(SpanContext::parse(text), None, "{text}");
        }
    }
}
