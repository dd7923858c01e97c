//! The replay of jobs: what they ask for, what they are interested in, and whom they lend their sessions.

use std::rc::Rc;

use super::{
    CheckReport, Rule,
    state::{Job, Replay, Request, raw},
};
use crate::{
    kind::Kind,
    line::{Line, Text},
    text::short,
};

/// What a job can reach from what it loaded, through inputs, forwards and builds that operations asked for.
#[derive(Default)]
pub(super) struct Reach {
    /// Edges that it is interested in, and perhaps some that were freed since.
    edges: Vec<u64>,
    /// It reaches something of which it is not known what that is made of, so that it may be interested in anything.
    is_open: bool,
}

impl Replay {
    pub(super) fn job(&mut self, line: &Line<'_>, report: &mut CheckReport) {
        let id = line.job.map(Text::value).unwrap_or_default().into_owned();
        match line.kind {
            Kind::JobOpened => {
                self.opened += 1;
                let job = Job {
                    number: self.opened,
                    session: line.session,
                    roots: Vec::new(),
                };
                self.reach.insert(job.number, Reach::default());
                if let Some(other) = self.jobs.insert(id.clone(), job) {
                    self.lose_interest(other.number);
                    if !self.lossy {
                        report.add(self.line, Rule::Job, format!("{id} is open already"));
                    }
                }
            }
            Kind::JobDiscarded => match self.jobs.remove(&id) {
                Some(job) => self.discarded(&id, job.number, report),
                None if self.partial => {}
                None => report.add(
                    self.line,
                    Rule::Job,
                    format!("{id} is discarded, but was not open"),
                ),
            },
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

    /// What a job asked for is answered before it goes, and what only it reached goes with it.
    fn discarded(&mut self, id: &str, number: u32, report: &mut CheckReport) {
        let requests = self.requests.values();
        let open = requests.filter(|request| request.job == Some(number));
        let open = open.count();
        if open > 0 && !self.lossy {
            let what = format!("{id} is discarded with {open} requests open");
            report.add(self.line, Rule::Job, what);
        }
        let unreached = self.lose_interest(number);
        self.left_behind(unreached);
    }

    pub(super) fn request(&mut self, line: &Line<'_>, report: &mut CheckReport) {
        self.touch_own(line, report);
        let request = line.request.unwrap_or(0);
        let edge = line.edge.unwrap_or(0);
        let job = line.job.map(Text::value);
        let known = job.as_ref().and_then(|job| self.jobs.get(job.as_ref()));
        let number = known.map(|job| job.number);
        if !self.is_told(line) && !self.lossy {
            match (&job, number) {
                (Some(job), Some(number)) if !self.may_want(number, edge) => {
                    let what =
                        format!("{job} asks for edge {edge}, which is not of what it loaded");
                    report.add(self.line, Rule::Job, what);
                }
                (None, _) if self.nested_root() != self.find(edge) => {
                    let what =
                        format!("edge {edge} is asked for, by no job and for no operation's build");
                    report.add(self.line, Rule::Request, what);
                }
                _ => {}
            }
        }
        if let Some(task) = line.task.filter(|_| !self.partial)
            && self.tasks.get(&task).is_none_or(|task| task.call != "exec")
        {
            let what = format!("call {task} asks for a result, but does not execute");
            report.add(self.line, Rule::Request, what);
        }
        if let (Some(job), None) = (&job, number)
            && !self.partial
        {
            let what = format!("{job} asks for a result, but is not open");
            report.add(self.line, Rule::Job, what);
        }
        let asked = Request {
            edge,
            of_job: job.is_some(),
            job: number,
        };
        if self.requests.insert(request, asked).is_some() {
            let what = format!("request {request} is open already");
            report.add(self.line, Rule::Request, what);
        }
    }

    /// The job that a request is answered for is there to hear of it.
    pub(super) fn is_heard(&self, number: u64, asked: &Request, report: &mut CheckReport) {
        if asked.job.is_some_and(|job| !self.reach.contains_key(&job)) {
            let what = format!("request {number} is answered, but its job was discarded");
            report.add(self.line, Rule::Job, what);
        }
    }

    /// Whether a job may be interested in an edge.
    fn may_want(&self, job: u32, edge: u64) -> bool {
        let reach = self.reach.get(&job);
        reach.is_none_or(|reach| reach.is_open)
            || (self.edges.get(&edge)).is_none_or(|edge| edge.interest.contains(&job))
    }

    /// Makes a job interested in what it loaded.
    pub(super) fn interest_of_job(&mut self, job: u32, root: u64) {
        self.spread(root, Rc::from([job]));
    }

    /// Makes those who are interested in a vertex interested in what its operation loaded.
    pub(super) fn interest_of_vertex(&mut self, vertex: u64, root: u64) {
        let Some(vertex) = self.vertices.get(&vertex) else {
            return;
        };
        let edges = vertex.edges.iter().filter_map(|edge| self.edges.get(edge));
        let jobs: Vec<u32> = edges.flat_map(|edge| edge.interest.clone()).collect();
        self.spread(root, jobs.into());
    }

    /// Makes those who are interested in an edge interested in what it forwards to.
    pub(super) fn interest_of_edge(&mut self, source: u64, target: u64) {
        if let Some(source) = self.edges.get(&source) {
            let jobs = source.interest.as_slice().into();
            self.spread(target, jobs);
        }
    }

    /// Stops where they are interested already, so that each job comes to each edge once.
    fn spread(&mut self, edge: u64, jobs: Rc<[u32]>) {
        let mut ahead = vec![(edge, jobs)];
        while let Some((id, jobs)) = ahead.pop() {
            let Some(edge) = self.edges.get_mut(&id) else {
                self.reach_anything(&jobs);
                continue;
            };
            let mut new = Vec::new();
            for job in jobs.iter().filter(|job| self.reach.contains_key(job)) {
                if !edge.interest.contains(job) {
                    edge.interest.push(*job);
                    new.push(*job);
                }
            }
            if new.is_empty() {
                continue;
            }
            let (owner, target) = (edge.owner, edge.target);
            for job in &new {
                if let Some(reach) = self.reach.get_mut(job) {
                    reach.edges.push(id);
                }
            }
            let new: Rc<[u32]> = new.into();
            ahead.extend(target.map(|target| (target, Rc::clone(&new))));
            let Some(vertex) = owner.and_then(|owner| self.vertices.get(&owner)) else {
                self.reach_anything(&new);
                continue;
            };
            let below = vertex.inputs.iter().chain(&vertex.sub_builds);
            ahead.extend(below.map(|edge| (*edge, Rc::clone(&new))));
        }
    }

    fn reach_anything(&mut self, jobs: &[u32]) {
        for job in jobs {
            if let Some(reach) = self.reach.get_mut(job) {
                reach.is_open = true;
            }
        }
    }

    /// Takes a job's interest out of what it reached; returns the edges that nobody is interested in any more.
    fn lose_interest(&mut self, job: u32) -> Vec<u64> {
        let mut edges = self.reach.remove(&job).unwrap_or_default().edges;
        edges.retain(|id| {
            let Some(edge) = self.edges.get_mut(id) else {
                return false;
            };
            edge.interest.retain(|other| *other != job);
            edge.interest.is_empty()
        });
        edges
    }

    /// Whether some job may be interested in a vertex: in any of its edges.
    pub(super) fn is_wanted(&self, vertex: u64) -> bool {
        let Some(vertex) = self.vertices.get(&vertex) else {
            return true;
        };
        let mut edges = vertex.edges.iter().filter_map(|edge| self.edges.get(edge));
        edges.any(|edge| !edge.interest.is_empty())
            || self.lossy
            || self.reach.values().any(|reach| reach.is_open)
    }

    pub(super) fn session_lent(&mut self, line: &Line<'_>, report: &mut CheckReport) {
        let id = line.job.map(Text::value).unwrap_or_default();
        let digest = raw(line.vertex);
        let twins = self.digests.get(digest).into_iter().flatten();
        let twins = twins.filter_map(|twin| self.vertices.get(twin));
        let tasks = twins.clone().flat_map(|vertex| &vertex.tasks);
        let mut calls = tasks.filter_map(|task| self.tasks.get(task));
        if !calls.any(|call| !call.cancelled) && !self.lossy {
            let what = format!(
                "{id} lends its session to {}, of which no call runs",
                short(digest)
            );
            report.add(self.line, Rule::Session, what);
        }
        let Some(job) = self.jobs.get(id.as_ref()) else {
            if !self.partial {
                let what = format!("{id}, which is not open, lends a session");
                report.add(self.line, Rule::Session, what);
            }
            return;
        };
        if !job.session && !self.lossy {
            let what = format!("{id} lends a session, but has none");
            return report.add(self.line, Rule::Session, what);
        }
        let mut edges = twins.flat_map(|vertex| &vertex.edges);
        if !edges.any(|edge| self.may_want(job.number, *edge)) && !self.lossy {
            let what = format!(
                "{id} lends its session to {}, which it has no interest in",
                short(digest)
            );
            report.add(self.line, Rule::Session, what);
        }
    }
}
