//! The replay: what is live after each line.

use std::collections::{HashMap, HashSet};

use super::{CheckReport, Rule, causes::Moment, jobs::Reach, lookup::Trail, merges::STEPS};
use crate::{
    kind::Kind,
    line::{Line, Text},
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
    /// Of the format. Some fields are there since the second.
    pub(super) version: u64,
    pub(super) ended: bool,
    /// Lines that tell of lost events.
    pub(super) losses: u64,
    /// How many events they tell of.
    pub(super) lost: u64,
    pub(super) jobs: HashMap<String, Job>,
    /// How many were opened so far.
    pub(super) opened: u32,
    /// What open jobs are interested in, by their numbers.
    pub(super) reach: HashMap<u32, Reach>,
    pub(super) vertices: HashMap<u64, Vertex>,
    /// Numbers of live vertices by digest.
    pub(super) digests: HashMap<String, Vec<u64>>,
    pub(super) edges: HashMap<u64, Edge>,
    pub(super) freed_edges: HashSet<u64>,
    pub(super) freed_vertices: HashSet<u64>,
    pub(super) requests: HashMap<u64, Request>,
    pub(super) tasks: HashMap<u64, Task>,
    pub(super) ended_tasks: HashSet<u64>,
    /// What happened at the position of the last line.
    pub(super) moment: Moment,
    /// Some vertex ignores the cache: then more may run without that stores are asked.
    pub(super) forced: bool,
    /// How far was walked to see that nothing merges with what it waits for.
    pub(super) steps: usize,
}

pub(super) struct Job {
    /// Of all that were ever open; another job may have the same id later.
    pub(super) number: u32,
    pub(super) session: bool,
    pub(super) roots: Vec<u64>,
}

pub(super) struct Vertex {
    pub(super) digest: String,
    pub(super) inputs: Vec<u64>,
    /// Roots of builds that its operation asked for.
    pub(super) sub_builds: Vec<u64>,
    /// Its live edges.
    pub(super) edges: Vec<u64>,
    /// Calls and loads for it that have not ended, cancelled ones among them.
    pub(super) tasks: Vec<u64>,
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
    /// The job's number, where it is known.
    pub(super) job: Option<u32>,
}

pub(super) struct Edge {
    pub(super) vertex: String,
    /// Of which output of it; known once a line said so.
    pub(super) output: Option<u64>,
    /// Number of the vertex, where only one can be meant.
    pub(super) owner: Option<u64>,
    pub(super) state: u8,
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
    /// Numbers of the jobs that are interested in it.
    pub(super) interest: Vec<u32>,
}

pub(super) struct Task {
    pub(super) call: String,
    pub(super) vertex: Option<u64>,
    /// Of a load.
    pub(super) edge: Option<u64>,
    pub(super) input: Option<u64>,
    pub(super) cancelled: bool,
    /// It waits for a slot to execute in.
    pub(super) waits: bool,
    /// It began before the trace did.
    pub(super) is_told: bool,
    /// The line that it began with.
    pub(super) line: u64,
}

impl Replay {
    pub(super) fn line(&mut self, number: u64, line: &Line<'_>, report: &mut CheckReport) {
        self.line = number;
        self.order(line, report);
        self.moment(line, report);
        self.at_moment(line, report);
        self.has_fields(line, report);
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
            Kind::MergeRefused => self.refused(line, report),
            Kind::CallStart | Kind::LoadStart => self.begin(line, report),
            Kind::CallEnd | Kind::LoadEnd | Kind::LoadFailed | Kind::Dropped => {
                self.end(line, report)
            }
            Kind::Cancel => self.cancel(line, report),
            Kind::UnderWay => self.under_way(line, report),
            Kind::SlotWait | Kind::SlotTaken => self.slot(line, report),
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
                    version: self.version,
                    ..Self::default()
                };
            }
            Kind::TraceStart => self.version = line.version.unwrap_or(0),
            Kind::SaveFailed
            | Kind::SourceFailed
            | Kind::Fallback
            | Kind::Explained
            | Kind::Other => {}
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
