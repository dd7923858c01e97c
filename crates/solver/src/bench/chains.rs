//! Collecting cache chains, exporting nothing: what a cache export costs beside its blobs.

use std::{sync::Arc, time::Instant};

use super::workload::{Measured, busy};
use crate::{
    CacheSourceId, Digest, KeyId, KeyStore, MemoryKeyStore, Record, RecordId, SaveKey,
    chain::{
        CacheChains, ChainItem, ChainLink, ChainMode, ChainOptions, ChainResult, SolvedEdge,
        Stores, import, walk,
    },
    keystore::{InputKey, InputKeys},
};

/// Number of records.
pub(super) const SIZES: [u64; 3] = [20_000, 40_000, 80_000];

/// Three inputs each, of which one is the step before and one can be two things.
pub(super) fn measure(count: u64) -> Measured {
    let keys = Arc::new(MemoryKeyStore::default());
    let key = |number: u64| KeyId(Digest::of(number.to_le_bytes()));
    let input = |input, keys: &[u64]| InputKeys {
        input,
        keys: keys
            .iter()
            .map(|number| InputKey {
                key: key(*number),
                selector: None,
            })
            .collect(),
    };
    let mut edges = Vec::new();
    for number in 0..count {
        let inputs = match number {
            0 => Vec::new(),
            _ => vec![
                input(0, &[number - 1]),
                input(1, &[number / 2, number / 3]),
                input(2, &[0]),
            ],
        };
        let class = Digest::of((number + count).to_le_bytes());
        keys.save(SaveKey {
            key: key(number),
            op: class,
            output: 0,
            inputs: inputs.clone(),
            record: Some(Record {
                id: RecordId(number),
                created: number,
                priority: 0,
                source: CacheSourceId::LOCAL,
            }),
        });
        edges.push(SolvedEdge {
            declared: Vec::new(),
            root: None,
            top: number + 1 == count,
            keys: vec![key(number)],
            class: KeyId::root(class, 0).0,
            other_names: Vec::new(),
            records: Vec::new(),
            inputs,
            contents: Vec::new(),
            sources: None,
        });
    }
    edges.reverse();
    let options = ChainOptions {
        mode: ChainMode::Max,
        ..ChainOptions::default()
    };
    let timeout = std::time::Duration::from_secs(10);
    let stores = vec![(CacheSourceId::LOCAL, keys as Arc<dyn KeyStore>)];
    let private = hashbrown::HashSet::default();
    let busy_before = busy();
    let begun = Instant::now();
    let walked = walk(
        &edges,
        &private,
        options,
        Stores::new(stores, timeout, |_, _| {}),
    );
    let chains = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map(|runtime| runtime.block_on(walked))
        .unwrap_or_default();
    let elapsed = begun.elapsed();
    let busy = self::busy() - busy_before;
    let links = chains.links() as f64;
    let begun = Instant::now();
    let imported = import(chains).map_or(0, |(_, results)| results.len());
    let import_ms = begun.elapsed().as_secs_f64() * 1e3;
    let equal = equal(count);
    let begun = Instant::now();
    let same = import(equal).map_or(0, |(_, results)| results.len());
    Measured {
        workload: "cache-chains",
        count,
        elapsed,
        busy,
        figures: vec![
            ("links", links),
            ("results", imported as f64),
            ("import_ms", import_ms),
            ("equal_results", same as f64),
            ("import_equal_ms", begun.elapsed().as_secs_f64() * 1e3),
        ],
    }
}

/// As many items that are one key, each with a result of its own.
fn equal(count: u64) -> CacheChains<u64> {
    let item = |inputs, result: Option<u64>| ChainItem {
        class: Digest::of(b"equal"),
        inputs,
        results: result
            .map(|created| ChainResult {
                value: created,
                created,
            })
            .into_iter()
            .collect(),
    };
    let link = ChainLink {
        item: 0,
        selector: None,
    };
    let items = (0..count).map(|number| item(vec![vec![link]], Some(number)));
    CacheChains {
        items: std::iter::once(item(Vec::new(), None))
            .chain(items)
            .collect(),
    }
}
