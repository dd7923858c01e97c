//! What bad input gets: an error that names what and where, and a state that can be used.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers may fail their test"
)]

mod support;

use std::io::Write;
use std::process::Stdio;

use support::kept::Daemon;
use support::{Bed, base_layout, ended, served::serve};

#[test]
fn a_dockerfile_that_cannot_be_built_is_shown_where_it_is_wrong() {
    let bed = Bed::new();
    for (text, parts) in [
        (
            "FROM base\nCOPPY a /a\n",
            &["Dockerfile:2", "COPPY", "did you mean COPY"][..],
        ),
        (
            "FROM base\nRUN --mout=type=cache,target=/c true\n",
            &["Dockerfile:2", "mount"],
        ),
        (
            "FROM base AS a\nFROM b\nCOPY --from=nosuchstage /x /x\n",
            &["Dockerfile"],
        ),
        (
            "FROM base AS build\nFROM base\nCOPY --from=127.0.0.1:1/no /x /x\n",
            &["Dockerfile:3:13\n", "^^^^^^^^^^^^^^\n"],
        ),
        (
            "FROM base\nCOPY \u{1b}]0;title\u{7}x /\n",
            &["ERROR: failed to solve: [1/2] COPY \u{fffd}]0;title\u{fffd}x /"],
        ),
        (
            "FROM base\nENV a=\"${v/bar}\"\n",
            &["Dockerfile:2", "missing '/' in ${}"],
        ),
        (
            "FROM base\nCOPY missing /x\n",
            &[
                "failed to solve: [1/2] COPY missing /x: failed to calculate checksum of ref",
                ": \"/missing\": not found in [internal] load build context\n",
                ">>> COPY missing /x",
                "|          ^^^^^^^\n",
            ],
        ),
        (
            "FROM base AS a\nRUN touch /x\nFROM base\nCOPY --from=a /y /\n",
            &["ref ", ": \"/y\": not found in [a 1/2] RUN touch /x\n"],
        ),
        (
            "FROM base\nRUN exit 7\n",
            &["exit code: 7", "Dockerfile:2", ">>> RUN exit 7"],
        ),
        (
            "FROM base\nRUN [\"nosuchprogram\"]\n",
            &["nosuchprogram", "executable file not found"],
        ),
        ("FROM base\nUSER nobodyknows\nRUN true\n", &["nobodyknows"]),
        (
            "# syntax=127.0.0.1:1/other/frontend\nFROM base\n",
            &["127.0.0.1:1/other/frontend", "cannot", ">>> # syntax="],
        ),
        (
            "FROM base\nRUN echo ${X:?is needed}\nARG X\nENV Y=${X:?is needed}\n",
            &["is needed"],
        ),
        (
            "FROM base\nADD http://127.0.0.1:1/file /x\n",
            &["cannot fetch http://127.0.0.1:1/file", ">>> ADD"],
        ),
        ("", &["Dockerfile"]),
    ] {
        bed.dockerfile(text);
        bed.build(&[]).fails(parts);
    }
    // After all of that it still builds.
    bed.dockerfile("FROM base\nRUN true\n");
    bed.build(&[]).ok();
}

#[test]
fn stages_that_need_each_other_are_refused() {
    let bed = Bed::new();
    bed.dockerfile("FROM base AS a\nCOPY --from=b /x /x\nFROM a AS b\nRUN true\n");
    bed.build(&[]).fails(&["b"]);
    bed.dockerfile("FROM base AS build\nRUN true\n");
    let daemon = Daemon::start(&bed);
    let own = bed.path("own");
    for to in [
        ["--root", own.to_str().unwrap()],
        ["--addr", &daemon.address],
    ] {
        let told = "\"biuld\" could not be found (did you mean build?)";
        bed.build(&[&to[..], &["--target", "biuld"]].concat())
            .fails(&[told]);
    }
}

/// What fails is the fetching: nothing was read of it.
#[test]
fn a_context_that_cannot_be_fetched_fails_as_one_step() {
    let bed = Bed::new();
    for context in ["http://127.0.0.1:1/context.tar", "http://127.0.0.1:1/a.git"] {
        let failed = bed.run(&["build", "--progress", "plain", context]);
        let failed = failed.fails(&["127.0.0.1:1"]);
        let steps = failed.stderr.lines().filter(|line| {
            line.starts_with('#') && (line.contains(" ERROR: ") || line.ends_with(" CANCELED"))
        });
        assert_eq!(steps.count(), 1, "{}", failed.stderr);
        let reads = failed.stderr.contains("load build definition");
        assert!(!reads, "{}", failed.stderr);
    }
}

