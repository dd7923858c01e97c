//! What bad input gets: an error that names what and where, and a state that can be used.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers may fail their test"
)]

mod support;

use std::io::Write;
use std::process::Stdio;

use support::{Bed, base_layout, ended};

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
                "\"/missing\": not found",
                ">>> COPY missing /x",
                "|          ^^^^^^^\n",
            ],
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
    bed.build(&["--target", "biuld"]).fails(&["biuld", "build"]);
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
fn the_second_process_on_a_state_directory_is_told_of_the_first() {
    let bed = Bed::new();
    bed.dockerfile("FROM base\nRUN echo started && sleep 60\n");
    let base = format!("base=oci-layout://{}:latest", base_layout().display());
    let mut first = bed
        .command()
        .args(["build", "--progress", "plain", "--build-context", &base])
        .arg(bed.context())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for(&mut first, "started");
    bed.run(&["du"])
        .fails(&[&format!("{}", first.id()), "in use"]);
    interrupt(&first);
    let code = first.wait().unwrap().code();
    assert_eq!(code, Some(130));
    bed.run(&["du"]).ok();
}

#[test]
fn an_interrupted_build_leaves_nothing_running_and_goes_on_later() {
    let bed = Bed::new();
    let marker = format!("marker-{}", std::process::id());
    bed.dockerfile(&format!("FROM base\nRUN echo one > /one\nRUN echo started; sh -c 'exec sleep 987 {marker}' || sleep 987\n"));
    let base = format!("base=oci-layout://{}:latest", base_layout().display());
    for signal in ["INT", "KILL"] {
        let mut child = bed
            .command()
            .args(["build", "--progress", "plain", "--build-context", &base])
            .arg(bed.context())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait_for(&mut child, "started");
        let pid = child.id().to_string();
        bed.tool("kill", &[&format!("-{signal}"), &pid]);
        child.wait().unwrap();
        let gone = (0..200).any(|_| {
            let running = ended(
                std::process::Command::new("pgrep")
                    .args(["-f", "sleep 987"])
                    .output()
                    .unwrap(),
            );
            std::thread::sleep(std::time::Duration::from_millis(20));
            running.stdout.is_empty()
        });
        assert!(gone, "a step outlived its build, which ended by {signal}");
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(
            !mounts.contains(bed.path("state").to_str().unwrap()),
            "{mounts}"
        );
    }
    bed.dockerfile("FROM base\nRUN echo one > /one\n");
    let again = bed.build(&[]).ok();
    assert!(again.stderr.contains("CACHED"), "{}", again.stderr);
}

