//! The replay of calls of operations, of loads, and of the sessions that serve them.

use super::{
    CheckReport, Rule,
    state::{Replay, Task, raw},
};
use crate::{kind::Kind, line::Line, text::short};

impl Replay {
    pub(super) fn begin(&mut self, line: &Line<'_>, report: &mut CheckReport) {
        self.same_vertex(line, report);
        let task = line.task.unwrap_or(0);
        let (of, call) = if line.kind == Kind::LoadStart {
            let owner = self.active(line, report).and_then(|edge| edge.owner);
            (owner, "load")
        } else {
            (line.id, raw(line.call))
        };
        if !self.is_told(line) && !self.lossy {
            self.begins(line, of, report);
        }
        if call == "exec"
            && let Some(vertex) = of.and_then(|id| self.vertices.get_mut(&id))
            && let Some(other) = vertex.running.replace(task)
            && !self.lossy
        {
            let what = format!(
                "vertex {} runs as call {other} already",
                short(&vertex.digest)
            );
            report.add(self.line, Rule::RunsOnce, what);
        }
        if self.ended_tasks.contains(&task) {
            let what = format!("call {task} has ended: its number is used again");
            report.add(self.line, Rule::Call, what);
        }
        if let Some(vertex) = of.and_then(|id| self.vertices.get_mut(&id)) {
            vertex.tasks.push(task);
        }
        let begun = Task {
            call: call.to_owned(),
            vertex: of,
            edge: line.edge,
            input: line.input,
            cancelled: false,
            waits: false,
            is_told: self.is_told(line),
            line: self.line,
        };
        if self.tasks.insert(task, begun).is_some() {
            report.add(self.line, Rule::Call, format!("call {task} runs already"));
        }
    }

    /// A call or a load that somebody wants has all that it needs.
    fn begins(&self, line: &Line<'_>, of: Option<u64>, report: &mut CheckReport) {
        if line.kind == Kind::CallStart {
            self.works_on(line, report);
            self.calls(line, report);
            self.has_come_so_far(line, report);
            self.is_needed(line, of, report);
        } else {
            let edge = line.edge.unwrap_or(0);
            self.loads(edge, report);
            self.may_load(edge, report);
        }
        if of.is_some_and(|vertex| !self.is_wanted(vertex)) {
            let what = format!(
                "{} of vertex {}, which no job is interested in",
                line.call.map_or("load", |call| call.raw()),
                short(raw(line.vertex))
            );
            report.add(self.line, Rule::Job, what);
        }
    }

    /// A vertex with inputs has one cache map: it is not asked for another.
    fn is_needed(&self, line: &Line<'_>, of: Option<u64>, report: &mut CheckReport) {
        let vertex = of.and_then(|id| self.vertices.get(&id));
        if raw(line.call) == "cache-map"
            && let Some(vertex) = vertex.filter(|vertex| vertex.is_told && vertex.mapped)
            && !vertex.inputs.is_empty()
        {
            let what = format!(
                "vertex {}, which has inputs, is asked for a second cache map",
                short(&vertex.digest)
            );
            report.add(self.line, Rule::Call, what);
        }
    }

    /// A call is about the same vertex, and a load about the same edge, from its beginning to its end.
    fn is_of(&self, line: &Line<'_>, begun: &Task, report: &mut CheckReport) {
        let (task, kind) = (line.task.unwrap_or(0), line.kind.name());
        let mut wrong = |what: &str| {
            let what = format!("{kind} of call {task}, which began for another {what}");
            report.add(self.line, Rule::Call, what);
        };
        if let (Some(edge), Some(other)) = (begun.edge, line.edge)
            && edge != other
        {
            wrong("edge");
        } else if let (Some(vertex), Some(other)) = (begun.vertex, line.id) {
            if vertex != other {
                wrong("vertex");
            }
        } else if let (Some(edge), Some(digest)) = (begun.edge, line.vertex)
            && let Some(edge) = self.edges.get(&edge)
            && edge.vertex != digest.raw()
        {
            wrong("vertex");
        }
    }

