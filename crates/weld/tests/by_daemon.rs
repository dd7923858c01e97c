//! The same command line, with a daemon that does the work: what the client offers goes to it over
//! the session, and results come back.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod support;

use support::{Bed, kept::Daemon};
use weld_testbed::{Fault, Proxy, Registry};

#[test]
fn files_secrets_layouts_and_results_travel() {
    let bed = Bed::new();
    let daemon = Daemon::start(&bed);
    bed.dockerfile(
        "FROM base AS build\n\
         RUN --mount=type=secret,id=token cp /run/secrets/token /token && mkdir /d && ln /token /d/link\n\
         COPY . /context\n\
         FROM scratch\n\
         COPY --from=build /token /d /context /\n",
    )
    .file("kept", "kept")
    .file("caf\u{e9}/x", "not ASCII")
    .file(".dockerignore", "ignored\n")
    .file("ignored", "no");
    std::fs::write(bed.path("token"), "s3cr3t").unwrap();
    let out = bed.path("out");
    // What is there and has another kind goes, and the rest stays.
    std::fs::create_dir_all(out.join("kept/was-a-directory")).unwrap();
    std::fs::write(out.join("mine"), "mine").unwrap();
    let output = format!("type=local,dest={}", out.display());
    let archive = format!("type=oci,dest={}", bed.path("image.tar").display());
    let secret = format!("id=token,src={}", bed.path("token").display());
    let arguments = [
        "--addr",
        &daemon.address,
        "--secret",
        &secret,
        "--output",
        &output,
        "--output",
        &archive,
    ];
    let first = bed.build(&arguments).ok();
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    assert_eq!(read("token"), "s3cr3t");
    assert_eq!(read("link"), "s3cr3t");
    assert_eq!(read("kept"), "kept");
    assert_eq!(read("caf\u{e9}/x"), "not ASCII");
    assert_eq!(read("mine"), "mine");
    assert!(!out.join("ignored").exists());
    assert!(bed.path("image.tar").metadata().unwrap().len() > 1000);
    assert!(!first.stderr.contains("s3cr3t"));
    let again = bed.build(&arguments).ok();
    assert!(again.cached_steps() >= 3);
    // Also what only told of itself, and then was not needed, comes to an end.
    let begun = again
        .stderr
        .lines()
        .filter_map(|line| line.split_once(" [internal] load build context"));
    for (number, _) in begun {
        let ended = |line: &str| line.starts_with(&format!("{number} DONE"));
        assert!(again.stderr.lines().any(ended), "{}", again.stderr);
    }

    let used = bed.run(&["du", "--addr", &daemon.address, "--json"]).ok();
    assert!(used.stdout.contains("source.local"), "{}", used.stdout);
    bed.run(&["prune", "--all", "--addr", &daemon.address]).ok();
}

#[test]
fn a_client_that_asks_is_told_why_steps_were_not_cached() {
    let bed = Bed::new();
    let daemon = Daemon::start(&bed);
    let to = ["--addr", &daemon.address];
    bed.dockerfile("FROM base\nCOPY a /a\n").file("a", "1");
    let silent = bed.build(&to).ok();
    assert!(!silent.stderr.contains("not cached:"), "{}", silent.stderr);
    bed.file("a", "2");
    let told = bed.build(&[to[0], to[1], "--explain"]).ok();
    let reason = "not cached: content of /a changed";
    assert!(told.stderr.contains(reason), "{}", told.stderr);
    bed.file("a", "3");
    let silent = bed.build(&to).ok();
    assert!(!silent.stderr.contains("not cached:"), "{}", silent.stderr);
}

