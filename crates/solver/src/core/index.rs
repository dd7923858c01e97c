//! The index: from names of inputs to live edges, so that an edge finds its equals.
//!
//! Two edges are equal when they have the same operation digest and output, and for every input at least one name in common. An equal
//! edge can be found through any input, so only the first and the last one are indexed; the shorter list is looked through.

use hashbrown::HashTable;
use smallvec::SmallVec;

use super::{
    Core, faulty,
    graph::{Alternative, KeyUse},
    io::EdgeId,
    table::mix,
};
use crate::{Digest, KeyId};

struct Posting {
    hash: u64,
    edges: SmallVec<[EdgeId; 1]>,
}

/// Hashes of the names of one input.
pub(super) type Names = SmallVec<[u64; 2]>;

/// See the module.
#[derive(Default)]
pub(super) struct Index {
    postings: HashTable<Posting>,
    entries: usize,
}

impl Index {
    /// Number of entries.
    pub(super) fn len(&self) -> usize {
        self.entries
    }

    /// Adds an edge under a name. Returns the edges that had it already.
    fn insert(&mut self, hash: u64, edge: EdgeId) -> SmallVec<[EdgeId; 4]> {
        let posting = self
            .postings
            .entry(hash, |posting| posting.hash == hash, |posting| posting.hash)
            .or_insert_with(|| Posting {
                hash,
                edges: SmallVec::new(),
            })
            .into_mut();
        let others: SmallVec<_> = posting
            .edges
            .iter()
            .copied()
            .filter(|other| *other != edge)
            .collect();
        if others.len() == posting.edges.len() {
            posting.edges.push(edge);
            self.entries += 1;
        }
        others
    }

    fn remove(&mut self, hash: u64, edge: EdgeId) {
        let Ok(mut entry) = self
            .postings
            .find_entry(hash, |posting| posting.hash == hash)
        else {
            return;
        };
        let edges = &mut entry.get_mut().edges;
        if let Some(at) = edges.iter().rposition(|other| *other == edge) {
            edges.swap_remove(at);
            self.entries -= 1;
        }
        if edges.is_empty() {
            entry.remove();
        }
        if self.postings.capacity() > 64 && self.postings.len() * 4 < self.postings.capacity() {
            self.postings.shrink_to_fit(|posting| posting.hash);
        }
    }
}

impl<O: Clone, V: Clone> Core<O, V> {
    /// Looks for a live edge with an equal index key, and merges with it. Returns whether `edge` forwards now.
    pub(super) fn look_for_twin(&mut self, edge: EdgeId) -> bool {
        self.edges[edge].look = false;
        let state = &self.edges[edge];
        if !self.vertices[state.vertex].has_map {
            return false;
        }
        let names = self.index_names(edge);
        if names[0].is_empty() {
            return false;
        }
        let state = &mut self.edges[edge];
        state.indexed = true;
        for name in names.iter().flatten() {
            if !state.names.contains(name) {
                state.names.push(*name);
            }
        }
        let [first, last] = names.map(|names| {
            let mut found = SmallVec::<[EdgeId; 4]>::new();
            for hash in &names {
                for other in self.index.insert(*hash, edge) {
                    if !found.contains(&other) {
                        found.push(other);
                    }
                }
            }
            (!names.is_empty()).then_some(found)
        });
        let candidates = first.into_iter().chain(last);
        let shortest = candidates.min_by_key(SmallVec::len).unwrap_or_default();
        if shortest.is_empty() {
            return false;
        }
        let mut twins: SmallVec<[EdgeId; 4]> = shortest
            .into_iter()
            .filter(|other| self.is_twin(edge, *other))
            .collect();
        twins.sort_by_key(|twin| {
            let vertex = &self.vertices[self.edges[*twin].vertex];
            (!vertex.ignore_cache, vertex.seq)
        });
        for twin in twins {
            // A merge with an earlier twin may have changed this one.
            if self
                .edges
                .get(twin)
                .is_some_and(|twin| !twin.is_forwarded())
                && self.try_merge(edge, twin)
                && self.edges[edge].is_forwarded()
            {
                return true;
            }
        }
        false
    }

    /// Takes an edge out of the index.
    pub(super) fn unindex(&mut self, edge: EdgeId) {
        if !std::mem::take(&mut self.edges[edge].indexed) {
            return;
        }
        for hash in std::mem::take(&mut self.edges[edge].names) {
            self.index.remove(hash, edge);
        }
    }

    /// The names under which an edge is found: those of its first and its last input, or its own keys where it has no inputs. The
    /// first list is empty while some input has no name, the last one also where there is only one input.
    fn index_names(&self, edge: EdgeId) -> [Names; 2] {
        let state = &self.edges[edge];
        let mut names = [Names::new(), Names::new()];
        let Some(op) = self.vertices[state.vertex].maps.first().map(|map| map.op) else {
            return names;
        };
        let Some(last) = state.slots.len().checked_sub(1) else {
            names[0].extend(self.root_names(edge).map(|key| key.0.short()));
            return names;
        };
        if (1..last).any(|slot| !self.is_named(edge, slot)) {
            return names;
        }
        let ends = if last > 0 { &[0, last][..] } else { &[0] };
        for (names, slot) in names.iter_mut().zip(ends) {
            self.alternatives(edge, *slot, |alternative| {
                if alternative.usage.merges() {
                    names.push(name_hash(op, state.output, *slot, alternative));
                }
                true
            });
            if names.is_empty() {
                return Default::default();
            }
        }
        names
    }

    fn root_names(&self, edge: EdgeId) -> impl Iterator<Item = KeyId> {
        self.edges[edge]
            .keys
            .iter()
            .filter(|key| key.usage != KeyUse::Live)
            .map(|key| key.id)
    }

    /// Whether an input has a name under which its dependents can be found.
    fn is_named(&self, edge: EdgeId, slot: usize) -> bool {
        let mut named = false;
        self.alternatives(edge, slot, |alternative| {
            named |= alternative.usage.merges();
            !named
        });
        named
    }

    fn is_twin(&self, a: EdgeId, b: EdgeId) -> bool {
        let (first, second) = (&self.edges[a], &self.edges[b]);
        let (va, vb) = (&self.vertices[first.vertex], &self.vertices[second.vertex]);
        // What has inputs stays in its domain: whoever shares a running operation lends it a session, and waits for its inputs.
        let both_public = va.public && vb.public && first.slots.is_empty();
        let same_domain = va.domain == vb.domain || both_public || faulty!(self, DomainsShared);
        if first.output != second.output || first.slots.len() != second.slots.len() || !same_domain
        {
            return false;
        }
        if first.slots.is_empty() {
            return self
                .root_names(a)
                .any(|key| self.root_names(b).any(|other| other == key));
        }
        let op = |vertex: &super::Vertex<O>| vertex.maps.first().map(|map| map.op);
        op(va) == op(vb) && (0..first.slots.len()).all(|slot| self.share_name(a, b, slot))
    }

    fn share_name(&self, a: EdgeId, b: EdgeId, slot: usize) -> bool {
        let mut shared = false;
        self.alternatives(a, slot, |mine| {
            if mine.usage.merges() {
                self.alternatives(b, slot, |other| {
                    shared = other.usage.merges() && other.key == mine.key;
                    !shared
                });
            }
            !shared
        });
        shared
    }
}

fn name_hash(op: Digest, output: u32, slot: usize, name: Alternative) -> u64 {
    let selector = name.key.selector.map_or(0, |selector| selector.short());
    [
        u64::from(output),
        slot as u64,
        name.key.key.0.short(),
        selector,
    ]
    .into_iter()
    .fold(op.short(), mix)
}
