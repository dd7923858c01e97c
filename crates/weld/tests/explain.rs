//! `weld build --explain`: why a step was not cached, told by the next build of the same state directory.
#![allow(clippy::unwrap_used, reason = "helpers may fail their test")]

mod support;

use support::{Bed, reason, steps};
use weld_testbed::{Fault, Proxy, Registry};

const DOCKERFILE: &str = "\
FROM base
ARG VERSION=1
WORKDIR /app
COPY . /app
RUN echo $VERSION > /version
";

fn bed() -> Bed {
    let bed = Bed::new();
    bed.dockerfile(DOCKERFILE)
        .file("src/main.c", "int main;")
        .file("src/other.c", "int other;")
        .file(".dockerignore", "Dockerfile\n");
    bed
}

#[test]
fn the_file_argument_or_input_that_changed_is_named() {
    let bed = bed();
    let first = bed.build(&["--explain"]).ok().stderr;
    assert!(
        reason(&first, "COPY . /app").contains("first time seen"),
        "{first}"
    );

    let again = bed.build(&["--explain"]).ok().stderr;
    assert!(!again.contains("not cached:"), "{again}");

    bed.file("src/main.c", "int main = 1;");
    let changed = bed.build(&["--explain"]).ok().stderr;
    assert_eq!(
        reason(&changed, "COPY . /app"),
        "content of /src/main.c changed"
    );
    assert!(
        reason(&changed, "RUN echo").contains("its input was made anew"),
        "{changed}"
    );

    let argument = bed
        .build(&["--explain", "--build-arg", "VERSION=2"])
        .ok()
        .stderr;
    assert_eq!(
        reason(&argument, "RUN echo"),
        "build argument VERSION was 1, now 2"
    );
    assert_eq!(reason(&argument, "COPY . /app"), "");

    bed.file("new.txt", "new");
    std::fs::remove_file(bed.context().join("src/other.c")).unwrap();
    let files = bed.build(&["--explain"]).ok().stderr;
    let told = reason(&files, "COPY . /app");
    assert!(told.contains("/new.txt was added"), "{told}");
    assert!(told.contains("/src/other.c was removed"), "{told}");

    bed.dockerfile(&DOCKERFILE.replace("> /version", "> /v"));
    let command = bed.build(&["--explain"]).ok().stderr;
    let told = reason(&command, "RUN echo");
    assert!(
        told.contains("the command was echo $VERSION > /version, now echo $VERSION > /v"),
        "{told}"
    );
}

