//! What is known of each key while chains are collected.

use std::cmp::Reverse;

use hashbrown::{HashMap, HashSet};

use super::{
    CacheChains, Candidate, ChainItem, ChainLink, ChainMode, ChainOptions, ChainResult, order,
};
use crate::{
    Digest, KeyId, Record, Root,
    core::{FixedState, RootId},
    keystore::{BackLink, InputKeys, KeyEntry},
};

/// An edge that a job solved, as the core tells of it.
#[derive(Clone, Debug)]
pub struct SolvedEdge {
    /// Digests under which the job loaded it; none where it only stands for what the job loaded.
    pub(crate) declared: Vec<Digest>,
    /// How the job asks for it.
    pub(crate) root: Option<RootId>,
    /// Whether it was asked for.
    pub(crate) top: bool,
    /// The keys that lead to it.
    pub(crate) keys: Vec<KeyId>,
    /// Other names of the first of them: each store that knows the edge has one, under which it may know more of it.
    pub(crate) other_names: Vec<KeyId>,
    /// What those are of, where the edge has inputs.
    pub(crate) class: Digest,
    /// Records that were found for it. A store may have them under another key than those: one that
    /// several stores know, each by a key of its own, is named by the best of these.
    pub(crate) records: Vec<Record>,
    /// What the inputs can be.
    pub(crate) inputs: Vec<InputKeys>,
    /// Those of them that are keys of contents.
    pub(crate) contents: Vec<KeyId>,
    /// Where records of it may come from, beside the local store.
    pub(crate) sources: Option<std::sync::Arc<[crate::CacheSourceId]>>,
}

/// How results of a key are exported, the one that yields first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Wanted {
    Never,
    IfThere,
    Made,
}

struct Node {
    id: KeyId,
    /// `None` as long as nothing is known but the name.
    class: Option<Digest>,
    /// How many inputs there are.
    inputs: u32,
    links: Vec<BackLink>,
    records: Vec<Record>,
    /// How the job asks for what it leads to.
    root: Option<RootId>,
    /// `None` for what other builds solved.
    wanted: Option<Wanted>,
}

pub(super) struct Collected {
    nodes: Vec<Node>,
    by_id: HashMap<KeyId, u32, FixedState>,
    options: ChainOptions,
}

impl Collected {
    pub(super) fn new(options: ChainOptions) -> Self {
        Self {
            nodes: Vec::new(),
            by_id: HashMap::default(),
            options,
        }
    }

    fn node(&mut self, id: KeyId) -> &mut Node {
        let next = self.nodes.len() as u32;
        let at = *self.by_id.entry(id).or_insert(next);
        if at == next {
            self.nodes.push(Node {
                id,
                class: None,
                inputs: 0,
                links: Vec::new(),
                records: Vec::new(),
                root: None,
                wanted: None,
            });
        }
        &mut self.nodes[at as usize]
    }

    /// Takes what the core knows of an edge. Results of what was loaded under one of the digests in `private` stay here.
    pub(super) fn add_edge(&mut self, edge: &SolvedEdge, private: &HashSet<Digest, FixedState>) {
        let root = edge.inputs.is_empty();
        let stays = edge.declared.iter().any(|digest| private.contains(digest))
            || (root && !self.options.export_roots);
        let wanted = match self.options.mode {
            _ if stays => Wanted::Never,
            ChainMode::Max => Wanted::Made,
            ChainMode::Min if edge.top => Wanted::Made,
            ChainMode::Min | ChainMode::RemoteOnly => Wanted::IfThere,
        };
        for id in &edge.keys {
            let node = self.node(*id);
            node.class = Some(if root { id.0 } else { edge.class });
            node.inputs = node.inputs.max(edge.inputs.len() as u32);
            node.records.extend_from_slice(&edge.records);
            node.root = node.root.or(edge.root);
            node.wanted = Some(match node.wanted {
                Some(other) if !stays && other != Wanted::Never => other.max(wanted),
                Some(_) => Wanted::Never,
                None => wanted,
            });
            for input in &edge.inputs {
                let links = input.keys.iter().map(|key| BackLink {
                    input: input.input,
                    key: key.key,
                    selector: key.selector,
                });
                node.links.extend(links);
            }
        }
        for id in edge.inputs.iter().flat_map(|input| &input.keys) {
            self.node(id.key);
        }
        for id in &edge.contents {
            let node = self.node(*id);
            node.class.get_or_insert(id.0);
        }
    }

    /// Keys in the order in which they were met, from the given position on.
    pub(super) fn ids_from(&self, from: usize) -> Vec<KeyId> {
        self.nodes.iter().skip(from).map(|node| node.id).collect()
    }

