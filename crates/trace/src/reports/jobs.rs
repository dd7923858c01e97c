//! The jobs of a trace.

use std::fmt;

use serde::Serialize;

use crate::{
    filter::{Filter, FilterError},
    model::{Trace, VertexAt},
};

/// A job.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JobReport {
    /// Its id.
    pub job: String,
    /// Seconds since the beginning of the trace.
    pub opened: f64,
    /// Whether it was opened before the trace began; what was new of its vertices is not known then.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub before: bool,
    /// Likewise; none where it is still open.
    pub discarded: Option<f64>,
    /// Whether it had a session.
    pub session: bool,
    /// Vertices that it loaded.
    pub vertices: usize,
    /// Those of them that were not live yet.
    pub created: u64,
    /// Vertices whose operation had run when the job was discarded, as the other counts are of that time.
    pub ran: usize,
    /// Vertices whose result was loaded.
    pub cached: usize,
    /// Vertices that were merged into others.
    pub merged: usize,
    /// Vertices that failed.
    pub failed: usize,
    /// Time from each request to its answer, in seconds, and the answer.
    pub requests: Vec<(f64, Option<String>)>,
}

/// The jobs of a trace.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JobsReport {
    /// In the order in which they were opened.
    pub jobs: Vec<JobReport>,
}

/// The jobs of a trace; where a filter is by digest or name, those that loaded such vertices, which alone are counted.
///
/// # Errors
/// [`FilterError`].
pub fn jobs(trace: &Trace, filter: &Filter) -> Result<JobsReport, FilterError> {
    let scope = filter.scope(trace)?;
    let jobs = trace
        .jobs
        .iter()
        .filter(|job| {
            scope.job(&job.id) && scope.span(job.opened, job.discarded.unwrap_or(trace.end))
        })
        .filter_map(|job| {
            let meant = |at: &&VertexAt| !scope.is_about_vertices() || scope.vertex(**at);
            let until = job.discarded.unwrap_or(u64::MAX);
            let outcomes: Vec<&str> = job
                .vertices
                .iter()
                .filter(meant)
                .map(|at| trace.vertices[*at].outcome_by(trace, until))
                .collect();
            if outcomes.is_empty() && scope.is_about_vertices() {
                return None;
            }
            let created = match scope.is_about_vertices() {
                true => job.new.iter().filter(meant).count() as u64,
                false => job.created,
            };
            let count = |word: &str| outcomes.iter().filter(|outcome| **outcome == word).count();
            Some(JobReport {
                job: job.id.clone(),
                opened: trace.seconds(job.opened),
                before: job.before,
                discarded: job.discarded.map(|time| trace.seconds(time)),
                session: job.session,
                vertices: outcomes.len(),
                created,
                ran: count("ran"),
                cached: count("cached"),
                merged: count("merged"),
                failed: count("failed"),
                requests: job
                    .requests
                    .iter()
                    .map(|at| {
                        let request = &trace.requests[*at];
                        let end = request.answered.unwrap_or(trace.end);
                        let time = end.saturating_sub(request.asked) as f64 / 1e6;
                        (time, request.outcome.clone())
                    })
                    .collect(),
            })
        });
    Ok(JobsReport {
        jobs: jobs.collect(),
    })
}

impl fmt::Display for JobsReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.jobs.is_empty() {
            return writeln!(f, "no job passes the filter");
        }
        for job in &self.jobs {
            let end = job
                .discarded
                .map_or_else(|| "still open".to_owned(), |end| format!("to {end:.3}s"));
            let session = if job.session {
                ""
            } else {
                ", without a session"
            };
            if job.before {
                writeln!(f, "{}  began before the trace, {end}{session}", job.job)?;
            } else {
                writeln!(f, "{}  {:.3}s {end}{session}", job.job, job.opened)?;
            }
            write!(f, "  {} vertices", job.vertices)?;
            if !job.before || job.created > 0 {
                write!(f, ", {} of them new", job.created)?;
            }
            writeln!(
                f,
                ": {} ran, {} cached, {} merged, {} failed",
                job.ran, job.cached, job.merged, job.failed
            )?;
            for (time, outcome) in &job.requests {
                let outcome = outcome.as_deref().unwrap_or("no answer");
                writeln!(f, "  request: {outcome} after {time:.3}s")?;
            }
        }
        Ok(())
    }
}