/// What a user is told is in a user's words, once, and no part of a definition.
#[test]
fn changes_are_told_in_the_words_of_the_dockerfile() {
    let bed = bed();
    let before = "FROM base\nWORKDIR /w\nCOPY src/main.c src/other.c /x/\n\
        RUN --mount=type=cache,target=/c --mount=type=tmpfs,target=/t echo hi\n\
        RUN <<E\necho one\nE\n";
    bed.dockerfile(before);
    bed.build(&[]).ok();
    let change = |from: &str, to: &str| {
        assert!(before.contains(from));
        bed.dockerfile(&before.replace(from, to));
        let told = bed.build(&["--explain"]).ok().stderr;
        bed.dockerfile(before);
        bed.build(&[]).ok();
        told
    };
    let told = change("WORKDIR /w", "WORKDIR /w2");
    assert_eq!(reason(&told, "WORKDIR"), "the directory was /w, now /w2");
    let told = change(" /x/", " /y/");
    assert_eq!(reason(&told, "COPY"), "the destination was /x/, now /y/");
    assert_eq!(reason(&told, "load build context"), "");
    let told = change("COPY", "COPY --chown=1:2 --chmod=600");
    let copy = reason(&told, "COPY");
    for part in [
        "the mode is new: 0600",
        "the owner is new: 1",
        "the group is new: 2",
    ] {
        assert!(copy.contains(part), "{copy}");
    }
    let told = change("src/main.c src/other.c", "src/main.c");
    assert_eq!(
        reason(&told, "load build context"),
        "what is used of the context was src/main.c src/other.c, now src/main.c"
    );
    assert_eq!(
        reason(&told, "COPY"),
        "the copied path was /src/other.c, now it is not set"
    );
    let told = change("target=/c", "target=/d,sharing=locked");
    let run = reason(&told, "RUN --mount");
    assert!(
        run.starts_with("a mount is new: /d; a mount is gone: /c"),
        "{run}"
    );
    let told = change("target=/t", "target=/t,size=4096");
    assert_eq!(
        reason(&told, "RUN --mount"),
        "the size of the mount at /t was 0, now 4096"
    );
    let told = change("echo hi", "[\"echo\", \"hi\"]");
    assert_eq!(
        reason(&told, "RUN --mount"),
        "the command was echo hi, now [\"echo\", \"hi\"]"
    );
    let told = change("RUN <<E\necho one\nE", "RUN echo one");
    assert_eq!(
        reason(&told, "RUN echo one"),
        "the command was echo one\\n, now echo one"
    );
    let added = bed.build(&["--explain", "--add-host", "far:10.0.0.1"]).ok();
    let added = reason(&added.stderr, "RUN --mount");
    assert_eq!(added, "the list of added hosts is new: far");
    let told = change("echo one", "echo two");
    let run = reason(&told, "RUN <<E");
    assert!(
        run.contains("echo one") && run.contains("now") && run.contains("echo two"),
        "{run}"
    );
    let told = change("RUN <<E", "ENV EMPTY=\nRUN <<E");
    assert_eq!(reason(&told, "RUN <<E"), "variable EMPTY is new: empty");

    let main = bed.context().join("src/main.c");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(main, executable).unwrap();
    let told = bed.build(&["--explain"]).ok().stderr;
    assert_eq!(
        reason(&told, "COPY"),
        "mode of /src/main.c was 0644, now 0755"
    );
}

#[test]
fn a_step_is_known_in_a_stage_that_got_a_number_and_with_a_mount() {
    let bed = Bed::new();
    let files = "FROM base\nCOPY src /s\nRUN echo 1\n";
    bed.dockerfile(files)
        .file("src/a", "a")
        .file("src/sub/c", "c");
    bed.build(&[]).ok();
    let told = |step: &str| reason(&bed.build(&["--explain"]).ok().stderr, step);
    let inside = bed.context().join("src/sub/c");
    std::fs::remove_file(&inside).unwrap();
    assert_eq!(told("COPY src"), "/src/sub/c was removed");
    bed.file("src/sub/c", "c").file("src/a", "c");
    assert_eq!(
        told("COPY src"),
        "content of /src/a changed, /src/sub/c was added"
    );

    // A step is the same where its stage gets a number, or a mount.
    bed.dockerfile(&format!("FROM base AS q\nRUN echo q\n{files}"));
    bed.file("src/a", "d");
    assert_eq!(told("COPY src"), "content of /src/a changed");
    let mount = files.replace("RUN", "RUN --mount=type=cache,target=/c");
    bed.dockerfile(&mount);
    assert_eq!(told("RUN --mount"), "a mount is new: /c");
}

/// A step of another project has its record found; what it was made of is known all the same when it changes.
#[test]
fn a_step_that_came_from_another_projects_record_is_compared_with() {
    let bed = bed();
    bed.build(&[]).ok();
    let other = bed.path("other");
    std::fs::create_dir_all(other.join("src")).unwrap();
    for file in ["Dockerfile", "src/main.c", "src/other.c", ".dockerignore"] {
        std::fs::copy(bed.context().join(file), other.join(file)).unwrap();
    }
    let base = format!(
        "base=oci-layout://{}:latest",
        support::base_layout().display()
    );
    let build = |arguments: &[&str]| {
        let fixed = ["build", "--progress", "plain", "--build-context", &base];
        let all = [&fixed, arguments, &["other"]].concat();
        bed.run(&all).ok().stderr
    };
    let cached = build(&[]);
    assert!(cached.contains("CACHED"), "{cached}");
    std::fs::write(other.join("src/main.c"), "int other_main;").unwrap();
    let told = build(&["--explain", "--build-arg", "VERSION=2"]);
    assert_eq!(
        reason(&told, "COPY . /app"),
        "content of /src/main.c changed"
    );
    assert!(
        reason(&told, "RUN echo").contains("build argument VERSION was 1, now 2"),
        "{told}"
    );
}

