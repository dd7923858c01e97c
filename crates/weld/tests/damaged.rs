//! Blobs that the disk lost or changed: they are noticed before they go on, and had again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod support;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use support::{Bed, base_layout};
use weld_testbed::Registry;

/// The blobs of a bed's store that are larger than documents are, the largest first.
fn layers(bed: &Bed) -> Vec<PathBuf> {
    let blobs = bed.path("state/content/blobs/sha256");
    let blobs = blobs.read_dir().unwrap().map(|entry| entry.unwrap());
    let mut found: Vec<_> = blobs
        .map(|entry| (entry.metadata().unwrap().len(), entry.path()))
        .filter(|(size, _)| *size > 100_000)
        .collect();
    found.sort();
    found.into_iter().rev().map(|(_, path)| path).collect()
}

fn output(bed: &Bed, kind: &str) -> String {
    format!("type={kind},dest={}", bed.path("out.tar").display())
}

/// Has one bit of a file changed.
fn flip(file: &Path) {
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(file)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 100_000).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 100_000).unwrap();
}

/// A bed whose one layer is a file of random bytes.
fn bed_with_layer(size: &str) -> Bed {
    let bed = Bed::new();
    bed.dockerfile(&format!("FROM scratch\nCOPY file /\nLABEL size={size}\n"));
    let tool = format!("head -c {size} /dev/urandom > context/file");
    bed.tool("sh", &["-c", &tool]);
    bed
}

#[test]
fn a_blob_that_the_disk_changed_goes_into_no_archive_and_is_made_anew() {
    // One that is checked beside its copy, and one that is checked behind it.
    for size in ["3m", "200k"] {
        let bed = bed_with_layer(size);
        let archive = bed.path("out.tar");
        let layout = format!("type=oci,tar=false,dest={}", bed.path("layout").display());
        bed.build(&["--output", &output(&bed, "oci")]).ok();
        let layer = layers(&bed).remove(0);
        let whole = std::fs::read(&layer).unwrap();
        let name = layer.file_name().unwrap().to_str().unwrap().to_owned();
        for kind in [&output(&bed, "oci"), &output(&bed, "docker"), &layout] {
            std::fs::remove_file(&archive).ok();
            flip(&layer);
            let ended = bed.build(&["--output", kind]).ok();
            for told in ["was damaged in the store, and is dropped", &name] {
                assert!(ended.stderr.contains(told), "{}", ended.stderr);
            }
            assert_eq!(std::fs::read(&layer).unwrap(), whole);
            let names = bed.path("").read_dir().unwrap().map(|entry| entry.unwrap());
            let names: Vec<_> = names.map(|entry| entry.file_name()).collect();
            let mut partial = names.iter().map(|name| name.to_string_lossy());
            assert!(!partial.any(|name| name.contains("partial")), "{names:?}");
            bed.run(&["store", "check"]).ok();
        }
        // What was seen half-way cannot be taken back.
        flip(&layer);
        let to_pipe = ["--output", "type=oci,dest=-"];
        bed.build(&to_pipe)
            .fails(&["is dropped: build again", &name]);
        bed.build(&to_pipe).ok();
        bed.run(&["store", "check"]).ok();
    }
}

#[test]
fn a_blob_that_the_disk_changed_is_pushed_nowhere() {
    let registry = Registry::start().unwrap();
    // One that has the layer takes no content.
    let other = Registry::start().unwrap();
    let bed = bed_with_layer("3m");
    bed.build(&["--output", &output(&bed, "oci")]).ok();
    let layer = layers(&bed).remove(0);
    let whole = std::fs::read(&layer).unwrap();
    let image = format!("type=image,name={}/image,push=true", registry.host());
    let remote = format!("type=registry,ref={}/cache", other.host());
    let local = format!("type=local,dest={}", bed.path("cache").display());
    for words in [
        ["--output", &image],
        ["--cache-to", &remote],
        ["--cache-to", &local],
    ] {
        flip(&layer);
        let ended = bed.build(&words).ok();
        let told = "was damaged in the store, and is dropped";
        assert!(ended.stderr.contains(told), "{}", ended.stderr);
        assert_eq!(std::fs::read(&layer).unwrap(), whole);
        bed.run(&["store", "check"]).ok();
    }
}