#[test]
fn a_killed_build_leaves_nothing_where_it_wrote() {
    let bed = Bed::new();
    // Much of it, so that writing it takes its time.
    std::fs::write(bed.context().join("large"), vec![7; 300 << 20]).unwrap();
    bed.dockerfile("FROM base\nCOPY large /\n");
    let out = bed.path("out");
    std::fs::create_dir(&out).unwrap();
    let base = format!("base=oci-layout://{}:latest", base_layout().display());
    let output = format!("type=tar,dest={}", out.join("result.tar").display());
    let inner = bed.command();
    // Alone in a container, it has the same number each time, and the same temporary names.
    let build = || {
        let mut command = std::process::Command::new("unshare");
        command
            .args(["--pid", "--fork", "--kill-child"])
            .arg(inner.get_program())
            .args(inner.get_args())
            .args(["build", "--build-context", &base, "--output", &output])
            .arg(bed.context());
        for (name, value) in inner.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let names = || {
        let entries = std::fs::read_dir(&out).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name());
        names.collect::<Vec<_>>()
    };
    let is_written = || {
        let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let files =
            processes.filter_map(|process| std::fs::read_dir(process.path().join("fd")).ok());
        let mut files = files.flatten().filter_map(Result::ok);
        files.any(|file| std::fs::read_link(file.path()).is_ok_and(|file| file.starts_with(&out)))
    };
    let mut killed = build();
    while !is_written() {
        assert_eq!(killed.try_wait().unwrap(), None, "it ended before it wrote");
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert_eq!(names(), [""; 0]);
    ended(build().wait_with_output().unwrap()).ok();
    assert_eq!(names(), ["result.tar"]);
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

/// A file system of its own for the state directory, until it is dropped.
struct SmallDisk<'a>(&'a Bed);

impl<'a> SmallDisk<'a> {
    fn mounted(bed: &'a Bed) -> Self {
        std::fs::create_dir(bed.path("state")).unwrap();
        let size = ["-t", "tmpfs", "-o", "size=40m", "tmpfs", "state"];
        bed.tool("mount", &size);
        Self(bed)
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        self.0.tool("umount", &["-l", "state"]);
    }
}

#[test]
fn what_a_failed_step_left_on_a_full_disk_goes_before_the_next_build() {
    let bed = Bed::new();
    let _disk = SmallDisk::mounted(&bed);
    bed.dockerfile("FROM base\nRUN dd if=/dev/zero of=/big bs=64k count=1000\n");
    // Told by dd, or by who watches the disk meanwhile.
    bed.build(&[]).fails(&["failed to solve: [1/2] RUN dd"]);
    bed.dockerfile("FROM base\nRUN echo ok\n");
    bed.build(&[]).ok();
    // As it stays there where the process ended before it was deleted.
    let snapshots = bed.path("state/snapshots");
    let mut numbers = (1..).map(|number| snapshots.join(number.to_string()));
    let unnamed = numbers.find(|snapshot| !snapshot.exists()).unwrap();
    std::fs::create_dir_all(unnamed.join("fs")).unwrap();
    let mut left = std::fs::File::create(unnamed.join("fs/big")).unwrap();
    while left.write_all(&[0; 4096]).is_ok() {}
    drop(left);
    bed.dockerfile("FROM base\nRUN echo again\n");
    bed.build(&[]).ok();
}

#[test]
fn a_build_that_fills_the_disk_leaves_a_state_that_can_be_pruned() {
    let bed = Bed::new();
    let state = bed.path("state");
    let _disk = SmallDisk::mounted(&bed);
    bed.dockerfile("FROM base\nRUN dd if=/dev/zero of=/big bs=1M count=20\n");
    bed.build(&[]).ok();
    bed.dockerfile("FROM base\nRUN dd if=/dev/zero of=/big bs=64k count=1000\n");
    bed.build(&[]).fails(&["failed to solve: [1/2] RUN dd"]);
    // Somebody else takes what the build gave back, also what comes late: what the step left, and
    // what it had open is free when the kernel has taken its mounts apart.
    bed.run(&["store", "check"]).ok();
    let mut filler = std::fs::File::create(state.join("filler")).unwrap();
    let mut quiet = 0;
    while quiet < 10 {
        quiet += 1;
        while filler.write_all(&[0; 4096]).is_ok() {
            quiet = 0;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    drop(filler);
    for _ in 0..3 {
        bed.build(&[])
            .fails(&["no space left on its disk", "weld prune"]);
    }
    bed.run(&["du"]).ok();
    bed.run(&["store", "check"]).ok();
    bed.run(&["prune", "--all"]).ok();
    // What the builds had may have gone before, and be the other's now.
    std::fs::remove_file(state.join("filler")).unwrap();
    bed.dockerfile("FROM base\nRUN echo again\n");
    bed.build(&[]).ok();
}

#[test]
fn a_reader_that_ends_early_makes_nothing_fail() {
    let bed = Bed::new();
    bed.dockerfile("FROM base\nRUN true\n");
    let base = format!("base=oci-layout://{}:latest", base_layout().display());
    let context = bed.context().display().to_string();
    let broken = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        writer
    };
    let run = |arguments: &[&str]| {
        let mut command = bed.command();
        command.args(arguments).stdout(broken()).stderr(broken());
        command.status().unwrap().code()
    };
    let build = ["build", "--build-context", &base, &context];
    assert_eq!(run(&build), Some(0));
    assert!(bed.build(&[]).ok().cached_steps() > 0, "nothing was built");
    assert_eq!(
        run(&["build", "-q", "--build-context", &base, &context]),
        Some(0)
    );
    for arguments in [
        &["du"][..],
        &["du", "--verbose"],
        &["du", "--json"],
        &["store", "check"],
        &["debug", "emit-llb", "--build-context", &base, &context],
        &["prune", "--json"],
        &["prune", "--all"],
        &["man"],
        &["--help"],
    ] {
        assert_eq!(run(arguments), Some(0), "{arguments:?}");
    }
    // What is wrong is told to nobody, but by the exit code.
    assert_eq!(run(&["build", "/does/not/exist"]), Some(2));
    bed.dockerfile("FROM base\nRUN echo said; exit 7\n");
    assert_eq!(run(&build), Some(1));
}

fn interrupt(child: &std::process::Child) {
    let status = std::process::Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

/// Reads what the build shows until a text is there; the rest is read and dropped in the background.
fn wait_for(child: &mut std::process::Child, text: &str) {
    use std::io::{BufRead, BufReader};
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let found = lines
        .by_ref()
        .map_while(Result::ok)
        .any(|line| line.contains(text));
    assert!(found, "the build ended before it said {text:?}");
    std::thread::spawn(move || lines.for_each(drop));
}
