//! Caches whose layers do not come: each place is given some time, once, and then the build goes on without it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod support;

use std::time::Instant;

use support::Bed;
use support::kept::Daemon;
use support::steps::forget;
use weld_testbed::{Fault, Proxy, Registry};

const STEPS: usize = 15;

fn bed() -> Bed {
    let steps: String = (0..STEPS)
        // One of them is large: what comes of it before it is wrong is a lot.
        .map(|number| match number {
            7 => format!(
                "RUN head -c 3000000 /dev/urandom > /large; echo {number} > /file{number}\n"
            ),
            _ => format!("RUN echo {number} > /file{number}\n"),
        })
        .collect();
    let bed = Bed::new();
    bed.dockerfile(&format!("FROM base\n{steps}"));
    bed
}

/// How often layers were asked for.
fn asked(proxy: &Proxy) -> usize {
    let requests = proxy.requests();
    let of_layers = |request: &&String| request.starts_with("GET") && request.contains("/blobs/");
    requests.iter().filter(of_layers).count()
}

/// How often a build was told that a layer is lost.
fn told(stderr: &str) -> usize {
    let lines = stderr.lines();
    lines
        .filter(|line| line.contains("cached layer sha256:"))
        .count()
}

#[test]
fn layers_that_do_not_come_are_not_asked_for_by_each_step() {
    let registry = Registry::start().unwrap();
    let proxy = Proxy::start(&registry.host()).unwrap();
    let cache = format!("type=registry,ref={}/cache:a", proxy.host());
    let to = format!("{cache},mode=max");
    let bed = bed();
    bed.build(&["--cache-to", &to]).ok();
    // With the layers that were on their way when the place was given up.
    let all = STEPS + 1;
    let steps = std::fs::read_to_string(bed.context().join("Dockerfile")).unwrap();
    for (fault, most) in [
        (Fault::Status(503), 2 * all),
        (Fault::Status(404), all),
        (Fault::Status(403), all),
        (Fault::Close, 2 * all),
        (Fault::Corrupt, 3 * all),
        (Fault::Stall, all),
    ] {
        forget(&bed);
        // Known, and not fetched.
        bed.dockerfile(&steps);
        bed.build(&["--cache-from", &cache]).ok();
        asked(&proxy);
        proxy.fault("GET", "/blobs/", fault);
        // One that is not in the cache, and needs all of them.
        bed.dockerfile(&format!("{steps}RUN echo more > /more\n"));
        let began = Instant::now();
        let output = format!("type=local,dest={}", bed.path("out").display());
        drop(std::fs::remove_dir_all(bed.path("out")));
        let ended = bed.build(&["--output", &output]).ok();
        let took = began.elapsed();
        proxy.heal();
        let requests = asked(&proxy);
        println!("{fault:?}: {requests} requests, {took:.1?}");
        assert!(requests <= most, "{fault:?}: {requests} requests");
        // As the error of the step that fetches them, and below it.
        let told = told(&ended.stderr);
        assert!((1..=3).contains(&told), "{fault:?}: {}", ended.stderr);
        let last = format!("file{}", STEPS - 1);
        assert!(bed.path("out").join(last).exists(), "{fault:?}");
    }
}

#[test]
fn a_daemon_does_not_ask_again_for_a_while() {
    let registry = Registry::start().unwrap();
    let proxy = Proxy::start(&registry.host()).unwrap();
    let cache = format!("type=registry,ref={}/cache:a", proxy.host());
    let bed = Bed::new();
    bed.dockerfile(
        "FROM base AS one\nRUN echo 1 > /one\n\
         FROM base AS two\nRUN echo 2 > /two\n\
         FROM base\nCOPY --from=one /one /\nCOPY --from=two /two /\n",
    );
    bed.build(&["--cache-to", &format!("{cache},mode=max")])
        .ok();
    forget(&bed);
    let daemon = Daemon::start(&bed);
    let build = |arguments: &[&str]| {
        let all = [&["--addr", &daemon.address], arguments].concat();
        bed.build(&all).ok().stderr
    };
    for target in ["one", "two"] {
        build(&["--cache-from", &cache, "--target", target]);
    }
    proxy.fault("GET", "/blobs/", Fault::Status(503));
    let output = format!("type=local,dest={}", bed.path("out").display());
    let of = |target| build(&["--target", target, "--output", &output]);
    let first = of("one");
    assert!(first.contains("503"), "{first}");
    proxy.heal();
    asked(&proxy);
    // Another layer of the same cache.
    let second = of("two");
    assert_eq!(asked(&proxy), 0, "{second}");
    assert!(second.contains("counts as absent"), "{second}");
    assert!(bed.path("out/two").exists());
    drop(daemon.stop());
}
