//! Caches of GitHub Actions: what one job built, another one finds, as far as their tokens let them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod support;

use support::Bed;
use support::kept::{Daemon, holds};
use support::steps::{bed, describes_layers, forget, made};
use weld_testbed::{ActionsServer, Fault, Proxy};

/// The scope of the branch that others are made from.
const MAIN: &str = "refs/heads/main";
/// Its jobs' token.
const OWN: &[(&str, u64)] = &[(MAIN, 3)];

/// A cache as a version of the service is reached at `host`.
fn gha(version: u8, host: &str, token: &str) -> String {
    let url = if version == 1 { "url" } else { "url_v2" };
    format!("type=gha,{url}=http://{host}/,token={token},version={version}")
}

/// The requests that have a part in them and ended well.
fn count(requests: &[String], part: &str) -> usize {
    let asked = requests.iter().filter(|request| request.contains(part));
    asked.filter(|request| request.contains(" 20")).count()
}

#[test]
fn a_job_finds_what_another_made() {
    for version in [1, 2] {
        let server = ActionsServer::start().unwrap();
        let cache = gha(version, &server.host(), &ActionsServer::token(OWN));
        let to = format!("{cache},mode=max,scope=app");
        let bed = bed();
        let (first, written) = made(&bed, &["--cache-to", &to]);
        let step = "exporting to GitHub Actions Cache";
        assert!(written.stderr.contains(step), "{}", written.stderr);
        let keys = server.keys();
        let blobs = keys
            .iter()
            .filter(|(_, key)| key.starts_with("buildkit-blob-1-sha256:"));
        assert_eq!(blobs.count(), 5, "the base's layer and four: {keys:?}");
        let config = server.content("index-app-1-").unwrap();
        describes_layers(&config);
        forget(&bed);
        server.requests();
        let from = format!("{cache},scope=app");
        let (second, read) = made(&bed, &["--cache-from", &from]);
        assert_eq!(first, second, "{}", read.stderr);
        // What is there is written no second time, and nothing is fetched for it.
        forget(&bed);
        server.requests();
        bed.build(&["--cache-from", &from, "--cache-to", &to]).ok();
        let requests = server.requests();
        assert_eq!(
            count(&requests, "GET /content/"),
            1,
            "the config: {requests:?}"
        );
        let reserving = if version == 1 {
            "POST /_apis/artifactcache/caches 200"
        } else {
            "CreateCacheEntry"
        };
        assert_eq!(
            count(&requests, reserving),
            1,
            "the next config: {requests:?}"
        );
        assert_eq!(server.keys().len(), keys.len() + 1);
        let other = bed
            .build(&["--cache-from", &format!("{cache},scope=other")])
            .ok();
        let told = "there is no cache of the name other-1-";
        assert!(other.stderr.contains(told), "{}", other.stderr);
    }
}

#[test]
fn branches_find_what_the_main_one_made_and_not_the_other_way() {
    let server = ActionsServer::start().unwrap();
    let cache = |scopes: &[(&str, u64)]| gha(2, &server.host(), &ActionsServer::token(scopes));
    let main = cache(OWN);
    let topic = cache(&[("refs/pull/7/merge", 3), (MAIN, 1)]);
    let bed = bed();
    let (of_main, _) = made(&bed, &["--cache-to", &format!("{main},mode=max")]);
    forget(&bed);
    let both = [
        "--cache-from",
        topic.as_str(),
        "--cache-to",
        &format!("{topic},mode=max"),
    ];
    let (found, read) = made(&bed, &both);
    assert_eq!(of_main, found, "{}", read.stderr);
    // Layers that can be read are not written again, whosever they are.
    let keys = server.keys();
    let own = keys
        .iter()
        .filter(|(scope, _)| scope.starts_with("refs/pull/"));
    assert_eq!(own.count(), 1, "the config: {keys:?}");
    forget(&bed);
    bed.file("file", "another");
    let (of_topic, _) = made(&bed, &both);
    forget(&bed);
    let (again, _) = made(&bed, &["--cache-from", &topic]);
    assert_eq!(of_topic, again);
    forget(&bed);
    let (on_main, _) = made(&bed, &["--cache-from", &main]);
    assert_ne!(of_topic, on_main, "a branch's is not for the main one");
}

