//! Vertices that must run although there is a record.

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_graph_runs_again() {
    // [IGN-1]
    let world = World::new();
    assert_eq!(
        world
            .once(
                &vtx("v0", "s0", "r0")
                    .on(&vtx("v1", "s1", "r1").done())
                    .done()
            )
            .await,
        "r0"
    );
    let v1 = vtx("v1", "s1", "new r1").ignore_cache().done();
    let v0 = vtx("v0", "s0", "new r0").on(&v1).ignore_cache().done();
    assert_eq!(world.once(&v0).await, "new r0");
    assert_eq!(v0.counts(), (2, 2));
    // It is saved all the same, and newer.
    let third = vtx("v0", "s0", "x").on(&vtx("v1", "s1", "x").done()).done();
    assert_eq!(world.once(&third).await, "new r0");
    assert_eq!(third.counts(), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_found_through_an_input_that_runs_again() {
    // [IGN-2]
    let world = World::new();
    assert_eq!(
        world
            .once(
                &vtx("v0", "s0", "r0")
                    .on(&vtx("v1", "s1", "r1").done())
                    .done()
            )
            .await,
        "r0"
    );
    let again = vtx("v0", "s0", "new r0")
        .on(&vtx("v1", "s1", "new r1").ignore_cache().done())
        .done();
    assert_eq!(world.once(&again).await, "new r0");
    assert_eq!(again.counts(), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dependant_resumes_by_content() {
    // [IGN-3]
    let world = World::new();
    assert_eq!(
        world
            .once(
                &vtx("v0", "s0", "r0")
                    .on(&vtx("v1", "s1", "r1").done())
                    .slow(0)
                    .done()
            )
            .await,
        "r0"
    );
    let v1 = vtx("v1'", "s1'", "r1").ignore_cache().done();
    let v0 = vtx("v0'", "s0", "new r0").on(&v1).slow(0).done();
    assert_eq!(world.once(&v0).await, "r0");
    assert_eq!(v0.counts(), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_join_whom() {
    // [IGN-4, IGN-5, IGN-6, IGN-7]
    let world = World::new();
    let (j0, j1) = (world.job().await, world.job().await);
    assert_eq!(solve(&j0, &vtx("v0", "s0", "r0").done()).await, "r0");
    assert_eq!(
        solve(&j1, &vtx("v0", "s1", "r1").ignore_cache().done()).await,
        "r1",
        "not a normal one, by digest"
    );
    let (j2, j3, j4, j5) = (
        world.job().await,
        world.job().await,
        world.job().await,
        world.job().await,
    );
    assert_eq!(solve(&j2, &vtx("v2", "s2", "r2").done()).await, "r2");
    assert_eq!(
        solve(&j3, &vtx("v3", "s2", "r3").ignore_cache().done()).await,
        "r3",
        "not a normal one, by key"
    );
    assert_eq!(
        solve(&j4, &vtx("v4", "s2", "r4").ignore_cache().done()).await,
        "r3",
        "one of its like"
    );
    assert_eq!(
        solve(&j5, &vtx("v5", "s2", "r5").done()).await,
        "r3",
        "a normal one joins the newer result"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_is_held_after_it_was_forced_gives_no_key() {
    // [IGN-8]
    let world = World::new();
    let graph = |value: &str| {
        vtx("step", "step", value)
            .on(&vtx("base", "base", "b").ignore_cache().done())
            .done()
    };
    let (a1, b) = (world.job().await, world.job().await);
    assert_eq!(solve(&a1, &graph("r1")).await, "r1");
    assert_eq!(
        solve(&b, &vtx("base", "base", "b").ignore_cache().done()).await,
        "b"
    );
    a1.discard().await;
    let again = graph("r2");
    assert_eq!(world.once(&again).await, "r2");
    assert_ne!(again.counts().1, 0);
}

/// [C2 of the weaknesses: a healthy build failed every time]
async fn the_input_survives_a_forced_twin(nested: bool) {
    let world = World::new();
    let gate = Gate::new();
    let graph = |gate: &std::sync::Arc<Gate>| {
        vtx("A", "A", "a")
            .on(&vtx("B", "B", "b").done())
            .map_gate(gate)
            .done()
    };
    let (j0, j1, j2) = (world.job().await, world.job().await, world.job().await);
    let (first, second) = (graph(&gate), graph(&gate));
    let (j0, request) = spawn(j0, &first).await;
    gate.arrivals(1).await;
    assert_eq!(
        solve(&j1, &vtx("B", "B", "b forced").ignore_cache().done()).await,
        "b forced"
    );
    let second = if nested {
        sub("outer", &second).done()
    } else {
        second
    };
    let (j2, healthy) = spawn(j2, &second).await;
    if nested {
        // Until the operation has asked for its build.
        while world.solver.census().await.unwrap().requests < 3 {
            tokio::task::yield_now().await;
        }
    }
    request.abort();
    let _ = request.await;
    end(j0).await;
    gate.open();
    assert_eq!(*healthy.await.unwrap().unwrap().value, "a");
    end(j2).await;
    j1.discard().await;
    world.emptied().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_input_of_a_shared_vertex_survives_a_forced_twin_of_it() {
    the_input_survives_a_forced_twin(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_input_of_a_vertex_of_a_nested_build_survives_a_forced_twin_of_it() {
    the_input_survives_a_forced_twin(true).await;
}
