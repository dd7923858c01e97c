//! One page with everything on it, which needs nothing but itself.

use serde::Serialize;

use crate::{
    critical::{CriticalPath, critical_path},
    filter::{Filter, FilterError},
    model::{Span, Trace, VertexAt, without},
};

/// More vertices than this are not put on a page: no browser shows them in a useful way.
const VERTICES: usize = 50_000;

const HEAD: &str = include_str!("page/head.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// Why there is no page.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HtmlError {
    /// The filter means nothing.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// There is too much to show.
    #[error(
        "{0} vertices are more than fit on a page ({VERTICES}): choose some by --job, --name, --since or --until"
    )]
    TooLarge(usize),
}

/// What the page's script reads. Names are short: it is repeated for each vertex.
#[derive(Serialize)]
struct Data<'a> {
    /// The time that is meant.
    from: f64,
    to: f64,
    seconds: f64,
    events: u64,
    lost: u64,
    ended: bool,
    jobs: Vec<JobData<'a>>,
    vertices: Vec<VertexData<'a>>,
    merges: Vec<MergeData<'a>>,
    notes: Vec<NoteData<'a>>,
    /// Digests of the steps that the longest request waited for.
    critical: Vec<String>,
}

#[derive(Serialize)]
struct JobData<'a> {
    id: &'a str,
    opened: f64,
    discarded: Option<f64>,
    vertices: usize,
}

#[derive(Serialize)]
struct VertexData<'a> {
    digest: &'a str,
    name: &'a str,
    outcome: &'static str,
    jobs: Vec<usize>,
    inputs: Vec<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    merged: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'a str>,
    /// Call, start, end, what went wrong.
    calls: Vec<(&'static str, f64, Option<f64>, Option<&'a str>)>,
    keys: Vec<&'a str>,
}

#[derive(Serialize)]
struct MergeData<'a> {
    time: f64,
    source: usize,
    target: usize,
    reason: &'a str,
    refused: bool,
}

#[derive(Serialize)]
struct NoteData<'a> {
    time: f64,
    kind: &'static str,
    vertex: Option<usize>,
    text: &'a str,
}

/// A page with the graph, the timeline and the merges of a trace, to be opened in any browser; nothing is loaded from elsewhere.
///
/// # Errors
/// [`HtmlError`].
pub fn html(trace: &Trace, filter: &Filter) -> Result<String, HtmlError> {
    let scope = filter.scope(trace)?;
    let meant: Vec<VertexAt> = (0..trace.vertices.len())
        .filter(|at| scope.vertex(*at))
        .collect();
    if meant.len() > VERTICES {
        return Err(HtmlError::TooLarge(meant.len()));
    }
    let path = critical_path(trace, filter)?;
    let data = data(trace, scope.times(), &meant, path);
    // Within a script element nothing but its end tag, or what looks like one or like a comment, is special.
    let data = serde_json::to_string(&data)
        .unwrap_or_default()
        .replace('<', "\\u003c");
    Ok(HEAD
        .replace("/*style*/", STYLE)
        .replace("/*script*/", SCRIPT)
        .replace("/*data*/", &data))
}

fn data<'a>(
    trace: &'a Trace,
    (from, to): Span,
    meant: &[VertexAt],
    path: CriticalPath,
) -> Data<'a> {
    let place = |at: VertexAt| meant.binary_search(&at).ok();
    let vertices = meant.iter().map(|at| {
        let vertex = &trace.vertices[*at];
        let calls = vertex.calls.iter().map(|at| &trace.calls[*at]);
        let calls = calls.flat_map(|call| {
            let wrong = call.error.as_deref().or(call.cancelled.as_deref());
            let (_, end) = call.span(trace);
            // Where it waits for a slot or a lock there is a gap.
            let worked = without(call.span(trace), call.waits(trace));
            let worked = worked.into_iter().map(move |(from, to)| {
                let goes_on = call.end.is_none() && to == end;
                let to = (!goes_on).then(|| trace.seconds(to));
                (call.call, trace.seconds(from), to, wrong)
            });
            worked.collect::<Vec<_>>()
        });
        VertexData {
            digest: &vertex.digest,
            name: &vertex.name,
            outcome: vertex.outcome(trace),
            jobs: vertex.jobs.clone(),
            inputs: vertex
                .inputs
                .iter()
                .filter_map(|input| place(input.vertex?))
                .collect(),
            merged: vertex.merged_into.and_then(place),
            why: vertex.why.as_deref(),
            calls: calls.collect(),
            keys: vertex.keys.iter().map(|key| key.key.as_str()).collect(),
        }
    });
    let merges = trace.merges.iter().filter_map(|merge| {
        Some(MergeData {
            time: trace.seconds(merge.time),
            source: place(merge.source)?,
            target: place(merge.target)?,
            reason: merge.reason.as_deref().unwrap_or("before the trace"),
            refused: merge.refused,
        })
    });
    let notes = trace.notes.iter().map(|note| NoteData {
        time: trace.seconds(note.time),
        kind: note.kind.name(),
        vertex: note.vertex.and_then(place),
        text: &note.text,
    });
    Data {
        from: trace.seconds(from),
        to: trace.seconds(to),
        seconds: trace.seconds(trace.end),
        events: trace.events,
        lost: trace.lost,
        ended: trace.ended,
        jobs: trace
            .jobs
            .iter()
            .map(|job| JobData {
                id: &job.id,
                opened: trace.seconds(job.opened),
                discarded: job.discarded.map(|time| trace.seconds(time)),
                vertices: job.vertices.len(),
            })
            .collect(),
        vertices: vertices.collect(),
        merges: merges.collect(),
        notes: notes.collect(),
        critical: path.steps.into_iter().map(|step| step.vertex).collect(),
    }
}
