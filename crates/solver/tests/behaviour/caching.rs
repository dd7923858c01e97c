//! Keys, content keys, selectors, records.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use weld_solver::{Digest, EdgeState, KeyId, KeyStore, TraceEvent, keystore::Answer};

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_found_by_the_definition() {
    // [FST-1, BAS-2]
    let world = World::new();
    assert_eq!(world.once(&vtx("v0", "s0", "r0").done()).await, "r0");
    let (v1, v2) = (vtx("v1", "s1", "r1").done(), vtx("v2", "s0", "r2").done());
    assert_eq!(world.once(&v1).await, "r1");
    assert_eq!(v1.counts(), (1, 1));
    assert_eq!(world.once(&v2).await, "r0");
    assert_eq!(v2.counts(), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_cache_maps_are_asked_for_until_a_record_is_found() {
    // [FST-2, FST-3, FST-4, FST-5]
    let world = World::new();
    assert_eq!(
        world
            .once(&vtx("v0", "", "r0").seeds(&["0", "1", "2"]).done())
            .await,
        "r0"
    );
    assert_eq!(
        world
            .once(&vtx("v1", "", "r1").seeds(&["1", "3"]).done())
            .await,
        "r0"
    );
    assert_eq!(
        world
            .once(&vtx("v2", "", "r2").seeds(&["3", "2"]).done())
            .await,
        "r0",
        "seed 3 was never saved, seed 2 was"
    );
    assert_eq!(
        world.once(&vtx("v3", "3", "r3").done()).await,
        "r3",
        "seed 3 led to no record"
    );
    let below = |seeds: &[&str]| vtx("in", "", "value").seeds(seeds).done();
    let over = |input: &Vtx| vtx("over", "over", "r").on(input).done();
    assert_eq!(world.once(&over(&below(&["a", "b"]))).await, "r");
    let again = over(&below(&["changed", "b"]));
    assert_eq!(world.once(&again).await, "r");
    assert_eq!(
        again.counts().1,
        0,
        "found through the second key of the input"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_another_job_holds_still_gives_its_key() {
    // [FST-6, FST-7, FST-8, FST-9]
    let world = World::new();
    let base = |value: &str| vtx("base", "base", value).done();
    let step = |name: &str, base: &Vtx, value: &str| vtx(name, "step", value).on(base).done();
    let (a1, b) = (world.job().await, world.job().await);
    assert_eq!(solve(&a1, &step("step", &base("b1"), "r1")).await, "r1");
    assert_eq!(solve(&b, &base("b2")).await, "b1");
    a1.discard().await;
    for name in ["step", "another name"] {
        let again = step(name, &base("b3"), "r2");
        assert_eq!(world.once(&again).await, "r1");
        assert_eq!(again.counts().1, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn known_keys_of_inputs_in_an_unknown_combination_do_not_stall() {
    // [BAS-7]
    let world = World::new();
    let graph = |top: &str, left: &str, right: &str| {
        let (l, r) = (vtx("v1", left, left).done(), vtx("v2", right, right).done());
        vtx("v0", top, &format!("{left}{right}"))
            .on(&l)
            .on(&r)
            .slow(1)
            .done()
    };
    assert_eq!(world.once(&graph("top", "1", "2")).await, "12");
    assert_eq!(world.once(&graph("top", "1'", "2'")).await, "1'2'");
    assert_eq!(world.once(&graph("top", "1", "2'")).await, "12'");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_found_by_the_content_of_an_input() {
    // [SLW-1]
    let world = World::new();
    let graph = |input: &Vtx| vtx("v0", "s0", "r0").on(input).slow(0).done();
    assert_eq!(
        world.once(&graph(&vtx("v1", "s1", "r1").done())).await,
        "r0"
    );
    let again = graph(&vtx("v3", "s3", "r1").done());
    assert_eq!(world.once(&again).await, "r0");
    assert_eq!(again.counts(), (2, 1));
    // Next time the definition alone leads there: the keys were linked (C4).
    let third = graph(&vtx("v3", "s3", "r1").done());
    assert_eq!(world.once(&third).await, "r0");
    assert_eq!(third.counts(), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_input_that_changed_is_executed_for_its_content() {
    // [SLW-2, SLW-3, C2]
    for slow in [vec![1], vec![0, 1]] {
        let world = World::new();
        let graph = |name: &str, seed: &str| {
            let (v1, v2) = (vtx("v1", "s1", "r1").done(), vtx(name, seed, "r2").done());
            slow.iter()
                .fold(vtx("v0", "s0", "r0").on(&v1).on(&v2), |builder, input| {
                    builder.slow(*input)
                })
                .done()
        };
        let first = graph("v2", "s2");
        assert_eq!(world.once(&first).await, "r0");
        assert_eq!((first.counts(), world.results.loads()), ((3, 3), 0));
        let second = graph("v2'", "s2'");
        assert_eq!(world.once(&second).await, "r0");
        assert_eq!((second.counts(), world.results.loads()), ((3, 1), 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn content_keys_of_two_inputs_are_used_together() {
    // [SLW-4]
    let world = World::new();
    let graph = |left: &str, right: &str| {
        let (v1, v2) = (vtx(left, left, "r1").done(), vtx(right, right, "r2").done());
        vtx("v0", "s0", "r0").on(&v1).on(&v2).slow(0).slow(1).done()
    };
    assert_eq!(world.once(&graph("a", "b")).await, "r0");
    let again = graph("a'", "b'");
    assert_eq!(world.once(&again).await, "r0");
    assert_eq!(again.counts(), (3, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hit_by_definition_makes_the_content_key_unnecessary() {
    // [SLW-5]
    let world = World::new();
    let graph = |gate: &Arc<Gate>| {
        let v2 = vtx("v2", "s2", "r2").done();
        let v1 = vtx("v1", "s1", "r1")
            .on(&v2)
            .selector(0, "a")
            .slow(0)
            .done();
        vtx("v0", "s0", "r0").on(&v1).map_gate(gate).done()
    };
    let open = Gate::new();
    open.open();
    assert_eq!(world.once(&graph(&open)).await, "r0");
    assert_eq!(world.results.loads(), 0);
    let gate = Gate::new();
    let late = graph(&gate);
    let job = world.job().await;
    let (value, ()) = tokio::join!(solve(&job, &late), async {
        gate.arrivals(1).await;
        gate.open();
    });
    assert_eq!(value, "r0");
    assert_eq!((late.counts(), world.results.loads()), ((3, 0), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_matches_is_not_hashed_while_another_has_no_match() {
    // [SLW-6]
    let world = World::new();
    let graph = |seed: &str| {
        let (v3, v2) = (vtx("v3", seed, "r3").done(), vtx("v2", "s2", "r2").done());
        let v1 = vtx("v1", "s1", "r1").on(&v3).slow(0).done();
        let v0 = vtx("v0", "s0", "r0").on(&v1).on(&v2).slow(1).done();
        vtx("main", "m", "main").on(&v0).done()
    };
    assert_eq!(world.once(&graph("s3")).await, "main");
    let again = graph("s3'");
    assert_eq!(world.once(&again).await, "main");
    assert_eq!((again.counts(), world.results.loads()), ((5, 1), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selector_is_part_of_the_definition_key_and_not_of_the_content_key() {
    // [SEL-1, SEL-2]
    let world = World::new();
    let graph = |selector: &str, value: &str| {
        let v1 = vtx("v1", "s1", "r1").done();
        vtx("v0", "s0", value).on(&v1).selector(0, selector)
    };
    assert_eq!(world.once(&graph("a", "r0").done()).await, "r0");
    let same = graph("a", "other").done();
    assert_eq!(world.once(&same).await, "r0");
    assert_eq!(same.counts(), (2, 0));
    let different = graph("b", "different").done();
    assert_eq!(world.once(&different).await, "different");
    assert_eq!((different.counts(), world.results.loads()), ((2, 1), 2));

    let world = World::new();
    assert_eq!(world.once(&graph("a", "r0").slow(0).done()).await, "r0");
    let different = graph("b", "different").slow(0).done();
    assert_eq!(world.once(&different).await, "r0");
    assert_eq!((different.counts(), world.results.loads()), ((2, 0), 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_is_prepared_once_before_it_is_used() {
    // C3, [SLW-12]
    let world = World::new();
    let v1 = vtx("v1", "s1", "r1").done();
    let v0 = vtx("v0", "s0", "r0")
        .on(&v1)
        .on(&v1)
        .preprocess(0)
        .slow(0)
        .outputs(2)
        .done();
    let job = world.job().await;
    assert_eq!(solve(&job, &v0).await, "r0");
    assert_eq!(*job.solve(definition_of(&v0, 1)).await.unwrap().value, "r0");
    assert_eq!(v0.preprocessed.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_do_not_load_give_way_to_running() {
    // [CAN-7], C6
    let world = World::new();
    let graph = || {
        sum(
            3,
            &[
                &sum(0, &[&sum(2, &[&constant(2)]), &constant(0)]),
                &sum(2, &[&constant(2)]),
            ],
        )
    };
    let first = graph();
    assert_eq!(world.once(&first).await, "11");
    assert_eq!((first.counts(), world.results.loads()), ((7, 5), 0));
    let second = graph();
    assert_eq!(world.once(&second).await, "11");
    assert_eq!((second.counts(), world.results.loads()), ((7, 0), 1));
    world.results.refuse.store(true, Ordering::SeqCst);
    let third = graph();
    assert_eq!(world.once(&third).await, "11");
    assert_eq!((third.counts(), world.results.loads()), ((7, 5), 6));
    assert_eq!(
        world.saw(|event| matches!(event, TraceEvent::LoadFailed { .. })),
        5
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn records_whose_results_are_gone_are_dropped() {
    // [FST-12, CMB-9]
    let world = World::new();
    let graph = || {
        vtx("v0", "s0", "r0")
            .on(&vtx("v1", "s1", "r1").done())
            .done()
    };
    assert_eq!(world.once(&graph()).await, "r0");
    world.results.clear();
    let again = graph();
    assert_eq!(world.once(&again).await, "r0");
    assert_eq!(again.counts(), (2, 2));
    let key = KeyId::root(Digest::of("s1"), 0);
    let Answer::Ready(Some(entry)) = world.keys.entry(key) else {
        panic!("the key is there")
    };
    assert_eq!(entry.records.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_have_keys_of_their_own() {
    // [MUL-3, MUL-6]
    let world = World::new();
    let graph = || add(10, &[&constant(1), &constant(2)]);
    let job = world.job().await;
    let first = graph();
    assert_eq!(
        *job.solve(definition_of(&first, 1)).await.unwrap().value,
        "12"
    );
    job.discard().await;
    let job = world.job().await;
    let second = graph();
    assert_eq!(
        *job.solve(definition_of(&second, 1)).await.unwrap().value,
        "12"
    );
    assert_eq!(second.counts().1, 0);
    assert_eq!(
        *job.solve(definition_of(&second, 0)).await.unwrap().value,
        "11"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_goes_on_where_a_step_above_learns_that_nothing_can_match() {
    // C1, J2
    let world = World::new();
    let graph = |seed: &str, slow: &Arc<Gate>, other: &Arc<Gate>| {
        let slow = vtx("slow", seed, seed).exec_gate(slow).done();
        let other = vtx("other", &format!("other {seed}"), seed)
            .exec_gate(other)
            .done();
        let one = vtx("one", "one", seed).on(&slow).slow(0).done();
        let both = vtx("both", "both", seed).on(&one).on(&other).slow(1).done();
        (vtx("top", "top", seed).on(&both).done(), both)
    };
    let open = Gate::new();
    open.open();
    let (first, _) = graph("1", &open, &open);
    assert_eq!(world.once(&first).await, "1");

    let (slow, other) = (Gate::new(), Gate::new());
    let (again, both) = graph("2", &slow, &other);
    let knows = |event: &TraceEvent| matches!(event, TraceEvent::State { edge, state: EdgeState::CacheSlow } if edge.vertex == both.digest());
    let before = world.saw(knows);
    let job = world.job().await;
    let solved = tokio::spawn({
        let again = Arc::clone(&again);
        async move {
            let value = solve(&job, &again).await;
            job.discard().await;
            value
        }
    });
    slow.arrivals(1).await;
    other.arrivals(1).await;
    other.open();
    while world.saw(knows) == before {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    slow.open();
    assert_eq!(solved.await.unwrap(), "2");
    assert_eq!(slow.cancelled.load(Ordering::SeqCst), 0);
    assert_eq!(again.counts().1, 5);
}