#[test]
fn a_frontend_answers_other_requests_than_builds() {
    let bed = Bed::new();
    let daemon = Daemon::start(&bed);
    bed.dockerfile(
        "# check=skip=none\n\
         FROM base AS build\n\
         # NAME is said of it\n\
         ARG NAME=value\n\
         RUN --mount=type=secret,id=token,required true\n\
         # final is what is built\n\
         FROM build AS final\n\
         RUN --mount=type=ssh true\n",
    );
    let outline = "TARGET:      final\n\
        DESCRIPTION: is what is built\n\n\
        BUILD ARG   VALUE   DESCRIPTION\n\
        NAME        other   is said of it\n\n\
        SECRET   REQUIRED\n\
        token    true\n\n\
        SSH       REQUIRED\n\
        default   \n\n";
    let targets = "TARGET          DESCRIPTION\n\
        build           \n\
        final (default) is what is built\n";
    let (by_daemon, own) = (["--addr", &daemon.address], bed.path("own"));
    let here = ["--root", own.to_str().unwrap()];
    for to in [&by_daemon, &here] {
        let ask = |arguments: &[&str]| bed.build(&[&to[..], arguments].concat());
        let told = ask(&["--call", "outline", "--build-arg", "NAME=other"]).ok();
        assert_eq!(told.stdout, outline, "{to:?}");
        let told = ask(&["--call", "targets"]).ok();
        assert_eq!(told.stdout, targets, "{to:?}");
        // A build refuses it, and the list of what can be built does not depend on it.
        let whole = "FROM base AS build\n# final is what is built\nFROM base AS final\nCOPY --from=$X /a /\n";
        bed.file("variable", whole);
        let variable = bed.path("context/variable");
        let of_variable = |call: &str| ask(&["--file", variable.to_str().unwrap(), "--call", call]);
        assert_eq!(of_variable("targets").ok().stdout, targets, "{to:?}");
        of_variable("outline").fails(&["variable expansion is not supported for --from"]);
        let told = ask(&["--call", "outline,format=json"]).ok();
        let json: serde_json::Value = serde_json::from_str(&told.stdout).unwrap();
        assert_eq!(json["args"][0]["location"]["ranges"][0]["start"]["line"], 4);
        assert_eq!(json["secrets"][0]["required"], true);
        let told = ask(&["--call", "subrequests.describe"]).ok();
        assert!(told.stdout.contains("\noutline "), "{}", told.stdout);
        let told = ask(&["--check"]).ok();
        assert_eq!(
            told.stdout, "Check complete, no warnings found.\n",
            "{to:?}"
        );
        ask(&["--call", "nothing"]).fails(&["unsupported request frontend.nothing"]);
    }
    bed.dockerfile("FROM base AS build\nMAINTAINER me\n");
    for to in [&by_daemon, &here] {
        let ask = |arguments: &[&str]| bed.build(&[&to[..], arguments].concat());
        let found = ask(&["--call", "check"]);
        assert_eq!(found.code, Some(1), "{found:?}");
        assert!(
            found.stdout.starts_with("Check complete, 1 warning"),
            "{found:?}"
        );
        assert!(found.stdout.contains("MaintainerDeprecated"), "{found:?}");
        ask(&["--call", "check,ignorestatus=true"]).ok();
    }
    bed.dockerfile("FROM base AS build\nCOPY --from=later /a /\nFROM build AS later\n");
    let found = bed.build(&[by_daemon[0], by_daemon[1], "--check"]);
    assert_eq!(found.code, Some(1), "{found:?}");
    assert!(found.stdout.contains("ERROR: "), "{found:?}");
    assert!(found.stdout.contains(">>> COPY --from=later"), "{found:?}");
}

#[test]
fn a_frontend_that_is_switched_off_is_nobodys() {
    let bed = Bed::new();
    let config = bed.path("daemon.toml");
    std::fs::write(&config, "[frontend.\"dockerfile.v0\"]\nenabled = false\n").unwrap();
    let daemon = Daemon::start_with(&bed, &["--config", config.to_str().unwrap()]);
    bed.dockerfile("FROM base\n");
    // Asked for by itself, and by a client that is the build's frontend.
    for how in [
        &["--addr", &daemon.address][..],
        &["--addr", &daemon.address, "--call", "outline"],
    ] {
        bed.build(how).fails(&["invalid frontend", "dockerfile.v0"]);
    }
}