/// Of steps that came from a cache elsewhere, what they say is known, and what they were made of is not.
#[test]
fn a_step_that_came_from_an_imported_cache_is_compared_with() {
    let bed = bed();
    bed.build(&["--cache-to", "type=local,dest=cache,mode=max"])
        .ok();
    bed.run(&["prune", "--all"]).ok();
    std::fs::remove_dir_all(bed.path("state")).unwrap();
    let from = ["--explain", "--cache-from", "type=local,src=cache"];
    let cached = bed.build(&from).ok();
    assert!(cached.stderr.contains("CACHED"), "{}", cached.stderr);
    let argument = [&from[..], &["--build-arg", "VERSION=2"]].concat();
    let argument = bed.build(&argument).ok().stderr;
    assert_eq!(
        reason(&argument, "RUN echo"),
        "build argument VERSION was 1, now 2"
    );
    assert_eq!(reason(&argument, "COPY . /app"), "", "{argument}");
    bed.file("src/main.c", "int main = 1;");
    let content = bed.build(&from).ok().stderr;
    assert_eq!(
        reason(&content, "COPY . /app"),
        "the content of its input is another, or its record was pruned: [internal] load build context"
    );
}

/// A stage that gets another step has its steps found under other numbers, without a look at files.
#[test]
fn files_are_known_of_a_step_whose_stage_has_grown() {
    let bed = Bed::new();
    bed.dockerfile("FROM base\nCOPY f /f\nRUN echo 1\n")
        .file("f", "1");
    bed.build(&[]).ok();
    let told = |dockerfile: &str, content: &str| {
        bed.dockerfile(dockerfile);
        assert!(bed.build(&[]).ok().stderr.contains("CACHED"));
        bed.file("f", content);
        bed.build(&["--explain"]).ok().stderr
    };
    let grown = "FROM base\nCOPY f /f\nRUN echo 1\nRUN echo 2\n";
    let changed = told(grown, "2");
    assert_eq!(reason(&changed, "COPY f /f"), "content of /f changed");
    let run = reason(&changed, "RUN echo 1");
    assert!(run.starts_with("its input was made anew: "), "{run}");
    // What it is called otherwise does not matter either.
    let renamed = "FROM base AS other\nCOPY f /f\nRUN echo 1\nRUN echo 2\n";
    let changed = told(renamed, "3");
    assert_eq!(reason(&changed, "COPY f /f"), "content of /f changed");

    bed.dockerfile(&format!("{renamed}RUN echo 3\n"));
    bed.build(&[]).ok();
    bed.run(&["prune", "--all"]).ok();
    let pruned = bed.build(&["--explain"]).ok().stderr;
    let copy = reason(&pruned, "COPY f /f");
    assert!(!copy.contains("content"), "{copy}");
}

