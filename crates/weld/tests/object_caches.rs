//! Caches in object stores: what one state directory built, another one finds, with the right key alone.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod support;

use std::time::Duration;

use support::Bed;
use support::kept::{Daemon, holds};
use support::steps::{bed, describes_layers, forget, made};
use weld_testbed::{Fault, ObjectServer, Proxy};

/// A cache in a bucket, reached at `host`.
fn s3(host: &str) -> String {
    s3_with(host, ObjectServer::KEY)
}

fn s3_with(host: &str, key: &str) -> String {
    format!(
        "type=s3,endpoint_url=http://{host},use_path_style=true,bucket={},region={},\
         access_key_id={},secret_access_key={key}",
        ObjectServer::BUCKET,
        ObjectServer::REGION,
        ObjectServer::KEY_ID,
    )
}

/// A cache in a container, reached at `host`.
fn azblob(host: &str) -> String {
    format!(
        "type=azblob,account_url=http://{host}/{account},account_name={account},container={},\
         secret_access_key={}",
        ObjectServer::BUCKET,
        ObjectServer::ACCOUNT_KEY,
        account = ObjectServer::ACCOUNT,
    )
}

/// The requests of a method whose paths have a part in them.
fn count(requests: &[String], method: &str, part: &str) -> usize {
    let asked = requests
        .iter()
        .filter(|request| request.starts_with(method) && request.contains(part));
    asked.count()
}

#[test]
fn a_bucket_keeps_the_cache_of_all_steps() {
    let server = ObjectServer::start_s3().unwrap();
    let cache = s3(&server.host());
    let to = format!("{cache},mode=max,prefix=p/,name=main;commit");
    let bed = bed();
    let (first, written) = made(&bed, &["--cache-to", &to]);
    assert!(
        written.stderr.contains("exporting cache to Amazon S3"),
        "{}",
        written.stderr
    );
    let keys = server.keys();
    let blobs = keys.iter().filter(|key| key.starts_with("p/blobs/sha256:"));
    assert_eq!(blobs.count(), 5, "the base's layer and four: {keys:?}");
    for name in ["p/manifests/main", "p/manifests/commit"] {
        let config = server.object(name).unwrap();
        describes_layers(&config);
    }
    forget(&bed);
    server.requests();
    let from = format!("{cache},prefix=p/,name=commit");
    let (second, read) = made(&bed, &["--cache-from", &from]);
    assert_eq!(first, second, "{}", read.stderr);
    // What was found is known here now, and its layers are.
    let (third, ended) = made(&bed, &[]);
    assert_eq!(first, third);
    assert!(ended.cached_steps() >= 4, "{}", ended.stderr);
}

#[test]
fn nothing_is_moved_that_is_there() {
    let server = ObjectServer::start_s3().unwrap();
    let cache = s3(&server.host());
    let to = format!("{cache},mode=max");
    let bed = bed();
    bed.build(&["--cache-to", &to]).ok();
    forget(&bed);
    server.requests();
    assert!(bed.build(&["--cache-from", &cache]).ok().cached_steps() >= 4);
    let requests = server.requests();
    assert_eq!(count(&requests, "GET", "/manifests/"), 1, "{requests:?}");
    assert_eq!(count(&requests, "GET", "/blobs/"), 0, "{requests:?}");
    let both = ["--cache-from", cache.as_str(), "--cache-to", to.as_str()];
    bed.build(&both).ok();
    let requests = server.requests();
    assert_eq!(count(&requests, "GET", "/blobs/"), 0, "{requests:?}");
    assert_eq!(count(&requests, "PUT", "/blobs/"), 0, "{requests:?}");
    assert_eq!(count(&requests, "PUT", "/manifests/"), 1, "{requests:?}");
    // What is old is renewed where it lies, once.
    server.grow_older(Duration::from_secs(25 * 60 * 60));
    for renewed in [5, 0] {
        bed.build(&both).ok();
        let requests = server.requests();
        assert_eq!(count(&requests, "GET", "/blobs/"), 0, "{requests:?}");
        assert_eq!(count(&requests, "PUT", "/blobs/"), renewed, "{requests:?}");
    }
}