#[test]
fn command_lines_of_buildkitd_start_a_daemon() {
    let bed = Bed::new();
    let other = bed.path("other.sock");
    let other = format!("unix://{0}.1,unix://{0}.2", other.display());
    let daemon = Daemon::start_with(
        &bed,
        &[
            "--addr",
            &other,
            "--debug=false",
            "--trace=false",
            "--save-cache-debug=false",
            "--oci-worker",
            "auto",
            "--oci-worker-selinux=false",
            "--oci-worker-no-process-sandbox=false",
            "--oci-worker-platform",
            "linux/amd64,linux/arm64",
            "--containerd-worker=false",
            "--containerd-worker-addr",
            "/nowhere.sock",
            "--containerd-worker-labels",
            "a=b",
            "--containerd-worker-snapshotter=native",
            "--containerd-cni-pool-size=3",
            "--containerd-worker-gc=false",
            "--containerd-max-parallelism=2",
        ],
    );
    bed.dockerfile("FROM base\n");
    bed.build(&["--addr", &daemon.address]).ok();
    for number in ["1", "2"] {
        let address = format!("unix://{}.{number}", bed.path("other.sock").display());
        bed.build(&["--addr", &address]).ok();
    }
}

#[test]
fn failures_are_told_and_leave_nothing() {
    let bed = Bed::new();
    let daemon = Daemon::start(&bed);
    bed.dockerfile("FROM base\nRUN echo before && false\n");
    let output = format!("type=tar,dest={}", bed.path("out.tar").display());
    bed.build(&["--addr", &daemon.address, "--output", &output])
        .fails(&[
            "before",
            "exit code: 1",
            "Dockerfile:2",
            ">>> RUN echo before",
        ]);
    assert!(!bed.path("out.tar").exists());
    bed.dockerfile("FROM base\nRUN --mount=type=secret,id=missing,required=true true\n");
    bed.build(&["--addr", &daemon.address]).fails(&["missing"]);
}

#[test]
fn what_is_wrong_with_a_dockerfile_is_pointed_at() {
    let bed = Bed::new();
    let daemon = Daemon::start(&bed);
    bed.dockerfile("FROM base\nRUN --mount=type=nonsense true\n");
    // The same words and carets, whoever builds.
    let root = bed.path("other-state");
    let here = bed.build(&["--addr", "none", "--root", root.to_str().unwrap()]);
    let here = here.fails(&["^^^"]);
    let there = bed.build(&["--addr", &daemon.address]).fails(&["^^^"]);
    let excerpt = |text: &str| -> Vec<String> {
        let lines = text.lines().skip_while(|line| !line.starts_with("---"));
        lines.take(5).map(str::to_owned).collect()
    };
    assert_eq!(excerpt(&here.stderr), excerpt(&there.stderr));
}

#[test]
fn an_archive_on_standard_input_is_handed_on() {
    let bed = Bed::new();
    let daemon = Daemon::start(&bed);
    bed.dockerfile("FROM scratch\nCOPY file /\n")
        .file("file", "from an archive");
    let context = bed.context();
    let archive = bed.path("context.tar");
    bed.tool(
        "tar",
        &[
            "-C",
            context.to_str().unwrap(),
            "-cf",
            archive.to_str().unwrap(),
            ".",
        ],
    );
    let out = bed.path("out");
    let output = format!("type=local,dest={}", out.display());
    let built = bed
        .command()
        .args(["build", "--addr", &daemon.address, "--output", &output, "-"])
        .stdin(std::fs::File::open(&archive).unwrap())
        .output()
        .unwrap();
    support::ended(built).ok();
    assert_eq!(
        std::fs::read_to_string(out.join("file")).unwrap(),
        "from an archive"
    );
}

#[test]
fn a_daemon_that_is_not_there_is_an_error() {
    let bed = Bed::new();
    bed.dockerfile("FROM scratch\n");
    let address = format!("unix://{}", bed.path("nobody.sock").display());
    bed.build(&["--addr", &address])
        .fails(&["cannot connect to unix://", "nobody.sock"]);
    bed.build(&["--addr", "ftp://x"]).fails(&["is no address"]);
}

