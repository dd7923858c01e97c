//! Rows of the catalogue that no other file has: key stores, preferences among records, races of discards with merges.

use std::{sync::Arc, time::Duration};

use weld_solver::{
    CacheSource, CacheSourceId, Digest, KeyId, KeyStore, MemoryKeyStore, RecordId, ResultStore,
    SolveError, TraceEvent,
    chain::ChainOptions,
    keystore::{
        Answer, BackLink, InputKey, InputKeys, KeyEntry, KeyMatches, KeyQuery, Record, SaveKey,
    },
};

use crate::{merging::until_merged, support::*};

fn op(name: &str) -> Digest {
    Digest::of(name)
}

fn root(name: &str) -> KeyId {
    KeyId::root(op(name), 0)
}

fn named(key: KeyId, selector: Option<&str>) -> InputKey {
    InputKey {
        key,
        selector: selector.map(op),
    }
}

fn inputs(inputs: &[&[InputKey]]) -> Vec<InputKeys> {
    (0..)
        .zip(inputs)
        .map(|(input, keys)| InputKeys {
            input,
            keys: keys.iter().copied().collect(),
        })
        .collect()
}

fn record(id: u64, created: u64) -> Record {
    Record {
        id: RecordId(id),
        created,
        priority: 0,
        source: CacheSourceId::LOCAL,
    }
}

fn save(
    store: &MemoryKeyStore,
    key: KeyId,
    name: &str,
    output: u32,
    inputs: Vec<InputKeys>,
    id: u64,
) {
    store.save(SaveKey {
        key,
        op: op(name),
        output,
        inputs,
        record: Some(record(id, id)),
    });
}

fn ready<T>(answer: Answer<T>) -> T {
    match answer {
        Answer::Ready(answer) => answer,
        Answer::Later(_) => panic!("a store in memory answers at once"),
    }
}

fn matches(store: &MemoryKeyStore, name: &str, output: u32, inputs: Vec<InputKeys>) -> KeyMatches {
    ready(store.query(KeyQuery::Match {
        op: op(name),
        output,
        inputs,
    }))
}

fn roots(store: &MemoryKeyStore, name: &str) -> Vec<usize> {
    let found = ready(store.query(KeyQuery::Root {
        op: op(name),
        output: 0,
    }));
    found.keys.iter().map(|key| key.records.len()).collect()
}

fn entry(store: &MemoryKeyStore, key: KeyId) -> Option<KeyEntry> {
    ready(store.entry(key))
}

#[test]
fn a_key_is_found_by_all_its_inputs_and_by_nothing_less() {
    // [FST-10, MUL-3, SEL-3, SEL-4]
    let store = MemoryKeyStore::default();
    save(&store, root("foo"), "foo", 0, Vec::new(), 1);
    save(&store, root("bar"), "bar", 0, Vec::new(), 2);
    let baz = KeyId(op("the key of baz"));
    let over = [named(root("foo"), Some("part"))];
    let bar = [named(root("bar"), None)];
    save(&store, baz, "baz", 1, inputs(&[&over, &bar]), 3);
    assert_eq!(
        (roots(&store, "foo"), roots(&store, "qux")),
        (vec![1], vec![])
    );
    let count = |output, given: Vec<InputKeys>| matches(&store, "baz", output, given).keys.len();
    assert_eq!(count(1, inputs(&[&over, &bar])), 1);
    assert_eq!(count(0, inputs(&[&over, &bar])), 0, "another output");
    assert_eq!(count(1, inputs(&[&bar, &over])), 0, "other places");
    let bare = [named(root("foo"), None)];
    assert_eq!(count(1, inputs(&[&bare, &bar])), 0, "without the selector");
    let other = [named(root("foo"), Some("another part"))];
    assert_eq!(count(1, inputs(&[&other, &bar])), 0, "another selector");
    // Alternatives: each of them leads there.
    let also = [named(KeyId::content(op("c")), None)];
    save(&store, baz, "baz", 1, inputs(&[&also, &bar]), 4);
    for given in [over, also] {
        let found = matches(&store, "baz", 1, inputs(&[&given, &bar]));
        assert_eq!(found.keys.len(), 1);
        assert_eq!(found.keys[0].records.len(), 2);
    }
}

#[test]
fn a_key_goes_with_its_last_record_and_takes_along_what_only_led_to_it() {
    // [FST-11, FST-13, REL-4]
    let store = MemoryKeyStore::default();
    save(&store, root("foo"), "foo", 0, Vec::new(), 1);
    save(&store, root("foo"), "foo", 0, Vec::new(), 2);
    let (left, right) = (KeyId(op("left key")), KeyId(op("right key")));
    let over = inputs(&[&[named(root("foo"), None)]]);
    save(&store, left, "left", 0, over.clone(), 3);
    save(&store, right, "right", 0, over.clone(), 4);
    store.drop_record(RecordId(1));
    assert_eq!(roots(&store, "foo"), [1]);
    store.drop_record(RecordId(2));
    assert_eq!(roots(&store, "foo"), [0], "it still leads somewhere");
    assert_eq!(matches(&store, "left", 0, over.clone()).keys.len(), 1);
    store.drop_record(RecordId(3));
    assert!(entry(&store, left).is_none() && entry(&store, root("foo")).is_some());
    store.drop_record(RecordId(4));
    assert!(entry(&store, root("foo")).is_none());
    assert_eq!(
        store.usage().keys + store.usage().links + store.usage().records,
        0
    );
}

