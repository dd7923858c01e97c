//! The index: from names of inputs to live edges, so that an edge finds its equals.
//!
//! Two edges are equal when they have the same operation digest and output, and for every input at least one name in common. An equal
//! edge can be found through any input: each edge is entered under the names of a few of its inputs, and looks through the shortest list
//! that one of them has. So it costs little that many edges have one input in common, or all but one.
//!
//! An edge that is never merged is not looked for by others. One for each name is kept aside, so that a trace can tell of it.

use hashbrown::{HashSet, HashTable, hash_table};
use smallvec::SmallVec;

use super::{
    Core, faulty,
    graph::{Alternative, KeyUse},
    io::EdgeId,
    table::{FixedState, mix},
};
use crate::{Digest, KeyId, Refusal, TraceEvent};

/// Of an edge with more inputs, as many are indexed, the first and the last one among them.
const INDEXED_INPUTS: usize = 8;
/// Lists longer than this are sets, so that an edge is taken out of them at the same cost.
const LONG: usize = 16;

struct Posting {
    hash: u64,
    edges: Edges,
}

/// Edges that have a name.
enum Edges {
    Few(SmallVec<[EdgeId; 1]>),
    Many(Box<HashSet<EdgeId, FixedState>>),
}

impl Edges {
    fn len(&self) -> usize {
        match self {
            Self::Few(edges) => edges.len(),
            Self::Many(edges) => edges.len(),
        }
    }

    /// Whether it was not there.
    fn insert(&mut self, edge: EdgeId) -> bool {
        match self {
            Self::Few(edges) if edges.contains(&edge) => false,
            Self::Few(edges) if edges.len() < LONG => {
                edges.push(edge);
                true
            }
            Self::Few(edges) => {
                let mut many: HashSet<_, FixedState> = edges.drain(..).collect();
                many.insert(edge);
                *self = Self::Many(Box::new(many));
                true
            }
            Self::Many(edges) => edges.insert(edge),
        }
    }

    /// Whether it was there.
    fn remove(&mut self, edge: EdgeId) -> bool {
        match self {
            Self::Few(edges) => {
                let at = edges.iter().position(|other| *other == edge);
                at.map(|at| edges.swap_remove(at)).is_some()
            }
            Self::Many(edges) => {
                let removed = edges.remove(&edge);
                if edges.len() <= LONG / 2 {
                    *self = Self::Few(edges.drain().collect());
                }
                removed
            }
        }
    }

    fn extend_into(&self, found: &mut SmallVec<[EdgeId; 4]>) {
        match self {
            Self::Few(edges) => found.extend_from_slice(edges),
            Self::Many(edges) => found.extend(edges.iter().copied()),
        }
    }
}

