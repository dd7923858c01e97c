//! Cache keys: computing an edge's own, asking the stores about them, saving what leads to a result.

use smallvec::SmallVec;

use super::{
    Core,
    graph::{Alternative, Edge, EdgeKey, EdgeState, Hit, KeyUse, Phase, Step, Vertex},
    io::{EdgeId, Effect, QueryId, Subject},
};
use crate::{
    Digest, KeyId, KeyMatches, KeyQuery, Record, SaveKey, TraceEvent,
    digest::KeyHasher,
    keystore::{Alternatives, InputKey, InputKeys},
};

/// Names the keys that exist in this process only.
const LIVE_SEED: &[u8] = b"weld.solver.live";

impl<O: Clone, V: Clone> Core<O, V> {
    /// Calls `each` with every way in which an input of an edge can be named, until it returns `false`: by its keys with the selector,
    /// by its content, by keys that a merged edge brought in.
    pub(super) fn alternatives(
        &self,
        edge: EdgeId,
        slot: usize,
        mut each: impl FnMut(Alternative) -> bool,
    ) {
        let state = &self.edges[edge];
        let vertex = &self.vertices[state.vertex];
        let selector = vertex.maps.first().and_then(|map| map.selector(slot));
        let input = &vertex.slots[slot];
        for key in &self.found(input.declared).keys {
            if !each(Alternative {
                key: InputKey {
                    key: key.id,
                    selector,
                },
                usage: key.usage,
            }) {
                return;
            }
        }
        if let Some(content) = input.content() {
            let key = InputKey {
                key: *content,
                selector: None,
            };
            if !each(Alternative {
                key,
                usage: KeyUse::Full,
            }) {
                return;
            }
        }
        for (at, alternative) in state.links() {
            if *at as usize == slot && !each(*alternative) {
                return;
            }
        }
    }

    fn first_alternative(
        &self,
        edge: EdgeId,
        slot: usize,
        usable: impl Fn(KeyUse) -> bool,
    ) -> Option<InputKey> {
        let mut found = None;
        self.alternatives(edge, slot, |alternative| {
            if usable(alternative.usage) {
                found = Some(alternative.key);
            }
            found.is_none()
        });
        found
    }

    fn input_keys(&self, edge: EdgeId, slot: usize, usable: impl Fn(KeyUse) -> bool) -> InputKeys {
        let state = &self.edges[edge];
        let vertex = &self.vertices[state.vertex];
        let place = &vertex.slots[slot];
        let mut keys = Alternatives::new();
        // Nearly every input has this one name.
        if let [key] = self.found(place.declared).keys.as_slice()
            && place.content().is_none()
            && state.extra.is_none()
        {
            if usable(key.usage) {
                let selector = vertex.maps.first().and_then(|map| map.selector(slot));
                keys.push(InputKey {
                    key: key.id,
                    selector,
                });
            }
            return InputKeys {
                input: slot as u32,
                keys,
            };
        }
        self.alternatives(edge, slot, |alternative| {
            if usable(alternative.usage) && !keys.contains(&alternative.key) {
                keys.push(alternative.key);
            }
            true
        });
        InputKeys {
            input: slot as u32,
            keys,
        }
    }

    /// The key that follows from one usable name per input.
    fn derived_key(&self, edge: EdgeId, usable: impl Fn(KeyUse) -> bool + Copy) -> Option<KeyId> {
        let state = &self.edges[edge];
        let op = self.vertices[state.vertex].maps.first()?.op;
        if state.slots.is_empty() {
            return Some(KeyId::root(op, state.output));
        }
        let mut hash = KeyHasher::new(op, state.output);
        for slot in 0..state.slots.len() {
            let key = self.first_alternative(edge, slot, usable)?;
            hash.input(key.key, key.selector);
        }
        Some(hash.finish())
    }

    /// Gives an edge the keys that follow from its definition, as far as a store did not give it any.
    pub(super) fn own_keys(&mut self, edge: EdgeId) {
        let state = &self.edges[edge];
        if state.keys.iter().any(|key| key.usage == KeyUse::Full) {
            return;
        }
        let vertex = &self.vertices[state.vertex];
        let (ignore_cache, apart) = (vertex.ignore_cache, self.stays_apart(edge));
        if ignore_cache || apart {
            let mut seed = KeyHasher::new(Digest::of(LIVE_SEED), state.output);
            seed.input(KeyId(Digest::of(edge.unique().to_le_bytes())), None);
            self.add_key(edge, seed.finish(), KeyUse::Live, false);
        } else if let Some(key) = self.derived_key(edge, KeyUse::is_full) {
            self.add_key(edge, key, KeyUse::Full, false);
            return;
        } else if let Some(key) = self.derived_key(edge, KeyUse::merges) {
            self.add_key(edge, key, KeyUse::Live, false);
        }
        let keys = &self.edges[edge].keys;
        if keys.iter().any(|key| key.usage == KeyUse::Apart) {
            return;
        }
        if !ignore_cache && let Some(key) = self.derived_key(edge, KeyUse::finds) {
            self.add_key(edge, key, KeyUse::Apart, false);
        } else if let Some(key) = self.derived_key(edge, KeyUse::records) {
            self.add_key(edge, key, KeyUse::Record, false);
        }
    }

