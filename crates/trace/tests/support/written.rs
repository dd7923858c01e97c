//! Traces that are written by hand: each event at its millisecond, in any order.

use std::path::PathBuf;

use tempfile::TempDir;
use weld_trace::Trace;

/// Events of a trace; a vertex is called by a letter.
#[derive(Default)]
pub(crate) struct Written {
    events: Vec<(u64, String)>,
    tasks: u32,
    requests: u32,
}

pub(crate) fn digest(name: char) -> String {
    format!("sha256:{}", name.to_string().repeat(64))
}

fn vertex(name: char) -> String {
    format!("\"vertex\":\"{}\",\"id\":{}", digest(name), u32::from(name))
}

fn edge(name: char) -> String {
    let number = 1000 + u32::from(name);
    format!(
        "\"edge\":{number},\"vertex\":\"{}\",\"output\":0",
        digest(name)
    )
}

impl Written {
    pub(crate) fn event(&mut self, millis: u64, event: &str) {
        self.events.push((millis, event.to_owned()));
    }

    pub(crate) fn opened(&mut self, millis: u64, job: &str) {
        let event = format!("\"job-opened\",\"job\":\"{job}\",\"session\":false");
        self.event(millis, &event);
    }

    pub(crate) fn discarded(&mut self, millis: u64, job: &str) {
        self.event(millis, &format!("\"job-discarded\",\"job\":\"{job}\""));
    }

    pub(crate) fn vertex(&mut self, millis: u64, name: char, inputs: &str) {
        let inputs = inputs.chars().map(|input| {
            let id = u32::from(input);
            format!("[{},{id},0]", 1000 + id)
        });
        let inputs: Vec<String> = inputs.collect();
        let (vertex, inputs) = (vertex(name), inputs.join(","));
        let event = format!("\"vertex\",{vertex},\"name\":\"{name}\",\"inputs\":[{inputs}]");
        self.event(millis, &event);
    }

    pub(crate) fn loaded(&mut self, millis: u64, job: &str, root: char) {
        let (edge, id) = (edge(root), u32::from(root));
        let event =
            format!("\"loaded\",\"job\":\"{job}\",{edge},\"id\":{id},\"vertices\":1,\"created\":1");
        self.event(millis, &event);
    }

    /// A request of a job from one time to another.
    pub(crate) fn request(&mut self, (from, to): (u64, u64), job: &str, root: char, outcome: &str) {
        self.requests += 1;
        let (number, edge) = (self.requests, edge(root));
        let event = format!("\"request\",\"request\":{number},\"job\":\"{job}\",{edge}");
        self.event(from, &event);
        let event = format!("\"answer\",\"request\":{number},\"outcome\":\"{outcome}\"");
        self.event(to, &event);
    }

    pub(crate) fn state(&mut self, millis: u64, name: char, state: &str) {
        let event = format!("\"state\",{},\"state\":\"{state}\"", edge(name));
        self.event(millis, &event);
    }

    /// Stores know a record of it.
    pub(crate) fn found(&mut self, millis: u64, name: char) {
        let event = format!("\"query\",{},\"hit\":true,\"records\":1", edge(name));
        self.event(millis, &event);
    }

    pub(crate) fn merge(&mut self, millis: u64, source: char, target: char) {
        let end = |word: &str, name: char| {
            let (edge, digest) = (1000 + u32::from(name), digest(name));
            format!("\"{word}\":{edge},\"{word}_vertex\":\"{digest}\",\"{word}_output\":0")
        };
        let (source, target) = (end("source", source), end("target", target));
        let event = format!("\"merge\",{source},{target},\"reason\":\"fast-key\"");
        self.event(millis, &event);
    }

    /// A call, or a load; what executes or is loaded is complete then, unless it fails.
    pub(crate) fn call(&mut self, (from, to): (u64, u64), name: char, call: &str) {
        self.tasks += 1;
        let (task, vertex) = (self.tasks, vertex(name));
        if call == "load" {
            let (task, edge) = (format!("\"task\":{task}"), edge(name));
            let event = format!("\"load-start\",{task},{edge},\"record\":1,\"source\":0");
            self.event(from, &event);
            self.event(to, &format!("\"load-end\",{task},{edge}"));
        } else {
            let (word, outcome) = match call.strip_suffix('!') {
                Some(word) => (word, "\"ok\":false,\"error\":\"no\""),
                None => (call, "\"ok\":true"),
            };
            let of = format!("\"task\":{task},{vertex},\"call\":\"{word}\"");
            self.event(from, &format!("\"call-start\",{of}"));
            self.event(to, &format!("\"call-end\",{of},{outcome}"));
        }
        if matches!(call, "load" | "exec") {
            self.state(to, name, "complete");
        }
    }

    /// The newest call waits for a slot.
    pub(crate) fn slot(&mut self, (from, to): (u64, u64), name: char) {
        let of = format!("\"task\":{},{}", self.tasks, vertex(name));
        self.event(from, &format!("\"slot-wait\",{of}"));
        self.event(to, &format!("\"slot-taken\",{of}"));
    }

    pub(crate) fn write(&self, directory: &TempDir) -> PathBuf {
        let file = directory.path().join("trace.jsonl");
        let mut events = self.events.clone();
        events.sort_by_key(|(millis, _)| *millis);
        let last = events.last().map_or(0, |(millis, _)| *millis);
        let start = (0, "\"trace-start\",\"version\":2,\"weld\":\"0\"".to_owned());
        let count = events.len();
        let end = format!("\"trace-end\",\"lines\":{count},\"lost\":0");
        let all = [start].into_iter().chain(events).chain([(last, end)]);
        let lines: String = (0..)
            .zip(all)
            .map(|(position, (millis, event)): (u64, _)| {
                let time = 1_000_000_000 + millis * 1000;
                format!("{{\"event\":{event},\"position\":{position},\"time\":{time}}}\n")
            })
            .collect();
        std::fs::write(&file, lines).unwrap();
        file
    }

    pub(crate) fn read(&self) -> Trace {
        let directory = tempfile::tempdir().unwrap();
        Trace::read(&self.write(&directory)).unwrap()
    }
}
