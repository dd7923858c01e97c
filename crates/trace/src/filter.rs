//! Which part of a trace a report is about.

use std::{collections::HashSet, time::Duration};

use crate::{
    kind::Kind,
    line::{Line, Text},
    model::{Trace, VertexAt},
};

/// Which part of a trace a report is about; all of it where nothing is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only this job, and what it loaded.
    pub job: Option<String>,
    /// Only vertices whose digest begins like this, with or without `sha256:`.
    pub vertex: Option<String>,
    /// Only vertices with this in their names, in either case.
    pub name: Option<String>,
    /// Only what went on at or after this time since the beginning of the trace.
    pub since: Option<Duration>,
    /// Only what went on at or before this time since the beginning of the trace.
    pub until: Option<Duration>,
}

/// Nothing, or not one thing, is meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// There is no such vertex.
    #[error("no vertex in the trace has a digest that begins with {0:?}")]
    NoVertex(String),
    /// There are several.
    #[error("several vertices have digests that begin with {prefix:?}: {}", .digests.join(", "))]
    Ambiguous {
        /// What was given.
        prefix: String,
        /// Some of their digests.
        digests: Vec<String>,
    },
    /// There is no such job.
    #[error("no job in the trace is called {0:?}")]
    NoJob(String),
}

impl Filter {
    /// Whether everything passes.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether what it names is there at all.
    pub(crate) fn check(&self, trace: &Trace) -> Result<(), FilterError> {
        match &self.job {
            Some(job) if !trace.jobs.iter().any(|known| known.id == *job) => {
                Err(FilterError::NoJob(job.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Whether only some vertices are meant, whoever loaded them.
    pub(crate) fn is_about_vertices(&self) -> bool {
        self.vertex.is_some() || self.name.is_some()
    }

    pub(crate) fn job(&self, id: &str) -> bool {
        self.job.as_deref().is_none_or(|job| job == id)
    }

    /// Whether a moment is within the times.
    pub(crate) fn moment(&self, trace: &Trace, time: u64) -> bool {
        self.span(trace, time, time)
    }

    /// Whether a span reaches into the times.
    pub(crate) fn span(&self, trace: &Trace, start: u64, end: u64) -> bool {
        self.since.is_none_or(|limit| end >= trace.time(limit)) && !self.is_over(trace, start)
    }

    /// Whether a moment is behind the times.
    fn is_over(&self, trace: &Trace, time: u64) -> bool {
        self.until.is_some_and(|limit| time > trace.time(limit))
    }

    /// Whether a vertex is meant, by digest, name, job and time.
    pub(crate) fn vertex(&self, trace: &Trace, at: VertexAt) -> bool {
        let vertex = &trace.vertices[at];
        let of_job = |job: &String| vertex.jobs.iter().any(|at| trace.jobs[*at].id == *job);
        self.vertex
            .as_deref()
            .is_none_or(|prefix| begins(&vertex.digest, prefix))
            && self
                .name
                .as_ref()
                .is_none_or(|name| vertex.name.to_lowercase().contains(&name.to_lowercase()))
            && self.job.as_ref().is_none_or(of_job)
            && self.span(trace, vertex.created, vertex.freed.unwrap_or(trace.end))
    }
}

fn begins(digest: &str, prefix: &str) -> bool {
    let hash = digest.split_once(':').map_or(digest, |(_, hash)| hash);
    digest.starts_with(prefix) || hash.starts_with(prefix)
}

/// The vertices of the one digest that begins like this, the oldest first.
pub(crate) fn find(trace: &Trace, prefix: &str) -> Result<Vec<VertexAt>, FilterError> {
    let found: Vec<VertexAt> = (0..trace.vertices.len())
        .filter(|at| begins(&trace.vertices[*at].digest, prefix))
        .collect();
    let Some(first) = found.first() else {
        return Err(FilterError::NoVertex(prefix.to_owned()));
    };
    let mut digests: Vec<String> = found
        .iter()
        .map(|at| trace.vertices[*at].digest.clone())
        .collect();
    digests.sort_unstable();
    digests.dedup();
    if digests.len() > 1 {
        digests.truncate(5);
        return Err(FilterError::Ambiguous {
            prefix: prefix.to_owned(),
            digests,
        });
    }
    debug_assert!(begins(&trace.vertices[*first].digest, prefix));
    Ok(found)
}

/// Which lines are about what a filter means.
pub struct Selection<'t> {
    trace: &'t Trace,
    filter: &'t Filter,
    digests: HashSet<&'t str>,
    /// Numbers of the requests that are meant.
    requests: HashSet<u64>,
}

impl Trace {
    /// Lines of a second reading that a filter lets pass.
    ///
    /// # Errors
    /// [`FilterError`].
    pub fn select<'t>(&'t self, filter: &'t Filter) -> Result<Selection<'t>, FilterError> {
        filter.check(self)?;
        let meant = (0..self.vertices.len()).filter(|at| filter.vertex(self, *at));
        let requests = self.requests.iter().filter(|request| {
            let of_job = filter.job.is_none() || filter.job == request.job;
            of_job && (!filter.is_about_vertices() || filter.vertex(self, request.vertex))
        });
        Ok(Selection {
            trace: self,
            filter,
            requests: requests.map(|request| request.number).collect(),
            digests: meant.map(|at| self.vertices[at].digest.as_str()).collect(),
        })
    }
}

/// How a line stands to what a filter means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is meant.
    Within,
    /// It is of what is meant, but before the times.
    Before,
    /// Likewise, behind them.
    After,
    /// It is of other vertices or jobs.
    Foreign,
}

impl Selection<'_> {
    /// Whether a line passes: by its time, and by its vertex or its job.
    pub fn passes(&self, line: &Line<'_>) -> bool {
        self.standing(line) == Standing::Within
    }

    pub(crate) fn standing(&self, line: &Line<'_>) -> Standing {
        if matches!(line.kind, Kind::TraceStart | Kind::TraceEnd | Kind::Lost) {
            Standing::Within
        } else if !self.is_of(line) {
            Standing::Foreign
        } else if self.filter.moment(self.trace, line.time) {
            Standing::Within
        } else {
            match self.filter.is_over(self.trace, line.time) {
                true => Standing::After,
                false => Standing::Before,
            }
        }
    }

    /// Whether a line is of the vertices or the job that are meant.
    fn is_of(&self, line: &Line<'_>) -> bool {
        if line.kind == Kind::Answer {
            let number = line.request.unwrap_or(0);
            return self.requests.contains(&number);
        }
        let known = |digest: Option<Text<'_>>| {
            digest.is_some_and(|digest| self.digests.contains(digest.raw()))
        };
        let of_vertex = line.vertex.is_some() || line.source_vertex.is_some();
        let narrow = self.filter.is_about_vertices();
        match line.job {
            Some(job) => self.filter.job(&job.value()) && (!narrow || known(line.vertex)),
            None if of_vertex => {
                known(line.vertex) || known(line.source_vertex) || known(line.target_vertex)
            }
            None => !narrow && self.filter.job.is_none(),
        }
    }
}
