//! Caches in registries, directories and images: what one state directory built, another one finds.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod support;

use std::path::{Path, PathBuf};

use support::steps::{STEPS, bed, forget, made};
use weld_testbed::{Fault, Proxy, Registry};

#[test]
fn a_registry_keeps_the_cache_of_all_steps() {
    let registry = Registry::start().unwrap();
    let cache = format!("type=registry,ref={}/cache:a", registry.host());
    let to = format!("{cache},mode=max");
    let bed = bed();
    let metadata = bed.path("metadata.json");
    let (first, written) = made(
        &bed,
        &[
            "--cache-to",
            &to,
            "--metadata-file",
            metadata.to_str().unwrap(),
        ],
    );
    assert!(
        written.stderr.contains("exporting cache to registry"),
        "{}",
        written.stderr
    );
    let metadata = std::fs::read_to_string(metadata).unwrap();
    assert!(metadata.contains("cache.manifest"), "{metadata}");
    forget(&bed);
    let (second, read) = made(&bed, &["--cache-from", &cache]);
    assert_eq!(first, second, "{}", read.stderr);
    assert!(
        read.stderr.contains("importing cache manifest"),
        "{}",
        read.stderr
    );
    // What was found is known here now, too.
    let (third, ended) = made(&bed, &[]);
    assert_eq!(first, third);
    assert!(ended.cached_steps() >= 4, "{}", ended.stderr);
    // A step in the middle is enough to go on from.
    forget(&bed);
    bed.dockerfile(&STEPS.replace("cat /a /b", "cat /b /a"));
    let (fourth, _) = made(&bed, &["--cache-from", &cache]);
    assert_eq!(fourth[..37], first[..37]);
    assert_eq!(fourth[37..74], first[37..74]);
}

/// Steps that make equal layers one above the other do so at different times, which an image's history tells.
#[test]
fn an_image_of_equal_layers_is_the_same_from_a_cache() {
    let registry = Registry::start().unwrap();
    let bed = support::Bed::new();
    bed.dockerfile(
        "FROM base\nRUN mkdir /d && touch -d @1 /d/a /d\nRUN sleep 0.01; touch -d @1 /d/a /d\nRUN sleep 0.02; touch -d @1 /d/a /d\nRUN date > /b\n",
    );
    let image = |name: &str, arguments: &[&str]| {
        let file = format!("{name}.id");
        let ended = bed.build(
            &[
                arguments,
                &["--output", "type=oci,dest=image.tar", "--iidfile", &file],
            ]
            .concat(),
        );
        let ended = ended.ok();
        (std::fs::read_to_string(bed.path(&file)).unwrap(), ended)
    };
    let directory = bed.path("cache");
    let in_directory = directory.to_str().unwrap();
    for (to, from) in [
        (
            format!("type=registry,ref={}/cache:e,mode=max", registry.host()),
            format!("type=registry,ref={}/cache:e", registry.host()),
        ),
        (
            format!("type=local,dest={in_directory},mode=max"),
            format!("type=local,src={in_directory}"),
        ),
    ] {
        let (made, _) = image("made", &["--no-cache", "--cache-to", &to]);
        forget(&bed);
        let (found, ended) = image("found", &["--cache-from", &from]);
        assert_eq!(found, made, "{}", ended.stderr);
        assert!(ended.cached_steps() >= 4, "{}", ended.stderr);
        forget(&bed);
    }
}

#[test]
fn nothing_is_fetched_that_nothing_reads() {
    let registry = Registry::start().unwrap();
    let proxy = Proxy::start(&registry.host()).unwrap();
    let cache = format!("type=registry,ref={}/cache:a", proxy.host());
    let bed = bed();
    let to = format!("{cache},mode=max");
    bed.build(&["--cache-to", &to]).ok();
    forget(&bed);
    proxy.requests();
    let from = ["--cache-from", cache.as_str()];
    assert!(bed.build(&from).ok().cached_steps() >= 4);
    let requests = proxy.requests();
    let blobs = requests
        .iter()
        .filter(|request| request.contains("GET") && request.contains("/blobs/"));
    assert_eq!(blobs.count(), 1, "the config alone: {requests:?}");
    // The same again, with nothing here to find it by but what was noted of it.
    assert!(bed.build(&[]).ok().cached_steps() >= 4);
    assert!(proxy.requests().is_empty());
    // Written again, nothing is fetched but the config or uploaded: the registry has it all, and what was
    // found keeps the time at which it was made.
    let both = ["--cache-from", cache.as_str(), "--cache-to", &to];
    bed.build(&both).ok();
    let requests = proxy.requests();
    let count = |method: &str| {
        let of_blobs =
            |request: &&String| request.starts_with(method) && request.contains("/blobs/");
        requests.iter().filter(of_blobs).count()
    };
    assert_eq!((count("GET"), count("POST")), (1, 0), "{requests:?}");
    let manifests =
        |request: &&String| request.starts_with("PUT") && request.contains("/manifests/");
    assert_eq!(requests.iter().filter(manifests).count(), 0, "{requests:?}");
}

