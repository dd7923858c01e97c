//! The replay of the graph: which vertices and edges are live, and which is whose.

use super::{
    CheckReport, Rule,
    lookup::Trail,
    state::{Edge, Replay, Vertex, raw},
};
use crate::{
    line::{Line, Text},
    text::short,
};

impl Replay {
    pub(super) fn vertex(&mut self, line: &Line<'_>, report: &mut CheckReport) {
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
            edges: Vec::new(),
            tasks: Vec::new(),
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
        if self.freed_vertices.contains(&id) {
            let what = format!("vertex {id} was freed: its number is used again");
            report.add(self.line, Rule::Ownership, what);
        }
        if self.vertices.insert(id, vertex).is_some() {
            let what = format!("vertex {id} is live already");
            report.add(self.line, Rule::Ownership, what);
        }
    }

    pub(super) fn vertex_freed(&mut self, line: &Line<'_>, report: &mut CheckReport) {
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
        self.freed_vertices.insert(id);
        if let Some(ids) = self.digests.get_mut(&vertex.digest) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.digests.remove(&vertex.digest);
            }
        }
        if !vertex.edges.is_empty() && !self.partial {
            let what = format!(
                "vertex {} is freed before {} of its edges",
                short(&vertex.digest),
                vertex.edges.len()
            );
            report.add(self.line, Rule::Ownership, what);
        }
        if let Some(task) = vertex.tasks.first().filter(|_| !self.lossy) {
            let call = self.tasks.get(task).map_or("call", |task| &task.call);
            let what = format!(
                "vertex {} is freed while {call} {task} runs",
                short(&vertex.digest)
            );
            report.add(self.line, Rule::Ownership, what);
        }
    }

    /// A line names a vertex by its number and by its digest.
    pub(super) fn same_vertex(&self, line: &Line<'_>, report: &mut CheckReport) {
        let known = line.id.and_then(|id| self.vertices.get(&id));
        if let (None, Some(id), false) = (known, line.id, self.partial) {
            let what = format!("{} of vertex {id}, which is not live", line.kind.name());
            report.add(self.line, Rule::Ownership, what);
        }
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
    fn own(&mut self, known: u64, id: u64) {
        if let Some(edge) = self.edges.get_mut(&known)
            && edge.owner.is_none()
            && let Some(vertex) = self.vertices.get_mut(&id)
        {
            edge.owner = Some(id);
            vertex.edges.push(known);
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
        let owner = match owners {
            // There may have been another one, of which nothing is told.
            [owner] if !self.lossy => Some(*owner),
            _ => None,
        };
        if let Some(vertex) = owner.and_then(|owner| self.vertices.get_mut(&owner)) {
            vertex.edges.push(edge);
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
                interest: Vec::new(),
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

    pub(super) fn edge_freed(&mut self, line: &Line<'_>, report: &mut CheckReport) {
        self.touch_own(line, report);
        let id = line.edge.unwrap_or(0);
        let Some(edge) = self.edges.remove(&id) else {
            return;
        };
        self.freed_edges.insert(id);
        self.came_so_far(line, &edge, report);
        if edge.roots > 0 {
            self.root_freed(id);
        }
        if edge.sources > 0 && !self.lossy {
            let what = format!("edge {id} is freed while {} forward to it", edge.sources);
            report.add(self.line, Rule::Merge, what);
        }
        if let Some(target) = edge.target.and_then(|target| self.edges.get_mut(&target)) {
            target.sources = target.sources.saturating_sub(1);
        }
        if let Some(vertex) = edge.owner.and_then(|owner| self.vertices.get_mut(&owner)) {
            vertex.edges.retain(|other| *other != id);
        }
        let asked = self.requests.values();
        let asked = asked.filter(|request| request.edge == id).count();
        if asked > 0 && edge.target.is_none() && !self.lossy {
            let what = format!("edge {id} is freed with {asked} requests open");
            report.add(self.line, Rule::Request, what);
        }
    }

    pub(super) fn loaded(&mut self, line: &Line<'_>, report: &mut CheckReport) {
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
                Some(job) => {
                    job.roots.push(root);
                    let number = job.number;
                    self.interest_of_job(number, root);
                }
                None if self.partial => {}
                None => {
                    let what = format!("{} loads a graph, but is not open", job.value());
                    report.add(self.line, Rule::Job, what);
                }
            }
        }
        let Some(parent) = line.parent else {
            return;
        };
        // By its digest alone, each of several may be meant.
        let parents = match line.parent_id {
            Some(id) => vec![id],
            None => self.digests.get(parent.raw()).cloned().unwrap_or_default(),
        };
        for id in parents {
            match self.vertices.get_mut(&id) {
                Some(vertex) => vertex.sub_builds.push(root),
                None if self.partial => {}
                None => {
                    let what = format!("vertex {id}, which is not live, loads a graph");
                    report.add(self.line, Rule::Ownership, what);
                }
            }
            self.interest_of_vertex(id, root);
        }
        self.loads_nested(root);
    }
}
