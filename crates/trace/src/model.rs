//! A whole trace in memory: jobs, vertices, calls, merges, requests, as the events tell of them.

use std::{collections::HashMap, ops::ControlFlow, path::Path, time::Duration};

use crate::{
    kind::Kind,
    line::{Line, Text},
    read::{ReadError, Reader},
};

/// A vertex's place in [`Trace::vertices`].
pub(crate) type VertexAt = usize;

/// A trace that was read.
#[derive(Debug, Default)]
pub struct Trace {
    /// Time of the first and the last event, in microseconds since 1970.
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) events: u64,
    pub(crate) lost: u64,
    pub(crate) malformed: u64,
    /// Whether its writer ended it.
    pub(crate) ended: bool,
    pub(crate) jobs: Vec<Job>,
    pub(crate) vertices: Vec<Vertex>,
    pub(crate) calls: Vec<Call>,
    pub(crate) merges: Vec<Merge>,
    pub(crate) requests: Vec<Request>,
    pub(crate) notes: Vec<Note>,
    live: Live,
    /// What is live is being told, at this position: it began before the trace.
    telling: Option<u64>,
}

/// What events refer to by number, while it is live.
#[derive(Debug, Default)]
struct Live {
    jobs: HashMap<String, usize>,
    vertices: HashMap<u64, VertexAt>,
    edges: HashMap<u64, VertexAt>,
    /// The newest vertex of a digest.
    digests: HashMap<String, VertexAt>,
    tasks: HashMap<u64, usize>,
    requests: HashMap<u64, usize>,
}

#[derive(Debug, Default)]
pub(crate) struct Job {
    pub(crate) id: String,
    pub(crate) opened: u64,
    /// Whether it was opened before the trace began.
    pub(crate) before: bool,
    pub(crate) discarded: Option<u64>,
    pub(crate) session: bool,
    pub(crate) roots: Vec<VertexAt>,
    /// Vertices that it loaded.
    pub(crate) vertices: Vec<VertexAt>,
    pub(crate) created: u64,
    pub(crate) requests: Vec<usize>,
}

#[derive(Debug, Default)]
pub(crate) struct Vertex {
    pub(crate) digest: String,
    pub(crate) name: String,
    pub(crate) inputs: Vec<Input>,
    pub(crate) created: u64,
    /// Roots of builds that its operation asked for.
    pub(crate) sub_builds: Vec<VertexAt>,
    pub(crate) freed: Option<u64>,
    pub(crate) ignore_cache: bool,
    pub(crate) never_merge: bool,
    pub(crate) jobs: Vec<usize>,
    /// When its edges reached states.
    pub(crate) states: Vec<(u64, u32, String)>,
    pub(crate) completed: Option<u64>,
    pub(crate) keys: Vec<KeyOf>,
    pub(crate) calls: Vec<usize>,
    /// Its operation's digest, of each cache map.
    pub(crate) ops: Vec<String>,
    /// The content keys of its inputs.
    pub(crate) contents: HashMap<u32, String>,
    pub(crate) queries: Vec<(Option<u64>, bool, u64)>,
    pub(crate) why: Option<String>,
    pub(crate) merged_into: Option<VertexAt>,
    pub(crate) lent: Vec<String>,
    pub(crate) fallbacks: Vec<String>,
    pub(crate) lost: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct Input {
    pub(crate) digest: String,
    pub(crate) output: u32,
    pub(crate) vertex: Option<VertexAt>,
}

#[derive(Debug)]
pub(crate) struct KeyOf {
    pub(crate) output: u32,
    pub(crate) key: String,
    pub(crate) stored: bool,
}

/// A call of an operation, or the load of a record.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) vertex: VertexAt,
    pub(crate) call: &'static str,
    pub(crate) input: Option<u64>,
    pub(crate) actor: Option<String>,
    pub(crate) start: u64,
    pub(crate) end: Option<u64>,
    pub(crate) error: Option<String>,
    /// Why it was cancelled.
    pub(crate) cancelled: Option<String>,
    pub(crate) cancelled_at: Option<u64>,
    /// Whether its outcome counted.
    pub(crate) believed: bool,
}

#[derive(Debug)]
pub(crate) struct Merge {
    pub(crate) time: u64,
    pub(crate) position: u64,
    pub(crate) source: VertexAt,
    pub(crate) source_output: u64,
    pub(crate) target: VertexAt,
    pub(crate) target_output: u64,
    /// None where they were merged before the trace began.
    pub(crate) reason: Option<String>,
    pub(crate) refused: bool,
}