#[test]
fn min_keeps_what_was_asked_for() {
    let registry = Registry::start().unwrap();
    let cache = format!("type=registry,ref={}/cache:a", registry.host());
    let bed = bed();
    let (first, _) = made(&bed, &["--cache-to", &cache]);
    forget(&bed);
    let (second, _) = made(&bed, &["--cache-from", &cache]);
    assert_eq!(first, second);
}

#[test]
fn a_directory_keeps_a_cache() {
    let bed = bed();
    let directory = bed.path("cache");
    let to = format!("type=local,dest={},mode=max,tag=mine", directory.display());
    let (first, _) = made(&bed, &["--cache-to", &to]);
    forget(&bed);
    let from = format!("type=local,src={},tag=mine", directory.display());
    let (second, ended) = made(&bed, &["--cache-from", &from]);
    assert_eq!(first, second, "{}", ended.stderr);
    let other = format!("type=local,src={}", directory.display());
    let ended = bed.build(&["--cache-from", &other]).ok();
    assert!(
        ended.stderr.contains("no build cache \"latest\""),
        "{}",
        ended.stderr
    );
}

#[test]
fn an_image_carries_its_cache() {
    let registry = Registry::start().unwrap();
    let name = format!("{}/app:1", registry.host());
    let bed = bed();
    bed.build(&["--cache-to", "type=inline", "--push", "-t", &name])
        .ok();
    let (first, _) = made(&bed, &[]);
    // Built from its own cache it is the same image, with the same cache.
    let inspected = |arguments: &[&str]| {
        let image = format!("docker://{name}");
        let all = [&["inspect", "--tls-verify=false"], arguments, &[&image]].concat();
        bed.tool("skopeo", &all)
    };
    let digest = || inspected(&["--format", "{{.Digest}}"]);
    let built = digest();
    let build_again = || {
        let again = ["--cache-to", "type=inline", "--push", "-t", &name];
        let all = [&["--cache-from", &name], &again[..]].concat();
        let ended = bed.build(&all).ok();
        assert_eq!(built, digest(), "{}", ended.stderr);
    };
    // The keys stay here, and lead to nothing.
    bed.run(&["prune", "--all"]).ok();
    build_again();
    forget(&bed);
    build_again();
    forget(&bed);
    let (second, ended) = made(&bed, &["--cache-from", &name]);
    assert_eq!(first, second, "{}", ended.stderr);
    // An image without a cache is none the less an image.
    bed.build(&["--push", "-t", &name]).ok();
    let config = bed.tool(
        "skopeo",
        &[
            "inspect",
            "--raw",
            "--config",
            "--tls-verify=false",
            &format!("docker://{name}"),
        ],
    );
    assert!(!config.contains("moby.buildkit.cache.v0"), "{config}");
}

/// A record of each result of a cache in a directory, with its layers, in the order of its steps.
fn results(directory: &Path) -> Vec<String> {
    let json = |path: PathBuf| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    };
    let blob = |entry: &serde_json::Value| {
        let digest = entry["digest"].as_str().unwrap().replace(':', "/");
        json(directory.join("blobs").join(digest))
    };
    let manifest = blob(&json(directory.join("index.json"))["manifests"][0]);
    let config = match manifest["config"].is_null() {
        false => blob(&manifest["config"]),
        true => blob(manifest["manifests"].as_array().unwrap().last().unwrap()),
    };
    let records = config["records"].as_array().unwrap().iter();
    let results = records.filter(|record| !record["layers"].is_null());
    results
        .map(|record| format!("{} {}", record["digest"], record["layers"]))
        .collect()
}

