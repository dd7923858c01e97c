//! Caches that are written of results whose layers nobody has any more: what made them runs again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod support;

use std::path::{Path, PathBuf};

use support::steps::{STEPS, bed, forget, made};
use support::{Bed, Ended};
use weld_testbed::{Fault, Proxy, Registry};

/// A stage that the result has one file of, and the result.
const STAGES: &str = "FROM base AS made\n\
    RUN cat /proc/sys/kernel/random/uuid > /a\n\
    RUN cat /a /proc/sys/kernel/random/uuid > /b\n\
    RUN cat /b > /kept && cat /proc/sys/kernel/random/uuid > /left\n\
    FROM base\n\
    COPY --from=made /kept /c\n\
    RUN cat /c /proc/sys/kernel/random/uuid > /d\n";

/// How many steps ran, of those that `RUN` and `COPY` are.
fn ran(ended: &Ended) -> usize {
    let is_step = |line: &&str| line.contains("RUN ") || line.contains("COPY ");
    let steps = ended.stderr.lines().filter(|line| line.starts_with('#'));
    let numbers: std::collections::BTreeSet<_> = steps
        .filter(is_step)
        .filter_map(|line| line.split(' ').next())
        .collect();
    let is_cached = |number: &&&str| {
        let cached = format!("{number} CACHED");
        !ended.stderr.lines().any(|line| line == cached)
    };
    numbers.iter().filter(is_cached).count()
}

/// The warnings that name a cause for which steps run again.
fn warnings(ended: &Ended) -> Vec<&str> {
    let lines = ended.stderr.lines();
    lines
        .filter(|line| line.contains("cached layer sha256:"))
        .collect()
}

/// The layers of a cache in a directory, but neither its manifest nor its config.
fn layers(directory: &Path) -> Vec<PathBuf> {
    let blobs = std::fs::read_dir(directory.join("blobs/sha256")).unwrap();
    let mut layers: Vec<_> = blobs.map(|entry| entry.unwrap().path()).collect();
    layers.retain(|path| std::fs::read(path).unwrap().first() != Some(&b'{'));
    layers.sort();
    layers
}

fn delete_layers(directory: &Path) -> usize {
    let layers = layers(directory);
    layers
        .iter()
        .for_each(|layer| std::fs::remove_file(layer).unwrap());
    layers.len()
}

fn local(bed: &Bed, field: &str, name: &str) -> String {
    format!("type=local,{field}={}", bed.path(name).display())
}

/// All steps of the bed's Dockerfile are found in this cache by a builder that knows nothing else.
#[track_caller]
fn has_all(bed: &Bed, from: &str) {
    forget(bed);
    let ended = bed
        .build(&["--cache-from", from, "--output", "type=tar,dest=out.tar"])
        .ok();
    assert_eq!(ran(&ended), 0, "{}", ended.stderr);
    assert!(warnings(&ended).is_empty(), "{}", ended.stderr);
    // Not only the last step.
    let dockerfile = std::fs::read_to_string(bed.context().join("Dockerfile")).unwrap();
    forget(bed);
    bed.dockerfile(&format!("{dockerfile}RUN true\n"));
    let ended = bed.build(&["--cache-from", from]).ok();
    bed.dockerfile(&dockerfile);
    assert_eq!(ran(&ended), 1, "{}", ended.stderr);
}

#[test]
fn layers_that_go_between_import_and_export_are_made_anew() {
    for dockerfile in [STEPS, STAGES] {
        let bed = bed();
        bed.dockerfile(dockerfile);
        let to = |name: &str| format!("{},mode=max", local(&bed, "dest", name));
        let from = |name: &str| local(&bed, "src", name);
        bed.build(&["--cache-to", &to("a")]).ok();
        bed.run(&["prune", "--all"]).ok();
        assert!(delete_layers(&bed.path("a")) > 3);
        let ended = bed
            .build(&["--cache-from", &from("a"), "--cache-to", &to("b")])
            .ok();
        assert_eq!(warnings(&ended).len(), 1, "{}", ended.stderr);
        assert!(
            warnings(&ended)[0].contains("is made anew"),
            "{}",
            ended.stderr
        );
        has_all(&bed, &from("b"));
        // As were all of them in the first place.
        forget(&bed);
        let ended = bed
            .build(&["--cache-from", &from("b"), "--cache-to", &to("c")])
            .ok();
        assert!(warnings(&ended).is_empty(), "{}", ended.stderr);
        has_all(&bed, &from("c"));
    }
}

#[test]
fn a_cache_that_is_written_where_it_was_read_is_mended() {
    let bed = bed();
    let (to, from) = (local(&bed, "dest", "a"), local(&bed, "src", "a"));
    let to = format!("{to},mode=max");
    bed.build(&["--cache-to", &to]).ok();
    forget(&bed);
    delete_layers(&bed.path("a"));
    let ended = bed.build(&["--cache-from", &from, "--cache-to", &to]).ok();
    assert_eq!(warnings(&ended).len(), 1, "{}", ended.stderr);
    has_all(&bed, &from);
}

