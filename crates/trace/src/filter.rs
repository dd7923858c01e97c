//! Which part of a trace a report is about.

use std::{collections::HashSet, time::Duration};

use crate::{
    kind::Kind,
    line::{Line, Text},
    model::{Merge, Span, Trace, VertexAt},
};

/// Which part of a trace a report is about; all of it where nothing is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only the job whose id this is, or begins like this, what it loaded, and its time.
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
    #[error("no job in the trace is called {0:?}, or has an id that begins so")]
    NoJob(String),
    /// There are several.
    #[error("several jobs have ids that begin with {prefix:?}: {}", .jobs.join(", "))]
    AmbiguousJob {
        /// What was given.
        prefix: String,
        /// Some of their ids.
        jobs: Vec<String>,
    },
    /// The times are the wrong way round.
    #[error("nothing is both since {since:?} and until {until:?}: the first is the later one")]
    Times {
        /// Only what came at or after this time.
        since: Duration,
        /// Only what came at or before this time.
        until: Duration,
    },
    /// The job was there at other times.
    #[error("the job {job} was there from {from:?} to {to:?}, and not at the times that are meant")]
    OtherTimes {
        /// Its id.
        job: String,
        /// When it was opened, since the beginning of the trace.
        from: Duration,
        /// When it was discarded, or the trace ended.
        to: Duration,
    },
    /// The trace is over by then.
    #[error("nothing is since {since:?}: the trace ends at {end:?}")]
    AfterEnd {
        /// Only what came at or after this time.
        since: Duration,
        /// How long the trace is.
        end: Duration,
    },
    /// No vertex is meant.
    #[error("no vertex in the trace passes the filter")]
    Nothing,
}

impl Filter {
    /// Whether everything passes.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What it means in a trace.
    pub(crate) fn scope<'t>(&self, trace: &'t Trace) -> Result<Scope<'t>, FilterError> {
        if let (Some(since), Some(until)) = (self.since, self.until)
            && since > until
        {
            return Err(FilterError::Times { since, until });
        }
        if let Some(since) = self.since
            && trace.time(since) > trace.end
        {
            let end = Duration::from_micros(trace.end.saturating_sub(trace.start));
            return Err(FilterError::AfterEnd { since, end });
        }
        let mut scope = Scope {
            trace,
            job: None,
            vertex: self.vertex.clone(),
            name: self.name.as_ref().map(|name| name.to_lowercase()),
            from: self.since.map_or(0, |since| trace.time(since)),
            until: self.until.map_or(u64::MAX, |until| trace.time(until)),
        };
        if let Some(prefix) = &self.job {
            let id = job(trace, prefix)?;
            let lives = || trace.jobs.iter().filter(|job| job.id == id);
            let ends = lives().map(|job| job.discarded.unwrap_or(trace.end));
            let from = lives().map(|job| job.opened).min().unwrap_or(0);
            let to = ends.max().unwrap_or(u64::MAX);
            if from > scope.until || to < scope.from {
                let since = |time: u64| Duration::from_micros(time.saturating_sub(trace.start));
                return Err(FilterError::OtherTimes {
                    job: id.to_owned(),
                    from: since(from),
                    to: since(to),
                });
            }
            scope.job = Some(id);
            scope.from = scope.from.max(from);
            scope.until = scope.until.min(to);
        }
        if let Some(prefix) = &self.vertex {
            let mut all = trace.vertices.iter();
            if !all.any(|vertex| begins(&vertex.digest, prefix)) {
                return Err(FilterError::NoVertex(prefix.clone()));
            }
        }
        Ok(scope)
    }
}

/// The id of the one job that is called so, or whose id begins like this.
fn job<'t>(trace: &'t Trace, prefix: &str) -> Result<&'t str, FilterError> {
    let ids = || trace.jobs.iter().map(|job| job.id.as_str());
    if let Some(id) = ids().find(|id| *id == prefix) {
        return Ok(id);
    }
    let mut found: Vec<&str> = ids().filter(|id| id.starts_with(prefix)).collect();
    found.sort_unstable();
    found.dedup();
    match found.as_slice() {
        [] => Err(FilterError::NoJob(prefix.to_owned())),
        // All ids begin with nothing.
        _ if prefix.is_empty() => Err(FilterError::NoJob(prefix.to_owned())),
        [id] => Ok(id),
        several => Err(FilterError::AmbiguousJob {
            prefix: prefix.to_owned(),
            jobs: several.iter().take(5).map(|id| (*id).to_owned()).collect(),
        }),
    }
}

