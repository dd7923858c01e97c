//! The replay: what is live after each line.

use std::collections::{HashMap, HashSet};

use super::{CheckReport, Rule, causes::Moment, lookup::Trail, merges::STEPS};
use crate::{
    kind::Kind,
    line::{Line, Text},
    text::short,
};

/// What is live, as far as the trace tells.
#[derive(Default)]
pub(super) struct Replay {
    pub(super) position: u64,
    pub(super) time: u64,
    pub(super) line: u64,
    /// The trace does not tell everything: it began in the middle, or lost lines. What is not known is then taken as it comes.
    pub(super) partial: bool,
    /// It lacks lines, so that what is known of something live may be out of date.
    pub(super) lossy: bool,
    /// What is live when the trace begins is being told, at this position.
    pub(super) telling: Option<u64>,
    pub(super) ended: bool,
    /// Lines that tell of lost events.
    pub(super) losses: u64,
    /// How many events they tell of.
    pub(super) lost: u64,
    pub(super) jobs: HashMap<String, Job>,
    pub(super) vertices: HashMap<u64, Vertex>,
    /// Numbers of live vertices by digest.
    pub(super) digests: HashMap<String, Vec<u64>>,
    pub(super) edges: HashMap<u64, Edge>,
    freed_edges: HashSet<u64>,
    pub(super) requests: HashMap<u64, Request>,
    pub(super) tasks: HashMap<u64, Task>,
    /// What happened at the position of the last line.
    pub(super) moment: Moment,
    /// Some vertex ignores the cache: then more may run without that stores are asked.
    pub(super) forced: bool,
    /// How far was walked to see that nothing merges with what it waits for.
    pub(super) steps: usize,
}

#[derive(Default)]
pub(super) struct Job {
    pub(super) session: bool,
    pub(super) roots: Vec<u64>,
}

pub(super) struct Vertex {
    pub(super) digest: String,
    pub(super) inputs: Vec<u64>,
    /// Roots of builds that its operation asked for.
    pub(super) sub_builds: Vec<u64>,
    edges: u32,
    pub(super) running: Option<u64>,
    pub(super) ignore_cache: bool,
    pub(super) never_merge: bool,
    /// The position at which a run of it last gave results.
    pub(super) ran: Option<u64>,
    /// All of it is in the trace.
    pub(super) is_told: bool,
    /// It has a cache map.
    pub(super) mapped: bool,
    /// The operation's digest in its first cache map.
    pub(super) operation: Option<String>,
    /// Stores were asked for one of its edges.
    pub(super) was_asked: bool,
    /// Calls for inputs that failed and were not repeated.
    pub(super) undone: Vec<(String, u64)>,
}

pub(super) struct Request {
    pub(super) edge: u64,
    /// A job asks, and not an operation.
    pub(super) of_job: bool,
}

pub(super) struct Edge {
    pub(super) vertex: String,
    /// Of which output of it; known once a line said so.
    output: Option<u64>,
    /// Number of the vertex, where only one can be meant.
    pub(super) owner: Option<u64>,
    state: u8,
    pub(super) may_fall: bool,
    pub(super) complete: bool,
    /// The position at which a record of it was last loaded.
    pub(super) loaded: Option<u64>,
    pub(super) target: Option<u64>,
    /// How many forward to it.
    pub(super) sources: u32,
    /// How many jobs loaded it as a root.
    pub(super) roots: u32,
    /// The line at which it last lost its result.
    pub(super) lost: u64,
    pub(super) trail: Trail,
}

pub(super) struct Task {
    pub(super) call: String,
    pub(super) vertex: Option<u64>,
    pub(super) input: Option<u64>,
    pub(super) cancelled: bool,
    /// The line that it began with.
    pub(super) line: u64,
}