#[test]
fn a_cache_that_does_not_answer_counts_as_absent_for_a_while() {
    let registry = Registry::start().unwrap();
    let proxy = Proxy::start(&registry.host()).unwrap();
    let bed = Bed::new();
    let daemon = Daemon::start(&bed);
    bed.dockerfile("FROM base\nRUN echo x > /x\n");
    let cache = |more: &str| format!("type=registry,ref={}/cache:a{more}", proxy.host());
    let build = |option: &str, cache: &str| {
        let built = bed.build(&["--addr", &daemon.address, option, cache]);
        built.ok().stderr
    };
    // What is not there is an answer, however often.
    for _ in 0..4 {
        let told = build("--cache-from", &cache(""));
        assert!(told.contains("not found"), "{told}");
    }
    build("--cache-to", &cache(",mode=max"));
    // The registry's client tries again for longer than this.
    let slow = cache(",timeout=1");
    proxy.fault("GET", "/manifests/", Fault::Status(500));
    proxy.fault("HEAD", "/manifests/", Fault::Status(500));
    let told = build("--cache-from", &slow);
    assert!(told.contains("did not answer within 1 s"), "{told}");
    proxy.heal();
    proxy.requests();
    let told = build("--cache-from", &slow);
    assert!(told.contains("counts as absent for another"), "{told}");
    assert!(proxy.requests().is_empty(), "it was not asked");
    // Another cache is none the worse.
    let told = build("--cache-from", &cache(""));
    assert!(!told.contains("absent"), "{told}");
    assert!(!proxy.requests().is_empty());
    let told = build("--cache-from", &cache(",timeout=soon"));
    assert!(told.contains("must be from 1 to"), "{told}");
}

/// A step that waits for a locked cache mount leaves its slot to others: here to the one that the holder of the lock waits for.
#[test]
fn who_waits_for_a_cache_mount_lets_others_execute() {
    let bed = Bed::new();
    bed.dockerfile(
        "FROM base AS holder\n\
         RUN --mount=type=cache,id=lock,sharing=locked,target=/l --mount=type=cache,id=mark,target=/m \
             i=0; until [ -e /m/mark ] || [ $i = 200 ]; do i=$((i+1)); sleep 0.1; done; cp /m/mark /held\n\
         FROM base AS waiter\n\
         RUN sleep 0.3\n\
         RUN --mount=type=cache,id=lock,sharing=locked,target=/l touch /waited\n\
         FROM base AS marker\n\
         RUN sleep 0.8\n\
         RUN --mount=type=cache,id=mark,target=/m touch /m/mark /marked\n\
         FROM base\n\
         COPY --from=holder /held /\nCOPY --from=waiter /waited /\nCOPY --from=marker /marked /\n",
    );
    let daemon = Daemon::start_with(&bed, &["--oci-max-parallelism", "2"]);
    let built = bed.build(&["--addr", &daemon.address]).ok();
    assert!(
        built.stderr.contains("waiting for the cache mount /l"),
        "{}",
        built.stderr
    );
}

/// Else the step seems to take long, and nobody knows what it does.
#[test]
fn who_waits_for_a_free_slot_says_so() {
    let bed = Bed::new();
    bed.dockerfile(
        "FROM base AS one\nRUN sleep 1; touch /one\n\
         FROM base AS two\nRUN sleep 1; touch /two\n\
         FROM base\nCOPY --from=one /one /\nCOPY --from=two /two /\n",
    );
    let daemon = Daemon::start_with(&bed, &["--oci-max-parallelism", "1"]);
    let built = bed.build(&["--addr", &daemon.address]).ok();
    let told = built
        .stderr
        .lines()
        .filter(|line| line.contains("waiting for a free slot"));
    let told: Vec<_> = told.collect();
    assert!(told.iter().any(|line| !line.ends_with("done")), "{told:?}");
    assert!(told.iter().any(|line| line.ends_with("s done")), "{told:?}");
}

/// What was pruned is not found right afterwards, although the keys forget it later.
#[test]
fn what_was_pruned_a_moment_ago_is_not_found() {
    let bed = Bed::new();
    bed.dockerfile("FROM base\nRUN echo 1 > /1\nRUN echo 2 > /2\n");
    let daemon = Daemon::start(&bed);
    for _ in 0..3 {
        bed.build(&["--addr", &daemon.address]).ok();
        bed.run(&["prune", "--all", "--addr", &daemon.address]).ok();
        let built = bed.build(&["--addr", &daemon.address, "--explain"]).ok();
        let lost = built.stderr.contains("could not be fetched");
        assert!(!lost, "{}", built.stderr);
    }
}
