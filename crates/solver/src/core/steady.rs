//! What the simulator looks at to tell that nothing that runs is given up and begun again without a reason.

use super::{
    Core,
    graph::{EdgeState, Phase, TaskSlot},
    io::EdgeId,
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
}
