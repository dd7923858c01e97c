//! Inputs that a vertex asked for only once others were there, such as a cached one that is loaded when a key is not found.

use std::collections::HashSet;

use crate::model::{Trace, VertexAt, survivor};

/// A vertex, and when it came to its end.
pub(super) type Ended = (VertexAt, u64);

/// An input that began late: from when on, and how long, it was waited for.
#[derive(Clone, Copy)]
pub(super) struct Late {
    pub(super) vertex: VertexAt,
    pub(super) from: u64,
    pub(super) until: u64,
}

/// What a vertex waited for before it asked for the input that ended last, and that one if it asked for it only then; of several such
/// inputs that followed one another, the last first.
pub(super) fn split(
    trace: &Trace,
    vertex: VertexAt,
    mut last: Ended,
    asked: u64,
) -> (Ended, Vec<Late>) {
    let inputs = trace.vertices[vertex].inputs.iter();
    let ended = inputs.filter_map(|input| {
        let at = survivor(trace, input.vertex?);
        let time = trace.vertices[at].completed?;
        (asked < time && time < last.1).then_some((at, time))
    });
    let mut ended: Vec<Ended> = ended.collect();
    ended.sort_unstable_by_key(|(_, time)| std::cmp::Reverse(*time));
    let mut late = Vec::new();
    let mut rest = ended.into_iter();
    while let Some((before, from)) = rest.find_map(|other| {
        let from = begun_after(trace, last, other.1)?;
        Some((other, from))
    }) {
        late.push(Late {
            vertex: last.0,
            from,
            until: last.1,
        });
        last = before;
    }
    (last, late)
}

/// When work on a vertex began, if that was at or after a time, and nothing that it needed was going on then.
fn begun_after(trace: &Trace, (vertex, until): Ended, time: u64) -> Option<u64> {
    let is_after = |other: u64| time < other && other <= until;
    let (mut begun, mut learnt) = (None, None);
    let mut ahead = vec![vertex];
    let mut seen = HashSet::from([vertex]);
    while let Some(at) = ahead.pop() {
        let vertex = &trace.vertices[at];
        // A record that was known already needs no inputs.
        let mut needs_inputs = false;
        for call in vertex.calls.iter().map(|at| &trace.calls[*at]) {
            let (start, end) = call.span(trace);
            if end <= time || start > until {
                continue;
            }
            if start < time {
                return None;
            }
            needs_inputs |= call.call != "load";
            begun = Some(begun.map_or(start, |begun: u64| begun.min(start)));
        }
        for (at, _, state) in vertex.states.iter().filter(|(at, ..)| is_after(*at)) {
            needs_inputs |= state != "complete";
            learnt = Some(learnt.map_or(*at, |learnt: u64| learnt.min(*at)));
        }
        if needs_inputs {
            let inputs = vertex.inputs.iter().filter_map(|input| input.vertex);
            let inputs = inputs.map(|input| survivor(trace, input));
            ahead.extend(inputs.filter(|input| {
                let mut states = trace.vertices[*input].states.iter();
                states.any(|(at, ..)| is_after(*at)) && seen.insert(*input)
            }));
        }
    }
    // What became known without work had been asked for before.
    begun.filter(|begun| learnt.is_none_or(|learnt| *begun <= learnt))
}
