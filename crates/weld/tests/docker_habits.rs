//! Options of docker's that people type by habit, and scripts have.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers may fail their test"
)]

mod support;

use support::Bed;
use support::kept::Daemon;

#[test]
fn what_does_nothing_is_taken_with_a_warning() {
    let bed = Bed::new();
    bed.dockerfile("FROM base\n");
    for (option, part) in [
        (&["--squash"][..], "--squash has no effect"),
        (&["--rm"], "--rm has no effect"),
        (&["--rm=false"], "--rm has no effect"),
        (&["--force-rm"], "--force-rm has no effect"),
        (&["--compress"], "--compress has no effect"),
        (&["--isolation", "default"], "--isolation has no effect"),
        (
            &["--disable-content-trust"],
            "--disable-content-trust has no effect",
        ),
        (
            &["--security-opt", "seccomp=unconfined"],
            "RUN --security=insecure",
        ),
    ] {
        let built = bed.build(option).ok();
        let mut lines = built.stderr.lines();
        let warned = lines.any(|line| line.starts_with("WARNING: ") && line.contains(part));
        assert!(warned, "{option:?}: {}", built.stderr);
    }
    bed.build(&["--load=false", "--squash=false", "--builder", ""])
        .ok();
}

#[test]
fn what_cannot_be_done_says_what_does_it_here() {
    let bed = Bed::new();
    bed.dockerfile("FROM base\n");
    for (option, part) in [
        (
            &["--load"][..],
            "--output type=docker,dest=- and pipe it into `docker load`",
        ),
        (
            &["--builder", "mine"],
            "--addr names the daemon that builds",
        ),
        (
            &["--policy", "filename=x.rego"],
            "buildx itself evaluates such policies",
        ),
    ] {
        let refused = bed.build(option).fails(&[part]);
        assert_eq!(refused.code, Some(2), "{option:?}");
    }
}

#[test]
fn switches_have_values_as_with_docker() {
    let bed = Bed::new();
    bed.dockerfile("FROM base\nRUN true\n");
    bed.build(&["--pull=false", "--push=false", "--no-cache=0", "-q=false"])
        .ok();
    let again = bed.build(&["--no-cache=false"]).ok().cached_steps();
    let anew = bed.build(&["--no-cache=true"]).ok().cached_steps();
    assert_eq!(again, anew + 1);
    bed.build(&["--no-cache=maybe"])
        .fails(&["must be true or false"]);
    // The word behind it is still the context.
    bed.build(&["--no-cache"]).ok();
}

#[test]
fn resources_of_steps_are_limited() {
    let bed = Bed::new();
    let daemon = Daemon::start(&bed);
    bed.dockerfile(
        "FROM base\nRUN cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes \
         2>/dev/null > /limit || true\n",
    );
    let own = bed.path("own");
    for to in [
        ["--root", own.to_str().unwrap()],
        ["--addr", &daemon.address],
    ] {
        for (options, limit) in [
            (&["--memory", "64m"][..], "67108864"),
            (&["-m=32m"], "33554432"),
            (
                &["--resource", "memory=48m", "--cpu-shares", "512"],
                "50331648",
            ),
        ] {
            let output = ["--no-cache", "--output", "out"];
            bed.build(&[&to[..], options, &output].concat()).ok();
            let read = std::fs::read_to_string(bed.path("out/limit")).unwrap();
            assert_eq!(read.trim(), limit, "{to:?} {options:?}");
        }
    }
    bed.build(&["--addr", &daemon.address, "--resource", "disk=1"])
        .fails(&["unknown resource \"disk\" (known: memory,"]);
}