#[test]
fn steps_whose_files_are_gone_run_again() {
    let registry = Registry::start().unwrap();
    registry
        .push_layout(base_layout(), "latest", "base")
        .unwrap();
    let bed = Bed::new();
    bed.dockerfile(&format!(
        "FROM {}/base\nRUN echo x > /x\nRUN echo y > /y\n",
        registry.host()
    ));
    let to_archive = output(&bed, "oci");
    bed.build(&["--output", &to_archive]).ok();
    let snapshots = || {
        let entries = bed.path("state/snapshots").read_dir().unwrap();
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort_by_key(|path| std::fs::metadata(path).unwrap().modified().unwrap());
        paths
    };
    // Of the last step, with the directory and without it, and of all.
    std::fs::remove_dir_all(snapshots().last().unwrap().join("fs")).unwrap();
    let ended = bed.build(&["--output", &to_archive]).ok();
    assert_eq!(
        ended.stderr.matches("CACHED").count(),
        2,
        "{}",
        ended.stderr
    );
    std::fs::remove_dir_all(snapshots().last().unwrap()).unwrap();
    bed.build(&["--output", &to_archive]).ok();
    for path in snapshots() {
        std::fs::remove_dir_all(path).unwrap();
    }
    // The blob that the base is unpacked of anew is damaged, too.
    flip(&layers(&bed)[0]);
    let ended = bed.build(&["--output", &to_archive]).ok();
    assert_eq!(
        ended.stderr.matches("CACHED").count(),
        0,
        "{}",
        ended.stderr
    );
    let all = bed.build(&["--output", &to_archive]).ok();
    assert_eq!(all.stderr.matches("CACHED").count(), 3, "{}", all.stderr);
    bed.tool(
        "skopeo",
        &[
            "inspect",
            &format!("oci-archive:{}", bed.path("out.tar").display()),
        ],
    );
}

#[test]
fn a_base_whose_blob_is_gone_is_fetched_again() {
    let registry = Registry::start().unwrap();
    registry
        .push_layout(base_layout(), "latest", "base")
        .unwrap();
    let bed = Bed::new();
    bed.dockerfile(&format!("FROM {}/base\nRUN echo x > /x\n", registry.host()));
    let to_archive = output(&bed, "oci");
    bed.build(&["--output", &to_archive]).ok();
    let layer = layers(&bed).remove(0);
    let whole = std::fs::read(&layer).unwrap();
    for cut in [false, true] {
        match cut {
            true => std::fs::write(&layer, &whole[..1000]).unwrap(),
            false => std::fs::remove_file(&layer).unwrap(),
        }
        let ended = bed.build(&["--no-cache", "--output", &to_archive]).ok();
        let told = ended.stderr.matches("fetched again").count();
        assert!((1..=2).contains(&told), "{}", ended.stderr);
        assert_eq!(std::fs::read(&layer).unwrap(), whole);
        bed.run(&["store", "check"]).ok();
    }
}