    /// Takes what a store knows of a key.
    pub(super) fn add_entry(&mut self, id: KeyId, entry: KeyEntry) {
        let ignore_back_links = self.options.ignore_back_links;
        let node = self.node(id);
        if node.wanted.is_some() {
            node.records.extend(entry.records);
        }
        let inputs = entry.inputs.iter().map(|link| link.input + 1).max();
        let own = node.wanted.is_some();
        if inputs.is_none() {
            // Something else may be known of it elsewhere.
            node.class.get_or_insert(entry.class);
            return;
        }
        if ignore_back_links {
            return;
        }
        if !own || node.class.is_none() {
            node.class = Some(entry.class);
        }
        node.inputs = node.inputs.max(inputs.unwrap_or(0));
        node.links.extend_from_slice(&entry.inputs);
        for link in entry.inputs {
            self.node(link.key);
        }
    }

    /// Takes what stores know of keys by other names: the key, its other name, and that.
    pub(super) fn add_other_names(&mut self, mut named: Vec<(KeyId, KeyId, KeyEntry)>) {
        // A name may have come from what merged with the edge, and be of another operation.
        named.retain(|(like, _, entry)| {
            let at = self.by_id.get(like).copied();
            at.is_some_and(|at| self.nodes[at as usize].class == Some(entry.class))
        });
        // Whatever uses one by its other name uses the one, unless the build knows that name as one of its own.
        for (like, name, _) in &named {
            if let Some(at) = self.by_id.get(like).copied() {
                self.by_id.entry(*name).or_insert(at);
            }
        }
        for (like, _, entry) in named {
            self.add_entry(like, entry);
        }
    }

    /// The best record of each key without inputs that the build solved: other keys may lead to it.
    pub(super) fn root_records(&mut self) -> Vec<(KeyId, Record)> {
        let mut best = Vec::new();
        for node in &mut self.nodes {
            if node.inputs == 0 && node.wanted.is_some() {
                sort(&mut node.records);
                best.extend(node.records.first().map(|record| (node.id, *record)));
            }
        }
        best
    }

    /// Takes another key of the result of `like`.
    pub(super) fn add_other_root(&mut self, like: KeyId, id: KeyId, entry: KeyEntry) {
        if !entry.inputs.is_empty() || self.by_id.contains_key(&id) {
            return;
        }
        let (wanted, root) = {
            let node = self.node(like);
            (node.wanted, node.root)
        };
        let node = self.node(id);
        (node.class, node.wanted, node.records) = (Some(id.0), wanted, entry.records);
        node.root = root;
    }

    /// The chains: what cannot be reached from keys without inputs is left out, and so are links that would close a circle.
    pub(super) fn into_chains(mut self) -> CacheChains<Candidate> {
        let mut links = Vec::new();
        for (at, node) in (0..).zip(&mut self.nodes) {
            node.links.sort_unstable();
            node.links.dedup();
            links.extend(node.links.iter().filter_map(|link| {
                Some(order::Link {
                    from: *self.by_id.get(&link.key)?,
                    to: at,
                    input: link.input,
                    selector: link.selector,
                })
            }));
        }
        let inputs: Vec<Option<u32>> = self
            .nodes
            .iter()
            .map(|node| node.class.map(|_| node.inputs))
            .collect();
        let ordered = order::order(&inputs, &links);
        let mut places = vec![u32::MAX; self.nodes.len()];
        for (place, at) in (0..).zip(&ordered.nodes) {
            places[*at as usize] = place;
        }
        let mut items: Vec<_> = ordered
            .nodes
            .iter()
            .map(|at| self.nodes[*at as usize].to_item())
            .collect();
        for link in ordered.links.iter().map(|at| &links[*at as usize]) {
            let item = &mut items[places[link.to as usize] as usize];
            item.inputs[link.input as usize].push(ChainLink {
                item: places[link.from as usize],
                selector: link.selector,
            });
        }
        for input in items.iter_mut().flat_map(|item| &mut item.inputs) {
            // Two names of one key are one item.
            input.sort_unstable();
            input.dedup();
        }
        CacheChains { items }
    }
}

impl Node {
    fn to_item(&self) -> ChainItem<Candidate> {
        let mut records = match self.wanted {
            None | Some(Wanted::Never) => Vec::new(),
            Some(_) => self.records.clone(),
        };
        sort(&mut records);
        records.dedup_by_key(|record| (record.source, record.id));
        let make = self.wanted == Some(Wanted::Made);
        let root = self.root.map(Root);
        let results = records.into_iter().map(|record| ChainResult {
            value: Candidate { record, make, root },
            created: record.created,
        });
        ChainItem {
            class: self.class.unwrap_or(self.id.0),
            inputs: vec![Vec::new(); self.inputs as usize],
            results: results.collect(),
        }
    }
}

/// Best first, as the solver loads them.
fn sort(records: &mut [Record]) {
    records.sort_by_key(|record| {
        (
            record.priority,
            Reverse(record.created),
            record.source,
            Reverse(record.id),
        )
    });
}
