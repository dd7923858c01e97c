//! Two caches in one.

use std::collections::HashMap;

use weld_digest::Digest;
use weld_solver::chain::{CacheChains, ChainItem, ChainLink, ChainResult};

use super::Remote;

/// What makes an item the same as another one: what it is of, and which items of the merged cache can stand for its inputs.
type Identity = (weld_solver::Digest, Vec<Vec<ChainLink>>);

/// All items of both caches, equal ones once, with the results of both, newest first. Linear in the number of links.
pub(super) fn merge(ours: CacheChains<Remote>, theirs: CacheChains<Remote>) -> CacheChains<Remote> {
    let mut merged = Merged::default();
    merged.add(ours);
    merged.add(theirs);
    CacheChains {
        items: merged.items,
    }
}

/// Whether all results of `ours` are in `whole`, under equal items.
pub(super) fn includes(whole: &CacheChains<Remote>, ours: &CacheChains<Remote>) -> bool {
    let mut merged = Merged::default();
    merged.add(whole.clone());
    let results = |merged: &Merged| -> Vec<usize> {
        let counts = merged.items.iter().map(|item| item.results.len().min(1));
        counts.collect()
    };
    let before = results(&merged);
    merged.add(ours.clone());
    before == results(&merged)
}

#[derive(Default)]
struct Merged {
    items: Vec<ChainItem<Remote>>,
    places: HashMap<Identity, u32>,
}

impl Merged {
    fn add(&mut self, chains: CacheChains<Remote>) {
        // Of each item of the cache that is added; inputs come before what uses them.
        let mut places: Vec<u32> = Vec::with_capacity(chains.items.len());
        for item in chains.items {
            let inputs: Vec<Vec<ChainLink>> = item
                .inputs
                .into_iter()
                .map(|links| {
                    let placed = links.into_iter().filter_map(|link| {
                        let item = *places.get(link.item as usize)?;
                        Some(ChainLink { item, ..link })
                    });
                    let mut placed: Vec<_> = placed.collect();
                    placed.sort_unstable();
                    placed.dedup();
                    placed
                })
                .collect();
            let next = self.items.len() as u32;
            let identity = (item.class, inputs);
            let place = *self.places.entry(identity.clone()).or_insert(next);
            places.push(place);
            match self.items.get_mut(place as usize) {
                Some(known) => add_results(&mut known.results, item.results),
                None => self.items.push(ChainItem {
                    class: identity.0,
                    inputs: identity.1,
                    results: item.results,
                }),
            }
        }
    }
}

fn add_results(known: &mut Vec<ChainResult<Remote>>, more: Vec<ChainResult<Remote>>) {
    for result in more {
        let same = |known: &&mut ChainResult<Remote>| {
            let digests = |remote: &Remote| -> Vec<Digest> {
                let digests = remote.layers.iter().map(|layer| layer.digest.clone());
                digests.collect()
            };
            digests(&known.value) == digests(&result.value)
        };
        match known.iter_mut().find(same) {
            Some(known) => known.created = known.created.max(result.created),
            None => known.push(result),
        }
    }
    known.sort_by_key(|result| std::cmp::Reverse(result.created));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weld_source::image::Descriptor;

    use super::*;

    fn remote(layer: &str) -> Remote {
        let digest = Digest::sha256_of(layer);
        Remote {
            layers: vec![Arc::new(Descriptor::new("layer", digest, 1))],
        }
    }

    fn item(class: &str, inputs: &[&[u32]], results: &[(&str, u64)]) -> ChainItem<Remote> {
        let link = |item: &u32| ChainLink {
            item: *item,
            selector: None,
        };
        let inputs = inputs.iter().map(|links| links.iter().map(link).collect());
        let results = results.iter().map(|(layer, created)| ChainResult {
            value: remote(layer),
            created: *created,
        });
        ChainItem {
            class: weld_solver::Digest::of(class),
            inputs: inputs.collect(),
            results: results.collect(),
        }
    }

    fn chains(items: Vec<ChainItem<Remote>>) -> CacheChains<Remote> {
        CacheChains { items }
    }

    #[test]
    fn equal_items_become_one_whatever_their_places() {
        let ours = chains(vec![
            item("base", &[], &[]),
            item("run", &[&[0]], &[("a", 5)]),
        ]);
        let theirs = chains(vec![
            item("other", &[], &[("o", 1)]),
            item("base", &[], &[]),
            item("run", &[&[1]], &[("b", 9), ("a", 7)]),
            item("more", &[&[2], &[0]], &[("m", 3)]),
        ]);
        let merged = merge(ours.clone(), theirs.clone());
        assert_eq!(
            merged.items,
            vec![
                item("base", &[], &[]),
                item("run", &[&[0]], &[("b", 9), ("a", 7)]),
                item("other", &[], &[("o", 1)]),
                item("more", &[&[1], &[2]], &[("m", 3)]),
            ]
        );
        assert!(includes(&merged, &ours) && includes(&merged, &theirs));
        assert!(!includes(&ours, &theirs));
        assert_eq!(
            merge(merged.clone(), theirs),
            merged,
            "nothing is added twice"
        );
    }

    #[test]
    fn an_item_over_other_inputs_is_another_one() {
        let ours = chains(vec![item("a", &[], &[]), item("run", &[&[0]], &[("a", 1)])]);
        let theirs = chains(vec![item("b", &[], &[]), item("run", &[&[0]], &[("b", 1)])]);
        assert_eq!(merge(ours.clone(), theirs.clone()).items.len(), 4);
        assert!(!includes(&ours, &theirs));
    }
}
