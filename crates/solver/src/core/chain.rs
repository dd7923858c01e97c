//! What a job solved, for cache chains: the keys of its edges and what can stand for their inputs.

use hashbrown::{HashMap, HashSet};

use super::{
    Core,
    io::{EdgeId, JobId, Reply, RootId, Ticket},
    table::FixedState,
};
use crate::{Digest, KeyId, chain::SolvedEdge, keystore::InputKeys};

impl<O: Clone, V: Clone> Core<O, V> {
    pub(super) fn chain(&mut self, ticket: Ticket, job: JobId, roots: &[RootId]) {
        let mut work = Vec::with_capacity(roots.len());
        for root in roots {
            match self.checked_root(ticket, job, *root) {
                Some(edge) => work.push(edge),
                None => return,
            }
        }
        let edges = self.solved_edges(work);
        self.reply(ticket, Ok(Reply::Chain(edges)));
    }

    /// The edges that some are made of, and themselves, each once. An edge that forwards counts under what it forwards to, where all
    /// that was known of it has gone; the builds that an operation asked for belong to it.
    fn solved_edges(&self, roots: Vec<EdgeId>) -> Vec<SolvedEdge> {
        let tops: HashSet<EdgeId, FixedState> = roots.iter().copied().collect();
        let mut solved: Vec<SolvedEdge> = Vec::new();
        let mut places: HashMap<EdgeId, Option<usize>, FixedState> = HashMap::default();
        let mut seen: HashSet<EdgeId, FixedState> = HashSet::default();
        // What the job loaded comes first: some of it may be below what it merged with, too.
        let (mut loaded, mut foreign) = (roots, Vec::new());
        while let Some((edge, own)) = next(&mut loaded, &mut foreign) {
            if !seen.insert(edge) {
                continue;
            }
            let target = self.find(edge);
            let place = *places.entry(target).or_insert_with(|| {
                solved.push(self.solved_edge(edge, target)?);
                Some(solved.len() - 1)
            });
            let vertex = &self.vertices[self.edges[edge].vertex];
            if let Some(solved) = place.and_then(|place| solved.get_mut(place)) {
                solved.top |= tops.contains(&edge);
                if own {
                    solved.declared.push(vertex.digest);
                }
            }
            let ran = &self.vertices[self.edges[target].vertex];
            if target != edge {
                foreign.extend(ran.slots.iter().map(|slot| slot.declared));
            }
            let below = if own { &mut loaded } else { &mut foreign };
            below.extend(vertex.slots.iter().map(|slot| slot.declared));
            below.extend(ran.last_builds());
        }
        solved
    }

    /// `loaded`: the edge that stands for what `edge` is.
    fn solved_edge(&self, loaded: EdgeId, edge: EdgeId) -> Option<SolvedEdge> {
        let state = &self.edges[edge];
        let vertex = &self.vertices[state.vertex];
        let op = vertex.maps.first()?.op;
        let count = state.slots.len();
        let inputs: Vec<InputKeys> = (0..count)
            .map(|slot| self.record_names(edge, slot))
            .collect();
        let contents = vertex.slots.iter().filter_map(|slot| slot.content());
        let mut keys = self.record_keys(edge);
        if count == 0 {
            let used = vertex.maps.iter().take(state.maps_seen.max(1) as usize);
            for key in used.map(|map| KeyId::root(map.op, state.output)) {
                if !keys.contains(&key) {
                    keys.push(key);
                }
            }
        }
        let other_names = match count {
            // Those are among the keys.
            0 => Vec::new(),
            _ => {
                let stored = state.keys.iter().filter(|key| key.stored);
                let usable = stored.filter(|key| key.usage.records());
                let names = usable.map(|key| key.id);
                names.filter(|id| !keys.contains(id)).collect()
            }
        };
        Some(SolvedEdge {
            declared: Vec::new(),
            root: Some(RootId(loaded)),
            top: false,
            keys,
            other_names,
            class: class(op, state.output),
            records: state.records().to_vec(),
            inputs,
            contents: contents.copied().collect(),
            sources: vertex
                .extra
                .as_ref()
                .and_then(|extra| extra.sources.clone()),
        })
    }
}

/// The next edge to look at, and whether the job loaded it.
fn next(loaded: &mut Vec<EdgeId>, foreign: &mut Vec<EdgeId>) -> Option<(EdgeId, bool)> {
    match loaded.pop() {
        Some(edge) => Some((edge, true)),
        None => foreign.pop().map(|edge| (edge, false)),
    }
}

fn class(op: Digest, output: u32) -> Digest {
    KeyId::root(op, output).0
}