/// What came to no result last time says so, and what a build never came to was never seen.
#[test]
fn steps_that_failed_were_cancelled_or_never_ran_say_so() {
    let bed = Bed::new();
    let mount = "RUN --mount=type=cache,target=/c";
    bed.file("go.Dockerfile", format!("FROM base\n{mount} touch /c/go\n"));
    // One step begins before the other one fails, and does not end by itself.
    bed.dockerfile(&format!(
        "FROM base AS a\n{mount} touch /c/a /a; [ -e /c/go ] || sleep 600\n\
         FROM base AS b\n{mount} until [ -e /c/a ]; do sleep 0.1; done; rm /c/a; touch /b; [ -e /c/go ]\n\
         FROM base\nCOPY --from=a /a /a\nCOPY --from=b /b /b\nRUN echo done\n"
    ));
    bed.build(&[]).fails(&[]);
    let again = bed.build(&["--explain"]).fails(&[]).stderr;
    assert_eq!(reason(&again, "[a 1/2] RUN"), "it was cancelled last time");
    assert_eq!(reason(&again, "[b 1/2] RUN"), "it failed last time");
    let go = bed.context().join("go.Dockerfile");
    bed.build(&["-f", go.to_str().unwrap()]).ok();
    let whole = bed.build(&["--explain"]).ok().stderr;
    assert_eq!(reason(&whole, "[a 1/2] RUN"), "it was cancelled last time");
    assert_eq!(reason(&whole, "[b 1/2] RUN"), "it failed last time");
    for step in ["COPY --from=a", "COPY --from=b", "RUN echo done"] {
        let told = reason(&whole, step);
        assert!(told.starts_with("first time seen"), "{step}: {told}");
    }
    // Results since then are what counts.
    bed.run(&["prune", "--all"]).ok();
    bed.build(&["-f", go.to_str().unwrap()]).ok();
    let pruned = bed.build(&["--explain"]).ok().stderr;
    assert!(!pruned.contains("last time"), "{pruned}");
}

/// A failed build does not take away what is known of the steps that it never came to.
#[test]
fn a_failure_hides_nothing_of_later_steps() {
    let bed = Bed::new();
    let steps = "FROM base\nRUN true\nCOPY f /f\n";
    bed.dockerfile(steps).file("f", "1");
    bed.build(&[]).ok();
    bed.dockerfile("FROM base\nRUN false\nCOPY f /g\n");
    bed.build(&[]).fails(&[]);
    bed.dockerfile("FROM base\nRUN echo\nCOPY f /g\n");
    let told = bed.build(&["--explain"]).ok().stderr;
    assert_eq!(reason(&told, "RUN echo"), "the command was false, now echo");
    let copy = reason(&told, "COPY f /g");
    assert!(copy.contains("the destination was /f, now /g"), "{copy}");
}

