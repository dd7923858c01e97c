//! Edges with equal keys.

use std::sync::{Arc, atomic::Ordering};

use weld_solver::{Census, Digest, Refusal, TraceEvent};

use crate::support::*;

fn merges(world: &World) -> usize {
    world.saw(|event| matches!(event, TraceEvent::Merged { .. }))
}

fn refusals(world: &World, why: Refusal) -> usize {
    world.saw(|event| matches!(event, TraceEvent::MergeRefused { reason, .. } if *reason == why))
}

pub(crate) async fn until_merged(world: &World, count: usize) {
    while merges(world) < count {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_digests_with_one_key_run_once() {
    // [PAR-2]
    let world = World::new();
    let meeting = barrier(2);
    let v = |name: &str| vtx(name, "s0", "r0").map_waits(&meeting).done();
    let (v0, v1) = (v("v0"), v("v1"));
    let (j0, j1) = (world.job().await, world.job().await);
    let (a, b) = tokio::join!(solve(&j0, &v0), solve(&j1, &v1));
    assert_eq!((a.as_str(), b.as_str()), ("r0", "r0"));
    assert_eq!((v0.counts().0, v1.counts().0), (1, 1));
    assert_eq!(v0.counts().1 + v1.counts().1, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_graphs_of_two_jobs_run_once_level_by_level() {
    // [PAR-3]
    let world = World::new();
    let (upper, lower) = (barrier(2), barrier(2));
    let graph = |name: &str| {
        let below = vtx(&format!("{name} below"), "s1", "r1")
            .map_waits(&lower)
            .done();
        vtx(name, "s0", "r0").on(&below).map_waits(&upper).done()
    };
    let (v0, v1) = (graph("v0"), graph("v1"));
    let (j0, j1) = (world.job().await, world.job().await);
    let (a, b) = tokio::join!(solve(&j0, &v0), solve(&j1, &v1));
    assert_eq!((a.as_str(), b.as_str()), ("r0", "r0"));
    assert_eq!((v0.counts().0, v1.counts().0), (2, 2));
    assert_eq!(v0.counts().1 + v1.counts().1, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_run_in_parallel() {
    // [PAR-4]
    let world = World::new();
    let (maps, execs) = (barrier(2), barrier(2));
    let v = |name: &str| {
        vtx(name, name, "1")
            .map_waits(&maps)
            .exec_waits(&execs)
            .done()
    };
    let top = sum(0, &[&v("v1"), &v("v2")]);
    assert_eq!(world.once(&top).await, "2");
    assert_eq!(top.counts(), (3, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_that_could_merge_in_both_directions() {
    // [MUL-1, MUL-2]
    for _ in 0..20 {
        let world = World::new();
        let v = |n: &[i64]| {
            add(
                2,
                &n.iter()
                    .map(|n| constant(*n))
                    .collect::<Vec<_>>()
                    .iter()
                    .collect::<Vec<_>>(),
            )
        };
        let (va, vb) = (v(&[3, 4]), v(&[3, 4]));
        let top = vtx("top", "top", "");
        let top = [(&va, 1), (&vb, 0), (&va, 0), (&vb, 1)]
            .into_iter()
            .fold(top, |top, (v, output)| top.on_output(v, output));
        assert_eq!(world.once(&top.sum(1).done()).await, "23");
        let (va, vb, vc) = (v(&[3, 4, 5]), v(&[3, 4, 5]), v(&[3, 4, 5]));
        let order = [(&vb, 0), (&va, 0), (&vc, 1), (&va, 1), (&va, 2), (&vb, 2)];
        let top = order
            .into_iter()
            .fold(vtx("top 2", "top 2", ""), |top, (v, output)| {
                top.on_output(v, output)
            });
        assert_eq!(world.once(&top.sum(1).done()).await, "37");
        world.emptied().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn edges_merge_by_content() {
    // [MRG-4]
    let world = World::new();
    let gate = Gate::new();
    let graph = |name: &str, input: &str| {
        let below = vtx(input, input, "same content").done();
        vtx(name, "op", "r")
            .on(&below)
            .slow(0)
            .exec_gate(&gate)
            .done()
    };
    let (v1, v1d) = (graph("v1", "v2"), graph("v1d", "v3"));
    let (_a, first) = spawn(world.job().await, &v1).await;
    gate.arrivals(1).await;
    let (_b, second) = spawn(world.job().await, &v1d).await;
    until_merged(&world, 1).await;
    gate.open();
    assert_eq!(*first.await.unwrap().unwrap().value, "r");
    assert_eq!(*second.await.unwrap().unwrap().value, "r");
    assert_eq!(
        v1.execs.load(Ordering::SeqCst) + v1d.execs.load(Ordering::SeqCst),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_merged_stays_alive_whichever_job_goes() {
    // [MRG-5 to MRG-9], and the scenario that gave rise to Weldkit's solver
    for order in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ] {
        let world = World::new();
        let mut jobs = Vec::new();
        for at in 0..3 {
            let graph = vtx(&format!("v{at}"), "add", "r")
                .on(&vtx(&format!("d{at}"), "const", "1").done())
                .done();
            let job = world.job().await;
            assert_eq!(solve(&job, &graph).await, "r");
            assert_eq!(
                graph.counts(),
                (2, u32::from(at == 0) * 2),
                "only the first one runs"
            );
            jobs.push(Some((job, graph)));
        }
        for at in order {
            let (job, _) = jobs[at].take().unwrap();
            job.discard().await;
            for (job, graph) in jobs.iter().flatten() {
                let before = graph.counts();
                assert_eq!(solve(job, graph).await, "r");
                assert_eq!(graph.counts(), before, "nothing runs again");
            }
            // Whoever comes now still finds what is left, live or recorded.
            let late = vtx("late", "add", "x")
                .on(&vtx("late d", "const", "1").done())
                .done();
            assert_eq!(world.once(&late).await, "r");
            assert_eq!(late.counts().1, 0);
        }
        world.emptied().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_joiner_of_a_merged_vertex_keeps_its_target_alive() {
    // [C1 of the weaknesses, effects (ii) and (iii)]: the inputs of the target are not merged themselves
    let world = World::new();
    let warm = vtx("warm", "v", "r")
        .on(&vtx("wx", "x", "x").done())
        .on(&vtx("wy", "y", "y").done())
        .slow(1)
        .done();
    assert_eq!(world.once(&warm).await, "r");
    let gate = Gate::new();
    let graph = |n: u32| {
        let x = vtx(&format!("x{n}"), "x", "x").done();
        let y = vtx(&format!("y{n}"), "changed", "changed")
            .exec_gate(&gate)
            .done();
        vtx(&format!("v{n}"), "v", "new r")
            .on(&x)
            .on(&y)
            .slow(1)
            .done()
    };
    let (v0, v1) = (graph(0), graph(1));
    let (j0, r0) = spawn(world.job().await, &v0).await;
    gate.arrivals(1).await;
    let (j1, r1) = spawn(world.job().await, &v1).await;
    until_merged(&world, 2).await;
    let (_j2, r2) = spawn(world.job().await, &v1).await;
    crate::abandoned::settled(&world, 3).await;
    for (job, request) in [(j0, r0), (j1, r1)] {
        request.abort();
        let _ = request.await;
        end(job).await;
    }
    gate.open();
    assert_eq!(*r2.await.unwrap().unwrap().value, "new r");
    assert_eq!(gate.cancelled.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_edge_that_runs_survives() {
    // M4
    let world = World::new();
    let gate = Gate::new();
    let (late_map, open) = (Gate::new(), Gate::new());
    open.open();
    // The older vertex learns its key only when the younger one is running.
    let older = vtx("older", "same", "r").map_gate(&late_map).done();
    let younger = vtx("younger", "same", "r").exec_gate(&gate).done();
    let (_a, first) = spawn(world.job().await, &older).await;
    late_map.arrivals(1).await;
    let (_b, second) = spawn(world.job().await, &younger).await;
    gate.arrivals(1).await;
    late_map.open();
    until_merged(&world, 1).await;
    gate.open();
    assert_eq!(*first.await.unwrap().unwrap().value, "r");
    assert_eq!(*second.await.unwrap().unwrap().value, "r");
    assert_eq!((older.counts().1, younger.counts().1), (0, 1));
    assert_eq!(gate.cancelled.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_is_not_merged_with_its_ancestor() {
    // M2: an operation that changes nothing, twice
    let world = World::new();
    let bottom = vtx("bottom", "bottom", "content").done();
    let once = vtx("once", "idempotent", "content")
        .on(&bottom)
        .slow(0)
        .done();
    let twice = vtx("twice", "idempotent", "content")
        .on(&once)
        .slow(0)
        .done();
    let job = world.job().await;
    assert_eq!(solve(&job, &twice).await, "content");
    assert_eq!(merges(&world), 0);
    assert_eq!(
        refusals(&world, Refusal::Ancestor) + refusals(&world, Refusal::BothComplete),
        1
    );
    job.discard().await;
    world.emptied().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vertex_marked_so_is_never_merged() {
    // M2
    let world = World::new();
    let (a, b) = (
        vtx("a", "s", "r a").never_merge().done(),
        vtx("b", "s", "r b").done(),
    );
    let (j0, j1) = (world.job().await, world.job().await);
    let gate = Gate::new();
    let hold = vtx("hold", "s", "r").exec_gate(&gate).never_merge().done();
    let (_j2, held) = spawn(world.job().await, &hold).await;
    gate.arrivals(1).await;
    assert_eq!(solve(&j0, &a).await, "r a");
    assert_eq!(
        solve(&j1, &b).await,
        "r a",
        "its record may be used all the same"
    );
    gate.open();
    assert_eq!(*held.await.unwrap().unwrap().value, "r");
    assert_eq!(merges(&world), 0);
    assert!(refusals(&world, Refusal::NeverMerge) >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_on_a_vertex_that_is_never_merged_is_not_merged_by_its_key() {
    // M2
    let world = World::new();
    let gate = Gate::new();
    let graph = |name: &str| {
        let apart = vtx(&format!("apart {name}"), "apart", name)
            .never_merge()
            .exec_gate(&gate)
            .done();
        let above = vtx(&format!("above {name}"), "above", name)
            .on(&apart)
            .done();
        vtx(&format!("top {name}"), "top", name).on(&above).done()
    };
    let (a, b) = (graph("a"), graph("b"));
    let (_one, first) = spawn(world.job().await, &a).await;
    let (_two, second) = spawn(world.job().await, &b).await;
    gate.arrivals(2).await;
    gate.open();
    assert_eq!(*first.await.unwrap().unwrap().value, "a");
    assert_eq!(*second.await.unwrap().unwrap().value, "b");
    assert_eq!(merges(&world), 0);
    assert_eq!([a.counts().1, b.counts().1], [3, 3]);
    // Records are found and saved as ever.
    let third = graph("c");
    assert!(["a", "b"].contains(&world.once(&third).await.as_str()));
    assert_eq!(third.counts().1, 0);
    // What sees the same content is the same.
    let by_content = |name: &str, gate: &Arc<Gate>| {
        let apart = vtx(&format!("apart {name}"), &format!("apart {name}"), "same")
            .never_merge()
            .done();
        let above = vtx(&format!("above {name}"), "by content", name);
        above.on(&apart).slow(0).exec_gate(gate).done()
    };
    let gate = Gate::new();
    let (d, e) = (by_content("d", &gate), by_content("e", &gate));
    let (_three, third) = spawn(world.job().await, &d).await;
    gate.arrivals(1).await;
    let (_four, fourth) = spawn(world.job().await, &e).await;
    while merges(&world) == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    gate.open();
    assert_eq!(*third.await.unwrap().unwrap().value, "d");
    assert_eq!(*fourth.await.unwrap().unwrap().value, "d");
}

#[tokio::test(flavor = "multi_thread")]
async fn vertices_of_one_digest_are_shared_within_an_audience() {
    let world = World::new();
    // What stands on them is not shared either, although it has one digest as well.
    let graph = |audience: Option<&str>, value: &str| {
        let below = vtx("below", value, value).options(|options| {
            options.audience = audience.map(Digest::of);
        });
        sum_named("top", &below.done())
    };
    let jobs = [world.job().await, world.job().await, world.job().await];
    let all = [
        graph(None, "1"),
        graph(Some("those"), "2"),
        graph(Some("those"), "3"),
    ];
    let mut solved = Vec::new();
    for (vertex, job) in all.iter().zip(&jobs) {
        solved.push(solve(job, vertex).await);
    }
    // The third is the second's, whatever its own operation would do.
    assert_eq!(solved, ["1", "2", "2"]);
    assert_eq!(all.each_ref().map(|vertex| vertex.counts().1), [2, 2, 0]);
    for job in jobs {
        job.discard().await;
    }
    world.emptied().await;
}

fn sum_named(name: &str, below: &Vtx) -> Vtx {
    vtx(name, "sum", "0").sum(0).on(below).done()
}

#[tokio::test(flavor = "multi_thread")]
async fn domains_share_nothing_but_what_is_public() {
    let world = World::new();
    let graph = |value: &str| {
        let base = vtx("base", "base", "b").public().done();
        vtx("v", "s", value).on(&base).done()
    };
    let (a, b) = (world.job_in("a").await, world.job_in("b").await);
    assert_eq!(solve(&a, &graph("r a")).await, "r a");
    let other = graph("r b");
    assert_eq!(solve(&b, &other).await, "r b");
    assert_eq!(other.counts(), (2, 1), "the public base is used");
    assert_eq!(merges(&world), 1, "the public bases");
    world
        .reaches(Census {
            jobs: 2,
            vertices: 4,
            edges: 4,
            index: 3,
            ..Census::default()
        })
        .await;
    a.discard().await;
    b.discard().await;
    let again = world.job_in("a").await;
    assert_eq!(solve(&again, &graph("x")).await, "r a");
    again.discard().await;
    let third = world.job_in("c").await;
    let graph = graph("r c");
    assert_eq!(solve(&third, &graph).await, "r c");
    assert_eq!(graph.counts(), (2, 1), "the record of the public base");
}

#[tokio::test(flavor = "multi_thread")]
async fn domains_share_the_run_of_what_is_public() {
    // M2
    for (public, runs) in [(true, 1), (false, 2)] {
        let world = World::new();
        let gate = Gate::new();
        let base = |value: &str| {
            let base = vtx("base", "base", value).exec_gate(&gate);
            if public { base.public() } else { base }.done()
        };
        let (first, second) = (base("b"), base("b"));
        let (a, running) = spawn(world.job_in("a").await, &first).await;
        gate.arrivals(1).await;
        let (b, joined) = spawn(world.job_in("b").await, &second).await;
        if public {
            while merges(&world) == 0 {
                tokio::task::yield_now().await;
            }
            // Whoever began it may go.
            running.abort();
            end(a).await;
        } else {
            gate.arrivals(2).await;
        }
        gate.open();
        assert_eq!(*joined.await.unwrap().unwrap().value, "b");
        let execs = |vertex: &Vtx| vertex.execs.load(Ordering::SeqCst);
        if !public {
            running.await.unwrap().unwrap();
        }
        assert_eq!(execs(&first) + execs(&second), runs);
        drop(b);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn links_that_only_the_merged_edge_knew_are_kept() {
    // M5
    let world = World::new();
    let gate = Gate::new();
    let graph = |name: &str, input: &str| {
        vtx(name, "op", "r")
            .on(&vtx(input, input, "same").done())
            .slow(0)
            .exec_gate(&gate)
            .done()
    };
    let (_a, first) = spawn(world.job().await, &graph("v1", "in1")).await;
    gate.arrivals(1).await;
    let (_b, second) = spawn(world.job().await, &graph("v2", "in2")).await;
    until_merged(&world, 1).await;
    gate.open();
    let _ = (
        first.await.unwrap().unwrap(),
        second.await.unwrap().unwrap(),
    );
    drop((_a, _b));
    world.emptied().await;
    for input in ["in1", "in2"] {
        let again = graph("v3", input);
        assert_eq!(world.once(&again).await, "r");
        assert_eq!(
            again.counts(),
            (2, 0),
            "{input} is enough, without its content"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_diamond_ladder_merges_in_linear_time() {
    let world = World::new();
    let ladder = |name: &str| {
        let mut left = vtx(&format!("{name} l"), "l", "1").done();
        let mut right = vtx(&format!("{name} r"), "r", "2").done();
        for depth in 0..500 {
            let next = |side: &str| {
                vtx(
                    &format!("{name} {side}{depth}"),
                    &format!("{side}{depth}"),
                    "1",
                )
                .on(&left)
                .on(&right)
                .done()
            };
            (left, right) = (next("l"), next("r"));
        }
        vtx(name, "top", "r").on(&left).on(&right).done()
    };
    let (a, b) = (ladder("a"), ladder("b"));
    let (j0, j1) = (world.job().await, world.job().await);
    let both = async { tokio::join!(solve(&j0, &a), solve(&j1, &b)) };
    let (x, y) = tokio::time::timeout(std::time::Duration::from_secs(30), both)
        .await
        .unwrap();
    assert_eq!((x.as_str(), y.as_str()), ("r", "r"));
    assert_eq!(a.counts().1 + b.counts().1, 1003);
    drop((j0, j1));
    world.emptied().await;
    drop(Arc::clone(&world.results));
}