/// Whoever has to wait for the first RUN to hear of it has waited in vain.
#[test]
fn limits_that_cannot_be_kept_are_told_before_the_build() {
    let bed = Bed::new();
    let daemon = Daemon::start(&bed);
    let own = bed.path("own");
    bed.dockerfile("FROM base\nRUN true\n");
    for (options, error) in [
        (
            &["--memory", "1"][..],
            "--memory \"1\": it must be at least 6m",
        ),
        (
            &["--memory", "64m", "--memory-swap", "32m"],
            "--memory-swap \"32m\": it is of memory and swap together, and must not be below",
        ),
        (
            &["--cpu-quota=1"],
            "--cpu-quota \"1\": it must be at least 1000 microseconds",
        ),
        (
            &["--resource", "cpu-period=1"],
            "--resource \"cpu-period=1\": it must be from 1000 to 1000000 microseconds",
        ),
        (
            &["--ulimit", "nofile=2:1"],
            "--ulimit \"nofile=2:1\": the soft limit (2) must not be above the hard one (1)",
        ),
        (
            &["--ulimit", "files=1"],
            "--ulimit \"files=1\": there is no limit \"files\" (known: core,",
        ),
        (&["--shm-size", "x"], "--shm-size: \"x\" is not a size"),
    ] {
        for to in [
            ["--root", own.to_str().unwrap()],
            ["--addr", &daemon.address],
        ] {
            let refused = bed.build(&[&to[..], options].concat()).fails(&[error]);
            assert_eq!(refused.code, Some(2), "{}", refused.stderr);
            assert!(!refused.stderr.contains("#1 "), "{}", refused.stderr);
        }
    }
    // Which there are, is for the machine that builds to know.
    let wanted = ["--cpuset-cpus", "0,4000"];
    let told = "--cpuset-cpus \"0,4000\": not available (available: 0";
    let here = ["--root", own.to_str().unwrap()];
    let refused = bed.build(&[&here[..], &wanted].concat()).fails(&[told]);
    assert!(!refused.stderr.contains("#1 "), "{}", refused.stderr);
    let there = ["--addr", &daemon.address];
    let told = "cpusetcpus=\"0,4000\": not available (available: 0";
    let refused = bed.build(&[&there[..], &wanted].concat()).fails(&[told]);
    assert!(!refused.stderr.contains("RUN"), "{}", refused.stderr);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
}

#[test]
fn debug_tells_more_of_a_failure_wherever_it_stands() {
    let bed = Bed::new();
    let daemon = Daemon::start(&bed);
    let own = bed.path("own");
    let context = bed.context();
    let context = context.to_str().unwrap();
    bed.dockerfile("FROM scratch\nCOPY missing /\n");
    for (to, part) in [
        (
            ["--root", own.to_str().unwrap()],
            "computing the content key",
        ),
        (
            ["--addr", &daemon.address],
            "the daemon answered with Unknown",
        ),
    ] {
        let own = if to[0] == "--root" { &to[..] } else { &[] };
        let addr = if to[0] == "--addr" { &to[..] } else { &[] };
        for (before, behind) in [
            (&["-D"][..], &[][..]),
            (&["--debug"], &[]),
            (&[], &["-D"]),
            (&[], &["--debug=true"]),
        ] {
            let command = [before, own, &["build"], addr, behind, &[context]].concat();
            let failed = bed.run(&command).fails(&["DEBUG: ", part, "DEBUG: "]);
            assert!(failed.stderr.contains("sha256:"), "{}", failed.stderr);
        }
        let quiet = bed.run(&[own, &["build"], addr, &[context]].concat());
        assert!(!quiet.fails(&["missing"]).stderr.contains("DEBUG"));
    }
    // A daemon has its own, and takes this one for it.
    for debug in [&["-D", "daemon"][..], &["daemon", "--debug"]] {
        bed.run(&[debug, &["--help"]].concat()).ok();
    }
}

/// As with buildx: it is built, and told.
#[test]
fn a_platform_that_is_named_twice_is_warned_of() {
    let bed = Bed::new();
    let daemon = Daemon::start(&bed);
    let own = bed.path("own");
    bed.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    for to in [
        ["--root", own.to_str().unwrap()],
        ["--addr", &daemon.address],
    ] {
        let twice = ["--platform", "linux/amd64", "--platform", "linux/amd64"];
        let built = bed.build(&[&to[..], &twice].concat()).ok();
        let warning = "Duplicate platform result requested \"linux/amd64\"";
        assert!(built.stderr.contains(warning), "{to:?}: {}", built.stderr);
    }
}
