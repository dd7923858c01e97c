//! Jobs, the life of vertices, results.

use std::sync::atomic::Ordering;

use weld_solver::{Census, JobOptions, OpCall, SolveError, TraceEvent};

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn equal_vertices_are_shared_and_live_as_long_as_a_job_holds_them() {
    // [BAS-1, BAS-2, BAS-3]
    let world = World::new();
    let (first, second, third) = (
        vtx("v0", "s0", "r0").done(),
        vtx("v0", "s0", "other").done(),
        vtx("v0", "s0", "other").done(),
    );
    let (j0, j1) = (world.job().await, world.job().await);
    assert_eq!(solve(&j0, &first).await, "r0");
    assert_eq!(solve(&j1, &second).await, "r0");
    assert_eq!((first.counts(), second.counts()), ((1, 1), (0, 0)));
    j0.discard().await;
    let j2 = world.job().await;
    assert_eq!(solve(&j2, &third).await, "r0");
    assert_eq!(third.counts(), (0, 0));
    j1.discard().await;
    j2.discard().await;
    let fourth = vtx("v0", "another seed", "r3").done();
    assert_eq!(world.once(&fourth).await, "r3");
    assert_eq!(fourth.counts(), (1, 1));
    world.emptied().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn arithmetic_is_right_and_comes_from_records_the_second_time() {
    // [BAS-4]
    let world = World::new();
    let graph = || {
        let inner = || sum(0, &[&constant(7), &constant(2)]);
        sum(
            1,
            &[
                &inner(),
                &inner(),
                &constant(2),
                &constant(2),
                &constant(19),
            ],
        )
    };
    assert_eq!(world.once(&graph()).await, "42");
    let again = graph();
    assert_eq!(world.once(&again).await, "42");
    assert_eq!(again.counts().1, 0);
    assert_eq!(world.results.loads(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_tree_asks_each_vertex_for_its_cache_map_and_loads_only_the_root() {
    // [BAS-5]
    let world = World::new();
    let mut state = 7_u64;
    let mut random = move |limit: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % limit
    };
    let mut expected: Vec<i64> = (0..600).map(|_| random(500) as i64).collect();
    let mut layer: Vec<Vtx> = expected.iter().map(|value| constant(*value)).collect();
    let mut count = layer.len();
    while layer.len() > 1 {
        let (mut next, mut sums) = (Vec::new(), Vec::new());
        let mut at = 0;
        while at < layer.len() {
            let end = (at + 2 + random(5) as usize).min(layer.len());
            let inputs: Vec<&Vtx> = layer[at..end].iter().collect();
            let value = random(500) as i64;
            next.push(sum(value, &inputs));
            sums.push(value + expected[at..end].iter().sum::<i64>());
            at = end;
        }
        count += next.len();
        (layer, expected) = (next, sums);
    }
    let root = &layer[0];
    assert_eq!(world.once(root).await, expected[0].to_string());
    let first = root.counts();
    assert_eq!(first.0, count as u32);
    assert!(first.1 < count as u32, "equal constants merge");
    assert_eq!(world.results.loads(), 0);
    assert_eq!(world.once(root).await, expected[0].to_string());
    assert_eq!(root.counts(), (2 * count as u32, first.1));
    assert_eq!(world.results.loads(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_map_is_asked_for_once_whichever_outputs_are_wanted() {
    let world = World::new();
    let input = constant(1);
    let step = vtx("step", "step", "s").on(&input).outputs(2).done();
    let user = |name: &str, output| vtx(name, name, name).on_output(&step, output).done();
    let (one, other) = (user("one", 0), user("other", 1));
    let both = vtx("both", "both", "b").on(&one).on(&other).done();
    assert_eq!(world.once(&both).await, "b");
    let digest = step.digest();
    let asked = world.saw(|event| {
        matches!(event, TraceEvent::CallStarted { vertex, call: OpCall::CacheMap, .. } if vertex.digest == digest)
    });
    assert_eq!(asked, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_id_is_taken_while_the_job_lives() {
    // [BAS-9]
    let world = World::new();
    let job = world.solver.new_job(JobOptions::new("same")).await.unwrap();
    let second = world.solver.new_job(JobOptions::new("same")).await;
    assert!(matches!(second, Err(SolveError::DuplicateJob { job }) if &*job == "same"));
    job.discard().await;
    world
        .solver
        .new_job(JobOptions::new("same"))
        .await
        .unwrap()
        .discard()
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_of_another_job_is_refused() {
    let world = World::new();
    let (mine, other) = (world.job().await, world.job().await);
    let root = mine
        .load(definition_of(&vtx("v", "s", "r").done(), 0))
        .await
        .unwrap();
    assert!(matches!(
        other.build(root).await,
        Err(SolveError::ForeignRoot { .. })
    ));
    assert!(mine.build(root).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_is_not_there_is_an_error_that_names_it() {
    // [BAS-13]
    let world = World::new();
    let job = world.job().await;
    let error = job
        .solve(definition_of(&vtx("v", "s", "r").done(), 3))
        .await
        .unwrap_err();
    assert!(
        matches!(
            &error,
            SolveError::MissingOutput {
                output: 3,
                returned: 1,
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_that_nobody_asked_for_are_released_at_once() {
    // R1, R3
    let world = World::new();
    let job = world.job().await;
    let vertex = vtx("v", "s", "r").outputs(4).done();
    let value = built(&job, &vertex).await;
    world
        .reaches(Census {
            jobs: 1,
            vertices: 1,
            edges: 1,
            index: 1,
            ..Census::default()
        })
        .await;
    assert_eq!(world.results.released.load(Ordering::SeqCst), 3);
    job.discard().await;
    world.emptied().await;
    assert_eq!(
        world.results.released.load(Ordering::SeqCst),
        3,
        "the caller holds the result"
    );
    drop(value);
    assert_eq!(world.results.released.load(Ordering::SeqCst), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_a_hundred_thousand_vertices_neither_overflows_nor_leaks() {
    let world = World::new();
    let mut chain = constant(0);
    for _ in 0..100_000 {
        chain = sum(1, &[&chain]);
    }
    assert_eq!(world.once(&chain).await, "100000");
    world.emptied().await;
    // Taken apart without recursion, which is the test's own affair.
    let mut next = Some(chain);
    while let Some(vertex) = next {
        next = std::sync::Arc::into_inner(vertex).and_then(Vertex::into_first_input);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_job_is_discarded_and_a_dropped_solver_answers_what_waits() {
    let world = World::new();
    let gate = Gate::new();
    let job = world.job().await;
    let slow = vtx("v", "s", "r").exec_gate(&gate).done();
    let root = job.load(definition_of(&slow, 0)).await.unwrap();
    drop(job);
    world.emptied().await;
    let job = world.job().await;
    assert!(matches!(
        job.build(root).await,
        Err(SolveError::ForeignRoot { .. })
    ));
}
