//! What is built once is not built again, and what changed is.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers may fail their test"
)]

mod support;

use weld_testbed::Registry;

use support::Bed;

const DOCKERFILE: &str = "FROM base\nCOPY a /a\nRUN cat /a > /b\nCOPY c /c\nRUN cat /b /c > /out\n";

#[test]
fn the_second_build_is_all_cached_and_gives_the_same_image() {
    let bed = Bed::new();
    bed.file("a", "a").file("c", "c").dockerfile(DOCKERFILE);
    let build = || {
        bed.build(&["--output", "type=oci,dest=image.tar", "--iidfile", "id"])
            .ok();
        (
            std::fs::read_to_string(bed.path("id")).unwrap(),
            std::fs::read(bed.path("image.tar")).unwrap(),
        )
    };
    let first = build();
    assert!(first.0.starts_with("sha256:"), "{}", first.0);
    let again = bed.build(&["--output", "type=oci,dest=image.tar"]).ok();
    assert!(again.cached_steps() >= 4, "{}", again.stderr);
    let second = build();
    assert!(first == second, "the same input gave another image");
}

#[test]
fn only_what_depends_on_a_change_runs() {
    let bed = Bed::new();
    bed.file("a", "a").file("c", "c").dockerfile(DOCKERFILE);
    bed.build(&[]).ok();
    bed.file("c", "changed");
    let out = bed.build(&["--output", "out"]).ok();
    assert_eq!(
        std::fs::read_to_string(bed.path("out/out")).unwrap(),
        "achanged"
    );
    let cached: Vec<_> = out
        .stderr
        .lines()
        .filter(|line| line.ends_with(" CACHED"))
        .collect();
    assert!(out.stderr.contains("RUN cat /b /c"), "{}", out.stderr);
    assert!(cached.len() >= 2, "{}", out.stderr);
    // Touching a file changes nothing: its content is what counts.
    let now = std::time::SystemTime::now();
    std::fs::File::open(bed.context().join("a"))
        .unwrap()
        .set_modified(now)
        .unwrap();
    let touched = bed.build(&[]).ok();
    assert!(touched.cached_steps() >= 4, "{}", touched.stderr);
}

#[test]
fn a_changed_step_before_equal_content_does_not_rerun_what_follows() {
    let bed = Bed::new();
    bed.dockerfile(
        "FROM base AS a\nRUN echo 1 > /x\nFROM base\nCOPY --from=a /x /x\nRUN cat /proc/sys/kernel/random/uuid > /out\n",
    );
    let out = bed.build_files(&[]);
    let first = std::fs::read_to_string(out.join("out")).unwrap();
    bed.dockerfile("FROM base AS a\nRUN echo 1 > /x; true\nFROM base\nCOPY --from=a /x /x\nRUN cat /proc/sys/kernel/random/uuid > /out\n");
    let out = bed.build_files(&[]);
    assert_eq!(std::fs::read_to_string(out.join("out")).unwrap(), first);
}

#[test]
fn no_cache_runs_everything_or_what_is_named() {
    let bed = Bed::new();
    bed.dockerfile("FROM base AS a\nRUN cat /proc/sys/kernel/random/uuid > /a\nFROM base AS b\nCOPY --from=a /a /a\nRUN cat /proc/sys/kernel/random/uuid > /b\n");
    let read = |arguments: &[&str]| {
        let out = bed.build_files(arguments);
        ["a", "b"].map(|name| std::fs::read_to_string(out.join(name)).unwrap())
    };
    let [a, b] = read(&[]);
    assert_eq!(read(&[]), [a.clone(), b.clone()]);
    let [a2, b2] = read(&["--no-cache-filter", "b"]);
    assert!(a2 == a && b2 != b);
    let [a3, b3] = read(&["--no-cache"]);
    assert!(a3 != a2 && b3 != b2);
}

#[test]
fn usage_is_listed_and_pruned() {
    let bed = Bed::new();
    bed.dockerfile("FROM base\nRUN --mount=type=cache,target=/c echo x > /c/x; head -c 3000000 /dev/zero > /big\n");
    bed.build(&[]).ok();
    let usage = bed.run(&["du"]).ok();
    assert!(usage.stdout.contains("Total:"), "{}", usage.stdout);
    assert!(!usage.stdout.contains("never"), "{}", usage.stdout);
    let filtered = bed
        .run(&["du", "--filter", "type==exec.cachemount", "--json"])
        .ok();
    assert!(
        filtered.stdout.contains("exec.cachemount"),
        "{}",
        filtered.stdout
    );
    bed.run(&["prune", "--all"]).ok();
    // What is left is none of the cache's.
    let left = bed.run(&["du", "--json"]).ok().stdout;
    let left: serde_json::Value = serde_json::from_str(&left).unwrap();
    for record in left.as_array().unwrap() {
        let names = ["db", "reserve", "rest"];
        let is_other = names.iter().any(|name| record["id"] == *name);
        assert!(is_other && record["inUse"] == true, "{left:#}");
    }
    let again = bed.build(&[]).ok();
    assert_eq!(again.stderr.matches("RUN --mount=type=cache").count(), 1);
}