    pub(super) fn end(&mut self, line: &Line<'_>, report: &mut CheckReport) {
        self.same_vertex(line, report);
        let number = self.line;
        let task = line.task.unwrap_or(0);
        let position = self.position;
        if matches!(line.kind, Kind::LoadEnd | Kind::LoadFailed)
            && let Some(edge) = self.active(line, report)
        {
            match line.kind {
                Kind::LoadFailed => edge.may_fall = true,
                _ => edge.loaded = Some(position),
            }
        }
        if line.kind == Kind::CallEnd
            && raw(line.call) == "exec"
            && line.error.is_none()
            && let Some(vertex) = line.id.and_then(|id| self.vertices.get_mut(&id))
        {
            vertex.ran = Some(position);
        }
        let begun = self.tasks.remove(&task);
        self.ended_tasks.insert(task);
        let Some(begun) = begun else {
            if !self.partial {
                report.add(
                    number,
                    Rule::Call,
                    format!("call {task} ends, but does not run"),
                );
            }
            return;
        };
        let call = match line.kind {
            Kind::CallEnd => raw(line.call),
            Kind::Dropped => begun.call.as_str(),
            _ => "load",
        };
        if call != begun.call {
            let what = format!("call {task} ends as {call}, but began as {}", begun.call);
            report.add(number, Rule::Call, what);
        }
        self.is_of(line, &begun, report);
        if begun.cancelled && line.kind != Kind::Dropped {
            let what = format!("the outcome of call {task} counts, although it was cancelled");
            report.add(number, Rule::Call, what);
        }
        if line.kind == Kind::Dropped && !begun.cancelled && !self.lossy {
            let what =
                format!("the outcome of call {task} does not count, but it was not cancelled");
            report.add(number, Rule::Call, what);
        }
        if let Some(vertex) = begun.vertex.and_then(|id| self.vertices.get_mut(&id)) {
            vertex.tasks.retain(|other| *other != task);
            vertex.running = vertex.running.filter(|other| *other != task);
        }
        if line.kind == Kind::CallEnd {
            let operation = line.digest.map(|digest| digest.raw());
            self.came_to(task, &begun, line.error.is_none(), operation);
        }
    }

    /// What a call came to that counts.
    fn came_to(&mut self, task: u64, begun: &Task, went_well: bool, operation: Option<&str>) {
        if !went_well && !self.lost_since(begun) {
            self.call_failed(task);
        }
        let Some(vertex) = begun.vertex.and_then(|id| self.vertices.get_mut(&id)) else {
            return;
        };
        match (begun.call.as_str(), begun.input) {
            ("cache-map", _) if went_well => {
                vertex.mapped = true;
                if vertex.operation.is_none() {
                    vertex.operation = operation.map(str::to_owned);
                }
            }
            ("preprocess" | "slow-key", Some(input)) => {
                vertex
                    .undone
                    .retain(|undone| *undone != (begun.call.clone(), input));
                if !went_well {
                    vertex.undone.push((begun.call.clone(), input));
                }
            }
            _ => {}
        }
    }

    /// Whether an input of a call was lost while it went on: then it is repeated without a word.
    fn lost_since(&self, begun: &Task) -> bool {
        let Some(vertex) = begun.vertex.and_then(|id| self.vertices.get(&id)) else {
            return true;
        };
        let mut inputs = vertex.inputs.iter();
        inputs.any(|input| {
            let input = self.find(*input).and_then(|input| self.edges.get(&input));
            input.is_none_or(|input| input.lost > begun.line)
        })
    }

    /// A call that was told of as live had begun before.
    pub(super) fn under_way(&mut self, line: &Line<'_>, report: &mut CheckReport) {
        self.same_vertex(line, report);
        let task = line.task.unwrap_or(0);
        let what = match self.tasks.get(&task) {
            None if self.partial => return,
            None => "does not run",
            Some(begun) if !begun.is_told => "began in the trace",
            Some(begun) => {
                self.is_of(line, begun, report);
                return;
            }
        };
        let what = format!("call {task} is under way, but {what}");
        report.add(self.line, Rule::Call, what);
    }

    /// A call waits while its operation executes, and goes on.
    pub(super) fn slot(&mut self, line: &Line<'_>, report: &mut CheckReport) {
        self.same_vertex(line, report);
        let waits = line.kind == Kind::SlotWait;
        let task = line.task.unwrap_or(0);
        if let Some(begun) = self.tasks.get(&task) {
            self.is_of(line, begun, report);
        }
        let what = match self.tasks.get_mut(&task) {
            None if self.partial => return,
            None => "does not run",
            Some(begun) if begun.call != "exec" => "does not execute",
            Some(begun) => match std::mem::replace(&mut begun.waits, waits) {
                other if other != waits || self.lossy => return,
                true => "does so already",
                // It may have waited when the trace began.
                false if begun.is_told => return,
                false => "did not wait",
            },
        };
        let what = match waits {
            true => format!("call {task} waits, but {what}"),
            false => format!("call {task} waits no more, but {what}"),
        };
        report.add(self.line, Rule::Call, what);
    }

    pub(super) fn cancel(&mut self, line: &Line<'_>, report: &mut CheckReport) {
        self.same_vertex(line, report);
        self.has_cause(line, report);
        let task = line.task.unwrap_or(0);
        if let Some(begun) = self.tasks.get(&task) {
            self.is_of(line, begun, report);
        }
        match self.tasks.get_mut(&task) {
            Some(known) => {
                if std::mem::replace(&mut known.cancelled, true) {
                    report.add(
                        self.line,
                        Rule::Call,
                        format!("call {task} is cancelled twice"),
                    );
                }
            }
            None if self.partial => {}
            None => report.add(
                self.line,
                Rule::Call,
                format!("call {task} is cancelled, but does not run"),
            ),
        }
    }
}