#[test]
fn layers_whose_whole_directory_goes_are_made_anew() {
    let registry = Registry::start().unwrap();
    let bed = bed();
    bed.dockerfile(STAGES);
    let name = format!("{}/app:cache", registry.host());
    let image = format!("{}/app:image", registry.host());
    let written = |name: &str| local(&bed, "dest", name);
    for (mode, to, from) in [
        ("max", written("b"), local(&bed, "src", "b")),
        (
            "max",
            format!("type=registry,ref={name}"),
            format!("type=registry,ref={name}"),
        ),
        (
            "max",
            format!("type=registry,ref={name},merge=true"),
            format!("type=registry,ref={name}"),
        ),
        ("min", written("c"), local(&bed, "src", "c")),
    ] {
        let _ = std::fs::remove_dir_all(bed.path("state"));
        let first = format!("{},mode=max", written("a"));
        bed.build(&["--cache-to", &first]).ok();
        forget(&bed);
        let known = bed.build(&["--cache-from", &local(&bed, "src", "a")]).ok();
        assert_eq!(ran(&known), 0, "{}", known.stderr);
        std::fs::remove_dir_all(bed.path("a")).unwrap();
        // Known, and nowhere.
        let ended = bed
            .build(&["--cache-to", &format!("{to},mode={mode}")])
            .ok();
        assert_eq!(warnings(&ended).len(), 1, "{to}: {}", ended.stderr);
        assert!(
            !ended.stderr.contains("skipping cache export"),
            "{}",
            ended.stderr
        );
        match mode {
            "max" => has_all(&bed, &from),
            _ => {
                forget(&bed);
                let ended = bed.build(&["--cache-from", &from]).ok();
                assert_eq!(ran(&ended), 0, "{}", ended.stderr);
            }
        }
    }
    // Inside of the image there is what the image is made of.
    bed.dockerfile(STEPS);
    forget(&bed);
    bed.build(&["--cache-to", &format!("{},mode=max", written("a"))])
        .ok();
    forget(&bed);
    bed.build(&["--cache-from", &local(&bed, "src", "a")]).ok();
    std::fs::remove_dir_all(bed.path("a")).unwrap();
    let ended = bed
        .build(&["--cache-to", "type=inline", "--push", "-t", &image])
        .ok();
    assert_eq!(warnings(&ended).len(), 1, "{}", ended.stderr);
    has_all(&bed, &format!("type=registry,ref={image}"));
}

#[test]
fn layers_that_a_registry_gives_nobody_are_made_anew() {
    let registry = Registry::start().unwrap();
    let proxy = Proxy::start(&registry.host()).unwrap();
    let cache = format!("type=registry,ref={}/cache:a", proxy.host());
    let bed = bed();
    let (first, _) = made(&bed, &["--cache-to", &format!("{cache},mode=max")]);
    forget(&bed);
    let to = format!("{},mode=max", local(&bed, "dest", "b"));
    bed.build(&["--cache-from", &cache]).ok();
    proxy.fault("GET", "/blobs/", Fault::Status(404));
    let ended = bed.build(&["--cache-to", &to]).ok();
    proxy.heal();
    assert_eq!(warnings(&ended).len(), 1, "{}", ended.stderr);
    assert!(warnings(&ended)[0].contains("404"), "{}", ended.stderr);
    let from = local(&bed, "src", "b");
    has_all(&bed, &from);
    forget(&bed);
    let (second, _) = made(&bed, &["--cache-from", &from]);
    assert_ne!(first, second);
}

#[test]
fn one_lost_layer_has_made_anew_what_is_made_of_it() {
    let bed = bed();
    bed.dockerfile(STAGES);
    let to = format!("{},mode=max", local(&bed, "dest", "a"));
    let from = local(&bed, "src", "a");
    bed.build(&["--cache-to", &to]).ok();
    for (number, layer) in layers(&bed.path("a")).iter().enumerate() {
        forget(&bed);
        let kept = std::fs::read(layer).unwrap();
        std::fs::remove_file(layer).unwrap();
        let name = format!("b{number}");
        let other = format!("{},mode=max", local(&bed, "dest", &name));
        let ended = bed
            .build(&["--cache-from", &from, "--cache-to", &other])
            .ok();
        assert_eq!(warnings(&ended).len(), 1, "{}", ended.stderr);
        has_all(&bed, &local(&bed, "src", &name));
        std::fs::write(layer, kept).unwrap();
    }
}

#[test]
fn a_step_that_does_not_run_again_fails_the_export() {
    let bed = bed();
    bed.dockerfile(
        "FROM base\nRUN --mount=type=secret,id=key test -s /run/secrets/key && echo made > /a\nRUN cat /a > /b\n",
    );
    let key = bed.path("key");
    std::fs::write(&key, "key").unwrap();
    let secret = format!("id=key,src={}", key.display());
    let first = format!("{},mode=max", local(&bed, "dest", "a"));
    bed.build(&["--secret", &secret, "--cache-to", &first]).ok();
    let from = local(&bed, "src", "a");
    let to = format!("{},mode=max", local(&bed, "dest", "b"));
    let ignoring = format!("{to},ignore-error=true");
    forget(&bed);
    delete_layers(&bed.path("a"));
    bed.build(&["--cache-from", &from, "--cache-to", &to])
        .fails(&["failed to export the cache", "cached layer sha256:"]);
    let ended = bed
        .build(&["--cache-from", &from, "--cache-to", &ignoring])
        .ok();
    assert!(!bed.path("b/index.json").exists(), "{}", ended.stderr);
    // With what it needs it is made.
    bed.build(&[
        "--secret",
        &secret,
        "--cache-from",
        &from,
        "--cache-to",
        &to,
    ])
    .ok();
    has_all(&bed, &local(&bed, "src", "b"));
}
