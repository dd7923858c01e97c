//! What jobs lend to one another and hear of one another: sessions, progress, fallbacks, lost results, provenance, cache sources.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use weld_solver::{
    CacheSource, KeyStore, OpError, ProgressEvent, ResultStore, Status, TraceEvent, VertexUpdate,
    keystore,
};

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_merged_in_lends_its_session_and_hears_under_its_own_digest() {
    // J4, M4, P1, [C1 (iv), C9]
    let world = World::new();
    let gate = Gate::new();
    let ((a, _), (b, _)) = (
        job_with_session(&world, "a").await,
        job_with_session(&world, "b").await,
    );
    let mut heard = b.progress();
    let (va, vb) = (
        wants_session("va", "same", &gate),
        wants_session("vb", "same", &gate),
    );
    let (a, first) = spawn(a, &va).await;
    gate.arrivals(1).await;
    let (_b, second) = spawn(b, &vb).await;
    while world.saw(|event| matches!(event, TraceEvent::Merged { .. })) == 0 {
        tokio::task::yield_now().await;
    }
    first.abort();
    let _ = first.await;
    end(a).await;
    gate.open();
    assert_eq!(*second.await.unwrap().unwrap().value, "r");
    assert_eq!(
        va.counts().1,
        1,
        "the run of the job that went served the one that stayed"
    );
    let mut log = None;
    let mut last = None;
    while last
        .as_ref()
        .is_none_or(|vertex: &VertexUpdate| vertex.completed.is_none())
    {
        match heard.next().await.unwrap() {
            ProgressEvent::Log { vertex, chunk } => log = Some((vertex, chunk.data)),
            ProgressEvent::Vertex(vertex) => last = Some(vertex),
            _ => {}
        }
    }
    assert_eq!(log, Some((vb.digest(), b"b".to_vec())));
    let last = last.unwrap();
    assert_eq!(
        (last.digest, &*last.name, last.cached, last.error),
        (vb.digest(), "vb", false, None)
    );
    assert!(last.started.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_subscriber_hears_of_what_happened_before() {
    // P1
    let world = World::new();
    let (a, b) = (world.job().await, world.job().await);
    let graph = |name: &str| {
        vtx(name, "s", "r")
            .on(&vtx("below", "b", "1").done())
            .done()
    };
    assert_eq!(solve(&a, &graph("v")).await, "r");
    assert_eq!(solve(&b, &graph("twin")).await, "r");
    for (job, name) in [(a, "v"), (b, "twin")] {
        let mut stream = job.progress();
        job.discard().await;
        let mut done = Vec::new();
        while let Some(event) = stream.next().await {
            if let ProgressEvent::Vertex(vertex) = event {
                assert!(
                    vertex.completed.is_some() && vertex.started.is_some(),
                    "{vertex:?}"
                );
                done.push(vertex.name.to_string());
            }
        }
        done.sort();
        assert_eq!(done, ["below", name]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_subscriber_hears_of_a_step_of_which_it_wants_another_output() {
    // P1
    let world = World::new();
    let (a, b) = (world.job().await, world.job().await);
    let v = vtx("v", "s", "r").outputs(2).done();
    for (job, output) in [(&a, 0), (&b, 1)] {
        let root = job.load(definition_of(&v, output)).await.unwrap();
        job.build(root).await.unwrap();
    }
    let stream = b.progress();
    b.discard().await;
    let is_told = |event: &ProgressEvent| matches!(event, ProgressEvent::Vertex(vertex) if &*vertex.name == "v");
    assert!(rest(stream).await.iter().any(is_told));
    a.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_record_made_unnecessary_is_said_to_be_cached() {
    // P1
    let world = World::new();
    let graph = || {
        vtx("top", "t", "r")
            .on(&vtx("mid", "m", "1").on(&vtx("low", "l", "1").done()).done())
            .done()
    };
    world.once(&graph()).await;
    let job = world.job().await;
    let mut stream = job.progress();
    solve(&job, &graph()).await;
    job.discard().await;
    let mut cached = Vec::new();
    while let Some(event) = stream.next().await {
        if let ProgressEvent::Vertex(vertex) = event {
            assert!(vertex.cached, "{vertex:?}");
            cached.push(vertex.name.to_string());
        }
    }
    cached.sort();
    assert_eq!(cached, ["low", "mid", "top"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_reader_delays_nothing_and_holds_little() {
    // P2
    let world = World::new();
    let job = world.job().await;
    let mut stream = job.progress();
    let v = vtx("v", "s", "r")
        .before_exec(|context| {
            Box::pin(async move {
                for current in 0..10_000 {
                    let status = Status {
                        id: "bar".into(),
                        name: "bar".into(),
                        current,
                        total: 10_000,
                        started: None,
                        completed: None,
                    };
                    context.status(status);
                    context.log(1, vec![b'x'; 1000]);
                }
                Ok(())
            })
        })
        .done();
    assert_eq!(solve(&job, &v).await, "r");
    job.discard().await;
    let (mut kept, mut dropped, mut bars, mut current) = (0, 0, 0, 0);
    while let Some(event) = stream.next().await {
        match event {
            ProgressEvent::Log { chunk, .. } => kept += chunk.data.len(),
            ProgressEvent::LogsDropped { bytes, .. } => dropped += bytes as usize,
            ProgressEvent::Status { status, .. } => (bars, current) = (bars + 1, status.current),
            _ => {}
        }
    }
    assert_eq!(kept + dropped, 10_000_000);
    assert!(kept <= 1 << 20, "{kept}");
    assert!(dropped > 0);
    assert_eq!((bars, current), (1, 9_999));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operation_of_another_job_stands_in() {
    // M6
    let world = World::new();
    let gate = Gate::new();
    let pass = Arc::clone(&gate);
    let stranded = vtx("va", "same", "from a")
        .before_exec(move |context| {
            let gate = Arc::clone(&pass);
            Box::pin(async move {
                gate.pass(context).await?;
                Err(OpError::gone("the secret went with its job"))
            })
        })
        .done();
    let healthy = vtx("vb", "same", "from b").done();
    let (a, first) = spawn(world.job().await, &stranded).await;
    gate.arrivals(1).await;
    let (_b, second) = spawn(world.job().await, &healthy).await;
    while world.saw(|event| matches!(event, TraceEvent::Merged { .. })) == 0 {
        tokio::task::yield_now().await;
    }
    gate.open();
    assert_eq!(*second.await.unwrap().unwrap().value, "from b");
    assert_eq!(*first.await.unwrap().unwrap().value, "from b");
    assert_eq!(
        world.saw(|event| matches!(event, TraceEvent::Fallback { .. })),
        1
    );
    end(a).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordinary_failure_is_final() {
    // M6
    let world = World::new();
    let meeting = barrier(2);
    let v = |name: &str| {
        vtx(name, "same", "r")
            .map_waits(&meeting)
            .exec_fails("exit code 1")
            .done()
    };
    let (va, vb) = (v("va"), v("vb"));
    let (a, b) = (world.job().await, world.job().await);
    let (x, y) = tokio::join!(failure(&a, &va), failure(&b, &vb));
    assert!(x.to_string().contains("exit code 1") && y.to_string().contains("exit code 1"));
    assert_eq!(
        world.saw(|event| matches!(event, TraceEvent::Fallback { .. })),
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_result_is_made_anew_and_everything_above_waits() {
    // R2
    let world = World::new();
    let below = || vtx("below", "b", "1").done();
    world.once(&below()).await;
    let attempts = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&attempts);
    let input = below();
    let top = vtx("top", "t", "r")
        .on(&input)
        .before_exec(move |_| {
            let attempt = counter.fetch_add(1, Ordering::SeqCst);
            Box::pin(async move {
                if attempt == 0 {
                    Err(OpError::lost_input(0, "the blob is not there"))
                } else {
                    Ok(())
                }
            })
        })
        .done();
    let above = vtx("above", "a", "x").on(&top).done();
    assert_eq!(world.once(&above).await, "x");
    assert_eq!(attempts.load(Ordering::SeqCst), 2);
    assert_eq!(
        (input.counts(), world.results.loads()),
        ((1, 1), 1),
        "loaded, found lost, executed"
    );
    assert_eq!(
        world.saw(|event| matches!(event, TraceEvent::ResultLost { .. })),
        1
    );
    assert_eq!(
        world.keys.usage().records,
        3,
        "the worthless record is gone"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_is_lost_again_and_again_ends_in_an_error() {
    // R2
    let world = World::new();
    let job = world.job().await;
    let top = vtx("top", "t", "r")
        .on(&vtx("below", "b", "1").done())
        .before_exec(|_| Box::pin(async { Err(OpError::lost_input(0, "gone again")) }))
        .done();
    let error = failure(&job, &top).await;
    assert!(error.to_string().contains("was lost 4 times"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn losses_that_were_made_good_are_not_counted() {
    // R2: what lives for long may lose its result now and then
    let world = World::new();
    let below = vtx("below", "b", "1").done();
    let keeps = world.job().await;
    assert_eq!(solve(&keeps, &below).await, "1");
    for round in 0..10 {
        let first = AtomicBool::new(true);
        let top = vtx(&format!("top {round}"), &format!("t{round}"), "r")
            .on(&below)
            .before_exec(move |_| {
                let lost = first.swap(false, Ordering::SeqCst);
                Box::pin(async move {
                    match lost {
                        true => Err(OpError::lost_input(0, "gone")),
                        false => Ok(()),
                    }
                })
            })
            .done();
        assert_eq!(world.once(&top).await, "r", "round {round}");
    }
    assert_eq!(below.counts().1, 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_finds_its_result_lost_asks_for_a_new_one() {
    // R2
    let world = World::new();
    let v = || vtx("v", "s", "r").done();
    world.once(&v()).await;
    let job = world.job().await;
    let again = v();
    let root = job.load(definition_of(&again, 0)).await.unwrap();
    let loaded = job.build(root).await.unwrap();
    assert_eq!(again.counts().1, 0);
    let made = job.rebuild(root, &loaded).await.unwrap();
    assert_eq!(again.counts().1, 1);
    assert!(!made.value.same(&loaded.value));
    // A second report of the same loss changes nothing.
    assert!(
        job.rebuild(root, &loaded)
            .await
            .unwrap()
            .value
            .same(&made.value)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provenance_walk_knows_who_really_ran() {
    // P3, [C8]
    let world = World::new();
    let graph = |name: &str| {
        vtx(name, "s", "r")
            .on(&vtx(&format!("{name} below"), "b", "1").done())
            .done()
    };
    let (va, vb) = (graph("va"), graph("vb"));
    let (a, b) = (world.job().await, world.job().await);
    solve(&a, &va).await;
    let root = b.load(definition_of(&vb, 0)).await.unwrap();
    b.build(root).await.unwrap();
    a.discard().await;
    let walk = b.provenance(root).await.unwrap();
    let names: Vec<_> = walk
        .iter()
        .map(|vertex| (&*vertex.name, vertex.complete))
        .collect();
    assert_eq!(names, [("vb below", true), ("vb", true)]);
    assert_eq!(walk[1].inputs, [(0, 0)]);
    assert_eq!(
        (walk[1].digest, walk[1].ran_digest),
        (vb.digest(), va.digest())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_cache_source_is_consulted_and_what_it_gives_is_kept() {
    // C7, [CMB-1, CMB-6]
    let (world, other) = (World::new(), World::new());
    let graph = |sources: Vec<weld_solver::CacheSourceId>| {
        vtx("v", "s", "r")
            .on(&vtx("w", "t", "1").done())
            .options(|options| options.cache_sources = sources)
            .done()
    };
    other.once(&graph(Vec::new())).await;
    let source = world.solver.add_cache_source(CacheSource {
        keys: Arc::clone(&other.keys) as Arc<dyn KeyStore>,
        results: Arc::clone(&other.results) as Arc<dyn ResultStore<Value>>,
    });
    let first = graph(vec![source]);
    assert_eq!(world.once(&first).await, "r");
    assert_eq!((first.counts(), other.results.loads()), ((2, 0), 1));
    let second = graph(Vec::new());
    assert_eq!(world.once(&second).await, "r");
    assert_eq!(
        (
            second.counts(),
            other.results.loads(),
            world.results.loads()
        ),
        ((2, 0), 1, 1)
    );
}

struct Broken;

impl KeyStore for Broken {
    fn query(&self, _: keystore::KeyQuery) -> keystore::Answer<keystore::KeyMatches> {
        keystore::Answer::Later(Box::pin(async {
            Err(weld_solver::StoreError::new(
                "query keys",
                "the registry is down",
            ))
        }))
    }
    fn save(&self, _: keystore::SaveKey) {}
    fn drop_record(&self, _: weld_solver::RecordId) {}
    fn entry(&self, _: weld_solver::KeyId) -> keystore::Answer<Option<keystore::KeyEntry>> {
        keystore::Answer::Ready(None)
    }
    fn keys_of(&self, _: weld_solver::RecordId) -> keystore::Answer<Vec<weld_solver::KeyId>> {
        keystore::Answer::Ready(Vec::new())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_cache_source_is_a_miss() {
    // C7
    let world = World::new();
    let results = Arc::clone(&world.results) as Arc<dyn ResultStore<Value>>;
    let source = world.solver.add_cache_source(CacheSource {
        keys: Arc::new(Broken),
        results,
    });
    let v = vtx("v", "s", "r")
        .on(&vtx("w", "t", "1").done())
        .options(|options| options.cache_sources = vec![source])
        .done();
    assert_eq!(world.once(&v).await, "r");
    assert_eq!(v.counts(), (2, 2));
    assert!(world.saw(|event| matches!(event, TraceEvent::SourceFailed { .. })) > 0);
}