#[test]
fn documents_of_a_base_that_the_disk_changed_are_fetched_again() {
    let registry = Registry::start().unwrap();
    registry
        .push_layout(base_layout(), "latest", "base")
        .unwrap();
    let bed = Bed::new();
    bed.dockerfile(&format!("FROM {}/base\nRUN echo x > /x\n", registry.host()));
    let id = bed.path("id").display().to_string();
    let build = |pinned: &str| {
        let output = output(&bed, "oci") + ",rewrite-timestamp=true";
        let epoch = [("SOURCE_DATE_EPOCH", "1")];
        let built = bed.build_with(&epoch, &["--iidfile", &id, "--output", &output, pinned]);
        built.ok();
        std::fs::read_to_string(&id).unwrap()
    };
    let before = build("--pull");
    let blobs = bed.path("state/content/blobs/sha256");
    let documents = || {
        let all = blobs.read_dir().unwrap().map(|entry| entry.unwrap().path());
        let is_json = |path: &PathBuf| std::fs::read(path).unwrap().starts_with(b"{");
        all.filter(is_json).collect::<Vec<_>>()
    };
    // A value that is another and still makes sense, and nonsense.
    for (from, to) in [("linux", "linuz"), ("\"", " ")] {
        for path in documents() {
            let text = std::fs::read_to_string(&path).unwrap();
            std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
        }
        for flag in ["--pull", "--no-cache"] {
            assert_eq!(build(flag), before, "{from} {flag}");
        }
        bed.run(&["store", "check", "--repair"]);
    }
}

#[test]
fn a_base_that_nobody_has_any_more_is_made_again_of_its_files() {
    let bed = Bed::new();
    bed.dockerfile("FROM base\nRUN echo x > /x\n");
    let to_archive = output(&bed, "oci");
    bed.build(&["--output", &to_archive]).ok();
    std::fs::remove_file(layers(&bed).remove(0)).unwrap();
    let ended = bed.build(&["--no-cache", "--output", &to_archive]).ok();
    assert!(ended.stderr.contains("made anew"), "{}", ended.stderr);
    // It is an image that others can read.
    let image = format!("oci-archive:{}", bed.path("out.tar").display());
    bed.tool("skopeo", &["inspect", &image]);
    let again = bed.build(&["--output", &to_archive]).ok();
    assert!(!again.stderr.contains("made anew"), "{}", again.stderr);
}

/// Directories that somebody tidied away while a daemon was idle are made again, and what was in them is had again.
#[test]
fn directories_that_are_deleted_under_an_idle_daemon_are_made_again() {
    for directory in ["runtime", "builds", "snapshots", "ingest", "trash"] {
        let bed = Bed::new();
        bed.file("f", "1")
            .dockerfile("FROM base\nCOPY f /f\nRUN cp /f /g\n");
        let daemon = support::kept::Daemon::start(&bed);
        let build = |output: &str| {
            bed.build(&["--addr", &daemon.address, "--output", output])
                .ok()
        };
        build("type=cacheonly");
        let gone = bed.path("state").join(directory);
        let delete = || match std::fs::remove_dir_all(&gone) {
            // Some are there only while they are needed.
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                panic!("{directory}: {error}")
            }
            _ => {}
        };
        delete();
        bed.file("f", "2");
        build("type=cacheonly");
        // Without any change, too: what is cached is gone.
        delete();
        build(&format!("type=oci,dest={}", bed.path("o.tar").display()));
        delete();
        let out = bed.path("out");
        build(&format!("type=local,dest={}", out.display()));
        assert_eq!(std::fs::read_to_string(out.join("g")).unwrap(), "2");
        daemon.stop();
    }
}