#[test]
fn arguments_that_cannot_be_meant_are_refused() {
    let bed = Bed::new();
    bed.dockerfile("FROM base\n");
    for (arguments, part) in [
        (&["--output", "type=zip"][..], "unknown type \"zip\""),
        (
            &["--output", "type=oci,dest=x,compresion=zstd"],
            "compresion",
        ),
        (&["--secret", "id=x,src=/does/not/exist"], "/does/not/exist"),
        (&["--build-context", "x=oci-layout:///nowhere"], "/nowhere"),
        (&["--shm-size", "much"], "not a size"),
        (&["--add-host", "x"], "HOST:IP"),
        (&["--ulimit", "nofile"], "NAME=SOFT"),
        (&["--platform", "linux/"], "platform"),
        (&["--progress", "loud"], "loud"),
        (&["--allow", "everything"], "everything"),
        (&["--tag", "BAD"], "--tag \"BAD\": "),
        (&["-t", "a:b:c"], "--tag \"a:b:c\": "),
        (&["--annotation", "foo:x=y"], "unknown type \"foo\""),
        (&["--iidfile", "/nope/x"], "--iidfile /nope/x: No such file"),
        (&["--iidfile", "/"], "--iidfile /: is a directory"),
        (
            &["--metadata-file", "/nope/x"],
            "--metadata-file /nope/x: No such file",
        ),
        (
            &["--cache-from", "type=foo"],
            "ERROR: unknown cache importer: \"foo\"",
        ),
        (&["--push"], "ERROR: output type=image: "),
        (&["--output", ""], "--output: is empty"),
        (&["--file", "."], "--file .: is a directory"),
        (
            &["--build-arg", "=x"],
            "--build-arg \"=x\": needs KEY=VALUE",
        ),
        (
            &["--file", "/nope/x"],
            "--file /nope/x: /nope: No such file",
        ),
        (
            &["--output", "type=oci,dest=x", "--metadata-file", "./x"],
            "--metadata-file ./x: --output is to be written there, too",
        ),
        (
            &["--iidfile", "x", "--metadata-file", "x"],
            "--metadata-file x: --iidfile is to be written there, too",
        ),
    ] {
        let ended = bed.build(arguments).fails(&[part]);
        assert!(!ended.stderr.contains("#1 "), "{}", ended.stderr);
    }
    // Those of exporters and caches are no failures of a build either.
    for (arguments, part) in [
        (
            &["--output", "type=oci,dest=x,dest=y"][..],
            "dest=… is given twice",
        ),
        (
            &["--output", "type=oci,dest=x,compresion=zstd"],
            "unknown attribute \"compresion\"",
        ),
        (
            &["--output", "type=oci,dest=x,compression-level=12"],
            "0 to 9 for gzip",
        ),
        (&["--output", "type=oci,dest=x", "--tag", "A:B:C"], "A:B:C"),
        (&["--push"], "push needs a name"),
        (
            &["--cache-to", "type=registry,ref=a,ref=b"],
            "ref=… is given twice",
        ),
        (
            &["--cache-to", "type=local,dest=x,mode=all"],
            "must be min or max",
        ),
        (
            &["--provenance", "banana"],
            "must be true, false, or fields",
        ),
        (&["--provenance", "mode=most"], "must be min or max"),
    ] {
        let ended = bed.build(arguments).fails(&[part]);
        assert_eq!(ended.code, Some(2), "{arguments:?}: {}", ended.stderr);
    }
    bed.run(&["build", "/does/not/exist"])
        .fails(&["/does/not/exist"]);
    bed.run(&["build", "http://"])
        .fails(&["context \"http://\": names nothing behind its scheme"]);
    bed.run(&["biuld", "."]).fails(&["build"]);
}

/// One build is asked for, so one failure is told, whatever had to be built for it before.
#[test]
fn a_context_that_is_not_there_is_told_once() {
    let bed = Bed::new();
    let daemon = Daemon::start(&bed);
    std::fs::create_dir(bed.path("www")).unwrap();
    let url = format!("http://{}/context.tar", serve(bed.path("www")));
    let own = bed.path("own");
    for to in [
        ["--root", own.to_str().unwrap()],
        ["--addr", &daemon.address],
    ] {
        let build = [&["build", "--progress", "plain"], &to[..], &[&url]].concat();
        let failed = bed.run(&build).fails(&["404 Not Found"]);
        let told = failed
            .stderr
            .lines()
            .find(|line| line.starts_with("ERROR: "));
        let expected = format!(
            "ERROR: failed to read context {url}: failed to load cache key: cannot fetch {url}: invalid response status 404 Not Found"
        );
        assert_eq!(told, Some(&*expected), "{to:?}");
    }
}