#[test]
fn large_layers_go_in_pieces() {
    for version in [1, 2] {
        let server = ActionsServer::start().unwrap();
        let cache = gha(version, &server.host(), &ActionsServer::token(OWN));
        let bed = Bed::new();
        let steps = "FROM base\nRUN head -c 20000000 /dev/urandom > /big && md5sum < /big > /a\n\
            RUN cp /a /b && cp /a /c\n";
        bed.dockerfile(steps);
        // Being asked too often is no error.
        server.throttle(2);
        let (first, _) = made(&bed, &["--cache-to", &format!("{cache},mode=max")]);
        let requests = server.requests();
        assert_eq!(
            requests
                .iter()
                .filter(|told| told.ends_with(" 429"))
                .count(),
            2
        );
        match version {
            1 => assert!(count(&requests, "PATCH /") >= 3, "{requests:?}"),
            _ => assert_eq!(count(&requests, "?comp=block "), 3, "{requests:?}"),
        }
        forget(&bed);
        let (second, ended) = made(&bed, &["--cache-from", &cache]);
        assert_eq!(first, second, "{}", ended.stderr);
    }
}

#[test]
fn what_cannot_be_had_is_made_anew() {
    let server = ActionsServer::start().unwrap();
    let proxy = Proxy::start(&server.host()).unwrap();
    server.serve_content_at(&proxy.host());
    let cache = gha(2, &server.host(), &ActionsServer::token(OWN));
    let bed = bed();
    let (first, _) = made(&bed, &["--cache-to", &format!("{cache},mode=max")]);
    // A download that breaks off is gone on with.
    forget(&bed);
    proxy.fault_once("GET", "/content/", Fault::Truncate);
    let (again, ended) = made(&bed, &["--cache-from", &cache]);
    assert_eq!(first, again, "{}", ended.stderr);
    for fault in [Fault::Status(403), Fault::Status(404), Fault::Corrupt] {
        forget(&bed);
        proxy.heal();
        proxy.fault("GET", "/content/", fault);
        let (again, ended) = made(&bed, &["--cache-from", &cache]);
        assert_ne!(first, again, "{fault:?}: {}", ended.stderr);
    }
    // Layers that GitHub dropped, while their config is there.
    proxy.heal();
    forget(&bed);
    server.evict("buildkit-blob-1-");
    let (again, ended) = made(&bed, &["--cache-from", &cache]);
    assert_ne!(first, again, "{}", ended.stderr);
    let told = ended.stderr.contains("cached layer sha256:");
    assert!(
        told && ended.stderr.contains("it is not there"),
        "{}",
        ended.stderr
    );
}

#[test]
fn a_config_that_nobody_completed_is_passed_over() {
    let server = ActionsServer::start().unwrap();
    let cache = gha(2, &server.host(), &ActionsServer::token(OWN));
    let bed = bed();
    let to = format!("{cache},mode=max");
    made(&bed, &["--cache-to", &to]);
    server.abandon("index-");
    let (first, _) = made(&bed, &["--cache-to", &to]);
    let keys = server.keys();
    assert!(keys.iter().any(|(_, key)| key.ends_with("#2")), "{keys:?}");
    forget(&bed);
    let (second, ended) = made(&bed, &["--cache-from", &cache]);
    assert_eq!(first, second, "{}", ended.stderr);
}

#[test]
fn a_layer_that_nobody_completed_is_left_out() {
    let server = ActionsServer::start().unwrap();
    let cache = gha(2, &server.host(), &ActionsServer::token(OWN));
    let bed = bed();
    let to = format!("{cache},mode=max");
    made(&bed, &["--cache-to", &to]);
    let config = server.content("index-").unwrap();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    let layers = config["layers"].as_array().unwrap();
    let last = layers
        .iter()
        .max_by_key(|layer| layer["parent"].as_i64())
        .unwrap();
    server.abandon(&format!(
        "buildkit-blob-1-{}",
        last["blob"].as_str().unwrap()
    ));
    let written = bed.build(&["--cache-to", &to]).ok();
    let told = "is being written by somebody else, or was not completed: what needs it is left out";
    assert!(written.stderr.contains(told), "{}", written.stderr);
    let config = server.content("index-").unwrap();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(config["layers"].as_array().unwrap().len(), layers.len() - 1);
}

