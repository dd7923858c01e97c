//! One event as one line.

use weld_solver::{
    CancelCause, Digest, EdgeState, MergeReason, OpCall, Refusal, RequestOutcome, TraceEdge,
    TraceEvent, TraceInput, TraceStamp, TraceVertex, WaitReason,
};

/// The version that the first line of a trace names.
pub(crate) const VERSION: u64 = 2;

/// Appends an event as a JSON object and a line feed.
pub fn encode(out: &mut Vec<u8>, at: TraceStamp, event: &TraceEvent) {
    Encoder::default().encode(out, at, event);
}

/// Encodes one event after the other. Many happen at the same moment; its text is made once.
#[derive(Default)]
pub(crate) struct Encoder {
    at: Option<TraceStamp>,
    moment: Vec<u8>,
}

impl Encoder {
    pub(crate) fn encode(&mut self, out: &mut Vec<u8>, at: TraceStamp, event: &TraceEvent) {
        if self.at != Some(at) {
            self.at = Some(at);
            self.moment.clear();
            push_moment(&mut self.moment, at);
        }
        let mut line = Object::begin(out, name(event));
        line.0.extend_from_slice(&self.moment);
        fields(&mut line, event);
        line.end();
    }
}

fn push_moment(out: &mut Vec<u8>, at: TraceStamp) {
    out.extend_from_slice(b",\"position\":");
    push_number(out, at.position);
    out.extend_from_slice(b",\"time\":");
    push_number(out, at.micros);
}

/// The line that begins a trace.
pub(crate) fn encode_start(out: &mut Vec<u8>, at: TraceStamp) {
    let mut line = Object::new(out, "trace-start", at);
    line.number("version", VERSION);
    line.text("weld", env!("CARGO_PKG_VERSION"));
    line.end();
}

/// The line that says how many events are missing here.
pub(crate) fn encode_lost(out: &mut Vec<u8>, at: TraceStamp, count: u64) {
    let mut line = Object::new(out, "lost", at);
    line.number("count", count);
    line.end();
}

/// The line that ends a trace.
pub(crate) fn encode_end(out: &mut Vec<u8>, at: TraceStamp, lines: u64, lost: u64) {
    let mut line = Object::new(out, "trace-end", at);
    line.number("lines", lines);
    line.number("lost", lost);
    line.end();
}

const fn name(event: &TraceEvent) -> &'static str {
    match event {
        TraceEvent::Resumed => "resumed",
        TraceEvent::JobOpened { .. } => "job-opened",
        TraceEvent::SessionChanged { .. } => "session",
        TraceEvent::JobDiscarded { .. } => "job-discarded",
        TraceEvent::VertexCreated { .. } => "vertex",
        TraceEvent::VertexFreed { .. } => "vertex-freed",
        TraceEvent::EdgeFreed { .. } => "edge-freed",
        TraceEvent::Loaded { .. } => "loaded",
        TraceEvent::Requested { .. } => "request",
        TraceEvent::Answered { .. } => "answer",
        TraceEvent::State { .. } => "state",
        TraceEvent::Key { .. } => "key",
        TraceEvent::Queried { .. } => "query",
        TraceEvent::Merged { .. } => "merge",
        TraceEvent::MergeRefused { .. } => "merge-refused",
        TraceEvent::CallStarted { .. } => "call-start",
        TraceEvent::CallEnded { .. } => "call-end",
        TraceEvent::LoadStarted { .. } => "load-start",
        TraceEvent::LoadEnded { .. } => "load-end",
        TraceEvent::LoadFailed { .. } => "load-failed",
        TraceEvent::CallCancelled { .. } => "cancel",
        TraceEvent::CallDropped { .. } => "dropped",
        TraceEvent::UnderWay { .. } => "under-way",
        TraceEvent::SlotAwaited { .. } => "slot-wait",
        TraceEvent::SlotTaken { .. } => "slot-taken",
        TraceEvent::SaveFailed { .. } => "save-failed",
        TraceEvent::SourceFailed { .. } => "source-failed",
        TraceEvent::ResultLost { .. } => "result-lost",
        TraceEvent::SessionLent { .. } => "session-lent",
        TraceEvent::Fallback { .. } => "fallback",
        TraceEvent::Explained { .. } => "explained",
        TraceEvent::Broken { .. } => "broken",
        _ => "unknown",
    }
}

