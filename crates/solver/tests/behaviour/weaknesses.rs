//! Situations in which BuildKit's solver reaches freed states, leaks, forgets or hangs: parts (c) and (d) of the catalogue.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use weld_solver::{
    Digest, Job, OpError, ProgressEvent, SolveError, SolverOptions, TraceEvent, chain::ChainOptions,
};

use crate::{abandoned::settled, merging::until_merged, support::*};

#[tokio::test(flavor = "multi_thread")]
async fn a_build_of_an_operation_whose_job_has_gone_is_refused_and_leaves_nothing() {
    // [C6]
    let world = World::new();
    let (gate, outcome) = (Gate::new(), Arc::new(std::sync::Mutex::new(None)));
    let (pass, told) = (Arc::clone(&gate), Arc::clone(&outcome));
    let inner = vtx("inner", "i", "1").done();
    let outer = vtx("outer", "o", "1")
        .before_exec(move |context| {
            let (gate, told, inner) = (Arc::clone(&pass), Arc::clone(&told), Arc::clone(&inner));
            Box::pin(async move {
                // It does not heed its cancellation, and builds all the same.
                gate.knock().await;
                context.cancellation().cancelled().await;
                let built = context.build(definition_of(&inner, 0)).await;
                *told.lock().unwrap() = Some(built.map(|_| ()));
                Ok(())
            })
        })
        .done();
    let (job, request) = spawn(world.job().await, &outer).await;
    gate.arrivals(1).await;
    request.abort();
    let _ = request.await;
    end(job).await;
    world.emptied().await;
    let outcome = outcome.lock().unwrap().take();
    assert!(
        matches!(outcome, Some(Err(SolveError::Cancelled))),
        "{outcome:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_loses_nothing() {
    // [C15 (i)]: a flagged twin comes and goes, the unflagged one is still found
    let world = World::new();
    let gate = Gate::new();
    let vertex = |name: &str| vtx(name, "same", "r").exec_gate(&gate);
    let (first, r0) = (world.job().await, vertex("v0").done());
    let (_j0, r0) = spawn(first, &r0).await;
    gate.arrivals(1).await;
    let (j1, r1) = spawn(world.job().await, &vertex("v1").ignore_cache().done()).await;
    gate.arrivals(2).await;
    r1.abort();
    let _ = r1.await;
    end(j1).await;
    let late = vertex("v2").done();
    let (_j2, r2) = spawn(world.job().await, &late).await;
    until_merged(&world, 1).await;
    gate.open();
    for request in [r0, r2] {
        assert_eq!(*request.await.unwrap().unwrap().value, "r");
    }
    assert_eq!(late.counts().1, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_edge_was_found_by_leads_to_what_it_merged_into() {
    // [C15 (ii)]: an edge that is in the index already merges into a younger one, because that one runs
    let world = World::new();
    let (held, gate) = (Gate::new(), Gate::new());
    let vertex = |name: &str, below: &Vtx| {
        let vertex = vtx(name, "same", "r").on(below).slow(0);
        vertex.exec_gate(&gate).done()
    };
    let below = vtx("held", "one definition", "content").exec_gate(&held);
    let older = vertex("older", &below.done());
    let (_j0, r0) = spawn(world.job().await, &older).await;
    held.arrivals(1).await;
    let other = vtx("other", "another definition", "content").done();
    let (_j1, r1) = spawn(world.job().await, &vertex("younger", &other)).await;
    gate.arrivals(1).await;
    held.open();
    until_merged(&world, 1).await;
    // By the definition that only the older one had.
    let again = vtx("again", "one definition", "content").done();
    let later = vertex("later", &again);
    let (_j2, r2) = spawn(world.job().await, &later).await;
    until_merged(&world, 3).await;
    gate.open();
    for request in [r0, r1, r2] {
        assert_eq!(*request.await.unwrap().unwrap().value, "r");
    }
    let ran = [&older, &later, &again].map(|vertex| vertex.counts().1);
    // What was held ran, as a part of the older one.
    assert_eq!(ran, [1, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_result_is_released_once() {
    // R3, [C12, C14, D13, D14]: through merges, hits, failing loads, cancels and failed content keys
    let world = World::new();
    let made = Arc::new(AtomicUsize::new(0));
    let counted = |builder: Builder| {
        let made = Arc::clone(&made);
        builder.before_exec(move |_| {
            let made = Arc::clone(&made);
            Box::pin(async move {
                made.fetch_add(1, Ordering::SeqCst);
                Ok(())
            })
        })
    };
    for round in 0..20 {
        let round = round / 2;
        let graph = |name: &str| {
            let below = counted(vtx(&format!("in of {name}"), &format!("i{name}"), "same")).done();
            let seed = format!("op {round}");
            let failing = counted(vtx(&format!("f of {name}"), "f", "x"))
                .on(&below)
                .slow(0)
                .slow_fails()
                .done();
            let good = counted(vtx(name, &seed, "r")).on(&below).slow(0).done();
            (good, failing)
        };
        let ((one, bad), (two, worse)) = (graph("a"), graph("b"));
        world.results.refuse.store(round % 3 == 2, Ordering::SeqCst);
        let (a, b) = (Arc::new(world.job().await), Arc::new(world.job().await));
        let (r1, r2) = (ask(&a, &one).await, ask(&b, &two).await);
        let (f1, f2) = (ask(&a, &bad).await, ask(&b, &worse).await);
        if round % 4 == 3 {
            r1.abort();
        }
        let ended = (r1.await, r2.await, f1.await, f2.await);
        assert!(ended.2.unwrap().is_err() && ended.3.unwrap().is_err());
        end(a).await;
        end(b).await;
    }
    world.emptied().await;
    let all = made.load(Ordering::SeqCst) + world.results.loaded();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while world.results.released.load(Ordering::SeqCst) != all {
        assert!(
            tokio::time::Instant::now() < deadline,
            "{} of {all} released",
            world.results.released.load(Ordering::SeqCst)
        );
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_content_key_of_several_builds_keeps_the_input_until_the_last_error_goes() {
    // [D13, REL-1]
    let world = World::new();
    let gate = Gate::new();
    let below = vtx("below", "b", "1").exec_gate(&gate).done();
    let graph = vtx("v", "s", "r").on(&below).slow(0).slow_fails().done();
    let (a, first) = spawn(world.job().await, &graph).await;
    gate.arrivals(1).await;
    let (b, second) = spawn(world.job().await, &graph).await;
    settled(&world, 2).await;
    gate.open();
    let (one, two) = (
        first.await.unwrap().unwrap_err(),
        second.await.unwrap().unwrap_err(),
    );
    end(a).await;
    end(b).await;
    world.emptied().await;
    let released = || world.results.released.load(Ordering::SeqCst);
    assert_eq!(released(), 0);
    drop(one);
    assert_eq!(released(), 0);
    drop(two);
    assert_eq!(released(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_job() {
    // [D15]
    let world = World::new();
    let gate = Gate::new();
    let v = vtx("v", "s", "r").exec_gate(&gate).done();
    let (a, b) = (world.job().await, world.job().await);
    let stream = a.progress();
    let (a, first) = spawn(a, &v).await;
    gate.arrivals(1).await;
    let (_b, second) = spawn(b, &v).await;
    first.abort();
    let _ = first.await;
    end(a).await;
    let events = tokio::time::timeout(Duration::from_secs(10), rest(stream)).await;
    assert!(events.is_ok_and(|events| !events.is_empty()));
    gate.open();
    assert!(second.await.unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_an_aborted_run_stays() {
    // [D17]: the second run builds something else
    let world = World::new();
    let (gate, attempt) = (Gate::new(), Arc::new(AtomicU32::new(0)));
    let pass = Arc::clone(&gate);
    let outer = vtx("outer", "o", "r")
        .before_exec(move |context| {
            let (gate, attempt) = (Arc::clone(&pass), attempt.fetch_add(1, Ordering::SeqCst));
            Box::pin(async move {
                let seed = format!("attempt {attempt}");
                let inner = sum(attempt.into(), &[&vtx(&seed, &seed, "1").done()]);
                context
                    .build(definition_of(&inner, 0))
                    .await
                    .map_err(OpError::failed)?;
                if attempt == 0 {
                    gate.pass(context).await?;
                }
                Ok(())
            })
        })
        .done();
    let job = Arc::new(world.job().await);
    let root = job.load(definition_of(&outer, 0)).await.unwrap();
    let first = ask(&job, &outer).await;
    gate.arrivals(1).await;
    first.abort();
    let _ = first.await;
    job.build(root).await.unwrap();
    let walked = job.provenance(root).await.unwrap();
    assert_eq!(
        walked.len(),
        3,
        "the outer one, and what its last run built"
    );
    let chains = job.cache_chains(&[root], ChainOptions::default()).await;
    assert_eq!(chains.unwrap().items.len(), 3);
    end(job).await;
    world.emptied().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nested_vertices_get_sessions_and_are_heard_of_by_those_who_wait() {
    // [SUB-6, SUB-7, C9], J4
    let world = World::new();
    let inner = vtx("inner", "i", "1")
        .before_exec(|context| {
            Box::pin(async move {
                let who = context
                    .with_session(|session| async move { Ok(session.client::<String>().unwrap()) })
                    .await?;
                context.log(1, who.as_bytes().to_vec());
                Ok(())
            })
        })
        .done();
    let deep = sub("outer", &sub("middle", &inner).done()).done();
    let (job, _session) = job_with_session(&world, "client").await;
    let stream = job.progress();
    assert_eq!(solve(&job, &deep).await, "1");
    job.discard().await;
    let events = rest(stream).await;
    let logged = events.iter().find_map(|event| match event {
        ProgressEvent::Log { vertex, chunk } => Some((*vertex, chunk.data.clone())),
        _ => None,
    });
    assert_eq!(logged, Some((inner.digest(), b"client".to_vec())));
    world.emptied().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nested_builds_of_several_jobs_share_one_slot() {
    // J6: depth 12, four jobs, some cancelled, one inner failure
    let world = World::with(SolverOptions {
        parallelism: Some(1),
        ..SolverOptions::default()
    });
    let graph = |job: usize, fails: bool| {
        let mut graph = match fails {
            true => vtx(&format!("bad {job}"), &format!("bad {job}"), "1")
                .exec_fails("inner failure")
                .done(),
            false => sum(1, &[&constant(1)]),
        };
        for depth in 0..12 {
            graph = sub(&format!("sub {job} {depth} {fails}"), &graph)
                .seeds(&[&format!(
                    "sub {depth} {fails} {}",
                    if fails { job } else { 0 }
                )])
                .done();
        }
        graph
    };
    let all = async {
        for round in 0..10 {
            let mut requests = Vec::new();
            for job in 0..4 {
                requests.push(spawn(world.job().await, &graph(job + round, job == 3)).await);
            }
            requests[1].1.abort();
            for (at, (job, request)) in requests.into_iter().enumerate() {
                match (at, request.await) {
                    (1, _) => {}
                    (3, outcome) => {
                        let error = outcome.unwrap().unwrap_err().to_string();
                        assert!(error.contains("inner failure"), "{error}");
                    }
                    (_, outcome) => assert_eq!(*outcome.unwrap().unwrap().value, "2"),
                }
                end(job).await;
            }
            world.emptied().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_streams_and_timers_end_with_their_owners() {
    // J5, [D12]: cancels have a time of grace, queries a time to answer; neither is waited for when it has no use any more
    let world = World::new();
    let alive = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let before = alive();
    let source = world.solver.add_cache_source(weld_solver::CacheSource {
        keys: Arc::new(crate::chains_elsewhere::Slow(None)),
        results: Arc::clone(&world.results) as Arc<dyn weld_solver::ResultStore<Value>>,
    });
    for round in 0..20 {
        let gate = Gate::new();
        let name = format!("v{round}");
        let runs = vtx(&name, &name, "r").exec_gate(&gate).done();
        let asks = vtx(&format!("asks {round}"), &name, "r")
            .options(|options| options.cache_sources = vec![source])
            .done();
        let (job, request) = spawn(world.job().await, &runs).await;
        let stream = job.progress();
        let (other, waits) = spawn(world.job().await, &asks).await;
        gate.arrivals(1).await;
        for (job, request) in [(job, request), (other, waits)] {
            request.abort();
            let _ = request.await;
            end(job).await;
        }
        drop(stream);
        world.emptied().await;
    }
    let ended = async {
        while alive() > before {
            tokio::task::yield_now().await;
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(5), ended).await;
    assert!(ended.is_ok(), "{} tasks are left", alive() - before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_solver_that_is_dropped_ends_its_tasks() {
    // [D12]
    let alive = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let before = alive();
    let world = World::new();
    let gate = Gate::new();
    let v = vtx("v", "s", "r").exec_gate(&gate).done();
    let job = world.job().await;
    let root = job.load(definition_of(&v, 0)).await.unwrap();
    let build = tokio::spawn(async move { job.build(root).await.map(|_| ()) });
    gate.arrivals(1).await;
    build.abort();
    let _ = build.await;
    drop(world);
    let ended = async {
        while alive() > before {
            tokio::task::yield_now().await;
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(5), ended).await;
    assert!(ended.is_ok(), "{} tasks are left", alive() - before);
}

/// What is told of calls that are made anew, until the job ends.
fn retries(job: &Job<Value>) -> tokio::task::JoinHandle<Vec<(Digest, String)>> {
    let mut stream = job.progress();
    tokio::spawn(async move {
        let mut told = Vec::new();
        while let Some(event) = stream.next().await {
            if let ProgressEvent::Status { vertex, status } = event {
                assert!(status.completed.is_some());
                told.push((vertex, status.id.to_string()));
            }
        }
        told
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_equal_vertex_of_another_job_is_tried_when_the_needs_of_the_first_went_away() {
    // M6 without a merge: both loaded the same digest
    let world = World::new();
    let gate = Gate::new();
    let pass = Arc::clone(&gate);
    let v = vtx("v", "s", "r")
        .before_exec(move |context| {
            let gate = Arc::clone(&pass);
            Box::pin(async move {
                gate.pass(context).await?;
                // It sticks to the session that it got first.
                let session = context.next_session(&[]).await;
                match session {
                    Some(session) if &**session.id() == "b" => Ok(()),
                    _ => Err(OpError::gone("the secret went away")),
                }
            })
        })
        .done();
    let (a, _sa) = job_with_session(&world, "a").await;
    let (b, _sb) = job_with_session(&world, "b").await;
    let heard = [retries(&a), retries(&b)];
    let (a, first) = spawn(a, &v).await;
    gate.arrivals(1).await;
    let (b, second) = spawn(b, &v).await;
    settled(&world, 2).await;
    gate.open();
    assert_eq!(*first.await.unwrap().unwrap().value, "r");
    assert_eq!(*second.await.unwrap().unwrap().value, "r");
    assert_eq!(v.counts().1, 1);
    // Who comes later hears of it, too.
    let c = world.job().await;
    let late = retries(&c);
    assert_eq!(solve(&c, &v).await, "r");
    end(a).await;
    end(b).await;
    c.discard().await;
    for heard in heard.into_iter().chain([late]) {
        let why = "tried again for another build: the secret went away";
        assert_eq!(heard.await.unwrap(), [(v.digest(), why.to_owned())]);
    }
    assert_eq!(
        world.saw(|event| matches!(event, TraceEvent::Fallback { vertex, next } if vertex == next)),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn when_no_job_is_left_to_try_the_failure_is_delivered_once_to_each() {
    // M6: it ends
    let world = World::new();
    let gate = Gate::new();
    let tries = Arc::new(AtomicU32::new(0));
    let (pass, count) = (Arc::clone(&gate), Arc::clone(&tries));
    let v = vtx("v", "s", "r")
        .before_exec(move |context| {
            let (gate, count) = (Arc::clone(&pass), Arc::clone(&count));
            Box::pin(async move {
                gate.pass(context).await?;
                count.fetch_add(1, Ordering::SeqCst);
                Err(OpError::gone("nobody has it"))
            })
        })
        .done();
    let mut asked = Vec::new();
    for _ in 0..3 {
        asked.push(spawn(world.job().await, &v).await);
        gate.arrivals(1).await;
    }
    settled(&world, 3).await;
    gate.open();
    for (job, request) in asked {
        let error = request.await.unwrap().unwrap_err();
        assert!(error.to_string().contains("nobody has it"), "{error}");
        end(job).await;
    }
    assert_eq!(tries.load(Ordering::SeqCst), 3, "once for each job");
    world.emptied().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fallback_and_a_lost_result_show_in_progress_and_trace() {
    // M6, R2: the vertex starts again, and ends well
    let world = World::new();
    let lost = Arc::new(AtomicU32::new(0));
    let below = vtx("below", "b", "1").done();
    let top = vtx("top", "t", "r")
        .on(&below)
        .before_exec(move |_| {
            let first = lost.fetch_add(1, Ordering::SeqCst) == 0;
            Box::pin(async move {
                match first {
                    true => Err(OpError::lost_input(0, "404")),
                    false => Ok(()),
                }
            })
        })
        .done();
    let job = world.job().await;
    let told = retries(&job);
    assert_eq!(solve(&job, &top).await, "r");
    assert_eq!(below.counts().1, 2);
    job.discard().await;
    let why = "an input is made anew";
    assert_eq!(told.await.unwrap(), [(top.digest(), why.to_owned())]);
    assert_eq!(
        world.saw(|event| matches!(event, TraceEvent::ResultLost { .. })),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_later_hears_what_was_written_before() {
    // P1: by loading the vertex, by merging, and by subscribing late; a bounded amount of it
    let world = World::new();
    let gate = Gate::new();
    let vertex = |name: &str| {
        let gate = Arc::clone(&gate);
        vtx(name, "same", "r")
            .before_exec(move |context| {
                let gate = Arc::clone(&gate);
                Box::pin(async move {
                    context.log(1, b"early words".to_vec());
                    gate.pass(context).await?;
                    context.log(1, b", last words".to_vec());
                    Ok(())
                })
            })
            .done()
    };
    let words = |events: &[ProgressEvent], vertex: &Vtx| {
        let said = events.iter().filter_map(|event| match event {
            ProgressEvent::Log { vertex: of, chunk } if *of == vertex.digest() => {
                Some(String::from_utf8_lossy(&chunk.data).into_owned())
            }
            _ => None,
        });
        said.collect::<String>()
    };
    let (v0, v1) = (vertex("v0"), vertex("v1"));
    let a = world.job().await;
    let heard_by_a = a.progress();
    let (a, first) = spawn(a, &v0).await;
    gate.arrivals(1).await;
    let (b, c) = (world.job().await, world.job().await);
    let (heard_by_b, heard_by_c) = (b.progress(), c.progress());
    let (b, second) = spawn(b, &v0).await;
    let (c, third) = spawn(c, &v1).await;
    until_merged(&world, 1).await;
    gate.open();
    for request in [first, second, third] {
        assert!(request.await.unwrap().is_ok());
    }
    // After the end, and without a stream until then.
    let d = world.job().await;
    assert_eq!(solve(&d, &v1).await, "r");
    let heard_by_d = d.progress();
    d.discard().await;
    end(a).await;
    end(b).await;
    end(c).await;
    for (stream, vertex) in [
        (heard_by_a, &v0),
        (heard_by_b, &v0),
        (heard_by_c, &v1),
        (heard_by_d, &v1),
    ] {
        assert_eq!(
            words(&rest(stream).await, vertex),
            "early words, last words"
        );
    }
    world.emptied().await;
}
