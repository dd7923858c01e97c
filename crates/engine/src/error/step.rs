//! The step that an error is about, and the lines that it comes from.

use std::collections::BTreeMap;

use bytes::Bytes;
use weld_digest::Digest;
use weld_dockerfile::{LineRange, Mark, SourceFile};
use weld_llb::{Graph, pb};
use weld_op::digest::from_solver;
use weld_op::file::FailedSequence;
use weld_op::{NestedFailure, Tree};
use weld_proto::Message as _;
use weld_solver::{OpCall, SolveError};

use super::op_error;

/// A step that failed, as its definition has it.
#[derive(Clone, Debug)]
pub struct FailedStep {
    /// The digest of its vertex.
    pub digest: Digest,
    /// Its operation, encoded.
    pub op: Bytes,
    /// What is said of it, by key.
    pub description: BTreeMap<String, String>,
    /// Where it comes from.
    pub sources: Vec<SourceRanges>,
    /// Which of its file actions failed, if it has such.
    pub action: Option<usize>,
    /// The input whose content could not be looked at to find the step in the cache, if that is
    /// what failed.
    pub unread_input: Option<u32>,
}

impl FailedStep {
    /// The sources of its copies that its failure names, as a Dockerfile may have them.
    pub(super) fn missing_sources(&self, failure: &str) -> Vec<String> {
        use pb::file_action::Action;
        let Ok(op) = pb::Op::decode(self.op.clone()) else {
            return Vec::new();
        };
        let Some(pb::op::Op::File(file)) = op.op else {
            return Vec::new();
        };
        let mut words = Vec::new();
        for action in file.actions {
            if let Some(Action::Copy(copy)) = action.action
                && failure.contains(&format!("{:?}", copy.src))
            {
                let relative = copy.src.trim_start_matches('/').to_owned();
                words.extend([copy.src, format!("./{relative}"), relative]);
            }
        }
        words
    }
}

/// Lines of a source file.
#[derive(Clone, Debug)]
pub struct SourceRanges {
    /// The file.
    pub info: pb::SourceInfo,
    /// The lines.
    pub ranges: Vec<pb::Range>,
}

impl SourceRanges {
    /// Lines of a file, each range from its first to its last.
    pub fn of_lines(name: &str, data: Vec<u8>, lines: &BTreeMap<i32, i32>) -> Self {
        let position = |line: &i32| {
            Some(pb::Position {
                line: *line,
                character: 0,
            })
        };
        Self {
            info: pb::SourceInfo {
                filename: name.to_owned(),
                data: data.into(),
                ..pb::SourceInfo::default()
            },
            ranges: lines
                .iter()
                .map(|(start, end)| pb::Range {
                    start: position(start),
                    end: position(end),
                })
                .collect(),
        }
    }

    /// The lines as a person reads them, with what is around them, and a caret under the range that
    /// tells its characters.
    pub fn excerpt(&self) -> Option<String> {
        self.excerpt_about(&[])
    }

    /// The same with a caret under the first of the words that is there, if no range tells characters.
    pub(super) fn excerpt_about(&self, words: &[String]) -> Option<String> {
        let number = |number: i32| u32::try_from(number).ok();
        let lines = |range: &pb::Range| {
            let start = number(range.start?.line)?;
            let end = range.end.and_then(|end| number(end.line));
            Some(LineRange::new(start, end.unwrap_or(start)))
        };
        let mark = |range: &pb::Range| {
            let (start, end) = (range.start?, range.end?);
            let width = number(end.character.checked_sub(start.character)?)?;
            (start.line == end.line && width > 0).then_some(Mark {
                line: number(start.line)?,
                column: number(start.character)?.saturating_add(1),
                width,
            })
        };
        let ranges: Vec<_> = self.ranges.iter().filter_map(lines).collect();
        let file = SourceFile::new(self.info.filename.as_str(), self.info.data.to_vec());
        let mut places = words
            .iter()
            .flat_map(|word| ranges.iter().map(move |range| (word, range)));
        let told = self.ranges.iter().find_map(mark);
        let mark = told.or_else(|| places.find_map(|(word, range)| file.find_word(*range, word)));
        file.excerpt(&ranges, mark)
    }
}

pub(super) fn failed_step(failure: &SolveError<Tree>, graph: &Graph) -> Option<FailedStep> {
    // The step of a build inside of it tells more than the one that asked for that build.
    let (mut failure, mut graph) = (failure, graph);
    while let Some(nested) = NestedFailure::behind(failure) {
        (failure, graph) = (&nested.failure, &nested.graph);
    }
    let action = op_error::<Box<FailedSequence>>(failure).and_then(|failed| failed.action());
    let weld_solver::Failure::Op { failure, .. } = failure else {
        return None;
    };
    // Where builds share it, it may be known by the digest of another one's.
    let known_as = std::iter::once(&failure.vertex).chain(&*failure.merged);
    let mut known_as = known_as.map(|digest| from_solver(*digest));
    let index = known_as.find_map(|digest| {
        let mut vertices = graph.vertices().iter();
        vertices.position(|vertex| *vertex.digest() == digest)
    })?;
    let vertex = graph.vertex(index)?;
    Some(FailedStep {
        digest: vertex.digest().clone(),
        op: vertex.bytes().clone(),
        description: vertex.metadata().description.clone(),
        sources: places(graph, index),
        action,
        unread_input: match failure.call {
            OpCall::SlowKey => failure.input,
            _ => None,
        },
    })
}

/// Where a vertex comes from. What it was told of last is nearest to it: clients read the innermost
/// first.
pub(super) fn places(graph: &Graph, vertex: usize) -> Vec<SourceRanges> {
    let locations = graph.locations(vertex).iter().rev();
    let places = locations.filter_map(|location| {
        Some(SourceRanges {
            info: graph.files().get(location.file)?.clone(),
            ranges: location.ranges.clone(),
        })
    });
    places.collect()
}