/// What a filter means in a trace.
pub(crate) struct Scope<'t> {
    trace: &'t Trace,
    /// Id of the job.
    pub(crate) job: Option<&'t str>,
    vertex: Option<String>,
    /// In lower case.
    name: Option<String>,
    /// The first and the last moment: of the times, and of the job.
    from: u64,
    until: u64,
}

impl Scope<'_> {
    /// Whether only some vertices are meant, whoever loaded them.
    pub(crate) fn is_about_vertices(&self) -> bool {
        self.vertex.is_some() || self.name.is_some()
    }

    pub(crate) fn job(&self, id: &str) -> bool {
        self.job.is_none_or(|job| job == id)
    }

    /// Whether a request of a job, or of an operation, is meant.
    pub(crate) fn request_of(&self, job: Option<&str>) -> bool {
        self.job.is_none() || self.job == job
    }

    /// From the first moment to the last of what the trace has of it.
    pub(crate) fn times(&self) -> Span {
        let from = self.from.clamp(self.trace.start, self.trace.end);
        (from, self.until.clamp(from, self.trace.end))
    }

    /// Whether a moment is within the times.
    pub(crate) fn moment(&self, time: u64) -> bool {
        self.span(time, time)
    }

    /// Whether a span reaches into the times.
    pub(crate) fn span(&self, start: u64, end: u64) -> bool {
        end >= self.from && start <= self.until
    }

    /// Whether a vertex is meant, by digest, name, job and time.
    pub(crate) fn vertex(&self, at: VertexAt) -> bool {
        let vertex = &self.trace.vertices[at];
        let of_job = |job: &str| {
            let mut jobs = vertex.jobs.iter();
            jobs.any(|at| self.trace.jobs[*at].id == job)
        };
        let begins = |prefix: &str| begins(&vertex.digest, prefix);
        let named = |name: &String| vertex.name.to_lowercase().contains(name);
        self.vertex.as_deref().is_none_or(begins)
            && self.name.as_ref().is_none_or(named)
            && self.job.is_none_or(of_job)
            && self.span(vertex.created, vertex.freed.unwrap_or(self.trace.end))
    }

    /// Whether a merge is meant: a job's own are those of what it loaded into others, a vertex's also those into it.
    pub(crate) fn merge(&self, merge: &Merge) -> bool {
        let target = || self.job.is_none() && self.vertex(merge.target);
        self.moment(merge.time) && (self.vertex(merge.source) || target())
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
    scope: Scope<'t>,
    digests: HashSet<&'t str>,
    /// Numbers of the requests that are meant.
    requests: HashSet<u64>,
}

impl Trace {
    /// Lines of a second reading that a filter lets pass.
    ///
    /// # Errors
    /// [`FilterError`].
    pub fn select<'t>(&'t self, filter: &Filter) -> Result<Selection<'t>, FilterError> {
        let scope = filter.scope(self)?;
        let meant = (0..self.vertices.len()).filter(|at| scope.vertex(*at));
        let digests: HashSet<&str> = meant.map(|at| self.vertices[at].digest.as_str()).collect();
        if scope.is_about_vertices() && digests.is_empty() {
            return Err(FilterError::Nothing);
        }
        let requests = self.requests.iter().filter(|request| {
            scope.request_of(request.job.as_deref())
                && (!scope.is_about_vertices() || scope.vertex(request.vertex))
        });
        Ok(Selection {
            requests: requests.map(|request| request.number).collect(),
            digests,
            scope,
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
        } else if self.scope.moment(line.time) {
            Standing::Within
        } else {
            match line.time > self.scope.until {
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
        let narrow = self.scope.is_about_vertices();
        let of_job = self.scope.job.is_some();
        match line.job {
            Some(job) => self.scope.job(&job.value()) && (!narrow || known(line.vertex)),
            None if of_vertex => {
                let target = || !of_job && known(line.target_vertex);
                known(line.vertex) || known(line.source_vertex) || target()
            }
            None => !narrow && !of_job,
        }
    }
}
