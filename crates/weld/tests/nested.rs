//! Builds inside of builds on the command line: by the command itself, and by a daemon.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use support::{Bed, base_layout};
use weld_llb::{BuildOp, Builder, Constraints, LocalSource, Op, Platform, Source};
use weld_proto::Message as _;
use weld_testbed::Registry;

/// A build of what is in the file `definition` of the directory `made`.
fn outer() -> Vec<u8> {
    let mut builder = Builder::new();
    let made = Source::Local(LocalSource {
        name: "made".to_owned(),
        ..LocalSource::default()
    });
    let made = builder.add_source(made, Constraints::new());
    let attrs = [("llbbuild.filename", "definition")];
    let build = Op::Build(Box::new(BuildOp {
        builder: None,
        inputs: BTreeMap::from([("buildkit.llb.definition".to_owned(), made)]),
        definition: None,
        attrs: attrs
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
    }));
    let built = builder.add(build, Constraints::new());
    let definition = builder.definition(Some(built), &Platform::host()).unwrap();
    definition.encode_to_vec()
}

#[test]
fn a_definition_that_a_dockerfile_became_is_built_inside_of_another() {
    let bed = Bed::new();
    let registry = Registry::start().unwrap();
    registry
        .push_layout(base_layout(), "latest", "base")
        .unwrap();
    let address = format!("unix://{}", bed.path("daemon.sock").display());
    let mut daemon = bed.command();
    let mut daemon = daemon
        .args(["--root", bed.path("of-daemon").to_str().unwrap()])
        .args(["daemon", "--addr", &address])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(daemon.stderr.take().unwrap()).lines();
    let ready = |line: &std::io::Result<String>| {
        line.as_ref()
            .is_ok_and(|line| line.contains("running server"))
    };
    assert!(lines.any(|line| ready(&line)), "the daemon did not start");
    std::thread::spawn(move || lines.for_each(drop));

    std::fs::create_dir(bed.path("made")).unwrap();
    std::fs::write(bed.path("outer"), outer()).unwrap();
    bed.file("file", "of the client");
    let emit = |dockerfile: &str| {
        bed.dockerfile(&dockerfile.replace("base", &format!("{}/base", registry.host())));
        let emitted = bed
            .command()
            .args(["debug", "emit-llb", "context"])
            .output()
            .unwrap();
        assert!(emitted.status.success(), "{emitted:?}");
        std::fs::write(bed.path("made/definition"), emitted.stdout).unwrap();
    };
    let solve = |more: &[&str]| {
        let mut all = vec!["solve", "--progress", "plain", "--local", "made=made"];
        all.extend(["--local", "context=context"]);
        all.extend(["--output", "type=local,dest=out"]);
        all.extend(more);
        let definition = std::fs::File::open(bed.path("outer")).unwrap();
        let ended = bed.command().args(all).stdin(definition).output();
        support::ended(ended.unwrap())
    };
    for more in [&[][..], &["--addr", &address]] {
        emit("FROM base\nCOPY file /copied\nRUN echo inside >/ran\n");
        let first = solve(more).ok();
        assert!(first.stderr.contains("RUN echo inside"), "{}", first.stderr);
        let read = |name: &str| std::fs::read_to_string(bed.path("out").join(name)).unwrap();
        assert_eq!(
            (read("copied"), read("ran")),
            ("of the client".to_owned(), "inside\n".to_owned())
        );
        assert!(solve(more).ok().cached_steps() >= 1);
        std::fs::remove_dir_all(bed.path("out")).unwrap();

        emit("FROM base\nRUN exit 9\n");
        solve(more).fails(&[
            "ERROR: definition: [2/2] RUN exit 9: process",
            "exit code: 9",
        ]);
        emit("FROM base\nRUN --security=insecure true\n");
        solve(more).fails(&["ERROR: definition: ", "security.insecure is not allowed"]);
        std::fs::write(bed.path("made/definition"), "no").unwrap();
        solve(more).fails(&["ERROR: definition: invalid LLB definition"]);
    }
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}
