//! Cache chains: what is collected of a build.

use std::{collections::HashSet, sync::Arc};

use weld_solver::{
    CacheSourceId, Digest, JobOptions, KeyId, KeyStore, LoadError, MemoryKeyStore, RecordId,
    chain::{
        CacheChains, Candidate, ChainItem, ChainLink, ChainMode, ChainOptions, ChainResult,
        ImportError, import,
    },
    keystore::{Answer, InputKey, InputKeys, KeyQuery, Record, SaveKey},
};

use crate::{merging::until_merged, support::*};

pub(crate) const MAX: ChainOptions = ChainOptions {
    mode: ChainMode::Max,
    ignore_back_links: false,
    export_roots: false,
};
pub(crate) const MIN: ChainOptions = ChainOptions {
    mode: ChainMode::Min,
    ..MAX
};

pub(crate) async fn chains_of(
    world: &World,
    vertex: &Vtx,
    options: ChainOptions,
) -> CacheChains<Candidate> {
    let job = world.job().await;
    let root = job.load(definition_of(vertex, 0)).await.unwrap();
    job.build(root).await.unwrap();
    let chains = job.cache_chains(&[root], options).await.unwrap();
    job.discard().await;
    checked(chains)
}

/// Inputs come first, and every input has something that can stand there.
pub(crate) fn checked<R>(chains: CacheChains<R>) -> CacheChains<R> {
    for (at, item) in chains.items.iter().enumerate() {
        for input in &item.inputs {
            assert!(!input.is_empty());
            assert!(input.iter().all(|link| (link.item as usize) < at));
        }
    }
    chains
}

/// Number of items, and of every item that has any: how many results and how many inputs.
pub(crate) fn shape(chains: &CacheChains<Candidate>) -> (usize, Vec<(usize, usize)>) {
    let with = chains
        .items
        .iter()
        .filter(|item| !item.results.is_empty())
        .map(|item| (item.results.len(), item.inputs.len()));
    (chains.items.len(), with.collect())
}

pub(crate) fn class(seed: &str) -> Digest {
    KeyId::root(Digest::of(seed), 0).0
}

fn item<'a, R>(chains: &'a CacheChains<R>, seed: &str) -> &'a ChainItem<R> {
    let found = chains.items.iter().find(|item| item.class == class(seed));
    found.unwrap_or_else(|| panic!("{seed} is not there"))
}

