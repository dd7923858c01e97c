//! Why a step was not cached.

use std::fmt;

use serde::Serialize;

use crate::{
    filter::{FilterError, find},
    model::{Trace, Vertex, VertexAt},
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

/// Why the last step whose digest begins like this was not cached: as the step itself told, or else by a comparison with the nearest
/// step before it in the same trace, or in `previous`.
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
        _ if vertex.ignore_cache => vec!["the cache was not to be used for it".into()],
        _ => match (told, nearest(trace, previous, at)) {
            (Some(told), _) => vec![told],
            (None, Some((earlier, known))) => {
                report.compared_with = Some(known.digest.clone());
                differences(trace, vertex, earlier, known)
            }
            (None, None) => vec![
                "no earlier step is like it in this trace: give an earlier trace to compare with"
                    .into(),
            ],
        },
    };
    Ok(report)
}

/// The last step before, of the same digest or else of the same name, and the trace that it is in.
fn nearest<'t>(
    trace: &'t Trace,
    previous: Option<&'t Trace>,
    at: VertexAt,
) -> Option<(&'t Trace, &'t Vertex)> {
    let vertex = &trace.vertices[at];
    let ran = |trace: &Trace, other: &Vertex| other.completed.is_some() && other.ran(trace);
    let search = |trace: &'t Trace, before: VertexAt| {
        let earlier = || trace.vertices[..before].iter().rev();
        earlier()
            .find(|other| other.digest == vertex.digest && ran(trace, other))
            .or_else(|| earlier().find(|other| other.name == vertex.name && ran(trace, other)))
            .map(|found| (trace, found))
    };
    search(trace, at).or_else(|| previous.and_then(|trace| search(trace, trace.vertices.len())))
}

fn differences(trace: &Trace, now: &Vertex, earlier: &Trace, before: &Vertex) -> Vec<String> {
    let mut reasons = Vec::new();
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
            _ if input.digest != old.digest => {
                let old = old.vertex.map(|at| &earlier.vertices[at].name);
                let old = one_line(old.map_or("", |name| name));
                reasons.push(format!("input {number} is {name}, before it was {old}"));
            }
            _ if vertex.is_some_and(|vertex| vertex.ran(trace)) => {
                reasons.push(format!("its input {number} ({name}) was not cached either"))
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
    if reasons.is_empty() {
        reasons.push("nothing differs: its record was pruned, or never saved".into());
    }
    reasons
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
