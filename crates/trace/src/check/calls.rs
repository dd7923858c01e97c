//! The replay of calls of operations, of loads, and of the sessions that serve them.

use super::{
    CheckReport, Rule,
    state::{Replay, Task, raw},
};
use crate::{
    kind::Kind,
    line::{Line, Text},
    text::short,
};

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
        if line.kind == Kind::CallStart
            && let Some(id) = of
            && !self.vertices.contains_key(&id)
            && !self.partial
        {
            let what = format!(
                "{call} of vertex {}, which is not live",
                short(raw(line.vertex))
            );
            report.add(self.line, Rule::Ownership, what);
        }
        if line.kind == Kind::CallStart && !self.is_told(line) {
            self.works_on(line, report);
            self.calls(line, report);
        }
        if line.kind == Kind::LoadStart && !self.is_told(line) {
            self.loads(line.edge.unwrap_or(0), report);
        }
        if call == "exec"
            && let Some(vertex) = of.and_then(|id| self.vertices.get_mut(&id))
            && let Some(other) = vertex.running.replace(task)
        {
            let what = format!(
                "vertex {} runs as call {other} already",
                short(&vertex.digest)
            );
            report.add(self.line, Rule::RunsOnce, what);
        }
        let begun = Task {
            call: call.to_owned(),
            vertex: of,
            input: line.input,
            cancelled: false,
            line: self.line,
        };
        if self.tasks.insert(task, begun).is_some() {
            report.add(self.line, Rule::Call, format!("call {task} runs already"));
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
        let Some(begun) = self.tasks.remove(&task) else {
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
        if line.id.is_some() && begun.vertex.is_some() && line.id != begun.vertex {
            let what = format!("call {task} ends for another vertex than it began for");
            report.add(number, Rule::Call, what);
        }
        if begun.cancelled && line.kind != Kind::Dropped {
            let what = format!("the outcome of call {task} counts, although it was cancelled");
            report.add(number, Rule::Call, what);
        }
        if line.kind == Kind::Dropped && !begun.cancelled && !self.lossy {
            let what =
                format!("the outcome of call {task} does not count, but it was not cancelled");
            report.add(number, Rule::Call, what);
        }
        if let Some(vertex) = begun.vertex.and_then(|id| self.vertices.get_mut(&id))
            && vertex.running == Some(task)
        {
            vertex.running = None;
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

    pub(super) fn cancel(&mut self, line: &Line<'_>, report: &mut CheckReport) {
        self.has_cause(line, report);
        let task = line.task.unwrap_or(0);
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

    pub(super) fn session_lent(&mut self, line: &Line<'_>, report: &mut CheckReport) {
        let id = line.job.map(Text::value).unwrap_or_default();
        let Some(job) = self.jobs.get(id.as_ref()) else {
            if !self.partial {
                report.add(
                    self.line,
                    Rule::Session,
                    format!("{id}, which is not open, lends a session"),
                );
            }
            return;
        };
        if !job.session {
            return report.add(
                self.line,
                Rule::Session,
                format!("{id} lends a session, but has none"),
            );
        }
        if !self.partial && !self.is_made_of(&job.roots, raw(line.vertex)) {
            let what = format!(
                "{id} lends its session to {}, which it has no interest in",
                short(raw(line.vertex))
            );
            report.add(self.line, Rule::Session, what);
        }
    }
}
