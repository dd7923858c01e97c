//! What the simulator looks at to tell that nothing that runs is given up and begun again without a reason.

use super::{
    Core,
    graph::{EdgeState, Phase, TaskSlot},
    io::{EdgeId, RootId, TaskId},
};

/// What an edge wants of one of its inputs.
pub(crate) struct Want {
    /// The edge and the number of its input.
    pub(crate) of: (EdgeId, usize),
    /// How far the edge itself is wanted to be.
    pub(crate) desired: EdgeState,
    /// Whether it wants the input's result.
    pub(crate) result: bool,
    /// Whether the input's operation runs.
    pub(crate) runs: bool,
    /// Whether a run of it was cancelled that has not ended yet, and nothing else gave the result.
    pub(crate) stops: bool,
}

impl<O: Clone, V: Clone> Core<O, V> {
    /// The edge that an edge has become, if it was merged and is still there.
    pub(crate) fn became(&self, edge: EdgeId) -> EdgeId {
        match self.edges.contains(edge) {
            true => self.find(edge),
            false => edge,
        }
    }

    /// What every edge that has no result wants of its inputs. Costs O(live graph).
    pub(crate) fn wants(&self) -> impl Iterator<Item = Want> {
        let under_way = |(_, edge): &(EdgeId, &super::graph::Edge<V>)| {
            !matches!(edge.phase, Phase::Complete | Phase::Forwarded(_))
        };
        self.edges
            .iter()
            .filter(under_way)
            .flat_map(move |(id, edge)| {
                let inputs = &self.vertices[edge.vertex].slots;
                let pairs = edge.slots.iter().zip(inputs).enumerate();
                pairs.map(move |(slot, (wants, input))| {
                    let input = self.found(input.declared);
                    let exec = self.vertices[input.vertex].exec;
                    Want {
                        of: (id, slot),
                        desired: edge.desired(),
                        result: wants.want == EdgeState::Complete,
                        runs: matches!(exec, TaskSlot::Running(_)),
                        stops: matches!(exec, TaskSlot::Winding(_))
                            && input.phase != Phase::Complete,
                    }
                })
            })
    }

    /// Whether one of the roots leads to the vertex of a task with no result in between: who asks for it would have the task begun anew.
    /// A plain walk downwards. Costs O(live graph).
    pub(crate) fn leads_to(&self, roots: impl Iterator<Item = RootId>, task: TaskId) -> bool {
        let Some(task) = self.tasks.get(task) else {
            return false;
        };
        let mut seen = std::collections::BTreeSet::new();
        let mut work: Vec<EdgeId> = roots.map(|root| root.0).collect();
        while let Some(edge) = work.pop() {
            let edge = self.find(edge);
            if self.edges[edge].phase == Phase::Complete || !seen.insert(edge) {
                continue;
            }
            let vertex = self.edges[edge].vertex;
            if vertex == task.vertex {
                return true;
            }
            let inputs = self.vertices[vertex].slots.iter();
            work.extend(inputs.map(|slot| slot.declared));
        }
        false
    }
}
