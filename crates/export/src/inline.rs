//! A build cache in an image's own config: the image's layers are its results.

use std::collections::HashMap;

use weld_solver::chain::{CacheChains, ChainResult};
use weld_store::SnapshotId;

use crate::cache::image_records;

/// The field of an image's config that holds it, as BuildKit has it.
pub(crate) const FIELD: &str = "moby.buildkit.cache.v0";

/// The keys that lead to the results of a build, which are told by the snapshots of their layers.
#[derive(Clone, Debug)]
pub struct InlineCache(CacheChains<Vec<SnapshotId>>);

impl InlineCache {
    /// Of chains whose results are stacks of layers, lowest first.
    pub const fn new(chains: CacheChains<Vec<SnapshotId>>) -> Self {
        Self(chains)
    }

    /// What the config of an image of these layers holds; nothing if no result is made of them.
    pub(crate) fn records(
        &self,
        image: &[SnapshotId],
    ) -> Result<Option<Vec<u8>>, serde_json::Error> {
        let places: HashMap<SnapshotId, i64> = image.iter().copied().zip(0..).collect();
        let chains = self.0.clone().with_results(|results| {
            let best = results.into_iter().find_map(|result| {
                let stack = result.value.iter();
                let stack: Option<Vec<i64>> = stack.map(|id| places.get(id).copied()).collect();
                Some(ChainResult {
                    value: stack.filter(|stack| !stack.is_empty())?,
                    created: result.created,
                })
            });
            best.into_iter().collect()
        });
        let chains = chains.useful();
        if chains.items.is_empty() {
            return Ok(None);
        }
        image_records(&chains).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use weld_solver::chain::{ChainItem, ChainLink};

    use super::*;

    fn item(name: &str, below: Option<u32>, stack: &[u64]) -> ChainItem<Vec<SnapshotId>> {
        let link = below.map(|item| {
            vec![ChainLink {
                item,
                selector: None,
            }]
        });
        ChainItem {
            class: weld_solver::Digest::of(name),
            inputs: link.into_iter().collect(),
            results: vec![ChainResult {
                value: stack.iter().copied().map(SnapshotId).collect(),
                created: 0,
            }],
        }
    }

    fn records(items: Vec<ChainItem<Vec<SnapshotId>>>, image: &[u64]) -> serde_json::Value {
        let image: Vec<_> = image.iter().copied().map(SnapshotId).collect();
        let records = InlineCache::new(CacheChains { items }).records(&image);
        let records = records.unwrap();
        records.map_or(serde_json::Value::Null, |records| {
            serde_json::from_slice(&records).unwrap()
        })
    }

    #[test]
    fn results_are_told_by_the_layers_of_the_image() {
        let chain = || {
            vec![
                item("base", None, &[]),
                item("a", Some(0), &[1, 2]),
                item("b", Some(1), &[1, 3]),
                item("elsewhere", Some(0), &[1, 9]),
            ]
        };
        let read = records(chain(), &[1, 2, 3]);
        assert_eq!(
            read.as_array().unwrap().len(),
            3,
            "what is elsewhere is left out"
        );
        assert_eq!(read[1]["layers"][0]["layer"], 1, "the lowest ones");
        assert_eq!(read[2]["chains"][0]["layers"], serde_json::json!([0, 2]));
        assert_eq!(records(chain(), &[7]), serde_json::Value::Null);
    }
}
