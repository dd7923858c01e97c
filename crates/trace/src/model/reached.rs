//! Which vertices a build wanted and did not come to.

use super::{Trace, Vertex, VertexAt, survivor};

impl Trace {
    /// Marks what was on the way to a result that was asked for and is not there: because something failed, it was cancelled, or the
    /// trace ended before.
    pub(crate) fn mark_unreached(&mut self) {
        let unbuilt = |outcome: &Option<String>| outcome.as_deref() != Some("built");
        let asked = self.requests.iter();
        let asked = asked.filter(|request| unbuilt(&request.outcome));
        let mut ahead: Vec<VertexAt> = asked.map(|request| request.vertex).collect();
        while let Some(at) = ahead.pop() {
            let at = survivor(self, at);
            let vertex = &mut self.vertices[at];
            if vertex.completed.is_some() || vertex.unreached {
                continue;
            }
            vertex.unreached = true;
            if !vertex.is_found() {
                ahead.extend(vertex.inputs.iter().filter_map(|input| input.vertex));
            }
        }
    }
}

impl Vertex {
    /// Whether a store knows a record of it, so that what it is made of is not needed.
    fn is_found(&self) -> bool {
        let of_all =
            |(input, _, records): &(Option<u64>, bool, u64)| input.is_none() && *records > 0;
        self.keys.iter().any(|key| key.stored) || self.queries.iter().any(of_all)
    }
}