#[test]
fn large_layers_go_in_parts() {
    for azure in [false, true] {
        let (server, cache) = match azure {
            false => {
                let server = ObjectServer::start_s3().unwrap();
                let cache = s3(&server.host());
                (server, cache)
            }
            true => {
                let server = ObjectServer::start_azure().unwrap();
                let cache = azblob(&server.host());
                (server, cache)
            }
        };
        let bed = Bed::new();
        let steps = "FROM base\nRUN head -c 20000000 /dev/urandom > /big && md5sum < /big > /a\n\
            RUN cp /a /b && cp /a /c\n";
        bed.dockerfile(steps);
        let (first, _) = made(&bed, &["--cache-to", &format!("{cache},mode=max")]);
        let requests = server.requests();
        let parts = if azure { "comp=block&" } else { "partNumber=" };
        assert_eq!(count(&requests, "PUT", parts), 3, "{requests:?}");
        assert_eq!(server.parts(), 0);
        forget(&bed);
        let (second, ended) = made(&bed, &["--cache-from", &cache]);
        assert_eq!(first, second, "{}", ended.stderr);
    }
}

#[test]
fn a_container_keeps_the_cache_of_all_steps() {
    let server = ObjectServer::start_azure().unwrap();
    let cache = azblob(&server.host());
    let to = format!("{cache},mode=max,prefix=p");
    let bed = bed();
    let (first, written) = made(&bed, &["--cache-to", &to]);
    let step = "exporting cache to Azure Blob Storage";
    assert!(written.stderr.contains(step), "{}", written.stderr);
    let keys = server.keys();
    let blobs = keys.iter().filter(|key| key.starts_with("p/blobs/sha256:"));
    assert_eq!(blobs.count(), 5, "the base's layer and four: {keys:?}");
    assert!(server.object("p/manifests/buildkit").is_some(), "{keys:?}");
    forget(&bed);
    let from = format!("{cache},prefix=p");
    let (second, read) = made(&bed, &["--cache-from", &from]);
    assert_eq!(first, second, "{}", read.stderr);
    server.requests();
    let both = ["--cache-from", from.as_str(), "--cache-to", to.as_str()];
    bed.build(&both).ok();
    let requests = server.requests();
    assert_eq!(count(&requests, "PUT", "/blobs/"), 0, "{requests:?}");
}

#[test]
fn what_cannot_be_had_is_made_anew() {
    for azure in [false, true] {
        let server = match azure {
            false => ObjectServer::start_s3().unwrap(),
            true => ObjectServer::start_azure().unwrap(),
        };
        let proxy = Proxy::start(&server.host()).unwrap();
        let cache = match azure {
            false => format!("{},retry_max_attempts=1", s3(&proxy.host())),
            true => azblob(&proxy.host()),
        };
        let bed = bed();
        let to = format!("{cache},mode=max");
        let (first, _) = made(&bed, &["--cache-to", &to]);
        for fault in [
            Fault::Status(403),
            Fault::Status(404),
            Fault::Status(503),
            Fault::Close,
            Fault::Truncate,
            Fault::Corrupt,
        ] {
            forget(&bed);
            proxy.heal();
            proxy.fault("GET", "/blobs/", fault);
            let (again, ended) = made(&bed, &["--cache-from", &cache]);
            assert_ne!(first, again, "{fault:?}: {}", ended.stderr);
            let told = ended.stderr.contains("cached layer sha256:");
            assert!(told, "{fault:?}: {}", ended.stderr);
            forget(&bed);
            proxy.heal();
            proxy.fault("GET", "/manifests/", fault);
            let (again, ended) = made(&bed, &["--cache-from", &cache]);
            assert_ne!(first, again, "{fault:?}: {}", ended.stderr);
        }
    }
}