/// What `weld du` tells is what the state directory takes on disk.
fn counts_as_du_does(bed: &Bed, when: &str) {
    let used = bed.run(&["du", "--json"]).ok().stdout;
    let used: serde_json::Value = serde_json::from_str(&used).unwrap();
    let used = used.as_array().unwrap().iter();
    let used: f64 = used.map(|one| one["size"].as_f64().unwrap()).sum();
    let on_disk = bed.tool("du", &["-s", "--block-size=1", "state"]);
    let on_disk = on_disk.split_whitespace().next().unwrap();
    let on_disk: f64 = on_disk.parse().unwrap();
    let off = (used - on_disk).abs() / on_disk;
    assert!(off < 0.01, "{when}: {used} told, {on_disk} on disk");
}

/// A layer of an imported cache is fetched when it is first needed, maybe after it was looked for.
#[test]
fn what_comes_late_is_counted_when_it_is_there() {
    let bed = Bed::new();
    let registry = Registry::start().unwrap();
    let cache = format!("type=registry,ref={}/cache:a", registry.host());
    bed.dockerfile("FROM base\nRUN head -c 8000000 /dev/urandom > /a\nRUN cat /a /a > /b\n");
    bed.build(&["--cache-to", &format!("{cache},mode=max")])
        .ok();
    std::fs::remove_dir_all(bed.path("state")).unwrap();
    let imported = bed.build(&["--cache-from", &cache]).ok();
    assert!(imported.cached_steps() > 0, "{}", imported.stderr);
    let before = bed.run(&["du"]).ok();
    assert!(!before.stdout.contains("Total:\t24"), "{}", before.stdout);
    bed.build(&["--cache-from", &cache, "--output", "type=local,dest=out"])
        .ok();
    counts_as_du_does(&bed, "when all is there");
}

/// Copies are links to the kept directory and to one another, whichever of them is deleted.
#[test]
fn what_snapshots_share_counts_once() {
    let bed = Bed::new();
    let random: Vec<u8> = (0_u32..5 << 20)
        .map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()[3])
        .collect();
    std::fs::create_dir(bed.context().join("d")).unwrap();
    for name in ["d/a", "d/b", "d/c"] {
        std::fs::write(bed.context().join(name), &random).unwrap();
    }
    let counts_alike = |when: &str| counts_as_du_does(&bed, when);
    bed.dockerfile(
        "FROM base AS one\nCOPY d /d\nFROM base\nCOPY d/a /\nCOPY --from=one /d/b /d/c /e/\nRUN rm /a\n",
    );
    bed.build(&[]).ok();
    counts_alike("after a build");
    bed.file("d/new", "new");
    bed.build(&[]).ok();
    counts_alike("after another one");
    bed.run(&["prune", "--filter", "type==source.local"]).ok();
    counts_alike("without the kept directory");
    bed.build(&[]).ok();
    counts_alike("with a new one");
    bed.run(&["prune", "--filter", "description~=\"COPY d \""])
        .ok();
    counts_alike("without the copies that others were made of");
}

#[test]
fn a_damaged_state_directory_is_found_out_and_mended() {
    let bed = Bed::new();
    bed.file("a", "a").file("c", "c").dockerfile(DOCKERFILE);
    let build = || bed.build(&["--output", "type=oci,dest=image.tar"]).ok();
    build();
    let sound = bed.run(&["store", "check"]).ok();
    assert!(sound.stdout.ends_with("Problems:\t0\n"), "{}", sound.stdout);

    // One bit of each blob.
    let blobs = std::fs::read_dir(bed.path("state/content/blobs/sha256")).unwrap();
    let mut damaged = 0;
    for blob in blobs {
        let path = blob.unwrap().path();
        let mut content = std::fs::read(&path).unwrap();
        content[0] ^= 1;
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, content).unwrap();
        damaged += 1;
    }
    assert!(damaged > 0);
    let found = bed.run(&["store", "check"]);
    assert!(
        found.stdout.contains("its content has the digest sha256:"),
        "{}",
        found.stdout
    );
    found.fails(&[
        "the state directory is damaged in",
        "weld store check --repair",
    ]);

    bed.run(&["store", "check", "--repair"]).ok();
    bed.run(&["store", "check"]).ok();
    build();
    let layers = bed.tool("skopeo", &["inspect", "oci-archive:image.tar"]);
    assert!(layers.contains("\"Layers\""), "{layers}");
}

/// What goes where is another result also where it is the same files.
#[test]
fn parts_of_an_input_that_change_places_are_told_apart() {
    let bed = Bed::new();
    bed.file("a/f", "one").file("b/f", "two");
    for (one, two, file) in [
        (
            "FROM base\nCOPY a/f b/f /x/\n",
            "FROM base\nCOPY b/f a/f /x/\n",
            "x/f",
        ),
        (
            "FROM base AS s\nCOPY a /a/\nCOPY b /b/\nFROM s\nCOPY --from=s /b/f /y\n",
            "FROM base AS s\nCOPY a /a/\nCOPY b /b/\nFROM s\nCOPY --from=s /a/f /y\n",
            "y",
        ),
        (
            "FROM base\nRUN --mount=type=bind,source=b,target=/p --mount=type=bind,source=a,target=/q cp /p/f /z\n",
            "FROM base\nRUN --mount=type=bind,source=a,target=/p --mount=type=bind,source=b,target=/q cp /p/f /z\n",
            "z",
        ),
    ] {
        assert_eq!(bed.built(one, file), "two", "{one}");
        assert_eq!(bed.built(two, file), "one", "{two}");
    }
}