/// A daemon's words are the same as those of this process, and so is the exit code.
#[test]
fn a_daemon_refuses_what_cannot_be_meant_without_a_codes_name() {
    let bed = Bed::new();
    let daemon = Daemon::start(&bed);
    let own = bed.path("own");
    bed.dockerfile("FROM base\n");
    for to in [
        ["--root", own.to_str().unwrap()],
        ["--addr", &daemon.address],
    ] {
        for (options, error) in [
            (
                ["--platform", "a/b/c/d"],
                "ERROR: option platform=\"a/b/c/d\": ",
            ),
            (
                ["--provenance", "mode=most"],
                "ERROR: failed to parse provenance: mode=",
            ),
        ] {
            let failed = bed.build(&[&to[..], &options].concat()).fails(&[]);
            let mut lines = failed.stderr.lines();
            assert!(
                lines.any(|line| line.starts_with(error)),
                "{to:?}: {}",
                failed.stderr
            );
            assert_eq!(failed.code, Some(2), "{to:?} {options:?}");
        }
    }
}

#[test]
fn fields_without_an_effect_are_told() {
    let bed = Bed::new();
    bed.dockerfile("FROM base\n");
    for (arguments, parts) in [
        (
            &["--cache-to", "type=local,dest=cache,moed=max"][..],
            &["--cache-to type=local", "\"moed\" has no effect", "mode"][..],
        ),
        (
            &["--cache-to", "type=inline,mode=max"],
            &["--cache-to type=inline", "\"mode\" has no effect"],
        ),
        (
            &["--cache-from", "type=local,src=nowhere,source=x"],
            &["--cache-from type=local", "\"source\" has no effect", "src"],
        ),
        (
            &["--provenance", "mod=max"],
            &["--provenance", "\"mod\" has no effect", "mode"],
        ),
    ] {
        let ended = bed.build(arguments).ok();
        for part in parts {
            assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
        }
    }
    let fine = [
        "--cache-to",
        "type=local,dest=cache,mode=max,compression=zstd",
        "--provenance",
        "mode=min",
    ];
    let ended = bed.build(&fine).ok();
    assert!(!ended.stderr.contains("has no effect"), "{}", ended.stderr);
}

#[test]
fn a_context_without_a_dockerfile_is_told_as_such() {
    let bed = Bed::new();
    bed.file("other", "");
    bed.build(&[])
        .fails(&["failed to read dockerfile: Dockerfile: no such file in the context"]);
    std::fs::create_dir(bed.context().join("Dockerfile")).unwrap();
    bed.build(&[])
        .fails(&["failed to read dockerfile Dockerfile: Dockerfile is not a regular file"]);
    std::fs::remove_dir(bed.context().join("Dockerfile")).unwrap();
    std::os::unix::fs::symlink("../outside", bed.context().join("Dockerfile")).unwrap();
    bed.build(&[])
        .fails(&["Dockerfile is a link to outside, which is not there"]);
}

/// As with docker, the build goes on with all of the context; here it is told.
#[test]
fn an_ignore_file_that_is_a_directory_is_warned_of() {
    let bed = Bed::new();
    bed.file(".dockerignore/file", "context-file")
        .file("context-file", "");
    bed.dockerfile("FROM base\nCOPY context-file /\n");
    let built = bed.build(&[]).ok();
    assert!(
        built
            .stderr
            .contains(".dockerignore is not a regular file: nothing is left out of the context"),
        "{}",
        built.stderr
    );
    assert!(!built.stderr.contains("ERROR"), "{}", built.stderr);
}

#[test]
fn a_directory_of_other_things_is_no_state_directory() {
    let bed = Bed::new();
    bed.file("precious", "");
    let context = bed.context();
    bed.run(&["--root", context.to_str().unwrap(), "du"])
        .fails(&["is not empty and not a weld state directory"]);
    assert_eq!(std::fs::read_dir(context).unwrap().count(), 1);
}

#[test]
fn an_empty_variable_of_the_environment_is_as_good_as_none() {
    let bed = Bed::new();
    let state = bed.path("state").display().to_string();
    let mut command = bed.command();
    for name in [
        "WELD_ROOT",
        "WELD_CONFIG",
        "WELD_OCI_RUNTIME",
        "WELD_SNAPSHOTTER",
        "WELD_TRACE",
        "WELD_HOST",
        "BUILDKIT_HOST",
        "BUILDKIT_PROGRESS",
    ] {
        command.env(name, "");
    }
    bed.dockerfile("FROM base\nRUN true\n");
    let base = format!("base=oci-layout://{}:latest", base_layout().display());
    command.args(["--root", &state, "build", "--build-context", &base]);
    command.arg(bed.context());
    ended(command.output().unwrap()).ok();
    bed.run(&["du"]).ok();
}

