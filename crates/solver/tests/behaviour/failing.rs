//! Failures: who hears of them, and what they say.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use weld_solver::{Census, OpCall, OpError, ProgressEvent, SolveError};

use crate::{merging::until_merged, support::*};

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_of_an_input_names_the_vertex_and_the_call() {
    // [CAN-4, CAN-6, CAN-17], E2
    for (bad, call) in [
        (
            vtx("bad", "b", "x").map_fails("no such image").done(),
            OpCall::CacheMap,
        ),
        (
            vtx("bad", "b", "x")
                .exec_fails("no such image")
                .options(|o| o.description = "RUN false".into())
                .done(),
            OpCall::Exec,
        ),
    ] {
        let world = World::new();
        let job = world.job().await;
        let top = vtx("top", "t", "r")
            .on(&vtx("good", "g", "y").done())
            .on(&bad)
            .done();
        let error = failure(&job, &top).await;
        assert!(error.to_string().contains("no such image"), "{error}");
        let SolveError::Op { failure, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(
            (failure.vertex, &*failure.name, failure.call, failure.input),
            (bad.digest(), "bad", call, None)
        );
        let stream = job.progress();
        job.discard().await;
        let told = rest(stream)
            .await
            .into_iter()
            .filter_map(|event| match event {
                ProgressEvent::Vertex(vertex) if vertex.digest == bad.digest() => vertex.error,
                _ => None,
            });
        // Who hears of a vertex knows what it is called.
        assert_eq!(told.last().as_deref(), Some("no such image"));
        world.emptied().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_content_key_names_the_input_and_keeps_its_result_alive() {
    // [SLW-7, REL-1]
    let world = World::new();
    let job = world.job().await;
    let v0 = vtx("v0", "s0", "r0")
        .on(&vtx("other", "o", "o").done())
        .on(&vtx("v1", "s1", "r1").done())
        .slow(1)
        .slow_fails()
        .done();
    let error = failure(&job, &v0).await;
    let SolveError::Op { failure, inputs } = &error else {
        panic!("{error}")
    };
    assert_eq!((failure.call, failure.input), (OpCall::SlowKey, Some(1)));
    assert_eq!(
        inputs
            .iter()
            .map(|input| (**input).clone())
            .collect::<Vec<_>>(),
        ["r1"]
    );
    job.discard().await;
    world.emptied().await;
    assert_eq!(
        world.results.released.load(Ordering::SeqCst),
        1,
        "only the other input's result"
    );
    drop(error);
    assert_eq!(world.results.released.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_does_not_stick() {
    // E3
    let world = World::new();
    let broken = Arc::new(AtomicBool::new(true));
    let flag = Arc::clone(&broken);
    let bad = vtx("bad", "b", "x")
        .before_exec(move |_| {
            let broken = flag.load(Ordering::SeqCst);
            Box::pin(async move {
                if broken {
                    Err(OpError::failed("broken"))
                } else {
                    Ok(())
                }
            })
        })
        .done();
    let top = vtx("top", "t", "r").on(&bad).done();
    let (job, other) = (world.job().await, world.job().await);
    assert!(failure(&job, &top).await.to_string().contains("broken"));
    assert!(failure(&other, &top).await.to_string().contains("broken"));
    broken.store(false, Ordering::SeqCst);
    assert_eq!(
        solve(&other, &top).await,
        "r",
        "also while another job holds the vertex"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn everyone_who_had_asked_hears_of_the_failure() {
    // E3
    let world = World::new();
    let gate = Gate::new();
    let runs = Arc::new(AtomicU32::new(0));
    let (counter, pass) = (Arc::clone(&runs), Arc::clone(&gate));
    let bad = vtx("bad", "b", "x")
        .before_exec(move |context| {
            counter.fetch_add(1, Ordering::SeqCst);
            let pass = pass.pass(context);
            Box::pin(async move {
                pass.await?;
                Err(OpError::failed("broken"))
            })
        })
        .done();
    let mut requests = Vec::new();
    for at in 0..5 {
        let top = vtx(&format!("top {at}"), &format!("t{at}"), "r")
            .on(&bad)
            .done();
        requests.push(spawn(world.job().await, &top).await);
    }
    world
        .reaches(Census {
            jobs: 5,
            vertices: 6,
            edges: 6,
            tasks: 1,
            requests: 5,
            index: 6,
        })
        .await;
    gate.open();
    for (_job, request) in requests {
        assert!(
            request
                .await
                .unwrap()
                .unwrap_err()
                .to_string()
                .contains("broken")
        );
    }
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_ends_the_work_beside_it() {
    let world = World::new();
    let gate = Gate::new();
    let pass = Arc::clone(&gate);
    let slow = vtx("slow", "s", "y").exec_gate(&gate).done();
    let bad = vtx("bad", "b", "x")
        .before_exec(move |_| {
            let gate = Arc::clone(&pass);
            Box::pin(async move {
                gate.arrivals(1).await;
                Err(OpError::failed("broken"))
            })
        })
        .done();
    let job = world.job().await;
    assert!(
        failure(&job, &vtx("top", "t", "r").on(&slow).on(&bad).done())
            .await
            .to_string()
            .contains("broken")
    );
    world
        .reaches(Census {
            jobs: 1,
            vertices: 3,
            edges: 3,
            index: 4,
            ..Census::default()
        })
        .await;
    assert_eq!(gate.cancelled.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_panics_has_failed() {
    let world = World::new();
    let vertex = vtx("v", "s", "r")
        .before_exec(|_| Box::pin(async { panic!("out of luck") }))
        .done();
    let job = world.job().await;
    assert!(
        failure(&job, &vertex)
            .await
            .to_string()
            .contains("out of luck")
    );
    assert_eq!(solve(&job, &vtx("w", "w", "r").done()).await, "r");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_known_by_the_vertices_of_all_who_share_it() {
    let world = World::new();
    let gate = Gate::new();
    let pass = Arc::clone(&gate);
    let fails = vtx("fails", "same", "r")
        .before_exec(move |context| {
            let gate = Arc::clone(&pass);
            Box::pin(async move {
                gate.pass(context).await?;
                Err(OpError::failed(std::io::Error::other("it is broken")))
            })
        })
        .done();
    let other = vtx("other", "same", "r").done();
    let (a, first) = spawn(world.job().await, &fails).await;
    gate.arrivals(1).await;
    let (b, second) = spawn(world.job().await, &other).await;
    until_merged(&world, 1).await;
    gate.open();
    for request in [first, second] {
        let Err(SolveError::Op { failure, .. }) = request.await.unwrap() else {
            panic!("it must fail");
        };
        assert_eq!(failure.vertex, fails.digest());
        assert_eq!(*failure.merged, [other.digest()]);
    }
    end(a).await;
    end(b).await;
    world.emptied().await;
}