#[test]
fn a_cache_that_all_was_found_in_is_written_again_with_all_of_it() {
    let bed = bed();
    let written = |name: &str, arguments: &[&str]| {
        let to = format!("type=local,dest={},mode=max", bed.path(name).display());
        let ended = bed.build(&[arguments, &["--cache-to", &to]].concat()).ok();
        (results(&bed.path(name)), ended)
    };
    let (first, _) = written("first", &[]);
    assert!(first.len() > 2, "{first:?}");
    // The keys stay here, and lead to nothing.
    bed.run(&["prune", "--all"]).ok();
    let from = format!("type=local,src={}", bed.path("first").display());
    let (second, ended) = written("second", &["--cache-from", &from]);
    assert_eq!(first, second, "{}", ended.stderr);
    forget(&bed);
    let from = format!("type=local,src={}", bed.path("second").display());
    let (third, ended) = written("third", &["--cache-from", &from]);
    assert_eq!(first, third, "{}", ended.stderr);
}

#[test]
fn every_fault_of_a_registry_is_a_miss() {
    let registry = Registry::start().unwrap();
    let proxy = Proxy::start(&registry.host()).unwrap();
    let cache = format!("type=registry,ref={}/cache:a", proxy.host());
    let to = format!("{cache},mode=max");
    let bed = bed();
    let (first, _) = made(&bed, &["--cache-to", &to]);
    for (path, fault) in [
        ("/manifests/", Fault::Status(404)),
        ("/manifests/", Fault::Status(403)),
        ("/manifests/", Fault::Truncate),
        ("/blobs/", Fault::Status(404)),
        ("/blobs/", Fault::Corrupt),
    ] {
        forget(&bed);
        proxy.fault("GET", path, fault);
        let (second, ended) = made(&bed, &["--cache-from", &cache]);
        proxy.heal();
        assert_ne!(first, second, "{path} {fault:?}: {}", ended.stderr);
        assert!(
            ended.stderr.contains("importing cache manifest"),
            "{}",
            ended.stderr
        );
    }
}

#[test]
fn a_layer_that_is_lost_is_made_anew() {
    let registry = Registry::start().unwrap();
    let proxy = Proxy::start(&registry.host()).unwrap();
    let cache = format!("type=registry,ref={}/cache:a", proxy.host());
    let to = format!("{cache},mode=max");
    let bed = bed();
    let (first, _) = made(&bed, &["--cache-to", &to]);
    for fault in [
        Fault::Status(404),
        Fault::Status(403),
        Fault::Status(500),
        Fault::Close,
        Fault::Truncate,
        Fault::Corrupt,
    ] {
        forget(&bed);
        // Known, and not fetched.
        assert!(bed.build(&["--cache-from", &cache]).ok().cached_steps() >= 4);
        proxy.fault("GET", "/blobs/", fault);
        let (second, ended) = made(&bed, &[]);
        proxy.heal();
        assert_ne!(first, second, "{fault:?}");
        assert!(
            ended.stderr.contains("cached layer sha256:"),
            "{fault:?}: {}",
            ended.stderr
        );
        // What was made anew is what is found now.
        let (third, _) = made(&bed, &[]);
        assert_eq!(second, third, "{fault:?}");
    }
}

#[test]
fn a_cache_that_cannot_be_written_is_not_there() {
    let registry = Registry::start().unwrap();
    let proxy = Proxy::start(&registry.host()).unwrap();
    let reference = format!("{}/cache:a", proxy.host());
    let to = format!("type=registry,ref={reference},mode=max");
    let bed = bed();
    proxy.fault("PUT", "/blobs/uploads/", Fault::Status(403));
    bed.build(&["--cache-to", &to])
        .fails(&["failed to export the cache", "403"]);
    let ignored = format!("{to},ignore-error=true");
    bed.build(&["--cache-to", &ignored]).ok();
    let requests = proxy.requests();
    let published = requests
        .iter()
        .any(|request| request.starts_with("PUT") && request.contains("/manifests/"));
    assert!(!published, "{requests:?}");
    proxy.heal();
    // Once it can be written, all of it is there.
    let (first, _) = made(&bed, &["--cache-to", &to]);
    forget(&bed);
    let (second, _) = made(
        &bed,
        &["--cache-from", &format!("type=registry,ref={reference}")],
    );
    assert_eq!(first, second);
}

#[test]
fn options_that_make_no_sense_are_told_before_anything_is_built() {
    let bed = bed();
    for (option, part) in [
        ("type=registry", "requires ref"),
        ("type=floppy,ref=a", "unknown cache exporter"),
        ("type=registry,ref=a,mode=all", "must be min or max"),
    ] {
        let ended = bed.build(&["--cache-to", option]).fails(&[part]);
        assert!(!ended.stderr.contains("RUN"), "{}", ended.stderr);
    }
}
