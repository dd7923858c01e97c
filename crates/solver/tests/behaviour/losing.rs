//! Results that are lost and made anew as something else: what is recorded is what was made of it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use weld_solver::OpError;

use crate::{merging::until_merged, support::*};

/// Finds its first input lost the first time that it is executed, when the gate is open.
fn loses_its_input(builder: Builder, gate: &Arc<Gate>) -> Vtx {
    let (gate, first) = (Arc::clone(gate), AtomicBool::new(true));
    builder
        .before_exec(move |context| {
            let (gate, lost) = (Arc::clone(&gate), first.swap(false, Ordering::SeqCst));
            Box::pin(async move {
                if !lost {
                    return Ok(());
                }
                gate.pass(context).await?;
                Err(OpError::lost_input(0, "gone"))
            })
        })
        .done()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_merged_by_a_content_that_is_lost_is_no_name_of_what_is_made_in_its_place() {
    // R2, M5: the content that both inputs had was made anew as another in one of them
    let world = World::new();
    let gate = Gate::new();
    let over = |name: &str, input: &Vtx| vtx(name, "op", "r").on(input).slow(0);
    let unstable = vtx("in1", "in1", "same").then("other").done();
    let stable = || vtx("in2", "in2", "same").done();
    let (_a, first) = spawn(
        world.job().await,
        &loses_its_input(over("v1", &unstable), &gate),
    )
    .await;
    gate.arrivals(1).await;
    let (_b, second) = spawn(world.job().await, &over("v2", &stable()).done()).await;
    until_merged(&world, 1).await;
    gate.open();
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    assert_eq!(unstable.counts().1, 2);
    drop((_a, _b));
    world.emptied().await;
    let again = over("v3", &stable()).done();
    world.once(&again).await;
    assert_eq!(again.counts(), (2, 1), "nothing was made of this content");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_with_a_lost_result_is_recorded_under_that_ones_content() {
    // R2
    let world = World::new();
    let (held, gate) = (Gate::new(), Gate::new());
    let over = |name: &str, input: &Vtx| vtx(name, "op", name).on(input).slow(0);
    let unstable = vtx("in1", "in1", "same").then("other").done();
    let running = over("v1", &unstable).exec_gate(&held).done();
    let (_a, first) = spawn(world.job().await, &running).await;
    held.arrivals(1).await;
    // Another one finds the result lost, and makes it anew.
    gate.open();
    let loses = loses_its_input(vtx("w", "w", "w").on(&unstable), &gate);
    assert_eq!(world.once(&loses).await, "w");
    assert_eq!(unstable.counts().1, 2);
    held.open();
    first.await.unwrap().unwrap();
    let of = |content: &str| vtx(content, content, content).done();
    assert_eq!(world.once(&over("v2", &of("other")).done()).await, "v2");
    assert_eq!(world.once(&over("v3", &of("same")).done()).await, "v1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_found_by_a_lost_content_gets_no_record_of_another() {
    // R2
    let world = World::new();
    let gate = Gate::new();
    let over = |name: &str, input: &Vtx| vtx(name, "op", name).on(input).slow(0);
    let above = |name: &str, input: &Vtx| vtx(name, "top", name).on(input).done();
    // Known by its content, but nothing of it is left.
    let stable = || vtx("in2", "in2", "same").done();
    world
        .once(&above("t0", &over("v0", &stable()).done()))
        .await;
    world.results.clear();
    let unstable = vtx("in1", "in1", "same").then("other").done();
    let made = loses_its_input(over("v1", &unstable), &gate);
    gate.open();
    assert_eq!(world.once(&above("t1", &made)).await, "t1");
    assert_eq!(unstable.counts().1, 2);
    let again = above("t2", &over("v2", &stable()).done());
    assert_eq!(world.once(&again).await, "t2");
    let again = above("t3", &over("v3", &unstable).done());
    assert_eq!(
        world.once(&again).await,
        "t1",
        "by its own names it is found"
    );
}
