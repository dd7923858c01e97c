//! The graph of a trace.

use std::fmt;

use serde::Serialize;

use crate::{
    filter::{Filter, FilterError},
    model::{Trace, VertexAt, WaitFor},
    text::{Micros, one_line, short},
};

/// A vertex of the graph.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GraphNode {
    /// Its digest.
    pub vertex: String,
    /// Its name.
    pub name: String,
    /// How it ended, or what it does.
    pub outcome: &'static str,
    /// Positions among the nodes of its inputs.
    pub inputs: Vec<usize>,
    /// Position of the one that it was merged into.
    pub merged_into: Option<usize>,
    /// Microseconds in which it was worked on, or in which what waits for a slot or a lock has waited.
    pub micros: u64,
}

/// What is ready to execute and waits for its turn.
const fn waiting(what: WaitFor) -> &'static str {
    match what {
        WaitFor::Slot => "waiting for a slot",
        WaitFor::Lock => "waiting for a lock",
    }
}

/// What was live in a trace, as a graph.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GraphReport {
    /// Inputs come before what they are inputs of.
    pub nodes: Vec<GraphNode>,
}

/// The graph of a trace. Its text is for Graphviz.
///
/// # Errors
/// [`FilterError`].
pub fn graph(trace: &Trace, filter: &Filter) -> Result<GraphReport, FilterError> {
    let scope = filter.scope(trace)?;
    let meant: Vec<VertexAt> = (0..trace.vertices.len())
        .filter(|at| scope.vertex(*at))
        .collect();
    let place = |at: VertexAt| meant.binary_search(&at).ok();
    let nodes = meant.iter().map(|at| {
        let vertex = &trace.vertices[*at];
        let inputs = vertex.inputs.iter().filter_map(|input| input.vertex);
        let outcome = match vertex.outcome(trace) {
            "running" => vertex.waits_for(trace).map_or("running", waiting),
            outcome => outcome,
        };
        GraphNode {
            vertex: vertex.digest.clone(),
            name: vertex.name.clone(),
            outcome,
            inputs: inputs.filter_map(place).collect(),
            merged_into: vertex.merged_into.and_then(place),
            micros: vertex.busy(trace) + vertex.before(trace),
        }
    });
    Ok(GraphReport {
        nodes: nodes.collect(),
    })
}

impl fmt::Display for GraphReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "digraph trace {{\n  rankdir=LR; node [shape=box, style=filled, fontname=sans];"
        )?;
        for (at, node) in self.nodes.iter().enumerate() {
            let colour = match node.outcome {
                "ran" => "#cfe8ff",
                "cached" => "#d5f2d5",
                "merged" => "#eeddff",
                "failed" => "#ffd0d0",
                "running" => "#fff0c0",
                "waiting for a slot" | "waiting for a lock" => "#ffe0e0",
                _ => "#eeeeee",
            };
            let name = one_line(&node.name)
                .replace('\\', "\\\\")
                .replace('"', "\\\"");
            let time = Micros(node.micros);
            writeln!(
                f,
                "  n{at} [label=\"{name}\\n{} {time} {}\", fillcolor=\"{colour}\"];",
                node.outcome,
                short(&node.vertex)
            )?;
            for input in &node.inputs {
                writeln!(f, "  n{input} -> n{at};")?;
            }
            if let Some(target) = node.merged_into {
                writeln!(f, "  n{at} -> n{target} [style=dashed, label=merged];")?;
            }
        }
        writeln!(f, "}}")
    }
}