/// A layout in a directory names no blob that is another than it says.
#[test]
fn a_layout_that_the_disk_changed_is_written_anew() {
    let bed = bed_with_layer("9000000");
    let layout = bed.path("layout");
    let output = format!("type=oci,tar=false,dest={}", layout.display());
    bed.build(&["--output", &output]).ok();
    let blobs = || {
        let blobs = layout.join("blobs/sha256").read_dir().unwrap();
        let blobs = blobs.map(|blob| blob.unwrap().path());
        let whole = blobs.map(|blob| (std::fs::read(&blob).unwrap(), blob));
        whole
            .map(|(content, blob)| (blob, content))
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    let whole = blobs();
    assert!(whole.values().any(|content| content.len() > 8 << 20));
    for (blob, content) in &whole {
        std::fs::write(blob, b"x".repeat(content.len())).unwrap();
    }
    bed.build(&["--output", &output]).ok();
    assert!(blobs() == whole);
    // What is there and sound is left alone.
    let times = || {
        let times = whole
            .keys()
            .map(|blob| blob.metadata().unwrap().modified().unwrap());
        times.collect::<Vec<_>>()
    };
    let before = times();
    bed.build(&["--output", &output]).ok();
    assert_eq!(times(), before);
    // What is no file.
    let elsewhere = bed.path("elsewhere");
    std::fs::write(&elsewhere, "kept").unwrap();
    for number in 0..3 {
        for blob in whole.keys() {
            std::fs::remove_file(blob).unwrap();
            match number {
                0 => bed.tool("mkfifo", &[&blob.display().to_string()]).len(),
                1 => std::fs::create_dir(blob).map(|()| 0).unwrap(),
                _ => std::os::unix::fs::symlink(&elsewhere, blob)
                    .map(|()| 0)
                    .unwrap(),
            };
        }
        bed.build(&["--output", &output]).ok();
        assert!(blobs() == whole);
    }
    assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), "kept");
    let index = layout.join("index.json");
    std::fs::remove_file(&index).unwrap();
    bed.tool("mkfifo", &[&index.display().to_string()]);
    let told = index.display().to_string();
    bed.build(&["--output", &output])
        .fails(&[&told, "remove it"]);
}

/// What of a layout in a directory is damaged or in the way is told of, with where it is now.
#[test]
fn what_is_wrong_with_a_layout_is_told_when_it_is_mended() {
    let bed = bed_with_layer("1000");
    let layout = bed.path("layout");
    let output = format!("type=oci,tar=false,dest={}", layout.display());
    let build = || bed.build(&["--output", &output]).ok().stderr;
    let warnings = |told: &str| told.matches("WARNING: ").count();
    let told = build();
    assert_eq!(warnings(&told), 0, "{told}");
    let index = layout.join("index.json");
    let whole = std::fs::read_to_string(&index).unwrap();
    for (damage, aside) in [
        ("{{{", "index.json.damaged"),
        ("[]", "index.json.damaged"),
        ("", "index.json.damaged"),
    ] {
        std::fs::write(&index, damage).unwrap();
        let told = build();
        let aside = layout.join(aside);
        assert_eq!(warnings(&told), 1, "{told}");
        assert!(
            told.contains(&format!("is {} now", aside.display())),
            "{told}"
        );
        assert_eq!(std::fs::read_to_string(&aside).unwrap(), damage);
        assert_eq!(std::fs::read_to_string(&index).unwrap(), whole);
    }
    // A blob that is another, of the same length or not.
    let blobs = layout.join("blobs/sha256");
    let blob = blobs.read_dir().unwrap().next().unwrap().unwrap().path();
    let content = std::fs::read(&blob).unwrap();
    let name = blob.file_name().unwrap().to_str().unwrap();
    for damage in [vec![b'x'; content.len()], b"x".to_vec()] {
        std::fs::write(&blob, damage).unwrap();
        let told = build();
        assert_eq!(warnings(&told), 1, "{told}");
        assert!(
            told.contains(name) && told.contains("written anew"),
            "{told}"
        );
        assert!(std::fs::read(&blob).unwrap() == content);
    }
    // Directories in the places of files, and files in those of directories.
    for path in [&blob, &layout.join("oci-layout")] {
        std::fs::remove_file(path).unwrap();
        std::fs::create_dir(path).unwrap();
        std::fs::write(path.join("file"), "kept").unwrap();
        let told = build();
        let name = path.file_name().unwrap().to_str().unwrap();
        let aside = layout.join(format!("{name}.damaged"));
        assert_eq!(warnings(&told), 1, "{told}");
        assert!(
            told.contains(&format!("is {} now", aside.display())),
            "{told}"
        );
        assert_eq!(std::fs::read_to_string(aside.join("file")).unwrap(), "kept");
        assert!(path.is_file());
    }
    for (path, name) in [(&blobs, "sha256"), (&layout.join("blobs"), "blobs")] {
        std::fs::remove_dir_all(path).unwrap();
        std::fs::write(path, "kept").unwrap();
        let told = build();
        let aside = layout.join(format!("{name}.damaged"));
        assert_eq!(warnings(&told), 1, "{told}");
        assert!(
            told.contains(&format!("is {} now", aside.display())),
            "{told}"
        );
        assert_eq!(std::fs::read_to_string(aside).unwrap(), "kept");
        assert!(std::fs::read(&blob).unwrap() == content);
    }
    let told = build();
    assert_eq!(warnings(&told), 0, "{told}");
}