#[tokio::test(flavor = "multi_thread")]
async fn max_mode_exports_every_result_but_those_of_roots() {
    // [EXP-1, EXP-2]
    let world = World::new();
    let graph = || sum(1, &[&constant(2), &constant(3)]);
    for _ in ["after a run", "after a hit"] {
        let chains = chains_of(&world, &graph(), MAX).await;
        assert_eq!(shape(&chains), (3, vec![(1, 2)]));
        assert!(chains.items[2].results[0].value.make);
    }
    let roots = ChainOptions {
        export_roots: true,
        ..MAX
    };
    let chains = chains_of(&world, &graph(), roots).await;
    assert_eq!(shape(&chains), (3, vec![(1, 0), (1, 0), (1, 2)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn min_mode_makes_only_what_was_asked_for() {
    // [EXP-3, EXP-4, EXP-5, EXP-13]
    let world = World::new();
    let graph = || sum(1, &[&sum(2, &[&constant(3)]), &constant(5)]);
    for _ in ["after a run", "after a hit"] {
        let chains = chains_of(&world, &graph(), MIN).await;
        let made: Vec<_> = chains
            .items
            .iter()
            .flat_map(|item| {
                item.results
                    .iter()
                    .map(|one| (item.inputs.len(), one.value.make))
            })
            .collect();
        assert_eq!(chains.items.len(), 4);
        assert_eq!(
            made,
            [(1, false), (2, true)],
            "the inner one only if it is there"
        );
    }
    let chains = chains_of(&world, &graph(), MAX).await;
    assert_eq!(shape(&chains), (4, vec![(1, 1), (1, 2)]));
    let there = ChainOptions {
        mode: ChainMode::RemoteOnly,
        ..MAX
    };
    let chains = chains_of(&world, &graph(), there).await;
    let makes = |one: &ChainResult<Candidate>| one.value.make;
    assert!(
        !chains
            .items
            .iter()
            .flat_map(|item| &item.results)
            .any(makes)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_export_finds_lost_is_made_anew_wherever_it_is() {
    // R2: below what was asked for, nothing was loaded
    let world = World::new();
    let graph = || {
        let base = vtx("base", "base", "b").done();
        let middle = vtx("middle", "middle", "m").on(&base).done();
        let top = vtx("top", "top", "t").on(&middle).done();
        (base, middle, top)
    };
    world.once(&graph().2).await;
    let (base, middle, top) = graph();
    let job = world.job().await;
    let root = job.load(definition_of(&top, 0)).await.unwrap();
    job.build(root).await.unwrap();
    let chains = checked(job.cache_chains(&[root], MAX).await.unwrap());
    let found = item(&chains, "middle").results[0].value;
    let found_root = found.root.expect("the job has it");
    assert_ne!(found_root, root);
    assert_eq!(
        item(&chains, "top").results[0].value.root,
        Some(root),
        "what was asked for"
    );
    let lost = job.build(found_root).await.unwrap();
    assert_eq!((middle.counts().1, base.counts().1), (0, 0));
    let made = job.rebuild(found_root, &lost).await.unwrap();
    assert!(!made.value.same(&lost.value));
    assert_eq!((middle.counts().1, top.counts().1), (1, 1), "only that");
    let chains = checked(job.cache_chains(&[root], MAX).await.unwrap());
    let again = &item(&chains, "middle").results;
    assert_eq!(again.len(), 1, "the lost one is forgotten");
    assert_ne!(again[0].value.record.id, found.record.id);
    // Another job's is none of this one's.
    let other = world.job().await;
    assert!(other.build(found_root).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn definition_and_content_lead_to_one_item() {
    // [EXP-6, EXP-7, EXP-8, EXP-9]
    let world = World::new();
    let below = |seed: &str| {
        let input = vtx("v1", seed, "same").done();
        vtx("v0", "op", "r")
            .on(&input)
            .selector(0, "part")
            .slow(0)
            .done()
    };
    for _ in ["after a run", "after a hit"] {
        let chains = chains_of(&world, &below("in1"), MAX).await;
        assert_eq!(shape(&chains), (3, vec![(1, 1)]));
        let input = &item(&chains, "op").inputs[0];
        let selectors: Vec<_> = input.iter().map(|link| link.selector.is_some()).collect();
        assert_eq!(selectors.iter().filter(|selected| **selected).count(), 1);
        assert_eq!(selectors.len(), 2, "the content has no selector");
    }
    let chains = chains_of(&world, &below("in2"), MAX).await;
    assert_eq!(shape(&chains), (4, vec![(1, 1)]), "both inputs lead to it");
    let own = ChainOptions {
        ignore_back_links: true,
        ..MAX
    };
    let chains = chains_of(&world, &below("in2"), own).await;
    assert!(chains.items.iter().all(|item| item.class != class("in1")));
    assert_eq!(item(&chains, "op").results.len(), 1);
    let top = vtx("v2", "top", "t").on(&below("in2")).done();
    let chains = chains_of(&world, &top, MAX).await;
    assert_eq!(shape(&chains), (5, vec![(1, 1), (1, 1)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_a_merged_edge_are_exported_too() {
    // [MRG-4, EXP-10], M5
    let world = World::new();
    let one = vtx("v2", "in2", "same").done();
    let other = vtx("v3", "in3", "same").done();
    let (v1, v1d) = (
        vtx("v1", "op", "r").on(&one).slow(0).done(),
        vtx("v1d", "op", "r").on(&other).slow(0).done(),
    );
    let top = vtx("v0", "top", "t").on(&v1).on(&v1d).done();
    let chains = chains_of(&world, &top, MAX).await;
    assert_eq!(shape(&chains), (5, vec![(1, 1), (1, 2)]));
    assert_eq!(
        item(&chains, "op").inputs[0].len(),
        3,
        "two inputs and their content"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_of_a_root_is_exported() {
    // [FST-2, FST-4, FST-5, EXP-11, EXP-17]
    let world = World::new();
    let root = |name: &str, seeds: &[&str]| vtx(name, "", "r").seeds(seeds).done();
    let seeds = |chains: &CacheChains<Candidate>| {
        let classes: HashSet<_> = chains.items.iter().map(|item| item.class).collect();
        ["0", "1", "2", "3"]
            .into_iter()
            .filter(|seed| classes.contains(&class(seed)))
            .collect::<String>()
    };
    let chains = chains_of(&world, &root("a", &["0", "1", "2"]), MAX).await;
    assert_eq!(seeds(&chains), "012");
    let chains = chains_of(&world, &root("b", &["1", "3"]), MAX).await;
    assert_eq!(seeds(&chains), "012", "a hit by the first key");
    let roots = ChainOptions {
        export_roots: true,
        ..MAX
    };
    let chains = chains_of(&world, &root("c", &["2"]), roots).await;
    assert_eq!(shape(&chains), (3, vec![(1, 0); 3]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_merged_is_found_by_the_keys_of_both() {
    // M5: the second one's own key is saved as its own
    let world = World::new();
    let gate = Gate::new();
    let (one, other) = (
        vtx("a", "", "r")
            .seeds(&["x", "both"])
            .exec_gate(&gate)
            .done(),
        vtx("b", "", "r")
            .seeds(&["y", "both"])
            .exec_gate(&gate)
            .done(),
    );
    let (first, asked) = spawn(world.job().await, &one).await;
    gate.arrivals(1).await;
    let (second, asked_too) = spawn(world.job().await, &other).await;
    until_merged(&world, 1).await;
    gate.open();
    asked.await.unwrap().unwrap();
    asked_too.await.unwrap().unwrap();
    end(first).await;
    end(second).await;
    for seed in ["x", "y", "both"] {
        let again = vtx("c", seed, "other").done();
        assert_eq!(world.once(&again).await, "r", "{seed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vertex_that_is_not_to_be_exported_keeps_its_result_and_not_its_chain() {
    // [EXP-15]
    let world = World::new();
    let kept = vtx("kept", "kept", "1")
        .on(&constant(1))
        .options(|options| options.export_cache = false)
        .done();
    let top = vtx("top", "top", "2").on(&kept).done();
    let chains = chains_of(&world, &top, MAX).await;
    assert_eq!(shape(&chains), (3, vec![(1, 1)]));
    assert!(item(&chains, "kept").results.is_empty());
    // Whose definition does not say so may export it.
    let open = vtx("kept", "kept", "1").on(&constant(1)).done();
    let chains = chains_of(&world, &vtx("top", "top", "2").on(&open).done(), MAX).await;
    assert_eq!(item(&chains, "kept").results.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_vanished_is_no_error() {
    // [CAN-8, EXP-12, EXP-18]
    let world = World::new();
    let graph = sum(1, &[&constant(2), &constant(3)]);
    let job = world.job().await;
    let root = job.load(definition_of(&graph, 0)).await.unwrap();
    job.build(root).await.unwrap();
    let before = checked(job.cache_chains(&[root], MAX).await.unwrap());
    let record = before.items[2].results[0].value.record;
    world.keys.drop_record(record.id);
    let chains = checked(job.cache_chains(&[root], MAX).await.unwrap());
    assert_eq!(
        shape(&chains),
        (3, vec![]),
        "the chain is there, the result is not"
    );
    job.discard().await;
    assert!(
        world.solver.load_record(record).await.is_ok(),
        "kept by the result store"
    );
    world.results.clear();
    let gone = world.solver.load_record(record).await;
    assert!(matches!(gone, Err(LoadError::Gone(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chains_of_a_nested_build_belong_to_its_parent() {
    // [SUB-5]
    let world = World::new();
    let inner = sum(3, &[&constant(4)]);
    let outer = sub("outer", &inner).on(&constant(9)).done();
    let chains = chains_of(&world, &outer, MAX).await;
    assert_eq!(chains.items.len(), 4);
    assert_eq!(shape(&chains).1, [(1, 1), (1, 1)]);
}

#[test]
fn a_cache_that_is_not_in_order_is_refused() {
    let item = |inputs: Vec<Vec<u32>>| ChainItem::<()> {
        class: class("x"),
        inputs: inputs
            .into_iter()
            .map(|items| {
                let link = |item| ChainLink {
                    item,
                    selector: None,
                };
                items.into_iter().map(link).collect()
            })
            .collect(),
        results: Vec::new(),
    };
    let refused = |items| import(CacheChains { items }).err();
    assert_eq!(
        refused(vec![item(vec![]), item(vec![vec![1]])]),
        Some(ImportError::Order { item: 1, uses: 1 })
    );
    assert_eq!(
        refused(vec![item(vec![]), item(vec![vec![0], vec![]])]),
        Some(ImportError::EmptyInput { item: 1, input: 1 })
    );
}

#[test]
fn keys_have_the_names_that_buildkit_gives_them() {
    // sha256 of "sha256:<digest>@<output>", and "@-1" for contents
    let op = Digest([0xab; 32]);
    let text = format!("sha256:{}@{}", "ab".repeat(32), 7);
    assert_eq!(KeyId::root(op, 7).0, Digest::of(text));
    let text = format!("sha256:{}@-1", "ab".repeat(32));
    assert_eq!(KeyId::content(op).0, Digest::of(text));
    let text = format!("sha256:{}@{}", "ab".repeat(32), u32::MAX);
    assert_eq!(KeyId::root(op, u32::MAX).0, Digest::of(text));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_circle_in_the_store_is_cut() {
    // Two operations that change nothing, by turns: found by content, each gets the other's key as an input
    let world = World::new();
    let mut chain = vtx("base", "base", "same").done();
    for step in 0..8 {
        let seed = ["even", "odd"][step % 2];
        chain = vtx(&format!("step {step}"), seed, "same")
            .on(&chain)
            .slow(0)
            .done();
        world.once(&chain).await;
    }
    let chains = chains_of(&world, &chain, MAX).await;
    for seed in ["even", "odd"] {
        assert_eq!(item(&chains, seed).results.len(), 1);
    }
    assert!(import(chains).is_ok());
    world.emptied().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_records_are_collected() {
    // The bench has the figures.
    let world = World::new();
    let keys = Arc::clone(&world.keys);
    let count = 20_000_u32;
    fill(&keys, count);
    let top = vtx("top", "top", "t")
        .on(&vtx("base", "base", "b").done())
        .done();
    let job = world.solver.new_job(JobOptions::new("big")).await.unwrap();
    let root = job.load(definition_of(&top, 0)).await.unwrap();
    job.build(root).await.unwrap();
    link_last(&keys, count).await;
    let chains = job.cache_chains(&[root], MAX).await.unwrap();
    assert!(
        chains.items.len() > count as usize,
        "{}",
        chains.items.len()
    );
    import(chains).unwrap();
}

fn numbered(number: u32) -> KeyId {
    KeyId(Digest::of(number.to_le_bytes()))
}

fn save(keys: &MemoryKeyStore, key: KeyId, from: Vec<KeyId>) {
    keys.save(SaveKey {
        key,
        op: key.0,
        output: 0,
        inputs: (0..)
            .zip(from)
            .map(|(input, key)| InputKeys {
                input,
                keys: vec![InputKey {
                    key,
                    selector: None,
                }]
                .into(),
            })
            .collect(),
        record: Some(Record {
            id: RecordId(u64::from(key.0.0[0]) + 1_000_000),
            created: 0,
            priority: 0,
            source: CacheSourceId::LOCAL,
        }),
    });
}

/// A long chain with a second input each, which all share.
fn fill(keys: &MemoryKeyStore, count: u32) {
    for number in 0..count {
        let from = match number {
            0 => Vec::new(),
            number => vec![numbered(number - 1), numbered(0)],
        };
        save(keys, numbered(number), from);
    }
}

/// The chain leads to the key of the operation `top`.
async fn link_last(keys: &MemoryKeyStore, count: u32) {
    let base = KeyId::root(Digest::of("base"), 0);
    let query = KeyQuery::Match {
        op: Digest::of("top"),
        output: 0,
        inputs: vec![InputKeys {
            input: 0,
            keys: vec![InputKey {
                key: base,
                selector: None,
            }]
            .into(),
        }],
    };
    // A result is saved behind the answer to the build.
    let key = loop {
        let Answer::Ready(matches) = keys.query(query.clone()) else {
            panic!("a store in memory answers at once")
        };
        match matches.keys.first() {
            Some(found) => break found.key,
            None => tokio::task::yield_now().await,
        }
    };
    keys.save(SaveKey {
        key,
        op: Digest::of("top"),
        output: 0,
        inputs: vec![InputKeys {
            input: 0,
            keys: vec![InputKey {
                key: numbered(count - 1),
                selector: None,
            }]
            .into(),
        }],
        record: None,
    });
}

#[test]
fn equal_records_are_one_key() {
    const COUNT: u32 = 20_000;
    let bare = |seed: &str, inputs| ChainItem {
        class: class(seed),
        inputs,
        results: Vec::new(),
    };
    let link = |item| ChainLink {
        item,
        selector: None,
    };
    let mut items = vec![bare("base", Vec::new()), bare("other", Vec::new())];
    for number in 0..COUNT {
        // Each says of its second input what another one says, too, and something of its own.
        items.push(bare(&format!("own {number}"), Vec::new()));
        let own = link(items.len() as u32 - 1);
        items.push(ChainItem {
            results: vec![ChainResult {
                value: number,
                created: u64::from(number),
            }],
            ..bare("step", vec![vec![link(0)], vec![link(1), own, own]])
        });
    }
    let (keys, results) = import(CacheChains { items }).unwrap();
    assert_eq!(results.len(), COUNT as usize);
    let found = |second: &str| {
        let input = |input, seed: &str| InputKeys {
            input,
            keys: vec![InputKey {
                key: KeyId(class(seed)),
                selector: None,
            }]
            .into(),
        };
        let query = KeyQuery::Match {
            op: Digest::of("step"),
            output: 0,
            inputs: vec![input(0, "base"), input(1, second)],
        };
        let Answer::Ready(matches) = keys.query(query) else {
            panic!("a store in memory answers at once")
        };
        matches.keys
    };
    for second in ["other", "own 0", "own 19999"] {
        let matches = found(second);
        assert_eq!(matches.len(), 1, "{second}");
        let ids: Vec<_> = matches[0]
            .records
            .iter()
            .map(|record| record.id.0)
            .collect();
        assert!(
            ids.iter().copied().eq(0..u64::from(COUNT)),
            "in their order"
        );
    }
    let Answer::Ready(Some(entry)) = keys.entry(found("other")[0].key) else {
        panic!("the key is there");
    };
    assert_eq!(entry.inputs.len(), COUNT as usize + 2, "each link once");
    // First, last, and some in between.
    for gone in [0, 19_999, 7, 8, 19_998] {
        keys.drop_record(RecordId(gone));
    }
    let left = &found("other")[0].records;
    assert_eq!(left.len(), COUNT as usize - 5);
    assert_eq!((left[0].id.0, left[6].id.0), (1, 9));
    for number in 0..u64::from(COUNT) {
        keys.drop_record(RecordId(number));
    }
    assert!(found("other").is_empty(), "a key that leads nowhere goes");
}