#[test]
fn a_cache_that_is_not_complete_has_no_name() {
    let server = ObjectServer::start_s3().unwrap();
    let proxy = Proxy::start(&server.host()).unwrap();
    let cache = format!("{},mode=max,retry_max_attempts=1", s3(&proxy.host()));
    proxy.fault("PUT", "/blobs/", Fault::Status(503));
    let bed = bed();
    let parts = ["error writing layer", "503 Service Unavailable"];
    bed.build(&["--cache-to", &cache]).fails(&parts);
    let ignoring = format!("{cache},ignore-error=true");
    bed.build(&["--cache-to", &ignoring]).ok();
    assert!(server.keys().is_empty(), "{:?}", server.keys());
}

#[test]
fn keys_are_checked_and_never_told() {
    let server = ObjectServer::start_s3().unwrap();
    let cache = s3(&server.host());
    let to = format!("{cache},mode=max");
    let bed = bed();
    let written = bed.build(&["--cache-to", &to, "--cache-from", &cache]).ok();
    assert!(
        written
            .stderr
            .contains("there is no cache of the name buildkit")
    );
    let wrong = s3_with(&server.host(), "another/secret+key");
    let parts = ["cannot look for blobs/sha256:", "403 Forbidden"];
    let failed = bed.build(&["--cache-to", &wrong]).fails(&parts);
    let read = bed.build(&["--cache-from", &wrong]).ok();
    assert!(
        read.stderr.contains("SignatureDoesNotMatch"),
        "{}",
        read.stderr
    );
    for ended in [&written, &failed, &read] {
        for secret in [ObjectServer::KEY, "another/secret+key"] {
            assert!(!ended.stderr.contains(secret), "{}", ended.stderr);
            assert!(!ended.stdout.contains(secret), "{}", ended.stdout);
        }
    }
    // Layers that are known and not here say where they are, and not who may have them.
    forget(&bed);
    bed.build(&["--cache-from", &cache]).ok();
    assert!(!holds(&bed.path("state"), ObjectServer::KEY.as_bytes()));
    assert!(!holds(&bed.path("state"), ObjectServer::KEY_ID.as_bytes()));
    assert!(holds(&bed.path("state"), b"client-objects:s3://"));
    // A build that has no key has what needs them made anew.
    let (_, ended) = made(&bed, &[]);
    assert!(
        ended
            .stderr
            .contains("the client's key for it is not there"),
        "{}",
        ended.stderr
    );
}

#[test]
fn a_daemon_keeps_no_key() {
    let server = ObjectServer::start_s3().unwrap();
    let cache = s3(&server.host());
    let bed = bed();
    let daemon = Daemon::start(&bed);
    let to = format!("{cache},mode=max,session_token=a/token+of+S3");
    let from = format!("{cache},session_token=a/token+of+S3");
    let arguments = [
        "--addr",
        &daemon.address,
        "--cache-to",
        &to,
        "--cache-from",
        &from,
    ];
    let told = bed
        .build(&[&arguments[..], &["--provenance", "mode=max"]].concat())
        .ok();
    assert!(
        server.object("manifests/buildkit").is_some(),
        "{}",
        told.stderr
    );
    bed.build(&arguments).ok();
    let log = daemon.stop();
    for secret in [ObjectServer::KEY, ObjectServer::KEY_ID, "a/token+of+S3"] {
        assert!(!told.stderr.contains(secret), "{}", told.stderr);
        assert!(!log.contains(secret), "{log}");
        assert!(!holds(&bed.path("state"), secret.as_bytes()), "{secret}");
    }
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let bed = bed();
    for (cache, parts) in [
        (
            "type=s3,region=r",
            &["s3 cache exporter requires bucket"][..],
        ),
        (
            "type=s3,bucket=b,region=r,upload_parallelism=0",
            &["positive number"],
        ),
        (
            "type=azblob,account_url=http://example.com",
            &["none of Azure's hosts"],
        ),
        (
            "type=gcs,bucket=b,secret_access_key=hush",
            &["unknown cache exporter", "azblob"],
        ),
    ] {
        let ended = bed.build(&["--cache-to", cache]).fails(parts);
        assert!(!ended.stderr.contains("hush"), "{}", ended.stderr);
    }
}