/// Snapshots that are deleted under a build are made again where steps need them, and the build tells what was gone.
#[test]
fn snapshots_that_are_deleted_under_a_build_are_made_again() {
    use std::io::{BufRead, BufReader};
    let bed = Bed::new();
    let steps =
        "FROM base\nRUN echo 1 > /1\nRUN echo be''gun; sleep 2; echo 2 > /2\nRUN cat /1 /2 > /3\n";
    bed.dockerfile(steps);
    let out = bed.path("out");
    let output = format!("type=local,dest={}", out.display());
    let snapshots = bed.path("state/snapshots");
    let mut command = bed.build_command(&[], &["--output", &output]);
    let mut build = command
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(build.stderr.take().unwrap()).lines();
    let mut told = lines.by_ref().map_while(Result::ok);
    assert!(told.any(|line| line.contains("begun")));
    std::fs::remove_dir_all(&snapshots).unwrap();
    let rest: Vec<_> = told.collect();
    assert_eq!(build.wait().unwrap().code(), Some(0), "{rest:?}");
    let gone = format!("WARNING: {}", snapshots.display());
    assert!(rest.iter().any(|line| line.contains(&gone)), "{rest:?}");
    assert_eq!(std::fs::read_to_string(out.join("3")).unwrap(), "1\n2\n");
    bed.build(&["--output", &output]).ok();
    assert_eq!(std::fs::read_to_string(out.join("3")).unwrap(), "1\n2\n");
    bed.run(&["store", "check"]).ok();
}

/// A file that has the name of a directory of what is to be deleted keeps nobody from building.
#[test]
fn a_file_in_the_place_of_the_trash_is_no_obstacle() {
    let bed = Bed::new();
    bed.dockerfile("FROM base\nRUN echo x > /x\n");
    bed.build(&[]).ok();
    let trash = bed.path("state/trash");
    for daemon in [false, true] {
        std::fs::remove_dir_all(&trash).unwrap();
        std::fs::write(&trash, "odd").unwrap();
        match daemon {
            false => drop(bed.build(&[]).ok()),
            true => drop(support::kept::Daemon::start(&bed).stop()),
        }
        assert!(trash.is_dir());
        bed.run(&["store", "check"]).ok();
    }
}

/// What is lost with all blobs is forgotten by the next process, and steps whose files are there need not run again.
#[test]
fn blobs_that_are_deleted_under_a_daemon_are_forgotten() {
    for part in ["content", "content/blobs", "content/blobs/sha256"] {
        let bed = Bed::new();
        bed.file("f", "1")
            .dockerfile("FROM base\nCOPY f /f\nRUN cp /f /g\n");
        let to_archive = output(&bed, "oci");
        let daemon = support::kept::Daemon::start(&bed);
        let by_daemon = || {
            bed.build(&["--addr", &daemon.address, "--output", &to_archive])
                .ok()
        };
        by_daemon();
        std::fs::remove_dir_all(bed.path("state").join(part)).unwrap();
        bed.file("f", "2");
        by_daemon();
        daemon.stop();
        let ended = bed.build(&["--output", &to_archive]).ok();
        assert_eq!(ended.cached_steps(), 3, "{part}: {}", ended.stderr);
        bed.run(&["store", "check"]).ok();
        bed.build(&["--output", &to_archive]).ok();
        bed.run(&["store", "check"]).ok();
    }
}