#[test]
fn a_step_whose_cached_result_is_lost_says_so() {
    let registry = Registry::start().unwrap();
    let proxy = Proxy::start(&registry.host()).unwrap();
    let cache = format!("type=registry,ref={}/cache:a", proxy.host());
    let bed = steps::bed();
    steps::made(&bed, &["--cache-to", &format!("{cache},mode=max")]);
    steps::forget(&bed);
    // Known, and not fetched.
    bed.build(&["--cache-from", &cache]).ok();
    proxy.fault("GET", "/blobs/", Fault::Status(404));
    steps::made(&bed, &["--explain", "--trace", "t.jsonl"]);
    let trace = std::fs::read_to_string(bed.path("t.jsonl")).unwrap();
    let told: Vec<&str> = trace
        .lines()
        .filter(|line| line.contains(r#""event":"explained""#))
        .collect();
    let lost = told
        .iter()
        .filter(|line| line.contains("its cached result could not be fetched"));
    assert!(lost.count() > 0, "{told:#?}");
    assert!(
        !told.iter().any(|line| line.contains("first time seen")),
        "{told:#?}"
    );
}

/// Of what became another sort of thing, the thing is told, and not what was or is in it.
#[test]
fn files_that_become_directories_and_links_are_told() {
    let bed = Bed::new();
    bed.dockerfile("FROM base\nCOPY src /s\n")
        .file("src/a.txt/q", "q")
        .file("src/a.txt/r", "r")
        .file("src/b", "b")
        .file("src/c", "c");
    bed.build(&[]).ok();
    let path = |name: &str| bed.context().join("src").join(name);
    let told = || reason(&bed.build(&["--explain"]).ok().stderr, "COPY src");
    std::fs::remove_dir_all(path("a.txt")).unwrap();
    std::os::unix::fs::symlink("b", path("a.txt")).unwrap();
    assert_eq!(
        told(),
        "/src/a.txt is a symbolic link now, before a directory"
    );
    std::fs::remove_file(path("b")).unwrap();
    bed.file("src/b/q", "q").file("src/b/r", "r");
    assert_eq!(told(), "/src/b is a directory now, before a file");
    std::fs::remove_file(path("c")).unwrap();
    std::os::unix::fs::symlink("b", path("c")).unwrap();
    assert_eq!(told(), "/src/c is a symbolic link now, before a file");
}

/// A step that failed says so, and what differs from its last good run, also where an edit was taken back in between; what is cached
/// after that was not made anew.
#[test]
fn failures_and_edits_that_are_taken_back_are_told() {
    let bed = Bed::new();
    let steps = "FROM base\nCOPY f /f\nRUN grep -q good /f\nRUN echo 1\n";
    bed.dockerfile(steps).file("f", "good");
    bed.build(&[]).ok();
    bed.file("f", "bad");
    bed.build(&[]).fails(&[]);
    bed.file("f", "good");
    bed.build(&[]).ok();
    bed.file("f", "bad");
    let failed = bed.build(&["--explain"]).fails(&[]).stderr;
    assert_eq!(reason(&failed, "COPY f"), "", "{failed}");
    let told = reason(&failed, "RUN grep");
    assert!(
        told.starts_with("it failed when it was last made of this; since it last had a result: ")
    );
    assert!(
        told.contains("its input is another result than before: [1/4] COPY f /f"),
        "{told}"
    );

    bed.file("f", "good 2");
    bed.build(&[]).ok();
    bed.file("f", "good");
    bed.dockerfile(&steps.replace("echo 1", "echo 2"));
    let back = bed.build(&["--explain"]).ok().stderr;
    assert_eq!(reason(&back, "RUN grep"), "", "{back}");
    assert_eq!(
        reason(&back, "RUN echo"),
        "the command was echo 1, now echo 2; its input is an older result than before: [2/4] RUN grep -q good /f"
    );
}

/// A stage may be called otherwise, before or while something else changes, and steps may change places.
#[test]
fn steps_are_known_in_stages_with_other_names_and_in_other_places() {
    let bed = Bed::new();
    let steps = "FROM base AS x\nCOPY f /f\nRUN echo 1\nFROM x AS y\nCOPY g /g\n";
    bed.dockerfile(steps).file("f", "1").file("g", "1");
    bed.build(&[]).ok();
    let renamed = |name: &str| {
        steps
            .replace("AS x", &format!("AS {name}"))
            .replace("FROM x", &format!("FROM {name}"))
    };
    bed.dockerfile(&renamed("z")).file("f", "2");
    let both = bed.build(&["--explain"]).ok().stderr;
    assert_eq!(reason(&both, "COPY f"), "content of /f changed");
    assert_eq!(
        reason(&both, "RUN echo"),
        "its input was made anew: [z 1/3] COPY f /f"
    );
    // What it does not see changes before it is renamed.
    bed.file("g", "2");
    bed.build(&[]).ok();
    bed.dockerfile(&renamed("w"));
    bed.build(&[]).ok();
    bed.file("f", "3");
    let later = bed.build(&["--explain"]).ok().stderr;
    assert_eq!(reason(&later, "COPY f"), "content of /f changed");

    bed.dockerfile("FROM base\nCOPY f /f\nCOPY g /g\n");
    bed.build(&[]).ok();
    bed.dockerfile("FROM base\nCOPY g /g\nCOPY f /f\n");
    bed.file("f", "3");
    let swapped = bed.build(&["--explain"]).ok().stderr;
    assert_eq!(reason(&swapped, "load build context"), "", "{swapped}");
    assert_eq!(
        reason(&swapped, "COPY g"),
        "its input is [context base] OCI load from client, before [1/3] COPY f /f"
    );
}

/// Where there is one stage alone, steps are not called by its name.
#[test]
fn steps_are_known_in_a_stage_that_is_alone_no_more() {
    let bed = bed();
    bed.dockerfile("FROM base AS build\nCOPY src /src\nRUN echo 1 > /out\n");
    bed.build(&[]).ok();
    bed.dockerfile(
        "FROM base AS build\nCOPY src /src\nRUN echo 2 > /out\nFROM base\nCOPY --from=build /out /\n",
    );
    let two = bed.build(&["--explain"]).ok().stderr;
    assert_eq!(
        reason(&two, "RUN echo 2"),
        "the command was echo 1 > /out, now echo 2 > /out",
        "{two}"
    );
}

/// What a step's inputs are called is remembered also where it is cached again and again.
#[test]
fn inputs_with_other_names_are_no_other_inputs() {
    let bed = bed();
    let steps = |stage: &str, value: u32| {
        bed.dockerfile(&format!(
            "FROM base AS {stage}\nRUN echo {value} > /out\n\
             FROM base\nCOPY --from={stage} /out /\nRUN cat /out > /copy\n"
        ));
        bed.build(&["--explain"]).ok().stderr
    };
    steps("build", 1);
    for _ in 0..2 {
        let cached = steps("builder", 1);
        assert!(!cached.contains("not cached"), "{cached}");
    }
    let edited = steps("builder", 2);
    assert_eq!(
        reason(&edited, "RUN cat"),
        "its input was made anew: [stage-1 1/3] COPY --from=builder /out /"
    );
}

#[test]
fn steps_of_stages_that_begin_alike_are_not_mixed_up() {
    let bed = bed();
    let stages = |a: u32, b: u32, c: u32| {
        let stage = |name: &str, value: u32| {
            format!("FROM base AS {name}\nCOPY src /\nARG A={value}\nRUN echo $A > /a\n")
        };
        let all = "FROM base\nCOPY --from=a /a /1\nCOPY --from=b /a /2\nCOPY --from=c /a /3\n";
        bed.dockerfile(&format!(
            "{}{}{}{all}",
            stage("a", a),
            stage("b", b),
            stage("c", c)
        ));
        bed.build(&["--explain"]).ok().stderr
    };
    stages(1, 2, 3);
    let changed = stages(1, 22, 3);
    let told = reason(&changed, "[b 2/3] RUN");
    assert_eq!(told, "variable A was 2, now 22");
    let changed = stages(11, 22, 3);
    let told = reason(&changed, "[a 2/3] RUN");
    assert_eq!(told, "variable A was 1, now 11");
}

#[test]
fn no_cache_and_pruned_records_are_reasons_too() {
    let bed = bed();
    bed.build(&[]).ok();
    let forced = bed.build(&["--explain", "--no-cache"]).ok().stderr;
    assert_eq!(reason(&forced, "RUN echo"), "the cache was not to be used");
    bed.run(&["prune", "--all"]).ok();
    let pruned = bed.build(&["--explain"]).ok().stderr;
    assert!(
        reason(&pruned, "WORKDIR").contains("its record was pruned")
            || reason(&pruned, "WORKDIR").contains("made anew"),
        "{pruned}"
    );
}

#[test]
fn without_the_option_nothing_is_told_and_secrets_are_never() {
    let bed = bed();
    bed.dockerfile(
        "FROM base\nRUN --mount=type=secret,id=token cat /run/secrets/token > /dev/null\n",
    );
    std::fs::write(bed.path("token"), "very-secret-one").unwrap();
    let secret = format!("id=token,src={}", bed.path("token").display());
    let silent = bed.build(&["--secret", &secret]).ok().stderr;
    assert!(!silent.contains("not cached:"), "{silent}");
    std::fs::write(bed.path("token"), "very-secret-two").unwrap();
    let told = bed
        .build(&[
            "--secret",
            &secret,
            "--explain",
            "--no-cache",
            "--trace",
            "t.jsonl",
        ])
        .ok()
        .stderr;
    let trace = std::fs::read_to_string(bed.path("t.jsonl")).unwrap();
    assert!(!told.contains("very-secret") && !trace.contains("very-secret"));
    let secret = b"very-secret";
    for entry in std::fs::read_dir(bed.path("state/db")).unwrap() {
        let database = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!database.windows(secret.len()).any(|bytes| bytes == secret));
    }
}
