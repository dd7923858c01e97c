//! Why a step was not cached.

use std::{collections::HashSet, fmt};

use serde::Serialize;

use crate::{
    filter::{FilterError, find},
    model::{Input, Trace, Vertex, VertexAt, survivor},
    text::{one_line, short},
};

/// Why a step was not cached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WhyReport {
    /// Its digest.
    pub vertex: String,
    /// Its name.
    pub name: String,
    /// How it ended.
    pub outcome: &'static str,
    /// The nearest step before it that it was compared with.
    pub compared_with: Option<String>,
    /// The reasons; what explains most comes first.
    pub reasons: Vec<String>,
}

/// Why the last step whose digest begins like this was not cached: by a comparison with the nearest step in `previous`, where that is
/// given; as the step itself told; or else by a comparison with the nearest step before it in the same trace.
///
/// # Errors
/// [`FilterError`].
pub fn why(
    trace: &Trace,
    previous: Option<&Trace>,
    digest: &str,
) -> Result<WhyReport, FilterError> {
    let lives = find(trace, digest)?;
    let at = lives.last().copied().unwrap_or_default();
    let vertex = &trace.vertices[at];
    let mut report = WhyReport {
        vertex: vertex.digest.clone(),
        name: vertex.name.clone(),
        outcome: vertex.outcome(trace),
        compared_with: None,
        reasons: Vec::new(),
    };
    let told = vertex.why.clone();
    report.reasons = match report.outcome {
        "cached" => vec!["it was cached".into()],
        "merged" => {
            let target = vertex.merged_into.map(|at| &trace.vertices[at]);
            let target = target.map_or_else(String::new, |target| target.digest.clone());
            vec![format!("it was merged: ask for {target}")]
        }
        "untouched" | "not-needed" => vec!["its result was not needed".into()],
        "unreached" => vec!["it was not reached: what it waited for did not come".into()],
        _ if vertex.ignore_cache => vec!["the cache was not to be used for it".into()],
        _ => {
            // What a step told is of the last build, and another one may have been asked for.
            let asked = previous.and_then(|earlier| {
                nearest(trace, at, earlier, earlier.vertices.len()).map(|known| (earlier, known))
            });
            let own = || nearest(trace, at, trace, at).map(|known| (trace, known));
            let known = asked.or_else(|| own().filter(|_| told.is_none()));
            let mut reasons = Vec::new();
            if let Some((earlier, known)) = known {
                report.compared_with = Some(known.digest.clone());
                reasons = differences(trace, vertex, earlier, known);
            }
            reasons.extend(told.filter(|told| !reasons.contains(told)));
            if reasons.is_empty() {
                reasons.push(
                    "no earlier step is like it in this trace: give an earlier trace to compare with"
                        .into(),
                );
            }
            reasons
        }
    };
    Ok(report)
}

/// The last step before a place in `earlier` that ran, of the same digest or else of the same name.
fn nearest<'t>(
    trace: &Trace,
    at: VertexAt,
    earlier: &'t Trace,
    before: VertexAt,
) -> Option<&'t Vertex> {
    let vertex = &trace.vertices[at];
    let ran = |other: &&Vertex| other.completed.is_some() && other.ran(earlier);
    let others = || earlier.vertices[..before].iter().rev().filter(ran);
    others()
        .find(|other| other.digest == vertex.digest)
        .or_else(|| others().find(|other| other.name == vertex.name))
}

fn differences(trace: &Trace, now: &Vertex, earlier: &Trace, before: &Vertex) -> Vec<String> {
    let (mut reasons, mut uncached) = (Vec::new(), Vec::new());
    if let (Some(now), Some(before)) = (now.ops.first(), before.ops.first())
        && now != before
    {
        reasons.push(format!(
            "its operation is another one: {} before, {} now",
            short(before),
            short(now)
        ));
    }
    if now.inputs.len() != before.inputs.len() {
        reasons.push(format!(
            "it has {} inputs, before it had {}",
            now.inputs.len(),
            before.inputs.len()
        ));
    }
    for (number, (input, old)) in (0..).zip(now.inputs.iter().zip(&before.inputs)) {
        let vertex = input.vertex.map(|at| &trace.vertices[at]);
        let name = vertex.map_or("", |vertex| &vertex.name);
        let name = one_line(name);
        match (now.contents.get(&number), before.contents.get(&number)) {
            (Some(now), Some(before)) if now != before => {
                reasons.push(format!("the content of input {number} ({name}) changed"))
            }
            (Some(now), Some(before)) if now == before => {}
            _ if is_another(trace, input, earlier, old) => {
                let old = old.vertex.map(|at| &earlier.vertices[at].name);
                let old = one_line(old.map_or("", |name| name));
                reasons.push(match old == name {
                    true => format!("input {number} ({name}) is made of something else"),
                    false => format!("input {number} is {name}, before it was {old}"),
                });
            }
            _ if vertex.is_some_and(|vertex| vertex.ran(trace)) => {
                uncached.push(format!("its input {number} ({name}) was not cached either"))
            }
            _ => {}
        }
    }
    let failed = now
        .calls_of(trace, "load")
        .find_map(|call| call.error.clone());
    if let Some(error) = failed {
        reasons.push(format!("its record could not be loaded: {error}"));
    }
    // What ran and came to the same is no difference.
    if reasons.is_empty() {
        reasons = uncached;
    }
    if reasons.is_empty() {
        reasons.push("nothing differs: its record was pruned, or never saved".into());
    }
    reasons
}

/// Whether an input is something else for a cache than it was. Its digest says nothing of that: that of a source names the session of
/// the client that it was read from.
fn is_another(trace: &Trace, now: &Input, earlier: &Trace, before: &Input) -> bool {
    if now.digest == before.digest {
        return false;
    }
    let (Some(at), Some(was)) = (now.vertex, before.vertex) else {
        return true;
    };
    let (at, was) = (survivor(trace, at), survivor(earlier, was));
    let (vertex, old) = (&trace.vertices[at], &earlier.vertices[was]);
    let keys = |vertex: &Vertex, output: u32| -> HashSet<String> {
        let of_output = vertex.keys.iter().filter(|key| key.output == output);
        of_output.map(|key| key.key.clone()).collect()
    };
    let (keys, known) = (keys(vertex, now.output), keys(old, before.output));
    if !keys.is_empty() && !known.is_empty() {
        return keys.is_disjoint(&known);
    }
    match (vertex.ops.first(), old.ops.first()) {
        (Some(op), Some(known)) if op != known => true,
        // Of what is not known, only the name can tell.
        _ => vertex.name != old.name,
    }
}

impl fmt::Display for WhyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}  {}", self.vertex, one_line(&self.name))?;
        if let Some(other) = &self.compared_with {
            writeln!(f, "  compared with {}", short(other))?;
        }
        for reason in &self.reasons {
            let lead = if matches!(self.outcome, "ran" | "failed" | "cancelled") {
                "not cached: "
            } else {
                ""
            };
            writeln!(f, "  {lead}{reason}")?;
        }
        Ok(())
    }
}
