//! The merges of a trace.

use std::fmt;

use serde::Serialize;

use crate::{
    filter::{Filter, FilterError},
    model::{Trace, VertexAt},
    text::{one_line, short},
};

/// A merge, or one that was refused.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MergeEntry {
    /// Seconds since the beginning of the trace.
    pub time: f64,
    /// Position in the core's inputs.
    pub position: u64,
    /// Whether they stayed apart.
    pub refused: bool,
    /// Why; none where they were merged before the trace began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The vertex that forwards from now on, or that looked.
    pub source: String,
    /// Which output.
    pub source_output: u64,
    /// Its name.
    pub source_name: String,
    /// The jobs that loaded it.
    pub source_jobs: Vec<String>,
    /// The vertex that survives, or that was found.
    pub target: String,
    /// Which output.
    pub target_output: u64,
    /// Its name.
    pub target_name: String,
    /// The jobs that loaded it.
    pub target_jobs: Vec<String>,
}

/// The merges of a trace.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MergesReport {
    /// In order.
    pub merges: Vec<MergeEntry>,
}

/// The merges of a trace, and those that were refused.
///
/// # Errors
/// [`FilterError`].
pub fn merges(trace: &Trace, filter: &Filter) -> Result<MergesReport, FilterError> {
    let scope = filter.scope(trace)?;
    let jobs = |at: VertexAt| {
        let jobs = trace.vertices[at].jobs.iter();
        jobs.map(|job| trace.jobs[*job].id.clone()).collect()
    };
    let merges = trace
        .merges
        .iter()
        .filter(|merge| scope.merge(merge))
        .map(|merge| {
            let (source, target) = (&trace.vertices[merge.source], &trace.vertices[merge.target]);
            MergeEntry {
                time: trace.seconds(merge.time),
                position: merge.position,
                refused: merge.refused,
                reason: merge.reason.clone(),
                source: source.digest.clone(),
                source_output: merge.source_output,
                source_name: source.name.clone(),
                source_jobs: jobs(merge.source),
                target: target.digest.clone(),
                target_output: merge.target_output,
                target_name: target.name.clone(),
                target_jobs: jobs(merge.target),
            }
        });
    Ok(MergesReport {
        merges: merges.collect(),
    })
}

impl fmt::Display for MergesReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for merge in &self.merges {
            let what = if merge.refused {
                "stays apart from"
            } else {
                "into"
            };
            writeln!(
                f,
                "{:>10.6}s  {}:{} ({}) {what} {}:{} ({})  {}  {}",
                merge.time,
                short(&merge.source),
                merge.source_output,
                merge.source_jobs.join(", "),
                short(&merge.target),
                merge.target_output,
                merge.target_jobs.join(", "),
                merge.reason.as_deref().unwrap_or("before the trace began"),
                one_line(&merge.source_name),
            )?;
        }
        if self.merges.is_empty() {
            writeln!(f, "no merges")?;
        }
        Ok(())
    }
}