#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) job: Option<String>,
    pub(crate) vertex: VertexAt,
    /// By which its answer is known.
    pub(crate) number: u64,
    pub(crate) asked: u64,
    pub(crate) answered: Option<u64>,
    pub(crate) outcome: Option<String>,
}

/// Something that is worth a line by itself.
#[derive(Debug)]
pub(crate) struct Note {
    pub(crate) time: u64,
    pub(crate) kind: Kind,
    pub(crate) vertex: Option<VertexAt>,
    pub(crate) text: String,
}

impl Vertex {
    /// Calls of one kind.
    pub(crate) fn calls_of<'t>(
        &'t self,
        trace: &'t Trace,
        call: &'static str,
    ) -> impl Iterator<Item = &'t Call> {
        self.calls
            .iter()
            .map(|at| &trace.calls[*at])
            .filter(move |known| known.call == call)
    }

    /// Whether its operation ran.
    pub(crate) fn ran(&self, trace: &Trace) -> bool {
        self.calls_of(trace, "exec").next().is_some()
    }

    /// When it had a result, if it had by a time.
    pub(crate) fn completed_by(&self, until: u64) -> Option<u64> {
        self.completed.filter(|time| *time <= until)
    }

    /// Whether its result was loaded.
    pub(crate) fn loaded(&self, trace: &Trace) -> bool {
        self.calls_of(trace, "load")
            .any(|call| call.believed && call.error.is_none())
    }

    /// How it ended, or how far it is, in a word.
    pub(crate) fn outcome(&self, trace: &Trace) -> &'static str {
        self.outcome_by(trace, u64::MAX)
    }

    /// The same at a time before the end, such as when a job that wanted it was gone.
    pub(crate) fn outcome_by(&self, trace: &Trace, until: u64) -> &'static str {
        let begun = || {
            let calls = self.calls.iter().map(|at| &trace.calls[*at]);
            calls.filter(|call| call.start <= until)
        };
        let ended = |call: &Call| call.end.is_some_and(|end| end <= until);
        let failed = |call: &Call| ended(call) && call.error.is_some() && call.call != "load";
        let cancelled = |call: &Call| {
            call.call == "exec" && call.cancelled_at.is_some_and(|time| time <= until)
        };
        // A trace that was ended has nothing that runs on.
        let goes_on = until < trace.end || !trace.ended;
        if self.merged_into.is_some() {
            "merged"
        } else if self.completed_by(until).is_some() {
            match begun().next() {
                None => "complete",
                Some(_) if self.loaded(trace) && !self.ran(trace) => "cached",
                Some(_) => "ran",
            }
        } else if begun().any(failed) {
            "failed"
        } else if begun().any(cancelled) {
            "cancelled"
        } else if goes_on && begun().any(|call| !ended(call)) {
            "running"
        } else if begun().next().is_none() {
            "untouched"
        } else {
            "not-needed"
        }
    }

    /// From the first start to the last end of its calls, those included that did not end.
    pub(crate) fn span(&self, trace: &Trace) -> Option<(u64, u64)> {
        let calls = || self.calls.iter().map(|at| &trace.calls[*at]);
        let start = calls().map(|call| call.start).min()?;
        // What did not end was still going on when the trace ended.
        let end = calls().map(|call| call.end.unwrap_or(trace.end)).max()?;
        Some((start, end.max(start)))
    }

    /// Time in which its operation executed or its record was loaded.
    pub(crate) fn busy(&self, trace: &Trace) -> u64 {
        self.calls
            .iter()
            .map(|at| trace.calls[*at].duration(trace))
            .sum()
    }
}

impl Call {
    pub(crate) fn duration(&self, trace: &Trace) -> u64 {
        self.end.unwrap_or(trace.end).saturating_sub(self.start)
    }
}

impl Trace {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read(path: &Path) -> Result<Self, ReadError> {
        Self::read_from(Reader::open(path)?)
    }