    /// What a key may be used for that a store gave an edge, or that follows from the edge's operation alone.
    pub(super) fn use_of_found(&self, edge: EdgeId) -> KeyUse {
        let slots = 0..self.edges[edge].slots.len();
        let named = |slot| {
            self.first_alternative(edge, slot, KeyUse::is_full)
                .is_some()
        };
        match self.stays_apart(edge) || !slots.into_iter().all(named) {
            true => KeyUse::Apart,
            false => KeyUse::Full,
        }
    }

    /// Adds a key, and tells the dependents if it is one that they can use.
    pub(super) fn add_key(&mut self, edge: EdgeId, id: KeyId, usage: KeyUse, stored: bool) {
        let state = &mut self.edges[edge];
        if let Some(known) = state
            .keys
            .iter_mut()
            .find(|key| key.id == id && (key.usage == usage || key.usage == KeyUse::Full))
        {
            known.stored |= stored;
            return;
        }
        let key = EdgeKey { id, usage, stored };
        // Keys that a store knows come first: whatever is saved on top is found through them again.
        match state.keys.iter().position(|other| stored && !other.stored) {
            Some(at) => state.keys.insert(at, key),
            None => state.keys.push(key),
        }
        self.trace(|core| TraceEvent::Key {
            edge: core.trace_edge(edge),
            key: id,
            stored,
        });
        if state_is_known(self.edges[edge].phase) {
            self.tell_dependents(edge, true);
        }
    }

    /// The keys under which a result of this edge is recorded.
    pub(super) fn record_keys(&self, edge: EdgeId) -> Vec<KeyId> {
        let state = &self.edges[edge];
        if !state.slots.is_empty() {
            return self.record_key(edge).into_iter().collect();
        }
        let usable = state.keys.iter().filter(|key| key.usage.records());
        usable.map(|key| key.id).collect()
    }

    /// The best one of the keys under which a result of this edge is recorded.
    fn record_key(&self, edge: EdgeId) -> Option<KeyId> {
        let state = &self.edges[edge];
        let usable = || state.keys.iter().filter(|key| key.usage.records());
        let best = usable()
            .find(|key| key.stored)
            .or_else(|| usable().find(|key| key.usage == KeyUse::Full))
            .or_else(|| usable().next());
        best.map(|key| key.id)
    }

    /// The names of an input under which something is recorded: its keys that lead to records of their own, its content, and what merged
    /// edges brought in.
    pub(super) fn record_names(&self, edge: EdgeId, slot: usize) -> InputKeys {
        let mut names = self.input_keys(edge, slot, KeyUse::records);
        if names.keys.len() < 2 {
            return names;
        }
        let input = self.find(self.vertices[self.edges[edge].vertex].slots[slot].declared);
        let best = self.record_keys(input);
        let computed = |key: &InputKey| {
            let known = &self.edges[input].keys;
            known.iter().any(|known| known.id == key.key) && !best.contains(&key.key)
        };
        names.keys.retain(|key| !computed(key));
        names
    }

    /// Saves the keys of a complete edge and all that leads to them, with a record of `value` where there is one.
    pub(super) fn save(&mut self, edge: EdgeId, value: Option<V>) {
        let state = &self.edges[edge];
        let vertex = &self.vertices[state.vertex];
        let inputs: Vec<_> = (0..state.slots.len())
            .map(|slot| self.record_names(edge, slot))
            .collect();
        let output = state.output;
        let entry = |(key, op), inputs| SaveKey {
            key,
            op,
            output,
            inputs,
            record: None,
        };
        let Some(op) = vertex.maps.first().map(|map| map.op) else {
            return;
        };
        let keys: Vec<_> = if state.slots.is_empty() {
            // Each cache map has a key of its own, and all lead to the result.
            let used = vertex.maps.iter().take(state.maps_seen.max(1) as usize);
            let mut named: SmallVec<[_; 2]> = used
                .map(|map| (KeyId::root(map.op, output), map.op))
                .collect();
            for key in &state.keys {
                if key.usage.records() && !named.iter().any(|(id, _)| *id == key.id) {
                    named.push((key.id, op));
                }
            }
            let entries = named.into_iter().map(|named| entry(named, Vec::new()));
            entries.collect()
        } else {
            let key = self.record_key(edge);
            key.map(|key| entry((key, op), inputs))
                .into_iter()
                .collect()
        };
        if !keys.is_empty() {
            self.effect(Effect::Save { keys, value });
        }
    }

