//! Caches whose layers do not come: each place is given some time, once, and then the build goes on without it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod support;

use std::time::{Duration, Instant};

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
        (Fault::Trickle, all),
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

/// Longer than any of the waits that these tests ask for, and shorter than those that they would have otherwise.
const SOON: Duration = Duration::from_secs(30);

#[test]
fn a_registry_that_says_nothing_costs_an_export_its_timeout_once() {
    let registry = Registry::start().unwrap();
    let proxy = Proxy::start(&registry.host()).unwrap();
    let bed = bed();
    bed.build(&[]).ok();
    for (method, path) in [
        ("HEAD", "/blobs/"),
        ("POST", "/uploads/"),
        ("PUT", "/uploads/"),
        ("HEAD", "/manifests/"),
        ("PUT", "/manifests/"),
    ] {
        proxy.fault(method, path, Fault::Silence);
        let name = format!("{}{}", method.to_lowercase(), path.replace('/', "-"));
        let to = format!(
            "type=registry,ref={}/{name}end:a,mode=max,timeout=1",
            proxy.host()
        );
        let began = Instant::now();
        let failed = bed.build(&["--cache-to", &to]);
        let ignored = bed
            .build(&["--cache-to", &format!("{to},ignore-error=true")])
            .ok();
        let took = began.elapsed();
        proxy.heal();
        // Where it only looks whether the manifest is there, it writes it.
        if method != "HEAD" || path != "/manifests/" {
            assert!(failed.code != Some(0), "{method} {path}: {}", failed.stderr);
            assert!(
                ignored.stderr.contains("no answer for 1 s"),
                "{}",
                ignored.stderr
            );
        }
        assert!(took < SOON, "{method} {path}: {took:.1?}");
    }
    let to = format!("type=registry,ref={}/x:a,timeout=0", proxy.host());
    let refused = bed.build(&["--cache-to", &to]);
    assert!(
        refused.stderr.contains("timeout=\"0\": must be"),
        "{}",
        refused.stderr
    );
}

#[test]
fn mounts_that_do_not_come_are_waited_for_once() {
    let registry = Registry::start().unwrap();
    let proxy = Proxy::start(&registry.host()).unwrap();
    let place = format!("type=mount,ref={}/mounts:a", proxy.host());
    let bed = Bed::new();
    bed.dockerfile(
        "FROM base\n\
         RUN --mount=type=cache,target=/one date > /one/file\n\
         RUN --mount=type=cache,target=/two date > /two/file\n",
    );
    bed.build(&["--cache-to", &format!("{place},id=/one;/two")])
        .ok();
    let requests = proxy.requests();
    let put = |request: &String| {
        let digest = request.strip_prefix("PUT ")?.split_once("sha256%3A")?.1;
        Some(digest.get(..64)?.to_owned())
    };
    let mut chunks: Vec<_> = requests.iter().filter_map(put).collect();
    // The last one is the config, which is read when the cache is.
    chunks.pop();
    assert!(!chunks.is_empty(), "{requests:?}");
    for fault in [Fault::Silence, Fault::Stall] {
        forget(&bed);
        for chunk in &chunks {
            proxy.fault("GET", chunk, fault);
        }
        let began = Instant::now();
        let ended = bed
            .build(&["--cache-from", &format!("{place},timeout=1")])
            .ok();
        let took = began.elapsed();
        proxy.heal();
        assert!(
            ended.stderr.contains("no answer for"),
            "{fault:?}: {}",
            ended.stderr
        );
        assert!(took < SOON, "{fault:?}: {took:.1?}");
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
