//! Traces of simulated builds, and what they are changed to.

use tempfile::TempDir;
use weld_solver::TraceSink as _;
use weld_solver::sim::{schedule_of, trace_of};
use weld_trace::{CheckReport, Reader, Rule, Tracer};

/// Steps of a simulated run.
pub(crate) const STEPS: u64 = 120;

pub(crate) struct Bed {
    directory: TempDir,
    tracer: Tracer,
}

impl Bed {
    pub(crate) fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            tracer: Tracer::new(),
        }
    }

    /// The lines of a run of this seed, from a step on.
    pub(crate) fn lines(&self, seed: u64, begins: usize) -> Vec<String> {
        let file = self.directory.path().join("trace.jsonl");
        let schedule = schedule_of(seed, STEPS);
        let events = trace_of(seed, &schedule, begins, None).unwrap();
        let _ = std::fs::remove_file(&file);
        self.tracer.start(&file).unwrap();
        let recording = self.tracer.recording();
        for (at, event) in events {
            self.tracer.event(recording, at, event);
        }
        assert_eq!(self.tracer.stop().unwrap().unwrap().lost, 0);
        let text = std::fs::read_to_string(&file).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// The report on lines, which are as many as the last one is told to say.
    pub(crate) fn check(&self, mut lines: Vec<String>) -> CheckReport {
        let count = lines.len() - 2;
        let end = lines.pop().unwrap();
        let (before, rest) = end.split_once("\"lines\":").unwrap();
        let (_, after) = rest.split_once(',').unwrap();
        lines.push(format!("{before}\"lines\":{count},{after}"));
        self.check_as_is(&lines)
    }

    pub(crate) fn check_as_is(&self, lines: &[String]) -> CheckReport {
        let file = self.directory.path().join("checked.jsonl");
        std::fs::write(&file, lines.join("\n") + "\n").unwrap();
        weld_trace::check(Reader::open(&file).unwrap()).unwrap()
    }
}

pub(crate) fn is(line: &str, event: &str) -> bool {
    line.starts_with(&format!("{{\"event\":\"{event}\""))
}

pub(crate) fn has(line: &str, part: &str) -> bool {
    line.contains(part)
}

/// Changes lines of traces where it can change them, one at a time, some dozens in all; returns in how many changed traces this rule was
/// broken, and how many there were.
pub(crate) fn found(
    change: impl Fn(&[String], usize) -> Option<Vec<String>>,
    rules: &[Rule],
) -> (usize, usize) {
    let bed = Bed::new();
    let (mut found, mut all) = (0, 0);
    for seed in 1..=400 {
        if all >= 40 {
            break;
        }
        let lines = bed.lines(seed, 0);
        for at in 1..lines.len() - 1 {
            let Some(changed) = change(&lines, at) else {
                continue;
            };
            let report = bed.check(changed);
            let breaks = |rule: &Rule| report.violations.iter().any(|found| found.rule == *rule);
            found += usize::from(rules.iter().any(breaks));
            all += 1;
        }
    }
    assert!(all > 0, "nothing can be changed so");
    (found, all)
}

pub(crate) fn without(lines: &[String], out: impl Fn(&str) -> bool) -> Vec<String> {
    lines.iter().filter(|line| !out(line)).cloned().collect()
}

pub(crate) fn one_out(lines: &[String], at: usize) -> Vec<String> {
    let mut lines = lines.to_vec();
    lines.remove(at);
    lines
}

pub(crate) fn with(lines: &[String], at: usize, line: String) -> Vec<String> {
    let mut lines = lines.to_vec();
    lines[at] = line;
    lines
}

/// `"name":value` of a line, as it is written.
pub(crate) fn field(line: &str, name: &str) -> Option<String> {
    let at = line.find(&format!("\"{name}\":"))?;
    let end = line[at..].find([',', '}'])?;
    Some(line[at..at + end].to_owned())
}