    /// Saves what leads to the inputs of an edge whose record came from elsewhere: without those links, only the source could tell
    /// which keys they have.
    pub(super) fn save_chain(&mut self, edge: EdgeId) {
        let mut order = Vec::new();
        let mut work = vec![edge];
        while let Some(edge) = work.pop() {
            for at in 0..self.edges[edge].slots.len() {
                let input = self.find(self.vertices[self.edges[edge].vertex].slots[at].declared);
                let state = &mut self.edges[input];
                if state.phase == Phase::Complete || state.slots.is_empty() {
                    continue;
                }
                if !std::mem::replace(&mut state.extra_mut().chained, true) {
                    order.push(input);
                    work.push(input);
                }
            }
        }
        // The lowest first, so that each key is there before it leads on.
        for edge in order.into_iter().rev() {
            self.save(edge, None);
        }
    }

    /// Whether more than one name of some input leads to this edge, so that links between them are worth saving.
    pub(super) fn has_several_names(&self, edge: EdgeId) -> bool {
        (0..self.edges[edge].slots.len()).any(|slot| {
            let mut count = 0;
            self.alternatives(edge, slot, |alternative| {
                count += usize::from(alternative.usage.records());
                count < 2
            });
            count > 1
        })
    }

    fn query(&mut self, edge: EdgeId, subject: Subject, ask: KeyQuery) {
        let state = &mut self.edges[edge];
        state.queries += 1;
        let query = QueryId {
            edge,
            epoch: state.epoch,
            subject,
        };
        let sources = self.vertices[state.vertex]
            .extra
            .as_ref()
            .and_then(|extra| extra.sources.clone());
        self.effect(Effect::Query {
            query,
            ask,
            sources,
        });
    }

    /// Asks for the key of an operation without inputs.
    pub(super) fn query_root(&mut self, edge: EdgeId, op: Digest) {
        let output = self.edges[edge].output;
        self.query(edge, Subject::Root, KeyQuery::Root { op, output });
    }

    /// Asks whether anything can be found through one input.
    pub(super) fn probe(&mut self, edge: EdgeId, slot: usize) {
        self.edges[edge].slots[slot].fresh = false;
        let input = self.input_keys(edge, slot, KeyUse::finds);
        let state = &self.edges[edge];
        let Some(op) = self.vertices[state.vertex].maps.first().map(|map| map.op) else {
            return;
        };
        if input.keys.is_empty() {
            self.edges[edge].slots[slot].hit = Hit::No;
        } else {
            let ask = KeyQuery::Probe {
                op,
                output: state.output,
                input,
            };
            self.query(edge, Subject::Probe(slot as u32), ask);
        }
    }

    /// Asks for keys that match in every input; where an input has no name yet, only whether the others lead anywhere.
    pub(super) fn query_inputs(&mut self, edge: EdgeId) {
        let count = self.edges[edge].slots.len();
        let inputs: Vec<_> = (0..count)
            .map(|slot| self.input_keys(edge, slot, KeyUse::finds))
            .collect();
        if inputs.iter().any(|input| input.keys.is_empty()) {
            for (slot, input) in inputs.iter().enumerate() {
                let state = &self.edges[edge].slots[slot];
                // What once led somewhere may have lost its names since: its edge was forced to run.
                if state.fresh || state.hit == Hit::Unknown || input.keys.is_empty() {
                    self.probe(edge, slot);
                }
            }
            return;
        }
        let state = &mut self.edges[edge];
        state.unmatched = false;
        state.slots.iter_mut().for_each(|slot| slot.fresh = false);
        let state = &self.edges[edge];
        let Some(op) = self.vertices[state.vertex].maps.first().map(|map| map.op) else {
            return;
        };
        let ask = KeyQuery::Match {
            op,
            output: state.output,
            inputs,
        };
        self.query(edge, Subject::Match, ask);
    }

    /// Whether the answer to a query would change anything.
    pub(crate) fn awaits(&self, query: QueryId) -> bool {
        self.edges
            .get(query.edge)
            .is_some_and(|state| state.epoch == query.epoch)
    }

