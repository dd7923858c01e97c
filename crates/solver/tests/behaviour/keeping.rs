//! What runs goes on for a job that loaded it and has yet to ask.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use weld_solver::{OpError, TraceEvent};

use crate::{hearing::told, support::*};

fn cancelled(world: &World) -> usize {
    world.saw(|event| matches!(event, TraceEvent::CallCancelled { .. }))
}

/// A step that says that it has begun and waits for the gate, and one that needs it.
fn step_and_user(gate: &Arc<Gate>) -> (Vtx, Vtx) {
    let step = vtx("step", "step", "s").begins(gate).done();
    let user = vtx("user", "user", "u").on(&step).done();
    (step, user)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_goes_on_for_a_job_that_has_yet_to_ask() {
    // J1, J2, whether the job loaded the step or something that needs it, and whether the other one's request or the whole job goes
    for (needs_it, discards) in [(false, false), (false, true), (true, false), (true, true)] {
        let world = World::new();
        let gate = Gate::new();
        let (step, user) = step_and_user(&gate);
        let (gives_up, request) = spawn(world.job().await, &step).await;
        gate.arrivals(1).await;
        let is_there = world.job().await;
        let hears = is_there.progress();
        let loaded = if needs_it { &user } else { &step };
        let root = is_there.load(definition_of(loaded, 0)).await.unwrap();
        request.abort();
        let _ = request.await;
        let mut gives_up = Some(gives_up);
        if discards {
            end(gives_up.take().unwrap()).await;
        }
        world.solver.census().await.unwrap();
        assert_eq!(cancelled(&world), 0);
        let built = tokio::spawn(async move {
            let value = is_there.build(root).await.unwrap().value.clone();
            (is_there, value)
        });
        world.solver.census().await.unwrap();
        gate.open();
        let (is_there, value) = built.await.unwrap();
        assert_eq!(*value, if needs_it { "u" } else { "s" });
        assert_eq!(step.counts().1, 1);
        is_there.discard().await;
        let (errors, words, ends) = told(hears).await;
        assert_eq!(errors, [""; 0]);
        assert_eq!(words, "begun");
        assert_eq!(ends, if needs_it { 2 } else { 1 });
        if let Some(gives_up) = gives_up {
            end(gives_up).await;
        }
        world.emptied().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_ends_before_the_job_asks_is_not_done_again() {
    let world = World::new();
    let gate = Gate::new();
    let (step, user) = step_and_user(&gate);
    let (gives_up, request) = spawn(world.job().await, &step).await;
    gate.arrivals(1).await;
    let is_there = world.job().await;
    let root = is_there.load(definition_of(&user, 0)).await.unwrap();
    request.abort();
    let _ = request.await;
    end(gives_up).await;
    gate.open();
    while step.counts().1 == 0 {
        tokio::task::yield_now().await;
    }
    world.solver.census().await.unwrap();
    assert_eq!(*is_there.build(root).await.unwrap().value, "u");
    assert_eq!(step.counts().1, 1);
    is_there.discard().await;
    world.emptied().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_fails_before_the_job_asks_is_begun_anew_for_it() {
    let world = World::new();
    let gate = Gate::new();
    let waits = Arc::clone(&gate);
    let failed = Arc::new(AtomicBool::new(false));
    let step = vtx("step", "step", "s")
        .before_exec(move |context| {
            let (gate, failed) = (Arc::clone(&waits), Arc::clone(&failed));
            Box::pin(async move {
                gate.pass(context).await?;
                match failed.swap(true, Ordering::SeqCst) {
                    true => Ok(()),
                    false => Err(OpError::failed("it was not to be")),
                }
            })
        })
        .done();
    let (gives_up, request) = spawn(world.job().await, &step).await;
    gate.arrivals(1).await;
    let is_there = world.job().await;
    let hears = is_there.progress();
    let root = is_there.load(definition_of(&step, 0)).await.unwrap();
    request.abort();
    let _ = request.await;
    end(gives_up).await;
    gate.open();
    while world.solver.census().await.unwrap().tasks > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(*is_there.build(root).await.unwrap().value, "s");
    is_there.discard().await;
    let (errors, ..) = told(hears).await;
    assert_eq!(errors, [""; 0]);
    world.emptied().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_ends_when_the_job_that_has_yet_to_ask_goes_or_needs_it_no_more() {
    for other_first in [true, false] {
        let world = World::new();
        let gate = Gate::new();
        let (step, user) = step_and_user(&gate);
        let (gives_up, request) = spawn(world.job().await, &step).await;
        gate.arrivals(1).await;
        let is_there = world.job().await;
        is_there.load(definition_of(&user, 0)).await.unwrap();
        if other_first {
            is_there.discard().await;
            request.abort();
        } else {
            request.abort();
            let _ = request.await;
            world.solver.census().await.unwrap();
            assert_eq!(cancelled(&world), 0);
            is_there.discard().await;
        }
        gate.left().await;
        assert_eq!(step.counts().1, 0);
        end(gives_up).await;
        world.emptied().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_job_loaded_beside_it_keeps_nothing_running() {
    // It has yet to ask for something else.
    let world = World::new();
    let gate = Gate::new();
    let (step, _) = step_and_user(&gate);
    let (job, request) = spawn(world.job().await, &step).await;
    gate.arrivals(1).await;
    let beside = vtx("beside", "beside", "b").done();
    job.load(definition_of(&beside, 0)).await.unwrap();
    request.abort();
    let _ = request.await;
    gate.left().await;
    end(job).await;
    world.emptied().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_below_a_record_is_not_kept_for_it() {
    // J2: the keys of what the record is of are asked for as long as the other input runs
    let world = World::new();
    let (gate, other_gate) = (Gate::new(), Gate::new());
    let top = |step: &Vtx, other: &Vtx| {
        let user = vtx("user", "user", "u").on(step).done();
        let top = vtx("top", "top", "t").on(&user).on(other).slow(1);
        top.done()
    };
    let before = vtx("step", "step", "s").done();
    let other = vtx("other", "other", "content").done();
    assert_eq!(world.once(&top(&before, &other)).await, "t");
    world.results.lose("s");
    let (step, _) = step_and_user(&gate);
    let (gives_up, request) = spawn(world.job().await, &step).await;
    gate.arrivals(1).await;
    let other = vtx("another", "another", "content")
        .exec_gate(&other_gate)
        .done();
    let (stays, built) = spawn(world.job().await, &top(&step, &other)).await;
    other_gate.arrivals(1).await;
    request.abort();
    end(gives_up).await;
    let left = tokio::time::timeout(Duration::from_secs(10), gate.left());
    left.await.expect("nobody needs it");
    other_gate.open();
    assert_eq!(*built.await.unwrap().unwrap().value, "t");
    assert_eq!(step.counts().1, 0);
    end(stays).await;
    world.emptied().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_goes_on_until_a_record_of_it_is_loaded() {
    // J2: another output of it was asked for before, and only the one that the job needs has a record
    for loads in [false, true] {
        let world = World::new();
        let gate = Gate::new();
        let before = vtx("step", "step", "s").outputs(2).done();
        assert_eq!(world.once(&before).await, "s");
        let step = vtx("step", "step", "s").outputs(2).begins(&gate).done();
        let user = vtx("user", "user", "u").on(&step).done();
        let gives_up = Arc::new(world.job().await);
        let root = gives_up.load(definition_of(&step, 1)).await.unwrap();
        let asks = Arc::clone(&gives_up);
        let request = tokio::spawn(async move { asks.build(root).await.map(drop) });
        gate.arrivals(1).await;
        let is_there = world.job().await;
        let root = is_there.load(definition_of(&user, 0)).await.unwrap();
        request.abort();
        let _ = request.await;
        end(gives_up).await;
        world.results.refuse.store(!loads, Ordering::SeqCst);
        let built = tokio::spawn(async move {
            let value = is_there.build(root).await.unwrap().value.clone();
            (is_there, value)
        });
        if loads {
            gate.left().await;
        } else {
            while world.results.loads() == 0 || world.solver.census().await.unwrap().tasks > 1 {
                tokio::task::yield_now().await;
            }
            assert_eq!(cancelled(&world), 0);
            gate.open();
        }
        let (is_there, value) = built.await.unwrap();
        assert_eq!(*value, "u");
        assert_eq!(step.counts().1, u32::from(!loads));
        is_there.discard().await;
        world.emptied().await;
    }
}