fn fields(line: &mut Object<'_>, event: &TraceEvent) {
    match event {
        TraceEvent::Resumed => {}
        TraceEvent::JobOpened { job, session } | TraceEvent::SessionChanged { job, session } => {
            line.text("job", job);
            line.flag("session", *session);
        }
        TraceEvent::JobDiscarded { job } => line.text("job", job),
        TraceEvent::VertexCreated { .. } | TraceEvent::Loaded { .. } => graph_fields(line, event),
        TraceEvent::VertexFreed { vertex } => line.vertex(*vertex),
        TraceEvent::EdgeFreed { edge, state } => {
            line.edge(*edge);
            if let Some(state) = state {
                line.word("state", state_name(*state));
            }
        }
        TraceEvent::ResultLost { edge } => line.edge(*edge),
        TraceEvent::Requested {
            request,
            job,
            task,
            edge,
        } => {
            line.number("request", *request);
            line.text_option("job", job.as_deref());
            line.number_option("task", *task);
            line.edge(*edge);
        }
        TraceEvent::Answered { request, outcome } => {
            line.number("request", *request);
            line.word("outcome", outcome_name(*outcome));
        }
        TraceEvent::State { .. }
        | TraceEvent::Key { .. }
        | TraceEvent::Queried { .. }
        | TraceEvent::Merged { .. }
        | TraceEvent::MergeRefused { .. } => edge_fields(line, event),
        TraceEvent::CallStarted { .. }
        | TraceEvent::CallEnded { .. }
        | TraceEvent::LoadStarted { .. }
        | TraceEvent::LoadEnded { .. }
        | TraceEvent::LoadFailed { .. }
        | TraceEvent::CallCancelled { .. }
        | TraceEvent::CallDropped { .. }
        | TraceEvent::UnderWay { .. }
        | TraceEvent::SlotAwaited { .. }
        | TraceEvent::SlotTaken { .. } => task_fields(line, event),
        TraceEvent::SaveFailed { reason } => line.text("error", reason),
        TraceEvent::SourceFailed { source, reason } => {
            line.number("source", u64::from(*source));
            line.text("error", reason);
        }
        TraceEvent::SessionLent { vertex, job } => {
            line.digest("vertex", *vertex);
            line.text("job", job);
        }
        TraceEvent::Fallback { vertex, next } => {
            line.digest("vertex", *vertex);
            line.digest("next", *next);
        }
        TraceEvent::Explained { vertex, why } => {
            line.digest("vertex", *vertex);
            line.text("why", why);
        }
        TraceEvent::Broken { invariant } => line.text("invariant", invariant),
        _ => {}
    }
}

fn graph_fields(line: &mut Object<'_>, event: &TraceEvent) {
    match event {
        TraceEvent::VertexCreated {
            vertex,
            name,
            inputs,
            ignore_cache,
            never_merge,
        } => {
            line.vertex(*vertex);
            line.text("name", name);
            line.inputs(inputs);
            if *ignore_cache {
                line.flag("ignore_cache", true);
            }
            if *never_merge {
                line.flag("never_merge", true);
            }
        }
        TraceEvent::Loaded {
            job,
            parent,
            root,
            id,
            size,
        } => {
            line.text_option("job", job.as_deref());
            line.digest_option("parent", parent.map(|parent| parent.digest));
            line.number_option("parent_id", parent.map(|parent| parent.id));
            line.edge(*root);
            line.number("id", *id);
            line.number_option("vertices", size.map(|size| size.vertices));
            line.number_option("created", size.map(|size| size.created));
        }
        _ => {}
    }
}

fn edge_fields(line: &mut Object<'_>, event: &TraceEvent) {
    match event {
        TraceEvent::State { edge, state } => {
            line.edge(*edge);
            line.word("state", state_name(*state));
        }
        TraceEvent::Key { edge, key, stored } => {
            line.edge(*edge);
            line.digest("key", key.0);
            line.flag("stored", *stored);
        }
        TraceEvent::Queried {
            edge,
            input,
            hit,
            records,
        } => {
            line.edge(*edge);
            line.number_option("input", input.map(u64::from));
            line.flag("hit", *hit);
            line.number("records", u64::from(*records));
        }
        TraceEvent::Merged {
            source,
            target,
            reason,
        } => {
            line.other_edge(SOURCE, *source);
            line.other_edge(TARGET, *target);
            if let Some(reason) = reason {
                line.word("reason", reason_name(*reason));
            }
        }
        TraceEvent::MergeRefused {
            edge,
            other,
            reason,
        } => {
            line.other_edge(SOURCE, *edge);
            line.other_edge(TARGET, *other);
            line.word("reason", refusal_name(*reason));
        }
        _ => {}
    }
}