    /// Takes the answer to a query. It may come too late to matter.
    pub(super) fn answer(&mut self, query: QueryId, matches: KeyMatches) {
        let edge = query.edge;
        let Some(state) = self
            .edges
            .get_mut(edge)
            .filter(|state| state.epoch == query.epoch)
        else {
            return;
        };
        state.queries -= 1;
        if matches!(state.phase, Phase::Complete | Phase::Forwarded(_)) {
            return;
        }
        let found = matches.keys.iter().any(|key| !key.records.is_empty());
        self.trace(|core| TraceEvent::Queried {
            edge: core.trace_edge(edge),
            input: match query.subject {
                Subject::Probe(slot) => Some(slot),
                _ => None,
            },
            hit: !matches.keys.is_empty() || matches.hits.iter().any(|hit| *hit),
            records: matches
                .keys
                .iter()
                .map(|key| key.records.len() as u32)
                .sum(),
        });
        let state = &mut self.edges[edge];
        match query.subject {
            Subject::Root => {}
            Subject::Probe(slot) => {
                let hit = matches.hits.first().copied().unwrap_or(false);
                state.slots[slot as usize].hit = if hit { Hit::Yes } else { Hit::No };
            }
            Subject::Match => {
                for (slot, hit) in state.slots.iter_mut().zip(&matches.hits) {
                    slot.hit = if *hit { Hit::Yes } else { Hit::No };
                }
            }
        }
        let usage = if matches.keys.is_empty() {
            KeyUse::Full
        } else {
            self.use_of_found(edge)
        };
        for key in matches.keys {
            self.add_records(edge, key.records);
            self.add_key(edge, key.key, usage, true);
        }
        if found && self.edges[edge].phase == Phase::Settled {
            self.edges[edge].no_match = false;
        }
        self.touch(edge);
    }

    pub(super) fn add_records(&mut self, edge: EdgeId, records: Vec<Record>) {
        if records.is_empty() {
            return;
        }
        let extra = self.edges[edge].extra_mut();
        for record in records {
            let same = |other: &Record| other.id == record.id && other.source == record.source;
            if !extra.records.iter().any(same) && !extra.tried.iter().any(same) {
                extra.records.push(record);
            }
        }
        extra.records.sort_by_key(|record| {
            (
                record.priority,
                std::cmp::Reverse(record.created),
                record.source,
                std::cmp::Reverse(record.id),
            )
        });
    }

    /// Tells every dependent in which state the edge is, and whether keys came in.
    pub(super) fn tell_dependents(&mut self, edge: EdgeId, keys: bool) {
        let state = self.edges[edge].phase.state();
        // Taken out meanwhile: no edge depends on itself.
        let dependents = std::mem::take(&mut self.edges[edge].dependents);
        for dependent in &dependents {
            let (vertex, slot) = (&self.vertices[dependent.vertex], dependent.slot as usize);
            for consumer in &vertex.edges {
                let edge = &mut self.edges[*consumer];
                let old = edge.hear_state(slot, state);
                if keys {
                    edge.names_came_in(slot);
                }
                if !edge.dirty && (state < old || is_concerned(vertex, edge, slot)) {
                    edge.dirty = true;
                    self.dirty.push_back(*consumer);
                }
            }
        }
        self.edges[edge].dependents = dependents;
    }

    /// Whether an input may still get a content key.
    pub(super) fn may_get_content(&self, edge: EdgeId, slot: usize) -> bool {
        self.vertices[self.edges[edge].vertex].slots[slot].slow == Step::Todo
    }

    /// Whether nothing can ever be found through an input.
    pub(super) fn is_dead(&self, edge: EdgeId, slot: usize) -> bool {
        let state = &self.edges[edge].slots[slot];
        state.state >= EdgeState::CacheSlow
            && state.hit == Hit::No
            && !state.fresh
            && !self.may_get_content(edge, slot)
    }
}

/// Whether dependents may know the keys of an edge in this phase: before, they wait for all of them at once.
fn state_is_known(phase: Phase) -> bool {
    !matches!(phase, Phase::Keys | Phase::Forwarded(_))
}

/// Whether an edge can do anything with what it heard of an input, or has to wait for other inputs first.
fn is_concerned<O, V>(vertex: &Vertex<O>, edge: &Edge<V>, slot: usize) -> bool {
    match edge.phase {
        Phase::Keys if !vertex.has_map => !edge.need_map,
        Phase::Keys => edge.unknown == 0 || !(edge.no_match || edge.queries > 0),
        Phase::Settled if edge.no_match && edge.records().is_empty() => {
            edge.lacking == 0 || edge.look || vertex.slots[slot].has_work()
        }
        Phase::Complete | Phase::Forwarded(_) => false,
        _ => true,
    }
}