/// Hashes of names.
pub(super) type Names = SmallVec<[u64; 4]>;

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

    fn find(&self, hash: u64) -> Option<&Edges> {
        let posting = self.postings.find(hash, |posting| posting.hash == hash)?;
        Some(&posting.edges)
    }

    fn insert(&mut self, hash: u64, edge: EdgeId) {
        let posting = self
            .postings
            .entry(hash, |posting| posting.hash == hash, |posting| posting.hash)
            .or_insert_with(|| Posting {
                hash,
                edges: Edges::Few(SmallVec::new()),
            });
        self.entries += usize::from(posting.into_mut().edges.insert(edge));
    }

    /// Adds an edge under a name that no edge has.
    fn insert_first(&mut self, hash: u64, edge: EdgeId) {
        let entry =
            self.postings
                .entry(hash, |posting| posting.hash == hash, |posting| posting.hash);
        if let hash_table::Entry::Vacant(entry) = entry {
            entry.insert(Posting {
                hash,
                edges: Edges::Few(SmallVec::from_elem(edge, 1)),
            });
            self.entries += 1;
        }
    }

    fn remove(&mut self, hash: u64, edge: EdgeId) {
        let Ok(mut entry) = self
            .postings
            .find_entry(hash, |posting| posting.hash == hash)
        else {
            return;
        };
        let edges = &mut entry.get_mut().edges;
        self.entries -= usize::from(edges.remove(edge));
        if edges.len() == 0 {
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
        if names.is_empty() {
            return false;
        }
        self.edges[edge].indexed = true;
        if self.stays_apart(edge) {
            self.tell_apart(edge, &names, true);
            return false;
        }
        let shortest = names
            .iter()
            .min_by_key(|names| {
                let found = names.iter().filter_map(|name| self.index.find(*name));
                found.map(Edges::len).sum::<usize>()
            })
            .cloned()
            .unwrap_or_default();
        let mut twins = SmallVec::<[EdgeId; 4]>::new();
        for name in shortest {
            if let Some(edges) = self.index.find(name) {
                edges.extend_into(&mut twins);
            }
        }
        for name in names.iter().flatten() {
            self.enter_name(edge, *name, false);
        }
        self.tell_apart(edge, &names, false);
        twins.retain(|other| *other != edge && self.is_twin(edge, *other));
        // Edges that have several names in common are in several lists.
        twins.sort_unstable();
        twins.dedup();
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

    fn enter_name(&mut self, edge: EdgeId, name: u64, first_only: bool) {
        let names = &mut self.edges[edge].names;
        let Err(at) = names.binary_search(&name) else {
            return;
        };
        names.insert(at, name);
        match first_only {
            true => self.index.insert_first(name, edge),
            false => self.index.insert(name, edge),
        }
    }

    pub(super) fn stays_apart(&self, edge: EdgeId) -> bool {
        let vertex = self.edges[edge].vertex;
        self.vertices[vertex].never_merge && !faulty!(self, NeverMergeIgnored)
    }

    /// Tells of an edge that is equal to this one and never merged, or equal where this one is never merged.
    fn tell_apart(&mut self, edge: EdgeId, names: &[Names], apart: bool) {
        if !self.tracing {
            return;
        }
        let Some(names) = names.first() else { return };
        let aside = names.iter().map(|name| mix(*name, APART));
        let merging = names.iter().copied().filter(|_| apart);
        let mut found = SmallVec::<[EdgeId; 4]>::new();
        for name in aside.clone().chain(merging) {
            let edges = self.index.find(name).filter(|edges| edges.len() <= LONG);
            edges
                .into_iter()
                .for_each(|edges| edges.extend_into(&mut found));
        }
        let twin = found
            .into_iter()
            .find(|other| *other != edge && self.is_twin(edge, *other));
        if let Some(other) = twin {
            self.trace(|core| TraceEvent::MergeRefused {
                edge: core.trace_edge(edge),
                other: core.trace_edge(other),
                reason: Refusal::NeverMerge,
            });
        }
        if apart {
            for name in aside.collect::<Names>() {
                self.enter_name(edge, name, true);
            }
        }
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

    /// The names under which an edge is found: of each input that is indexed, or its own keys where it has no inputs. None while some
    /// input has no name.
    fn index_names(&self, edge: EdgeId) -> SmallVec<[Names; 3]> {
        let state = &self.edges[edge];
        let mut names = SmallVec::new();
        let Some(op) = self.vertices[state.vertex].maps.first().map(|map| map.op) else {
            return names;
        };
        let Some(last) = state.slots.len().checked_sub(1) else {
            let own: Names = self.root_names(edge).map(|key| key.0.short()).collect();
            names.extend((!own.is_empty()).then_some(own));
            return names;
        };
        let mut indexed = indexed_inputs(last).peekable();
        for slot in 0..=last {
            if indexed.next_if_eq(&slot).is_none() {
                if !self.is_named(edge, slot) {
                    return SmallVec::new();
                }
                continue;
            }
            let mut of_input = Names::new();
            self.alternatives(edge, slot, |alternative| {
                if alternative.usage.merges() {
                    of_input.push(name_hash(op, state.output, slot, alternative));
                }
                true
            });
            if of_input.is_empty() {
                return SmallVec::new();
            }
            names.push(of_input);
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

/// Which inputs are indexed, where `last` is the last one: all of few, and of many some that are spread.
fn indexed_inputs(last: usize) -> impl Iterator<Item = usize> {
    let count = INDEXED_INPUTS.min(last + 1);
    (0..count).map(move |at| {
        if count > 1 {
            at * last / (count - 1)
        } else {
            0
        }
    })
}

/// Keeps the names of what is never merged from those of the rest.
const APART: u64 = 1;

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