fn task_fields(line: &mut Object<'_>, event: &TraceEvent) {
    match event {
        TraceEvent::CallStarted {
            task,
            vertex,
            call,
            input,
            actor,
        } => {
            line.number("task", *task);
            line.vertex(*vertex);
            line.word("call", call_name(*call));
            line.number_option("input", input.map(u64::from));
            line.digest_option("actor", *actor);
        }
        TraceEvent::CallEnded {
            task,
            vertex,
            call,
            digest,
            error,
        } => {
            line.number("task", *task);
            line.vertex(*vertex);
            line.word("call", call_name(*call));
            line.digest_option("digest", *digest);
            line.flag("ok", error.is_none());
            line.text_option("error", error.as_deref());
        }
        TraceEvent::LoadStarted {
            task,
            edge,
            record,
            source,
        } => {
            line.number("task", *task);
            line.edge(*edge);
            line.number("record", record.0);
            line.number("source", u64::from(source.number()));
        }
        TraceEvent::LoadEnded { task, edge } => {
            line.number("task", *task);
            line.edge(*edge);
        }
        TraceEvent::LoadFailed {
            task,
            edge,
            record,
            reason,
        } => {
            line.number("task", *task);
            line.edge(*edge);
            line.number("record", record.0);
            line.text("error", reason);
        }
        TraceEvent::CallCancelled {
            task,
            vertex,
            cause,
        } => {
            line.number("task", *task);
            line.vertex(*vertex);
            line.word("cause", cause_name(*cause));
        }
        TraceEvent::UnderWay {
            task,
            vertex,
            micros,
        } => {
            line.number("task", *task);
            line.vertex(*vertex);
            line.number("micros", *micros);
        }
        TraceEvent::SlotAwaited {
            task,
            vertex,
            reason,
        } => {
            line.number("task", *task);
            line.vertex(*vertex);
            line.word("reason", wait_name(*reason));
        }
        TraceEvent::CallDropped { task, vertex } | TraceEvent::SlotTaken { task, vertex } => {
            line.number("task", *task);
            line.vertex(*vertex);
        }
        _ => {}
    }
}

const fn state_name(state: EdgeState) -> &'static str {
    match state {
        EdgeState::Initial => "initial",
        EdgeState::CacheFast => "cache-fast",
        EdgeState::CacheSlow => "cache-slow",
        EdgeState::Complete => "complete",
    }
}

const fn outcome_name(outcome: RequestOutcome) -> &'static str {
    match outcome {
        RequestOutcome::Built => "built",
        RequestOutcome::Cancelled => "cancelled",
        _ => "failed",
    }
}

const fn wait_name(reason: WaitReason) -> &'static str {
    match reason {
        WaitReason::Slot => "slot",
        WaitReason::Lock => "lock",
    }
}

const fn reason_name(reason: MergeReason) -> &'static str {
    match reason {
        MergeReason::FastKey => "fast-key",
        _ => "slow-key",
    }
}

const fn refusal_name(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::NeverMerge => "never-merge",
        Refusal::IgnoreCache => "ignore-cache",
        Refusal::Ancestor => "ancestor",
        Refusal::BothComplete => "both-complete",
        _ => "unknown",
    }
}

const fn cause_name(cause: CancelCause) -> &'static str {
    match cause {
        CancelCause::NotNeeded => "not-needed",
        CancelCause::RequestCancelled => "request-cancelled",
        CancelCause::JobDiscarded => "job-discarded",
        CancelCause::Merged => "merged",
        CancelCause::Failed => "failed",
        _ => "unknown",
    }
}

const fn call_name(call: OpCall) -> &'static str {
    match call {
        OpCall::CacheMap => "cache-map",
        OpCall::Preprocess => "preprocess",
        OpCall::SlowKey => "slow-key",
        _ => "exec",
    }
}

/// The field names of an edge.
struct EdgeNames(&'static str, &'static str, &'static str);

const EDGE: EdgeNames = EdgeNames("edge", "vertex", "output");
const SOURCE: EdgeNames = EdgeNames("source", "source_vertex", "source_output");
const TARGET: EdgeNames = EdgeNames("target", "target_vertex", "target_output");

/// A JSON object that is being written.
struct Object<'a>(&'a mut Vec<u8>);

