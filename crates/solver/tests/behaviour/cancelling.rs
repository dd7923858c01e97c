//! Cancelling requests and discarding jobs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use weld_solver::{Census, OpError, SolveError, SolverOptions};

use crate::{merging::until_merged, support::*};

#[tokio::test(flavor = "multi_thread")]
async fn the_last_request_to_go_ends_the_work() {
    // [CAN-1, CAN-2], J2
    for in_map in [true, false] {
        let world = World::new();
        let gate = Gate::new();
        let vertex = vtx("v", "s", "r");
        let vertex = if in_map {
            vertex.map_gate(&gate)
        } else {
            vertex.exec_gate(&gate)
        }
        .done();
        let (job, request) = spawn(world.job().await, &vertex).await;
        gate.arrivals(1).await;
        request.abort();
        assert!(request.await.unwrap_err().is_cancelled());
        world
            .reaches(Census {
                jobs: 1,
                vertices: 1,
                edges: 1,
                index: u32::from(!in_map) as usize,
                ..Census::default()
            })
            .await;
        assert_eq!(gate.cancelled.load(Ordering::SeqCst), 1);
        assert_eq!(vertex.counts().1, 0);
        // Asking again starts it again.
        gate.open();
        assert_eq!(solve(&job, &vertex).await, "r");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_queues_for_a_slot_leaves_the_queue_at_once() {
    // [CAN-1], J2: neither a first execution nor one that had given its slot back waits for a slot that nobody wants any more
    let world = World::with(SolverOptions {
        parallelism: Some(1),
        ..SolverOptions::default()
    });
    let (waits, holds) = (Gate::new(), Gate::new());
    let away = Arc::clone(&waits);
    let back = vtx("back", "s back", "r")
        .before_exec(move |context| {
            let away = Arc::clone(&away);
            Box::pin(async move {
                let away = async {
                    away.knock().await;
                    away.opened().await;
                };
                context.without_slot(away).await;
                Ok(())
            })
        })
        .done();
    let (job_back, back) = spawn(world.job().await, &back).await;
    waits.arrivals(1).await;
    let (_holder, holder) = spawn(
        world.job().await,
        &vtx("holds", "s holds", "h").exec_gate(&holds).done(),
    )
    .await;
    holds.arrivals(1).await;
    let (job_new, new) = spawn(world.job().await, &vtx("new", "s new", "n").done()).await;
    waits.open();
    for request in [back, new] {
        request.abort();
        let _ = request.await;
    }
    end(job_back).await;
    end(job_new).await;
    world
        .reaches(Census {
            jobs: 1,
            vertices: 1,
            edges: 1,
            tasks: 1,
            requests: 1,
            index: 1,
        })
        .await;
    holds.open();
    assert_eq!(*holder.await.unwrap().unwrap().value, "h");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_request_does_not_wait_and_does_not_disturb_another() {
    // [CAN-3], J1, J3
    let world = World::new();
    let gate = Gate::new();
    let vertex = vtx("v", "s", "r").map_gate(&gate).done();
    let (a, first) = spawn(world.job().await, &vertex).await;
    gate.arrivals(1).await;
    let (_b, second) = spawn(world.job().await, &vtx("v", "s", "other").done()).await;
    world
        .reaches(Census {
            jobs: 2,
            vertices: 1,
            edges: 1,
            tasks: 1,
            requests: 2,
            index: 0,
        })
        .await;
    first.abort();
    let _ = first.await;
    end(a).await;
    assert_eq!(
        gate.cancelled.load(Ordering::SeqCst),
        0,
        "the other job is still interested"
    );
    gate.open();
    assert_eq!(*second.await.unwrap().unwrap().value, "r");
    assert_eq!(vertex.counts(), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_gives_up_by_itself_has_failed() {
    // [CAN-5]
    let world = World::new();
    let vertex = vtx("v", "s", "r")
        .before_map(|_| Box::pin(async { Err(OpError::Cancelled) }))
        .done();
    let job = world.job().await;
    let error = failure(&job, &vertex).await;
    assert!(matches!(error, SolveError::Op { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_again_waits_for_the_run_that_winds_down() {
    // [CAN-12], J2, R1: the scripted operation asserts that it never overlaps with itself
    let world = World::new();
    let runs = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&runs);
    let vertex = vtx("v", "s", "r")
        .before_exec(move |context| {
            let run = counter.fetch_add(1, Ordering::SeqCst);
            Box::pin(async move {
                if run < 20 {
                    context.cancellation().cancelled().await;
                    // Winding down takes its time.
                    tokio::time::sleep(Duration::from_millis(3)).await;
                    return Err(OpError::Cancelled);
                }
                Ok(())
            })
        })
        .done();
    let job = Arc::new(world.job().await);
    for round in 1.. {
        let request = ask(&job, &vertex).await;
        if round > 20 {
            assert_eq!(*request.await.unwrap().unwrap().value, "r");
            break;
        }
        while runs.load(Ordering::SeqCst) < round {
            tokio::task::yield_now().await;
        }
        request.abort();
        let _ = request.await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_build_beside_one_that_is_cancelled_at_once() {
    // BuildKit fails about one in 20,000 of these; the bench runs 1,000,000.
    let world = World::new();
    for round in 0..5_000 {
        let vertex = vtx(&format!("v{round}"), &format!("s{round}"), "r").done();
        let (doomed, healthy) = (world.job().await, world.job().await);
        let (a, b) = (
            doomed.load(definition_of(&vertex, 0)).await.unwrap(),
            healthy.load(definition_of(&vertex, 0)).await.unwrap(),
        );
        let healthy_request = healthy.build(b);
        let answer = tokio::join!(healthy_request, async {
            {
                let doomed_request = std::pin::pin!(doomed.build(a));
                let _ = poll_once(doomed_request);
                if round % 3 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            drop(doomed);
        });
        assert_eq!(*answer.0.unwrap().value, "r");
    }
    world.emptied().await;
}

/// Polls a future once.
fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> std::task::Poll<F::Output> {
    future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_does_not_heed_its_cancellation_is_dropped() {
    let world = World::with(SolverOptions {
        cancel_grace: Duration::from_millis(20),
        ..SolverOptions::default()
    });
    let gate = Gate::new();
    let arrive = Arc::clone(&gate);
    let deaf = vtx("v", "s", "r")
        .before_exec(move |_| {
            let gate = Arc::clone(&arrive);
            Box::pin(async move {
                // Says that it is here, and then hears of nothing.
                let _ = tokio::time::timeout(Duration::ZERO, async { gate.knock().await }).await;
                std::future::pending::<()>().await;
                Ok(())
            })
        })
        .done();
    let (job, request) = spawn(world.job().await, &deaf).await;
    gate.arrivals(1).await;
    request.abort();
    let _ = request.await;
    end(job).await;
    world.emptied().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discard_cancels_the_requests_of_the_job() {
    // J3, J5
    let world = World::new();
    let gate = Gate::new();
    let vertex = vtx("top", "t", "r")
        .on(&vtx("v", "s", "1").exec_gate(&gate).done())
        .done();
    let job = world.job().await;
    let root = job.load(definition_of(&vertex, 0)).await.unwrap();
    let asking = async {
        let request = job.build(root);
        tokio::pin!(request);
        tokio::select! {
            _ = &mut request => panic!("the gate is closed"),
            () = gate.arrivals(1) => {}
        }
    };
    asking.await;
    job.discard().await;
    world.emptied().await;
    assert_eq!(gate.cancelled.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_for_an_edge_goes_on_when_that_merges_into_one_that_knows_less() {
    // J1: a step waits for the content of an input that runs, since its other input leads somewhere.
    let world = World::new();
    let base = vtx("base", "base", "b").done();
    let copy = |name: &str, input: &Vtx| {
        let copy = vtx(name, "copy", "c").on(&base).on(input).slow(1).done();
        vtx(&format!("last {name}"), "last", "l").on(&copy).done()
    };
    let earlier = vtx("earlier", "earlier", "e").done();
    world.once(&copy("first", &earlier)).await;
    // The older of two builds learns late what its files are.
    let (files, running) = (Gate::new(), Gate::new());
    let late = vtx("late files", "files", "f").map_gate(&files).done();
    let unused = vtx("unused", "run", "r").on(&late).done();
    let (a, slow) = spawn(world.job().await, &copy("slow", &unused)).await;
    files.arrivals(1).await;
    let early = vtx("early files", "files", "f").done();
    let runs = vtx("runs", "run", "r")
        .on(&early)
        .exec_gate(&running)
        .done();
    let (b, quick) = spawn(world.job().await, &copy("quick", &runs)).await;
    running.arrivals(1).await;
    files.open();
    until_merged(&world, 4).await;
    running.open();
    assert!(slow.await.unwrap().is_ok() && quick.await.unwrap().is_ok());
    assert_eq!(running.cancelled.load(Ordering::SeqCst), 0);
    // With the files that it is made of.
    assert_eq!((runs.counts().1, unused.counts().1), (2, 0));
    end(a).await;
    end(b).await;
    world.emptied().await;
}