impl Replay {
    pub(super) fn line(&mut self, number: u64, line: &Line<'_>, report: &mut CheckReport) {
        self.line = number;
        self.order(line, report);
        self.moment(line, report);
        self.at_moment(line, report);
        match line.kind {
            Kind::TraceEnd => self.trace_end(line, report),
            Kind::Lost => {
                self.partial = true;
                self.lossy = true;
                self.losses += 1;
                let count = line.count.unwrap_or(0);
                self.lost += count;
                report.limit(&format!("line {number}: {count} events were lost here"));
            }
            Kind::Resumed => {
                self.partial = true;
                self.telling = Some(line.position);
                report.limit("the trace begins in the middle");
            }
            Kind::JobOpened | Kind::Session | Kind::JobDiscarded => self.job(line, report),
            Kind::Vertex => self.vertex(line, report),
            Kind::VertexFreed => self.vertex_freed(line, report),
            Kind::EdgeFreed => self.edge_freed(line, report),
            Kind::Loaded => self.loaded(line, report),
            Kind::Request => self.request(line, report),
            Kind::Answer => self.answer(line, report),
            Kind::State => self.state(line, report),
            Kind::Key | Kind::Query => {
                self.active(line, report);
                self.news(line, report);
            }
            Kind::ResultLost => self.lost(line, report),
            Kind::Merge => self.merge(line, report),
            Kind::MergeRefused => {
                self.touch(line.source, line.source_vertex, report);
                self.touch(line.target, line.target_vertex, report);
            }
            Kind::CallStart | Kind::LoadStart => self.begin(line, report),
            Kind::CallEnd | Kind::LoadEnd | Kind::LoadFailed | Kind::Dropped => {
                self.end(line, report)
            }
            Kind::Cancel => self.cancel(line, report),
            Kind::SessionLent => self.session_lent(line, report),
            Kind::Broken => {
                let what = line.invariant.map(Text::value).unwrap_or_default();
                report.add(number, Rule::Broken, what.into_owned());
                *self = Self {
                    line: number,
                    partial: true,
                    lossy: true,
                    losses: self.losses,
                    lost: self.lost,
                    ..Self::default()
                };
            }
            Kind::TraceStart
            | Kind::SaveFailed
            | Kind::SourceFailed
            | Kind::Fallback
            | Kind::Explained
            | Kind::Other => {}
        }
    }

    fn job(&mut self, line: &Line<'_>, report: &mut CheckReport) {
        let id = line.job.map(Text::value).unwrap_or_default().into_owned();
        match line.kind {
            Kind::JobOpened => {
                let job = Job {
                    session: line.session,
                    ..Job::default()
                };
                if self.jobs.insert(id.clone(), job).is_some() {
                    report.add(self.line, Rule::Job, format!("{id} is open already"));
                }
            }
            Kind::JobDiscarded => {
                if self.jobs.remove(&id).is_none() && !self.partial {
                    report.add(
                        self.line,
                        Rule::Job,
                        format!("{id} is discarded, but was not open"),
                    );
                }
            }
            _ => match self.jobs.get_mut(&id) {
                Some(job) => job.session = line.session,
                None if self.partial => {}
                None => report.add(
                    self.line,
                    Rule::Job,
                    format!("a session of {id}, which is not open"),
                ),
            },
        }
    }

    fn vertex(&mut self, line: &Line<'_>, report: &mut CheckReport) {
        let (id, digest) = (line.id.unwrap_or(0), raw(line.vertex));
        let Some(inputs) = line.input_edges() else {
            return report.add(self.line, Rule::Line, "inputs are not edges".into());
        };
        let mut edges = Vec::new();
        for (edge, vertex, _) in inputs {
            edges.push(edge);
            let digest = self
                .vertices
                .get(&vertex)
                .map(|vertex| vertex.digest.clone());
            match digest {
                Some(digest) => {
                    self.touch_edge(edge, &digest, report);
                    self.own(edge, vertex);
                }
                None if self.partial => {}
                None => report.add(
                    self.line,
                    Rule::Ownership,
                    format!("an input of vertex {vertex}, which is not live"),
                ),
            }
        }
        let vertex = Vertex {
            digest: digest.to_owned(),
            inputs: edges,
            sub_builds: Vec::new(),
            edges: 0,
            running: None,
            ignore_cache: line.ignore_cache,
            never_merge: line.never_merge,
            ran: None,
            is_told: !self.is_told(line),
            mapped: false,
            operation: None,
            was_asked: false,
            undone: Vec::new(),
        };
        self.forced |= line.ignore_cache;
        self.digests.entry(digest.to_owned()).or_default().push(id);
        if self.vertices.insert(id, vertex).is_some() {
            report.add(
                self.line,
                Rule::Ownership,
                format!("vertex {id} is live already"),
            );
        }
    }

