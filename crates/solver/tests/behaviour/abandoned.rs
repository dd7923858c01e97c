//! Targets of merges that everyone who loaded them has left, to others who only loaded what merged into them: with builds of jobs, and
//! with builds that operations ask for.

use std::sync::{Arc, atomic::Ordering};

use weld_solver::JobOptions;

use crate::{merging::until_merged, support::*};

/// Waits until that many requests are open.
pub(crate) async fn settled(world: &World, requests: usize) {
    while world.solver.census().await.unwrap().requests < requests {
        tokio::task::yield_now().await;
    }
}

/// The graph itself, or an operation that asks for it.
fn wrapped(nested: bool, name: &str, graph: &Vtx) -> Vtx {
    match nested {
        true => sub(name, graph).done(),
        false => Arc::clone(graph),
    }
}

async fn abandon(requests: impl IntoIterator<Item = (Arc<weld_solver::Job<Value>>, Request)>) {
    for (job, request) in requests {
        request.abort();
        let _ = request.await;
        end(job).await;
    }
}

/// [C1 (i)]: j0 and j1 go, j2 holds only v1; a fourth vertex of the key finds the live edge, and hears all of it.
async fn the_target_is_found(nested: bool) {
    let world = World::new();
    let gate = Gate::new();
    let vertex = |name: &str| vtx(name, "same", "r").exec_gate(&gate).done();
    let (v0, v3) = (vertex("v0"), vertex("v3"));
    let first = spawn(world.job().await, &v0).await;
    gate.arrivals(1).await;
    let outer = |name: &str| wrapped(nested, "outer", &vertex(name));
    let second = spawn(world.job().await, &outer("v1")).await;
    until_merged(&world, 1).await;
    let (j2, r2) = spawn(world.job().await, &outer("v1")).await;
    settled(&world, 3 + usize::from(nested)).await;
    abandon([first, second]).await;
    let (j3, r3) = spawn(world.job().await, &v3).await;
    until_merged(&world, 2).await;
    gate.open();
    assert_eq!(*r2.await.unwrap().unwrap().value, "r");
    assert_eq!(*r3.await.unwrap().unwrap().value, "r");
    assert_eq!((v0.counts().1, v3.counts().1), (1, 0));
    end(j2).await;
    end(j3).await;
    world.emptied().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_is_found_through_what_merged_into_it() {
    the_target_is_found(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_is_found_through_what_a_nested_build_merged_into_it() {
    the_target_is_found(true).await;
}

/// The recipe of [C1 (ii)]: content decides late, so the target asks for an input only after everyone who loaded it has gone.
async fn the_target_asks_late(nested: bool) {
    let world = World::new();
    let gate = Gate::new();
    let open = Gate::new();
    open.open();
    let graph = |name: &str, top: &str, y: &str, value: &str, gate: &Arc<Gate>| {
        let left = vtx(&format!("x of {name}"), "x", "left").done();
        let right = vtx(&format!("y of {name}"), y, value)
            .exec_gate(gate)
            .done();
        vtx(name, top, "r").on(&left).on(&right).slow(1).done()
    };
    world.once(&graph("first", "v", "y", "old", &open)).await;
    let second = |name| graph(name, "v", "changed", "new", &gate);
    let first = spawn(world.job().await, &second("v0")).await;
    gate.arrivals(1).await;
    let v1 = second("v1");
    let other = spawn(world.job().await, &wrapped(nested, "outer", &v1)).await;
    until_merged(&world, 2).await;
    let (j2, r2) = spawn(world.job().await, &wrapped(nested, "outer", &v1)).await;
    settled(&world, 3 + usize::from(nested)).await;
    abandon([first, other]).await;
    gate.open();
    assert_eq!(*r2.await.unwrap().unwrap().value, "r");
    end(j2).await;
    world.emptied().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_asks_for_an_input_late_has_it() {
    // [C7]
    the_target_asks_late(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_asks_for_an_input_late_has_it_for_a_nested_build_too() {
    // [C3]
    the_target_asks_late(true).await;
}

/// [C1 (iii)]: inputs that are not merged themselves, the edges above by content.
async fn the_target_keeps_its_inputs(nested: bool) {
    let world = World::new();
    let gate = Gate::new();
    let graph = |name: &str, seed: &str| {
        vtx(name, "op", "r")
            .on(&vtx(&format!("in of {name}"), seed, "same").done())
            .slow(0)
            .exec_gate(&gate)
            .done()
    };
    let outer = || wrapped(nested, "outer", &graph("v1", "b"));
    let first = spawn(world.job().await, &graph("v0", "a")).await;
    gate.arrivals(1).await;
    let second = spawn(world.job().await, &outer()).await;
    until_merged(&world, 1).await;
    let (j2, r2) = spawn(world.job().await, &outer()).await;
    settled(&world, 3 + usize::from(nested)).await;
    abandon([first, second]).await;
    assert_eq!(world.results.released.load(Ordering::SeqCst), 0);
    gate.open();
    assert_eq!(*r2.await.unwrap().unwrap().value, "r");
    end(j2).await;
    world.emptied().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_are_not_released_while_the_target_uses_them() {
    the_target_keeps_its_inputs(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_are_not_released_while_the_target_uses_them_for_a_nested_build() {
    the_target_keeps_its_inputs(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_free_again_once_its_job_is_discarded() {
    // [C11]: whatever of the old job is still under way touches nothing of the new one
    let world = World::new();
    for round in 0..200 {
        let gate = Gate::new();
        let vertex = |name: &str| {
            // A vertex of the round before may still be winding down.
            let seed = format!("round {round}");
            vtx(&format!("{name} {round}"), &seed, "r")
                .exec_gate(&gate)
                .done()
        };
        let job = || world.solver.new_job(JobOptions::new("the same"));
        let (old, request) = spawn(job().await.unwrap(), &vertex("old")).await;
        if round % 2 == 0 {
            gate.arrivals(1).await;
        }
        request.abort();
        let _ = request.await;
        end(old).await;
        let (new, request) = spawn(job().await.unwrap(), &vertex("new")).await;
        gate.open();
        assert_eq!(*request.await.unwrap().unwrap().value, "r", "round {round}");
        end(new).await;
    }
    world.emptied().await;
}