#[test]
fn the_environment_of_a_job_is_enough() {
    let server = ActionsServer::start().unwrap();
    let token = ActionsServer::token(OWN);
    let bed = bed();
    let arguments = [
        "--cache-to",
        "type=gha,mode=max",
        "--cache-from",
        "type=gha",
    ];
    let outside = bed.build(&arguments).ok();
    let told = outside
        .stderr
        .matches("no job of GitHub Actions around")
        .count();
    assert_eq!(told, 2, "{}", outside.stderr);
    let url = format!("http://{}/", server.host());
    let job = [
        ("ACTIONS_CACHE_SERVICE_V2", "true"),
        ("ACTIONS_RESULTS_URL", &*url),
        ("ACTIONS_CACHE_URL", "http://127.0.0.1:1/"),
        ("ACTIONS_RUNTIME_TOKEN", &*token),
    ];
    let written = bed.build_with(&job, &arguments).ok();
    assert!(!written.stderr.contains(&token), "{}", written.stderr);
    assert!(
        server.content("index-buildkit-1-").is_some(),
        "{}",
        written.stderr
    );
    forget(&bed);
    let found = bed.build_with(&job, &arguments).ok();
    assert!(found.cached_steps() >= 4, "{}", found.stderr);
}

#[test]
fn tokens_are_checked_and_never_told() {
    let server = ActionsServer::start().unwrap();
    let token = ActionsServer::token(OWN);
    let cache = gha(2, &server.host(), &token);
    let bed = bed();
    let (head, _) = token.rsplit_once('.').unwrap();
    let forged = format!("{head}.Zm9yZ2Vk");
    let wrong = gha(2, &server.host(), &forged);
    let parts = [
        "cannot look for buildkit-blob-1-sha256:",
        "401 Unauthorized",
    ];
    let failed = bed.build(&["--cache-to", &wrong]).fails(&parts);
    let read = bed.build(&["--cache-from", &wrong]).ok();
    assert!(
        read.stderr.contains("the token is not valid"),
        "{}",
        read.stderr
    );
    let fork = gha(2, &server.host(), &ActionsServer::token(&[(MAIN, 1)]));
    bed.build(&["--cache-to", &fork])
        .fails(&["token: may be read with and not written with"]);
    bed.build(&["--cache-to", &format!("{fork},ignore-error=true")])
        .ok();
    assert!(server.keys().is_empty(), "{:?}", server.keys());
    let daemon = Daemon::start(&bed);
    let to = format!("{cache},mode=max,ghtoken=ghp_of_rest,repository=a/b");
    let arguments = [
        "--addr",
        &daemon.address,
        "--cache-to",
        &to,
        "--cache-from",
        &cache,
    ];
    let told = bed
        .build(&[&arguments[..], &["--provenance", "mode=max"]].concat())
        .ok();
    bed.build(&arguments).ok();
    assert!(
        server.content("index-buildkit-1-").is_some(),
        "{}",
        told.stderr
    );
    // Errors are kept with the history, too.
    bed.build(&[
        "--addr",
        &daemon.address,
        "--cache-to",
        &wrong,
        "--no-cache",
    ])
    .fails(&["401"]);
    let log = daemon.stop();
    let signature = token.rsplit('.').next().unwrap();
    for secret in [signature, "Zm9yZ2Vk", "ghp_of_rest", "sig="] {
        for ended in [&failed, &read, &told] {
            assert!(!ended.stderr.contains(secret), "{secret}: {}", ended.stderr);
            assert!(!ended.stdout.contains(secret), "{secret}: {}", ended.stdout);
        }
        assert!(!log.contains(secret), "{secret}: {log}");
    }
    for secret in [signature, "Zm9yZ2Vk", "ghp_of_rest"] {
        assert!(!holds(&bed.path("state"), secret.as_bytes()), "{secret}");
    }
    // Layers that are known and not here say where they are, and a build without the token has them made anew.
    forget(&bed);
    bed.build(&["--cache-from", &cache]).ok();
    assert!(holds(&bed.path("state"), b"client-objects:gha://v2?"));
    assert!(!holds(&bed.path("state"), signature.as_bytes()));
    let (_, ended) = made(&bed, &[]);
    let reason = "the client's key for it is not there";
    assert!(ended.stderr.contains(reason), "{}", ended.stderr);
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let bed = bed();
    for (cache, part) in [
        (
            "type=gha,url=http://127.0.0.1:1,token=hush",
            "is no token of a job",
        ),
        (
            "type=gha,url=http://127.0.0.1:1,token=hush,version=3",
            "no token of a job",
        ),
    ] {
        let ended = bed.build(&["--cache-to", cache]).fails(&[part]);
        assert!(!ended.stderr.contains("hush"), "{}", ended.stderr);
    }
    let token = ActionsServer::token(OWN);
    let cache = format!("type=gha,url=http://me:pass@127.0.0.1:1,token={token}");
    let ended = bed
        .build(&["--cache-to", &cache])
        .fails(&["url: must be an http:// or https:// address"]);
    assert!(!ended.stderr.contains("pass@"), "{}", ended.stderr);
}
