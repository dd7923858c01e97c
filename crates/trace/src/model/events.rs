//! How events change what is known of a trace.

use super::{
    Call, Input, Job, KeyOf, Live, Merge, Note, Request, Trace, Vertex, VertexAt, Wait, WaitFor,
};
use crate::{
    kind::Kind,
    line::{Line, Text},
};

impl Trace {
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
            Kind::UnderWay => {
                let at = line.task.and_then(|task| self.live.tasks.get(&task));
                if let (Some(at), Some(micros)) = (at, line.micros) {
                    self.calls[*at].before = micros;
                }
            }
            Kind::SlotWait | Kind::SlotTaken => self.slot(line),
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
            position: line.position,
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
                // Made by the same input of the solver, if the load made any.
                if line.created.is_some() && vertex.position == line.position {
                    self.jobs[job].new.push(at);
                }
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
            let call = line.task.and_then(|task| self.live.tasks.get(&task));
            if let Some(call) = call {
                self.calls[*call].builds.push(self.requests.len());
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
            before: 0,
            waits: Vec::new(),
            builds: Vec::new(),
        });
    }

    fn slot(&mut self, line: &Line<'_>) {
        let task = line.task.unwrap_or(u64::MAX);
        let Some(call) = self.live.tasks.get(&task).map(|at| &mut self.calls[*at]) else {
            return;
        };
        match (line.kind, call.waits.last_mut()) {
            (Kind::SlotWait, _) => call.waits.push(Wait {
                what: WaitFor::of(line),
                start: line.time,
                end: None,
            }),
            (_, Some(wait)) if wait.end.is_none() => wait.end = Some(line.time),
            // It waited already when the trace began.
            (_, _) => call.waits.push(Wait {
                what: WaitFor::Slot,
                start: call.start,
                end: Some(line.time),
            }),
        }
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
}

fn value(text: Option<Text<'_>>) -> Option<String> {
    text.map(|text| text.value().into_owned())
}

fn raw(text: Option<Text<'_>>) -> String {
    text.map_or_else(String::new, |text| text.raw().to_owned())
}