    /// Reads all that a reader has.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read_from(reader: Reader) -> Result<Self, ReadError> {
        let mut trace = Self::default();
        let whole = reader.pieces(|piece| {
            for line in &piece.lines {
                match line {
                    Ok(line) => trace.line(line),
                    Err(_) => trace.malformed += 1,
                }
            }
            ControlFlow::Continue(())
        })?;
        trace.ended &= whole;
        Ok(trace)
    }

    pub(crate) fn line(&mut self, line: &Line<'_>) {
        // Events of a cache source have no position; their time is right all the same.
        if self.start == 0 || (line.time > 0 && line.time < self.start) {
            self.start = line.time;
        }
        self.end = self.end.max(line.time);
        self.events += u64::from(!matches!(
            line.kind,
            Kind::TraceStart | Kind::TraceEnd | Kind::Lost
        ));
        match line.kind {
            Kind::Resumed => self.telling = Some(line.position),
            _ if self.telling.is_some_and(|at| at != line.position) => self.telling = None,
            _ => {}
        }
        match line.kind {
            Kind::TraceEnd => self.ended = true,
            Kind::Lost => self.lost += line.count.unwrap_or(0),
            Kind::JobOpened | Kind::Session | Kind::JobDiscarded => self.job(line),
            Kind::Vertex => self.vertex(line),
            Kind::VertexFreed => {
                if let Some(vertex) = line.id.and_then(|id| self.live.vertices.remove(&id)) {
                    self.vertices[vertex].freed = Some(line.time);
                }
            }
            Kind::EdgeFreed => {
                self.edge(line);
                line.edge.map(|edge| self.live.edges.remove(&edge));
            }
            Kind::Loaded => self.loaded(line),
            Kind::Request | Kind::Answer => self.request(line),
            Kind::State | Kind::Key | Kind::Query | Kind::ResultLost => self.edge_news(line),
            Kind::Merge | Kind::MergeRefused => self.merge(line),
            Kind::CallStart | Kind::LoadStart => self.begin(line),
            Kind::CallEnd | Kind::LoadEnd | Kind::LoadFailed | Kind::Dropped | Kind::Cancel => {
                self.task(line)
            }
            Kind::SessionLent | Kind::Fallback | Kind::Explained => self.vertex_news(line),
            Kind::SaveFailed | Kind::SourceFailed | Kind::Broken => {
                let text = value(line.error).or_else(|| value(line.invariant));
                self.note(line, None, text.unwrap_or_default());
            }
            Kind::TraceStart | Kind::Resumed | Kind::Other => {}
        }
        if line.kind == Kind::Broken {
            self.live = Live::default();
        }
    }

    fn note(&mut self, line: &Line<'_>, vertex: Option<VertexAt>, text: String) {
        self.notes.push(Note {
            time: line.time,
            kind: line.kind,
            vertex,
            text,
        });
    }

    fn job(&mut self, line: &Line<'_>) {
        let id = value(line.job).unwrap_or_default();
        let at = match self.live.jobs.get(&id) {
            Some(at) => *at,
            None => {
                self.jobs.push(Job {
                    id: id.clone(),
                    opened: line.time,
                    before: self.telling.is_some(),
                    ..Job::default()
                });
                self.live.jobs.insert(id.clone(), self.jobs.len() - 1);
                self.jobs.len() - 1
            }
        };
        match line.kind {
            Kind::JobDiscarded => {
                self.jobs[at].discarded = Some(line.time);
                self.live.jobs.remove(&id);
            }
            _ => self.jobs[at].session |= line.session,
        }
    }

    fn vertex(&mut self, line: &Line<'_>) {
        let inputs = line.input_edges().unwrap_or_default();
        let inputs = inputs
            .into_iter()
            .map(|(edge, vertex, output)| {
                let vertex = self.live.vertices.get(&vertex).copied();
                if let Some(at) = vertex {
                    self.live.edges.insert(edge, at);
                }
                Input {
                    // Lost, with the event that tells of it.
                    digest: vertex.map_or_else(String::new, |at| self.vertices[at].digest.clone()),
                    output,
                    vertex,
                }
            })
            .collect();
        let digest = raw(line.vertex);
        self.vertices.push(Vertex {
            digest: digest.clone(),
            name: value(line.name).unwrap_or_default(),
            inputs,
            created: line.time,
            ignore_cache: line.ignore_cache,
            never_merge: line.never_merge,
            ..Vertex::default()
        });
        let at = self.vertices.len() - 1;
        line.id.map(|id| self.live.vertices.insert(id, at));
        self.live.digests.insert(digest, at);
    }

    /// The vertex of an edge. Which of several live vertices of a digest it is, is known once the edge was seen with the newest.
    fn vertex_of(&mut self, edge: u64, digest: &str) -> Option<VertexAt> {
        if let Some(at) = self.live.edges.get(&edge) {
            return Some(*at);
        }
        let at = *self.live.digests.get(digest)?;
        self.live.edges.insert(edge, at);
        Some(at)
    }

    /// The vertex of a line's edge; one that was live before the trace began is made up.
    fn edge(&mut self, line: &Line<'_>) -> VertexAt {
        let digest = line.vertex.map_or("", Text::raw);
        match self.vertex_of(line.edge.unwrap_or(u64::MAX), digest) {
            Some(at) => at,
            None => self.stranger(digest, line.time),
        }
    }

    fn stranger(&mut self, digest: &str, time: u64) -> VertexAt {
        if let Some(at) = self.live.digests.get(digest) {
            return *at;
        }
        self.vertices.push(Vertex {
            digest: digest.to_owned(),
            created: time,
            ..Vertex::default()
        });
        self.live
            .digests
            .insert(digest.to_owned(), self.vertices.len() - 1);
        self.vertices.len() - 1
    }

    fn by_id(&mut self, line: &Line<'_>) -> VertexAt {
        let known = line.id.and_then(|id| self.live.vertices.get(&id)).copied();
        known.unwrap_or_else(|| self.stranger(line.vertex.map_or("", Text::raw), line.time))
    }

    /// A job, or another vertex's operation, loaded a graph: all that the root is made of is the job's.
    fn loaded(&mut self, line: &Line<'_>) {
        let known = line.id.and_then(|id| self.live.vertices.get(&id)).copied();
        if let (Some(edge), Some(at)) = (line.edge, known) {
            self.live.edges.insert(edge, at);
        }
        let root = self.edge(line);
        let job = line.job.and_then(|job| {
            let id = job.value();
            self.live.jobs.get(id.as_ref()).copied()
        });
        let jobs = match (job, line.parent) {
            (Some(job), _) => vec![job],
            (None, Some(parent)) => {
                let by_id = line.parent_id.and_then(|id| self.live.vertices.get(&id));
                let parent = by_id.or_else(|| self.live.digests.get(parent.raw()));
                parent.map_or_else(Vec::new, |at| {
                    let parent = &mut self.vertices[*at];
                    if !parent.sub_builds.contains(&root) {
                        parent.sub_builds.push(root);
                    }
                    parent.jobs.clone()
                })
            }
            (None, None) => Vec::new(),
        };
        for job in jobs {
            self.jobs[job].roots.push(root);
            self.jobs[job].created += line.created.unwrap_or(0);
            let mut ahead = vec![root];
            while let Some(at) = ahead.pop() {
                let vertex = &mut self.vertices[at];
                if vertex.jobs.contains(&job) {
                    continue;
                }
                vertex.jobs.push(job);
                self.jobs[job].vertices.push(at);
                ahead.extend(vertex.inputs.iter().filter_map(|input| input.vertex));
                ahead.extend(&vertex.sub_builds);
            }
        }
    }

    fn request(&mut self, line: &Line<'_>) {
        let number = line.request.unwrap_or(0);
        if line.kind == Kind::Request {
            let vertex = self.edge(line);
            let job = value(line.job);
            if let Some(job) = job.as_ref().and_then(|job| self.live.jobs.get(job)) {
                self.jobs[*job].requests.push(self.requests.len());
            }
            self.live.requests.insert(number, self.requests.len());
            self.requests.push(Request {
                job,
                vertex,
                number,
                asked: line.time,
                answered: None,
                outcome: None,
            });
        } else if let Some(at) = self.live.requests.remove(&number) {
            self.requests[at].answered = Some(line.time);
            self.requests[at].outcome = Some(raw(line.outcome));
        }
    }

    fn edge_news(&mut self, line: &Line<'_>) {
        let at = self.edge(line);
        let output = line.output.unwrap_or(0) as u32;
        let vertex = &mut self.vertices[at];
        match line.kind {
            Kind::State => {
                let state = raw(line.state);
                if state == "complete" {
                    vertex.completed = Some(line.time);
                }
                vertex.states.push((line.time, output, state));
            }
            Kind::Key => vertex.keys.push(KeyOf {
                output,
                key: raw(line.key),
                stored: line.stored,
            }),
            Kind::Query => vertex
                .queries
                .push((line.input, line.hit, line.records.unwrap_or(0))),
            _ => {
                vertex.lost += 1;
                vertex.completed = None;
                self.note(
                    line,
                    Some(at),
                    "the result was lost; it is made anew".into(),
                );
            }
        }
    }

    fn merge(&mut self, line: &Line<'_>) {
        let end = |edge: Option<u64>, digest: Option<Text<'_>>, trace: &mut Self| {
            let digest = digest.map_or("", Text::raw);
            let found = trace.vertex_of(edge.unwrap_or(u64::MAX), digest);
            found.unwrap_or_else(|| trace.stranger(digest, line.time))
        };
        let source = end(line.source, line.source_vertex, self);
        let target = end(line.target, line.target_vertex, self);
        let refused = line.kind == Kind::MergeRefused;
        if !refused {
            self.vertices[source].merged_into = Some(target);
        }
        self.merges.push(Merge {
            time: line.time,
            position: line.position,
            source,
            source_output: line.source_output.unwrap_or(0),
            target,
            target_output: line.target_output.unwrap_or(0),
            reason: line.reason.map(|reason| reason.raw().to_owned()),
            refused,
        });
    }

    fn begin(&mut self, line: &Line<'_>) {
        let (vertex, call) = if line.kind == Kind::LoadStart {
            (self.edge(line), "load")
        } else {
            let call = match line.call.map(Text::raw) {
                Some("cache-map") => "cache-map",
                Some("preprocess") => "preprocess",
                Some("slow-key") => "slow-key",
                Some("exec") => "exec",
                _ => "other",
            };
            (self.by_id(line), call)
        };
        let at = self.calls.len();
        self.vertices[vertex].calls.push(at);
        line.task.map(|task| self.live.tasks.insert(task, at));
        self.calls.push(Call {
            vertex,
            call,
            input: line.input,
            actor: line.actor.map(|actor| actor.raw().to_owned()),
            start: line.time,
            end: None,
            error: None,
            cancelled: None,
            cancelled_at: None,
            believed: false,
        });
    }

    fn task(&mut self, line: &Line<'_>) {
        let task = line.task.unwrap_or(u64::MAX);
        if line.kind == Kind::Cancel {
            if let Some(at) = self.live.tasks.get(&task) {
                let call = &mut self.calls[*at];
                call.cancelled = line.cause.map(|cause| cause.raw().to_owned());
                call.cancelled_at = Some(line.time);
            }
            return;
        }
        let Some(at) = self.live.tasks.remove(&task) else {
            return;
        };
        let call = &mut self.calls[at];
        call.end = Some(line.time);
        call.believed = line.kind != Kind::Dropped;
        call.error = value(line.error);
        let (vertex, input, error) = (call.vertex, call.input, call.error.clone());
        if line.kind == Kind::LoadFailed {
            let text = format!("record not loaded: {}", error.unwrap_or_default());
            self.note(line, Some(vertex), text);
        }
        if let Some(digest) = line.digest.map(|digest| digest.raw().to_owned()) {
            match (self.calls[at].call, input) {
                ("cache-map", _) => self.vertices[vertex].ops.push(digest),
                (_, Some(input)) => {
                    self.vertices[vertex].contents.insert(input as u32, digest);
                }
                _ => {}
            }
        }
    }

    fn vertex_news(&mut self, line: &Line<'_>) {
        let digest = line.vertex.map_or("", Text::raw);
        let at = self.stranger(digest, line.time);
        match line.kind {
            Kind::SessionLent => {
                let job = value(line.job).unwrap_or_default();
                self.vertices[at].lent.push(job);
            }
            Kind::Fallback => {
                let next = raw(line.next);
                let text = format!("falls back to the operation of {next}");
                self.vertices[at].fallbacks.push(next);
                self.note(line, Some(at), text);
            }
            _ => self.vertices[at].why = value(line.why),
        }
    }

    /// The time that is so long after the trace began.
    pub(crate) fn time(&self, since: Duration) -> u64 {
        self.start.saturating_add(since.as_micros() as u64)
    }

    /// Seconds since the trace began.
    pub(crate) fn seconds(&self, time: u64) -> f64 {
        time.saturating_sub(self.start) as f64 / 1e6
    }
}

fn value(text: Option<Text<'_>>) -> Option<String> {
    text.map(|text| text.value().into_owned())
}

fn raw(text: Option<Text<'_>>) -> String {
    text.map_or_else(String::new, |text| text.raw().to_owned())
}