    fn vertex_freed(&mut self, line: &Line<'_>, report: &mut CheckReport) {
        self.same_vertex(line, report);
        let id = line.id.unwrap_or(0);
        let Some(vertex) = self.vertices.remove(&id) else {
            if !self.partial {
                report.add(
                    self.line,
                    Rule::Ownership,
                    format!("vertex {id} is freed, but is not live"),
                );
            }
            return;
        };
        if let Some(ids) = self.digests.get_mut(&vertex.digest) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.digests.remove(&vertex.digest);
            }
        }
        if vertex.edges > 0 && !self.partial {
            let what = format!(
                "vertex {} is freed before {} of its edges",
                short(&vertex.digest),
                vertex.edges
            );
            report.add(self.line, Rule::Ownership, what);
        }
        if let Some(task) = vertex.running {
            let what = format!(
                "vertex {} is freed while call {task} runs",
                short(&vertex.digest)
            );
            report.add(self.line, Rule::Ownership, what);
        }
    }

    /// A line names a vertex by its number and by its digest.
    pub(super) fn same_vertex(&self, line: &Line<'_>, report: &mut CheckReport) {
        let known = line.id.and_then(|id| self.vertices.get(&id));
        if let (Some(known), Some(digest)) = (known, line.vertex)
            && known.digest != digest.raw()
        {
            let what = format!(
                "vertex {} is {}, not {}",
                line.id.unwrap_or(0),
                short(&known.digest),
                short(digest.raw())
            );
            report.add(self.line, Rule::Ownership, what);
        }
    }

    /// Notes which of several vertices of one digest an edge is of.
    fn own(&mut self, edge: u64, id: u64) {
        if let Some(edge) = self.edges.get_mut(&edge)
            && edge.owner.is_none()
            && let Some(vertex) = self.vertices.get_mut(&id)
        {
            edge.owner = Some(id);
            vertex.edges += 1;
        }
    }

    /// Notes an edge that a line refers to; it must not have been freed.
    fn touch_edge(&mut self, edge: u64, vertex: &str, report: &mut CheckReport) {
        if self.freed_edges.contains(&edge) {
            let what = format!("edge {edge} of {} was freed", short(vertex));
            return report.add(self.line, Rule::Ownership, what);
        }
        if let Some(known) = self.edges.get(&edge) {
            if known.vertex != vertex {
                let what = format!(
                    "edge {edge} is of {}, not of {}",
                    short(&known.vertex),
                    short(vertex)
                );
                report.add(self.line, Rule::Ownership, what);
            }
            return;
        }
        let owners = self
            .digests
            .get(vertex)
            .map(Vec::as_slice)
            .unwrap_or_default();
        if owners.is_empty() && !self.partial {
            let what = format!(
                "edge {edge} is of vertex {}, which is not live",
                short(vertex)
            );
            report.add(self.line, Rule::Ownership, what);
        }
        let owner = if let [owner] = owners {
            Some(*owner)
        } else {
            None
        };
        if let Some(vertex) = owner.and_then(|owner| self.vertices.get_mut(&owner)) {
            vertex.edges += 1;
        }
        self.edges.insert(
            edge,
            Edge {
                vertex: vertex.to_owned(),
                output: None,
                owner,
                state: 0,
                may_fall: self.partial,
                complete: false,
                loaded: None,
                target: None,
                sources: 0,
                roots: 0,
                lost: 0,
                trail: Trail::default(),
            },
        );
    }

    pub(super) fn touch(
        &mut self,
        edge: Option<u64>,
        vertex: Option<Text<'_>>,
        report: &mut CheckReport,
    ) {
        self.touch_edge(edge.unwrap_or(0), raw(vertex), report);
    }

    /// The same for the edge that a line is about, which is of one output.
    pub(super) fn touch_own(&mut self, line: &Line<'_>, report: &mut CheckReport) {
        self.touch(line.edge, line.vertex, report);
        let Some(edge) = line.edge.and_then(|id| self.edges.get_mut(&id)) else {
            return;
        };
        let Some(output) = line.output else {
            return;
        };
        let known = *edge.output.get_or_insert(output);
        if known != output {
            let id = line.edge.unwrap_or(0);
            let what = format!("edge {id} is of output {known}, not of {output}");
            report.add(self.line, Rule::Ownership, what);
        }
    }

    /// The edge of a line that only an edge which does not forward can have.
    pub(super) fn active(
        &mut self,
        line: &Line<'_>,
        report: &mut CheckReport,
    ) -> Option<&mut Edge> {
        self.touch_own(line, report);
        let (number, id) = (self.line, line.edge.unwrap_or(0));
        let edge = self.edges.get_mut(&id)?;
        if let Some(target) = edge.target {
            let what = format!(
                "{} of edge {id}, which forwards to edge {target}",
                line.kind.name()
            );
            report.add(number, Rule::Forwarded, what);
        }
        Some(edge)
    }

    fn edge_freed(&mut self, line: &Line<'_>, report: &mut CheckReport) {
        self.touch_own(line, report);
        let id = line.edge.unwrap_or(0);
        let Some(edge) = self.edges.remove(&id) else {
            return;
        };
        self.freed_edges.insert(id);
        if edge.roots > 0 {
            self.root_freed(id);
        }
        if edge.sources > 0 {
            let what = format!("edge {id} is freed while {} forward to it", edge.sources);
            report.add(self.line, Rule::Merge, what);
        }
        if let Some(target) = edge.target.and_then(|target| self.edges.get_mut(&target)) {
            target.sources = target.sources.saturating_sub(1);
        }
        if let Some(vertex) = edge.owner.and_then(|owner| self.vertices.get_mut(&owner)) {
            vertex.edges = vertex.edges.saturating_sub(1);
        }
        let asked = self.requests.values();
        let asked = asked.filter(|request| request.edge == id).count();
        if asked > 0 && edge.target.is_none() {
            let what = format!("edge {id} is freed with {asked} requests open");
            report.add(self.line, Rule::Request, what);
        }
    }

    fn loaded(&mut self, line: &Line<'_>, report: &mut CheckReport) {
        self.touch_own(line, report);
        let root = line.edge.unwrap_or(0);
        if let Some(vertex) = line.id {
            self.own(root, vertex);
        }
        self.is_whole(line, report);
        if let Some(job) = line.job {
            if let Some(edge) = self.edges.get_mut(&root) {
                edge.roots += 1;
            }
            match self.jobs.get_mut(job.value().as_ref()) {
                Some(job) => job.roots.push(root),
                None if self.partial => {}
                None => {
                    let what = format!("{} loads a graph, but is not open", job.value());
                    report.add(self.line, Rule::Job, what);
                }
            }
        }
        for id in line
            .parent
            .and_then(|parent| self.digests.get(parent.raw()))
            .into_iter()
            .flatten()
        {
            if let Some(parent) = self.vertices.get_mut(id) {
                parent.sub_builds.push(root);
            }
        }
    }

    fn request(&mut self, line: &Line<'_>, report: &mut CheckReport) {
        self.touch_own(line, report);
        let request = line.request.unwrap_or(0);
        let asked = Request {
            edge: line.edge.unwrap_or(0),
            of_job: line.job.is_some(),
        };
        if self.requests.insert(request, asked).is_some() {
            report.add(
                self.line,
                Rule::Request,
                format!("request {request} is open already"),
            );
        }
        if let Some(job) = line.job.map(Text::value)
            && !self.jobs.contains_key(job.as_ref())
            && !self.partial
        {
            report.add(
                self.line,
                Rule::Job,
                format!("{job} asks for a result, but is not open"),
            );
        }
    }

    fn state(&mut self, line: &Line<'_>, report: &mut CheckReport) {
        let number = self.line;
        let state = match raw(line.state) {
            "initial" => 0,
            "cache-fast" => 1,
            "cache-slow" => 2,
            "complete" => 3,
            other => return report.add(number, Rule::Line, format!("{other:?} is not a state")),
        };
        let id = line.edge.unwrap_or(0);
        if state > 0 && !self.is_told(line) {
            self.touch_own(line, report);
            self.rises(id, raw(line.state), report);
            if state == 3 {
                self.result(id, report);
            }
        }
        let Some(edge) = self.active(line, report) else {
            return;
        };
        if state == 3 {
            if std::mem::replace(&mut edge.complete, true) {
                report.add(
                    number,
                    Rule::Result,
                    format!("edge {id} has a result already"),
                );
            }
        } else if state <= edge.state && !edge.may_fall {
            let what = format!(
                "edge {id} is {} after state {}",
                raw(line.state),
                edge.state
            );
            report.add(number, Rule::StateOrder, what);
        }
        edge.state = state;
        edge.may_fall = false;
    }

    fn lost(&mut self, line: &Line<'_>, report: &mut CheckReport) {
        let (number, partial) = (self.line, self.partial);
        let Some(edge) = self.active(line, report) else {
            return;
        };
        if !std::mem::take(&mut edge.complete) && !partial {
            let what = format!(
                "edge {} loses a result that it does not have",
                line.edge.unwrap_or(0)
            );
            report.add(number, Rule::Result, what);
        }
        edge.state = 2;
        edge.may_fall = true;
        edge.lost = number;
        // What ran in vain before is not looked for again.
        let owner = edge.owner;
        if let Some(vertex) = owner.and_then(|owner| self.vertices.get_mut(&owner)) {
            vertex.was_asked = true;
        }
    }

    pub(super) fn finish(mut self, report: &mut CheckReport) {
        if self.ended {
            self.end_moment(report);
        }
        if self.steps >= STEPS {
            report.limit("the graph is too large to look at each merge for whether one edge waits for the other");
        }
        if !self.ended {
            return report.limit("the trace has no end");
        }
        if self.partial || !self.jobs.is_empty() {
            return;
        }
        // What was cancelled may take its time; what it works for lives until then.
        let winding = self.tasks.values().filter(|task| task.cancelled).count();
        if winding > 0 {
            report.limit(&format!(
                "{winding} calls were cancelled and had not come to their end"
            ));
        }
        let held = self.held_by_calls();
        let vertices = self.vertices.keys().filter(|id| !held.contains(id));
        let edges = self.edges.values().filter(|edge| {
            let owner = edge.owner.as_ref();
            winding == 0 || owner.is_some_and(|owner| !held.contains(owner))
        });
        let left = [
            (vertices.count(), "vertices"),
            (edges.count(), "edges"),
            (self.requests.len(), "requests"),
            (self.tasks.len() - winding, "calls"),
        ];
        for (count, what) in left.into_iter().filter(|(count, _)| *count > 0) {
            report.add(
                self.line,
                Rule::Empty,
                format!("no job is open, but {count} {what} are left"),
            );
        }
    }
}

pub(super) fn raw<'a>(text: Option<Text<'a>>) -> &'a str {
    text.map_or("", Text::raw)
}