impl<'a> Object<'a> {
    fn new(out: &'a mut Vec<u8>, event: &'static str, at: TraceStamp) -> Self {
        let line = Self::begin(out, event);
        push_moment(line.0, at);
        line
    }

    fn begin(out: &'a mut Vec<u8>, event: &'static str) -> Self {
        out.extend_from_slice(b"{\"event\":\"");
        out.extend_from_slice(event.as_bytes());
        out.push(b'"');
        Self(out)
    }

    fn end(self) {
        self.0.extend_from_slice(b"}\n");
    }

    fn key(&mut self, name: &str) {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    fn number(&mut self, name: &str, number: u64) {
        self.key(name);
        push_number(self.0, number);
    }

    fn number_option(&mut self, name: &str, number: Option<u64>) {
        if let Some(number) = number {
            self.number(name, number);
        }
    }

    fn flag(&mut self, name: &str, flag: bool) {
        self.key(name);
        let word: &[u8] = if flag { b"true" } else { b"false" };
        self.0.extend_from_slice(word);
    }

    /// Text that needs no escapes.
    fn word(&mut self, name: &str, word: &str) {
        self.key(name);
        self.0.push(b'"');
        self.0.extend_from_slice(word.as_bytes());
        self.0.push(b'"');
    }

    fn text(&mut self, name: &str, text: &str) {
        self.key(name);
        push_text(self.0, text);
    }

    fn text_option(&mut self, name: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(name, text);
        }
    }

    fn digest(&mut self, name: &str, digest: Digest) {
        self.key(name);
        push_digest(self.0, digest);
    }

    fn digest_option(&mut self, name: &str, digest: Option<Digest>) {
        if let Some(digest) = digest {
            self.digest(name, digest);
        }
    }

    fn vertex(&mut self, vertex: TraceVertex) {
        self.digest("vertex", vertex.digest);
        self.number("id", vertex.id);
    }

    fn edge(&mut self, edge: TraceEdge) {
        self.other_edge(EDGE, edge);
    }

    fn other_edge(&mut self, names: EdgeNames, edge: TraceEdge) {
        self.number(names.0, edge.id);
        self.digest(names.1, edge.vertex);
        self.number(names.2, u64::from(edge.output));
    }

    /// Inputs as arrays of edge, vertex and output.
    fn inputs(&mut self, inputs: &[TraceInput]) {
        self.key("inputs");
        self.0.push(b'[');
        for (at, input) in inputs.iter().enumerate() {
            self.0.extend_from_slice(if at > 0 { b",[" } else { b"[" });
            push_number(self.0, input.edge);
            self.0.push(b',');
            push_number(self.0, input.vertex);
            self.0.push(b',');
            push_number(self.0, u64::from(input.output));
            self.0.push(b']');
        }
        self.0.push(b']');
    }
}

fn push_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    while number >= 100 {
        at -= 2;
        let pair = usize::from((number % 100) as u8) * 2;
        digits[at..at + 2].copy_from_slice(&PAIRS[pair..pair + 2]);
        number /= 100;
    }
    if number >= 10 {
        at -= 2;
        let pair = number as usize * 2;
        digits[at..at + 2].copy_from_slice(&PAIRS[pair..pair + 2]);
    } else {
        at -= 1;
        digits[at] = b'0' + number as u8;
    }
    out.extend_from_slice(&digits[at..]);
}

/// The digits of 00 to 99.
const PAIRS: [u8; 200] = {
    let mut pairs = [0; 200];
    let mut number = 0;
    while number < 100 {
        pairs[number * 2] = b'0' + (number / 10) as u8;
        pairs[number * 2 + 1] = b'0' + (number % 10) as u8;
        number += 1;
    }
    pairs
};

/// Each byte in hexadecimal.
const BYTES: [[u8; 2]; 256] = {
    let mut bytes = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        bytes[byte] = [HEX[byte >> 4], HEX[byte & 15]];
        byte += 1;
    }
    bytes
};

const HEX: &[u8; 16] = b"0123456789abcdef";

fn push_digest(out: &mut Vec<u8>, digest: Digest) {
    let mut text = [0; 73];
    text[..8].copy_from_slice(b"\"sha256:");
    let (pairs, _) = text[8..72].as_chunks_mut::<2>();
    for (pair, byte) in pairs.iter_mut().zip(digest.0) {
        *pair = BYTES[usize::from(byte)];
    }
    text[72] = b'"';
    out.extend_from_slice(&text);
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            0..0x20 => {
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}
