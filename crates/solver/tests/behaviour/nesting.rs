//! Builds that operations ask for.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::sync::Notify;
use weld_solver::{OpError, SolverOptions};

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_builds_a_graph_and_is_cached_as_a_whole() {
    // [SUB-1, SUB-2]
    let world = World::new();
    let graph = || sum(1, &[&sub("sub", &constant(7)).done()]);
    let first = graph();
    assert_eq!(world.once(&first).await, "8");
    assert_eq!(first.counts(), (2, 2));
    let second = graph();
    assert_eq!(world.once(&second).await, "8");
    assert_eq!(second.counts(), (2, 0));
    world.emptied().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nesting_to_any_depth_needs_one_execution_slot() {
    // J6
    let world = World::with(SolverOptions {
        parallelism: Some(1),
        ..SolverOptions::default()
    });
    let mut graph = sum(1, &[&constant(1), &constant(2)]);
    for depth in 0..50 {
        graph = sum(1, &[&sub(&format!("sub {depth}"), &graph).done()]);
    }
    let value = tokio::time::timeout(Duration::from_secs(20), world.once(&graph)).await;
    assert_eq!(value.unwrap(), "54");
    world.emptied().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_waits_for_another_job_needs_no_slot() {
    // J6
    let world = World::with(SolverOptions {
        parallelism: Some(1),
        ..SolverOptions::default()
    });
    let (begun, done) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell, wait) = (Arc::clone(&begun), Arc::clone(&done));
    let waits = vtx("waits", "s0", "r0").before_exec(move |context| {
        let (tell, wait) = (Arc::clone(&tell), Arc::clone(&wait));
        Box::pin(async move {
            let wait = async {
                tell.notify_one();
                wait.notified().await;
            };
            context.without_slot(wait).await;
            Ok(())
        })
    });
    let waits = waits.done();
    let (first, second) = (world.job().await, world.job().await);
    let other = async {
        begun.notified().await;
        let value = solve(&second, &constant(7)).await;
        done.notify_one();
        value
    };
    let both = async { tokio::join!(solve(&first, &waits), other) };
    let values = tokio::time::timeout(Duration::from_secs(20), both).await;
    assert_eq!(values.unwrap(), ("r0".to_owned(), "7".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_executions_holds() {
    // [PAR-5, BAS-12]
    let world = World::with(SolverOptions {
        parallelism: Some(2),
        ..SolverOptions::default()
    });
    let running = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let parts: Vec<Vtx> = (0..12)
        .map(|at| {
            let running = std::sync::Arc::clone(&running);
            vtx(&format!("v{at}"), &format!("s{at}"), "1")
                .before_exec(move |_| {
                    let running = std::sync::Arc::clone(&running);
                    Box::pin(async move {
                        let now = running.fetch_add(1, Ordering::SeqCst);
                        tokio::time::sleep(Duration::from_millis(2)).await;
                        running.fetch_sub(1, Ordering::SeqCst);
                        if now < 2 {
                            Ok(())
                        } else {
                            Err(OpError::failed("three at once"))
                        }
                    })
                })
                .done()
        })
        .collect();
    assert_eq!(
        world.once(&sum(0, &parts.iter().collect::<Vec<_>>())).await,
        "12"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nested_graph_merges_with_a_live_one_and_survives_the_other_job() {
    // [C3 of the weaknesses]
    let world = World::new();
    let gate = Gate::new();
    let v0 = vtx("v0", "same", "5").exec_gate(&gate).done();
    let (j0, request) = spawn(world.job().await, &v0).await;
    gate.arrivals(1).await;
    let outer = sum(
        1,
        &[&sub("sub", &vtx("v1", "same", "5").exec_gate(&gate).done()).done()],
    );
    let (_j1, nested) = spawn(world.job().await, &outer).await;
    while world.saw(|event| matches!(event, weld_solver::TraceEvent::Merged { .. })) == 0 {
        tokio::task::yield_now().await;
    }
    request.abort();
    let _ = request.await;
    end(j0).await;
    assert_eq!(gate.cancelled.load(Ordering::SeqCst), 0);
    gate.open();
    assert_eq!(*nested.await.unwrap().unwrap().value, "6");
    assert_eq!(v0.counts().1, 1, "the run that was under way served both");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_operation_takes_its_build_along() {
    let world = World::new();
    let gate = Gate::new();
    let outer = sub("sub", &vtx("inner", "i", "1").exec_gate(&gate).done()).done();
    let (job, request) = spawn(world.job().await, &outer).await;
    gate.arrivals(1).await;
    request.abort();
    let _ = request.await;
    end(job).await;
    world.emptied().await;
    assert_eq!(gate.cancelled.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_waits_for_itself_is_refused() {
    let world = World::new();
    let job = world.job().await;
    // Equal names have equal digests: the inner one is the outer one.
    let inner = vtx("self", "s", "1").done();
    let outer = sub("self", &inner).done();
    let error = failure(&job, &outer).await;
    assert!(error.to_string().contains("depends on itself"), "{error}");
    job.discard().await;
    world.emptied().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_takes_its_slot_while_it_waits_for_another_build_gives_it_back() {
    // J6: one build of two has ended and the slot is being taken when a third is asked for
    let world = World::with(SolverOptions {
        parallelism: Some(1),
        ..SolverOptions::default()
    });
    let (second, third, slot) = (Gate::new(), Gate::new(), Gate::new());
    let b = vtx("b", "b", "2").exec_gate(&second).done();
    let (a, c) = (vtx("a", "a", "1").done(), vtx("c", "c", "3").done());
    let pass = Arc::clone(&third);
    let p = vtx("p", "p", "done")
        .before_exec(move |context| {
            let (a, b, c, pass) = (a.clone(), b.clone(), c.clone(), Arc::clone(&pass));
            Box::pin(async move {
                let one_after_another = async {
                    context.build(definition_of(&a, 0)).await?;
                    let _ = pass.pass(context).await;
                    context.build(definition_of(&c, 0)).await
                };
                let other = context.build(definition_of(&b, 0));
                let (first, second) = tokio::join!(one_after_another, other);
                first.and(second).map(|_| ()).map_err(OpError::failed)
            })
        })
        .done();
    let (job, request) = spawn(world.job().await, &p).await;
    third.arrivals(1).await;
    second.arrivals(1).await;
    // Who waits for the slot next, behind `b`, keeps it until `c` is asked for.
    let q = vtx("q", "q", "q").exec_gate(&slot).done();
    let (other, waiting) = spawn(world.job().await, &q).await;
    while q.counts().0 == 0 {
        tokio::task::yield_now().await;
    }
    second.open();
    slot.arrivals(1).await;
    third.open();
    slot.open();
    let built = tokio::time::timeout(Duration::from_secs(20), request).await;
    assert_eq!(*built.unwrap().unwrap().unwrap().value, "done");
    waiting.await.unwrap().unwrap();
    end(job).await;
    end(other).await;
    world.emptied().await;
}