#[test]
fn a_registry_that_is_not_there_or_lacks_the_image_is_named() {
    let bed = Bed::new();
    bed.dockerfile("FROM 127.0.0.1:9/nobody/home:1\n");
    bed.build(&[])
        .fails(&["127.0.0.1:9/nobody/home:1", "Dockerfile:1"]);
    let registry = weld_testbed::Registry::start().unwrap();
    bed.dockerfile(&format!("FROM {}/not/there:1\n", registry.host()));
    bed.build(&[]).fails(&["not/there:1", "Dockerfile:1"]);
}

#[test]
fn a_damaged_layer_is_told_and_not_used() {
    let bed = Bed::new();
    let registry = weld_testbed::Registry::start().unwrap();
    let name = "damaged/base:1";
    registry.push_layout(base_layout(), "latest", name).unwrap();
    let find = bed.tool(
        "find",
        &[
            registry.storage().to_str().unwrap(),
            "-name",
            "data",
            "-size",
            "+100k",
        ],
    );
    let blob = find.lines().next().unwrap().to_owned();
    let mut content = std::fs::read(&blob).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    std::fs::write(&blob, content).unwrap();
    bed.dockerfile(&format!("FROM {}/{name}\nRUN true\n", registry.host()));
    bed.build(&[]).fails(&["sha256:"]);
    // The same image from elsewhere is not hurt by it.
    bed.dockerfile("FROM base\nRUN true\n");
    bed.build(&[]).ok();
}

#[test]
fn definitions_that_are_none_are_refused() {
    let bed = Bed::new();
    for input in [
        &b"random bytes, no protobuf"[..],
        b"",
        b"\x0a\x02\x08\x01",
        &[0xff; 100],
    ] {
        let mut child = bed
            .command()
            .arg("solve")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        ended(child.wait_with_output().unwrap()).fails(&["LLB"]);
    }
}

#[test]
fn a_definition_is_emitted_dumped_and_solved() {
    let bed = Bed::new();
    bed.dockerfile("FROM base\nRUN echo solved > /out\n");
    let base = format!("base=oci-layout://{}:latest", base_layout().display());
    let emitted = bed
        .command()
        .args(["debug", "emit-llb", "--build-context", &base])
        .arg(bed.context())
        .output()
        .unwrap();
    assert!(emitted.status.success(), "{emitted:?}");
    std::fs::write(bed.path("definition"), &emitted.stdout).unwrap();
    let dot = bed.run(&["debug", "dump-llb", "--dot", "definition"]).ok();
    assert!(
        dot.stdout.starts_with("digraph") && dot.stdout.contains("echo solved"),
        "{}",
        dot.stdout
    );
    let lines = bed.run(&["debug", "dump-llb", "definition"]).ok();
    assert!(lines.stdout.lines().count() >= 2, "{}", lines.stdout);

    // On the same state directory, one process into the other.
    bed.dockerfile("FROM scratch\nCOPY Dockerfile /out\n");
    for _ in 0..5 {
        solve_emitted(&bed, &[]);
    }
}

/// Has one process solve what another emits for the bed's Dockerfile, on the same state directory.
fn solve_emitted(bed: &Bed, arguments: &[&str]) {
    let mut emits = bed
        .command()
        .args(["debug", "emit-llb"])
        .arg(bed.context())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let context = format!("context={}", bed.context().display());
    let solved = bed
        .command()
        .args(["solve", "--local", &context])
        .args(arguments)
        .stdin(emits.stdout.take().unwrap())
        .output()
        .unwrap();
    assert!(emits.wait().unwrap().success());
    ended(solved).ok();
}

/// So large that several threads decode it, which a process must not have before it has its own mounts.
#[test]
fn a_large_definition_is_solved() {
    let bed = Bed::new();
    let (groups, stages) = (13, 20);
    let mut text = String::new();
    for group in 0..groups {
        for stage in 0..stages {
            text += &format!("FROM scratch AS s{group}-{stage}\nCOPY Dockerfile /{stage}\n");
        }
        text += &format!("FROM scratch AS g{group}\n");
        for stage in 0..stages {
            text += &format!("COPY --from=s{group}-{stage} / /\n");
        }
    }
    text += "FROM scratch\n";
    for group in 0..groups {
        text += &format!("COPY --from=g{group} / /{group}/\n");
    }
    bed.dockerfile(&text);
    let output = format!("type=local,dest={}", bed.path("out").display());
    solve_emitted(&bed, &["--output", &output]);
    let last = format!("out/{}/{}", groups - 1, stages - 1);
    assert!(bed.path(&last).exists());
}