#[test]
fn links_are_told_from_their_end() {
    // [FST-13], b-32
    let store = MemoryKeyStore::default();
    save(&store, root("foo"), "foo", 0, Vec::new(), 1);
    let key = KeyId(op("key"));
    let part = named(root("foo"), Some("part"));
    save(&store, key, "op", 2, inputs(&[&[part]]), 1);
    let told = entry(&store, key).unwrap();
    assert_eq!(told.class, KeyId::root(op("op"), 2).0);
    let link = BackLink {
        input: 0,
        key: root("foo"),
        selector: Some(op("part")),
    };
    assert_eq!(told.inputs, [link]);
    let mut both = vec![key, root("foo")];
    both.sort_unstable();
    assert_eq!(ready(store.keys_of(RecordId(1))), both);
    assert!(ready(store.keys_of(RecordId(9))).is_empty());
    assert!(entry(&store, KeyId(op("unknown"))).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_record_is_loaded_and_own_ones_before_those_of_a_source() {
    // [FST-14, FST-17, CMB-5], C6
    let world = World::new();
    let save = |keys: &MemoryKeyStore, id, created| {
        keys.save(SaveKey {
            key: root("s"),
            op: op("s"),
            output: 0,
            inputs: Vec::new(),
            record: Some(record(id, created)),
        });
    };
    let (older, newer) = (
        world.results.save(&"older".to_owned()).unwrap(),
        world.results.save(&"newer".to_owned()).unwrap(),
    );
    save(&world.keys, newer.0, 20);
    save(&world.keys, older.0, 10);
    let other = World::new();
    let foreign = other.results.save(&"foreign".to_owned()).unwrap();
    save(&other.keys, foreign.0, 1_000);
    let source = world.solver.add_cache_source(CacheSource {
        keys: Arc::clone(&other.keys) as Arc<dyn KeyStore>,
        results: Arc::clone(&other.results) as Arc<dyn ResultStore<Value>>,
    });
    let vertex = || {
        vtx("v", "s", "run")
            .options(|options| options.cache_sources = vec![source])
            .done()
    };
    for expected in ["newer", "older", "foreign"] {
        assert_eq!(world.once(&vertex()).await, expected);
        match expected {
            "newer" => world.keys.drop_record(newer),
            _ => world.keys.drop_record(older),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_jobs_share_one_vertex() {
    // [PAR-1, BAS-8, BAS-11, BAS-14, MUL-4, CAN-11]
    let world = World::new();
    let gate = Gate::new();
    let v = vtx("v", "s", "r").map_gate(&gate).done();
    let (_a, first) = spawn(world.job().await, &v).await;
    let (_b, second) = spawn(world.job().await, &v).await;
    gate.arrivals(1).await;
    gate.open();
    let (one, two) = (
        first.await.unwrap().unwrap(),
        second.await.unwrap().unwrap(),
    );
    assert!(one.value.same(&two.value));
    assert_eq!(v.counts(), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_who_asked_cancel_a_later_request_runs_again() {
    // [CAN-11, CAN-14]
    let world = World::new();
    let gate = Gate::new();
    let v = vtx("v", "s", "r").exec_gate(&gate).done();
    let (a, first) = spawn(world.job().await, &v).await;
    let (b, second) = spawn(world.job().await, &v).await;
    gate.arrivals(1).await;
    first.abort();
    second.abort();
    let _ = (first.await, second.await);
    gate.open();
    assert_eq!(solve(&a, &v).await, "r");
    end(a).await;
    end(b).await;
    world.emptied().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn content_and_definition_are_linked_even_where_the_cache_is_ignored() {
    // [SLW-9, SLW-10, SLW-11, IGN-9]
    let world = World::new();
    let graph = |seed: &str, ignore: bool| {
        let input = vtx("in", seed, "same").done();
        let builder = vtx("v", "op", "r").on(&input).slow(0).outputs(2);
        match ignore {
            true => builder.ignore_cache().done(),
            false => builder.done(),
        }
    };
    assert_eq!(world.once(&graph("a", false)).await, "r");
    assert_eq!(world.once(&graph("b", true)).await, "r");
    let again = graph("b", false);
    assert_eq!(world.once(&again).await, "r");
    assert_eq!(
        again.counts(),
        (2, 0),
        "without running the input for its content"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alternative_on_a_lower_level_carries_upwards() {
    // [MRG-11, MRG-12, SEL-5]: three levels merge through what is equal only in content two levels down
    let world = World::new();
    let gate = Gate::new();
    let graph = |name: &str, seed: &str| {
        let bottom = vtx(&format!("bottom {name}"), seed, "same").done();
        let middle = vtx(&format!("middle {name}"), "middle", "m")
            .on(&bottom)
            .slow(0)
            .done();
        vtx(name, "top", "t").on(&middle).exec_gate(&gate).done()
    };
    let (one, other) = (graph("a", "x"), graph("b", "y"));
    let (_a, first) = spawn(world.job().await, &one).await;
    gate.arrivals(1).await;
    let (_b, second) = spawn(world.job().await, &other).await;
    until_merged(&world, 2).await;
    gate.open();
    assert_eq!(*first.await.unwrap().unwrap().value, "t");
    assert_eq!(*second.await.unwrap().unwrap().value, "t");
    assert_eq!(
        one.counts().1 + other.counts().1,
        4,
        "both bottoms, one middle, one top"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_twin_is_still_found_by_others() {
    // [MRG-17, MRG-14]: a normal vertex holds the result, a flagged one is refused, a third follows the flagged one
    let world = World::new();
    let gate = Gate::new();
    let normal = vtx("v0", "same", "old").done();
    let holder = world.job().await;
    assert_eq!(solve(&holder, &normal).await, "old");
    let flagged = vtx("v1", "same", "new")
        .ignore_cache()
        .exec_gate(&gate)
        .done();
    let (_b, second) = spawn(world.job().await, &flagged).await;
    gate.arrivals(1).await;
    let also = vtx("v2", "same", "newest")
        .ignore_cache()
        .exec_gate(&gate)
        .done();
    let (_c, third) = spawn(world.job().await, &also).await;
    until_merged(&world, 1).await;
    gate.open();
    assert_eq!(*second.await.unwrap().unwrap().value, "new");
    assert_eq!(*third.await.unwrap().unwrap().value, "new");
    assert!(world.saw(|event| matches!(event, TraceEvent::MergeRefused { .. })) > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn discards_race_with_merges() {
    // [C4, C10, C11, C13, D2, D3]: at any moment, also of builds that operations ask for, and nothing is left
    let world = World::new();
    for round in 0..150 {
        let gate = Gate::new();
        let graph = |name: &str| {
            let seed = format!("round {round}");
            let below = vtx(&format!("below {name}"), &seed, "1").done();
            vtx(name, "top", "t").on(&below).exec_gate(&gate).done()
        };
        let mut waiting = Vec::new();
        for name in ["a", "b", "c", "d"] {
            let graph = match (round / 4) % 3 {
                0 => sub(&format!("{round} asks for {name}"), &graph(name)).done(),
                1 if name < "c" => sub(&format!("{round} asks for {name}"), &graph(name)).done(),
                _ => graph(name),
            };
            waiting.push(spawn(world.job().await, &graph).await);
            if round % 5 == 0 {
                tokio::task::yield_now().await;
            }
        }
        let keep = round % 4;
        let kept = waiting.remove(keep);
        let gone = waiting.into_iter().map(|(job, request)| async move {
            request.abort();
            let _ = request.await;
            end(job).await;
        });
        let (_, ()) = tokio::join!(
            async {
                for gone in gone {
                    gone.await;
                }
            },
            async { gate.open() }
        );
        assert_eq!(*kept.1.await.unwrap().unwrap().value, "t", "round {round}");
        end(kept.0).await;
    }
    world.emptied().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_provenance_and_exports_are_asked_for_at_once() {
    // [D10, D11, D16, EXP-19]: none waits for another
    let world = World::new();
    let v = vtx("v", "s", "r").on(&constant(1)).done();
    let job = Arc::new(world.job().await);
    let root = job.load(definition_of(&v, 0)).await.unwrap();
    job.build(root).await.unwrap();
    let asked: Vec<_> = (0..32)
        .map(|_| {
            let job = Arc::clone(&job);
            tokio::spawn(async move {
                let chains = job.cache_chains(&[root], ChainOptions::default()).await?;
                let walked = job.provenance(root).await?;
                Ok::<_, SolveError<Value>>((chains.items.len(), walked.len()))
            })
        })
        .collect();
    for asked in asked {
        let told = tokio::time::timeout(Duration::from_secs(10), asked).await;
        assert_eq!(told.unwrap().unwrap().unwrap(), (2, 2));
    }
    end(job).await;
    world.emptied().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_named_twice_or_gone_is_no_error() {
    // [CMB-3, CMB-4, CAN-16]
    let world = World::new();
    let other = World::new();
    let source = world.solver.add_cache_source(CacheSource {
        keys: Arc::clone(&other.keys) as Arc<dyn KeyStore>,
        results: Arc::clone(&other.results) as Arc<dyn ResultStore<Value>>,
    });
    let graph = |value: &str| {
        vtx("v", "s", value)
            .options(|options| options.cache_sources = vec![source, CacheSourceId::LOCAL, source])
            .done()
    };
    other.once(&graph("theirs")).await;
    let first = graph("ours");
    assert_eq!(world.once(&first).await, "theirs");
    world.solver.remove_cache_source(source);
    let v = vtx("w", "t", "ours")
        .options(|options| options.cache_sources = vec![source])
        .done();
    assert_eq!(world.once(&v).await, "ours");
}
