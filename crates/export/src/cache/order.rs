//! One order of records for equal caches.

use weld_solver::Digest;
use weld_solver::chain::{CacheChains, ChainItem, ChainLink};

/// An item, and its inputs as places in the order.
pub(super) struct Placed<'a, R> {
    pub(super) item: &'a ChainItem<R>,
    pub(super) inputs: Vec<Vec<ChainLink>>,
}

/// The items in an order that follows from what they are, not from how they were found: inputs first, those with as much below them
/// by their digests. Equal caches are written as equal bytes, so that a build that found all in a cache writes that cache again.
pub(super) fn ordered<R>(chains: &CacheChains<R>) -> Vec<Placed<'_, R>> {
    let mut depths: Vec<usize> = Vec::with_capacity(chains.items.len());
    let mut levels: Vec<Vec<usize>> = Vec::new();
    for (at, item) in chains.items.iter().enumerate() {
        let below = item.inputs.iter().flatten();
        let depth = below
            .filter_map(|link| depths.get(link.item as usize))
            .map(|depth| depth + 1)
            .max()
            .unwrap_or(0);
        depths.push(depth);
        if levels.len() <= depth {
            levels.resize_with(depth + 1, Vec::new);
        }
        levels[depth].push(at);
    }
    let mut places = vec![0_u32; chains.items.len()];
    let mut placed: Vec<Placed<'_, R>> = Vec::with_capacity(chains.items.len());
    for level in levels {
        let mut level: Vec<(Digest, Vec<Vec<ChainLink>>, usize)> = level
            .into_iter()
            .map(|at| {
                let item = &chains.items[at];
                let inputs = item.inputs.iter().map(|links| moved(links, &places));
                (item.class, inputs.collect(), at)
            })
            .collect();
        level.sort_unstable();
        for (_, inputs, at) in level {
            places[at] = placed.len() as u32;
            placed.push(Placed {
                item: &chains.items[at],
                inputs,
            });
        }
    }
    placed
}

fn moved(links: &[ChainLink], places: &[u32]) -> Vec<ChainLink> {
    let mut moved: Vec<ChainLink> = links
        .iter()
        .filter_map(|link| {
            let item = *places.get(link.item as usize)?;
            Some(ChainLink { item, ..*link })
        })
        .collect();
    moved.sort_unstable();
    moved
}
