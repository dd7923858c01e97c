//! `weld build --explain`: what is told is why a step was not cached, and nothing that is not.
#![allow(clippy::unwrap_used, reason = "helpers may fail their test")]

mod support;

use support::{Bed, reason, served::serve};

/// The names of stages and of what is taken from them are no inputs.
#[test]
fn a_stage_that_is_called_otherwise_is_no_other_input() {
    let bed = Bed::new();
    let build = |stage: &str, content: &str| {
        bed.file("f", content);
        bed.dockerfile(&format!(
            "FROM base AS {stage}\nCOPY f /f\nRUN cat /f > /out\n\
             FROM base\nCOPY --from={stage} /out /o\nRUN --mount=type=bind,from={stage},target=/m cat /o /m/f > /oo\nRUN cat /oo\n"
        ));
        bed.build(&["--explain"]).ok().stderr
    };
    build("one", "1");
    let told = build("other", "2");
    assert_eq!(reason(&told, "COPY f"), "content of /f changed");
    assert_eq!(reason(&told, "COPY --from"), "content of /out changed");
    for (step, input) in [
        ("RUN --mount", "COPY --from=other"),
        ("RUN cat /oo", "RUN --mount"),
    ] {
        let reason = reason(&told, step);
        assert!(
            reason.starts_with("its input was made anew: "),
            "{step}: {reason}"
        );
        assert!(reason.contains(input), "{step}: {reason}");
        assert!(!reason.contains(", before "), "{step}: {reason}");
    }
    // Where the other stage is still there, it is another input.
    let both = |from: &str| {
        bed.dockerfile(&format!(
            "FROM base AS one\nRUN echo 1 > /out\nFROM base AS two\nRUN echo 2 > /out\n\
             FROM base\nCOPY --from=one /out /1\nCOPY --from=two /out /2\nCOPY --from={from} /out /o\nRUN cat /o\n"
        ));
        bed.build(&["--explain"]).ok().stderr
    };
    both("one");
    let told = both("two");
    let run = reason(&told, "RUN cat /o");
    assert!(
        run.contains("--from=two /out /o, before ") && run.contains("--from=one"),
        "{run}"
    );
}

/// A step whose arguments have other values is the step that it was; one whose line was edited is another.
#[test]
fn an_input_with_another_argument_is_no_other_input() {
    const STEPS: &str = "FROM base AS one\nARG V=1\nRUN echo v $V > /v\nCOPY $V.txt /n\n\
        FROM one\nCOPY src /src\nRUN cat /n > /m\n";
    const TWO: [&str; 3] = ["--explain", "--build-arg", "V=2"];
    let bed = || {
        let bed = Bed::new();
        let files = bed.file("1.txt", "1").file("2.txt", "2");
        files.file("src", "").dockerfile(STEPS);
        bed
    };
    let ran = bed();
    ran.build(&[]).ok();
    let two = ran.build(&TWO).ok().stderr;
    for (step, why) in [
        ("RUN echo", "build argument V was 1, now 2"),
        (
            "COPY 2.txt",
            "the copied path was /1.txt, now /2.txt; its input was made anew: [one 1/3] RUN echo v 2 > /v",
        ),
        (
            "COPY src",
            "its input was made anew: [one 2/3] COPY 2.txt /n",
        ),
    ] {
        assert_eq!(reason(&two, step), why, "{two}");
    }
    ran.dockerfile(&STEPS.replace("echo v", "echo w"));
    let edited = ran.build(&TWO).ok().stderr;
    let copy = reason(&edited, "COPY 2.txt");
    assert_eq!(
        copy, "its input is [one 1/3] RUN echo w 2 > /v, before [one 1/3] RUN echo v 2 > /v",
        "{edited}"
    );

    let cached = bed();
    cached.build(&["--target", "one"]).ok();
    cached.build(&TWO).ok();
    let one = cached.build(&["--explain"]).ok().stderr;
    assert_eq!(
        reason(&one, "COPY src"),
        "its input is an older result than before: [one 2/3] COPY 1.txt /n"
    );
}

/// What is not in the cache key is no reason, and what is in it is one.
#[test]
fn reasons_are_what_the_key_is_made_of() {
    let bed = Bed::new();
    let run = |mount: &str, command: &str, hosts: &str| {
        bed.dockerfile(&format!(
            "FROM base\nRUN --mount=type=cache,target=/c{mount} {command}\n"
        ));
        let told = bed.build(&["--explain", "--add-host", hosts]).ok().stderr;
        reason(&told, "RUN --mount")
    };
    run(",id=one", "echo 1", "far:10.0.0.1");
    assert_eq!(run(",id=two,sharing=locked", "echo 1", "far:10.0.0.2"), "");
    assert_eq!(
        run(",id=three", "echo 2", "far:10.0.0.3"),
        "the command was echo 1, now echo 2"
    );
    assert_eq!(
        run(",id=three,ro", "echo 2", "far:10.0.0.3"),
        "whether the mount at /c is read-only was no, now yes"
    );
    assert_eq!(
        run(",id=three,ro", "echo 2", "near:10.0.0.3"),
        "the list of added hosts was far, now near"
    );
}

/// Of what a step sees otherwise, it is told what it sees, and not that files changed which did not.
#[test]
fn another_copied_path_is_no_other_content() {
    let bed = Bed::new();
    bed.file("a/f", "1")
        .file("b/f", "2")
        .file("a/g", "3")
        .file("b/g", "4");
    let copy = |copy: &str| {
        bed.dockerfile(&format!("FROM base\nCOPY {copy}\n"));
        reason(&bed.build(&["--explain"]).ok().stderr, "COPY ")
    };
    copy("a/f /x");
    assert_eq!(copy("b/f /x"), "the copied path was /a/f, now /b/f");
    copy("a /x");
    let told = copy("--exclude=g a /x");
    assert_eq!(told, "the list of excluded paths is new: g");
    bed.file("a/f", "5");
    let told = copy("--exclude=other a /x");
    assert_eq!(
        told,
        "the list of excluded paths was g, now other; content of /a/f changed"
    );
}

#[test]
fn a_pattern_tells_the_files_that_it_meets() {
    let bed = Bed::new();
    bed.dockerfile("FROM base\nCOPY *.c /x/\n")
        .file("a.c", "1")
        .file("other", "1");
    bed.build(&[]).ok();
    let told = || {
        let told = bed.build(&["--explain"]).ok().stderr;
        let context = reason(&told, "load build context");
        let changed = "files that are used of it changed";
        assert!(context.is_empty() || context == changed, "{told}");
        let copy = reason(&told, "COPY *.c");
        assert_eq!(context.is_empty(), copy.is_empty(), "{told}");
        copy
    };
    bed.file("a.c", "2");
    assert_eq!(told(), "content of /a.c changed");
    bed.file("b.c", "1");
    assert_eq!(told(), "/b.c was added");
    bed.file("other", "2");
    assert_eq!(told(), "");
    std::fs::remove_file(bed.context().join("a.c")).unwrap();
    assert_eq!(told(), "/a.c was removed");
}

/// When everything was pruned, nothing else is the reason.
#[test]
fn what_was_pruned_is_told_to_be_gone() {
    let bed = Bed::new();
    bed.file("f", "1").dockerfile(
        "FROM base AS one\nCOPY f /f\nRUN echo 1 > /out\nFROM base\nCOPY --from=one /out /o\nRUN echo 2\n",
    );
    bed.build(&[]).ok();
    bed.run(&["prune", "--all"]).ok();
    let told = bed.build(&["--explain"]).ok().stderr;
    for step in ["COPY f", "RUN echo 1", "COPY --from", "RUN echo 2"] {
        assert_eq!(
            reason(&told, step),
            "nothing changed since it ran last: its record was pruned or is unusable",
            "{step} in {told}"
        );
    }
    // What changed meanwhile is told all the same.
    bed.run(&["prune", "--all"]).ok();
    bed.file("f", "2");
    let told = bed.build(&["--explain"]).ok().stderr;
    assert_eq!(reason(&told, "COPY f"), "content of /f changed");
}

/// What says something else in another place is compared with the nearest of before.
#[test]
fn the_nearest_step_of_before_is_found() {
    let bed = Bed::new();
    bed.file("f", "1")
        .dockerfile("FROM base\nRUN echo 1\nCOPY f /x\n");
    bed.build(&[]).ok();
    bed.dockerfile("FROM base\nRUN echo 1\nADD f /x\n");
    let told = bed.build(&["--explain"]).ok().stderr;
    let add = reason(&told, "ADD f");
    assert!(
        add.contains("whether archives are unpacked was no, now yes"),
        "{told}"
    );

    let stage = |stage: &str, id: &str, content: &str| {
        bed.file("f", content);
        bed.dockerfile(&format!(
            "FROM base AS {stage}\nCOPY f /f\nRUN --mount=type=cache,id={id},target=/c echo {id} | wc -c\n\
             FROM base\nCOPY --from={stage} /f /f\n"
        ));
        bed.build(&["--explain"]).ok().stderr
    };
    stage("a", "one", "1");
    bed.file("f", "1");
    let text = |stage: &str, id: &str| {
        format!(
            "FROM base AS {stage}\nCOPY f /f\nRUN --mount=type=cache,id={id},target=/c echo hi\n\
             FROM base\nCOPY --from={stage} /f /f\nCOPY --from={stage} /etc /e\n"
        )
    };
    bed.dockerfile(&text("a", "one"));
    bed.build(&[]).ok();
    bed.file("f", "2").dockerfile(&text("b", "two"));
    let told = bed.build(&["--explain"]).ok().stderr;
    let run = reason(&told, "RUN --mount");
    assert!(run.starts_with("its input was made anew: "), "{run}");
}

#[test]
fn variables_in_another_order_are_told() {
    let bed = Bed::new();
    let build = |env: &str| {
        bed.dockerfile(&format!("FROM base\nENV FIRST=0\n{env}RUN echo 1\n"));
        reason(&bed.build(&["--explain"]).ok().stderr, "RUN echo")
    };
    build("ENV A=1\nENV B=2\n");
    assert_eq!(
        build("ENV B=2\nENV A=1\n"),
        "the order of variables was A B, now B A"
    );
    // The order is that of the first time.
    assert_eq!(build("ENV A=1\nENV B=3\n"), "variable B was 2, now 3");
    assert_eq!(
        build("ENV C=1\nENV B=3\nENV A=1\n"),
        "variable C is new: 1; the order of variables was A B, now B A"
    );
}

/// Definitions of other directories are those of other projects.
#[test]
fn a_definition_is_compared_with_its_own() {
    let bed = Bed::new();
    bed.dockerfile("FROM scratch\nCOPY . /x\n").file("f", "1");
    let context = bed.context();
    let context = context.to_str().unwrap();
    let emitted = bed
        .command()
        .args(["debug", "emit-llb", context])
        .output()
        .unwrap();
    assert!(emitted.status.success());
    std::fs::write(bed.path("definition"), emitted.stdout).unwrap();
    let other = bed.path("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("other"), "2").unwrap();
    let solve = |directory: &str| {
        let local = format!("context={directory}");
        let trace = bed.path("trace");
        let solved = bed
            .command()
            .args(["solve", "--local", &local, "--trace"])
            .arg(&trace)
            .stdin(std::fs::File::open(bed.path("definition")).unwrap())
            .output();
        support::ended(solved.unwrap()).ok();
        let trace = std::fs::read_to_string(trace).unwrap();
        let told = trace.lines().filter(|line| line.contains("\"explained\""));
        told.map(str::to_owned).collect::<Vec<_>>().join("\n")
    };
    solve(context);
    solve(other.to_str().unwrap());
    bed.file("f", "3");
    let told = solve(context);
    assert!(told.contains("content of /f changed"), "{told}");
    assert!(
        !told.contains("was added") && !told.contains("was removed"),
        "{told}"
    );
}

/// What is fetched and what is copied of it have one name, and are two steps.
#[test]
fn an_added_url_is_not_compared_with_its_own_fetch() {
    let bed = Bed::new();
    let served = bed.path("served");
    std::fs::create_dir(&served).unwrap();
    let host = serve(served.clone());
    bed.dockerfile(&format!("FROM base\nADD http://{host}/f /f\n"));
    let build = |content: &str| {
        std::fs::write(served.join("f"), content).unwrap();
        let told = bed.build(&["--explain"]).ok().stderr;
        let reasons = told
            .lines()
            .filter_map(|line| line.split_once("not cached: "));
        let reasons: Vec<_> = reasons.map(|(_, reason)| reason.to_owned()).collect();
        (reasons, told)
    };
    let (first, told) = build("1");
    assert!(!first.is_empty(), "{told}");
    assert!(
        first
            .iter()
            .all(|reason| reason.starts_with("first time seen")),
        "{told}"
    );
    let (again, told) = build("2");
    assert_eq!(
        again.last().map(String::as_str),
        Some("content of /f changed"),
        "{told}"
    );
}

/// What is made anew from nothing that changed may have other content.
#[test]
fn what_a_stage_came_to_without_its_cache_is_told() {
    let bed = Bed::new();
    bed.dockerfile(
        "FROM base AS x\nRUN cat /proc/sys/kernel/random/uuid > /1\n\
         FROM base\nCOPY --from=x /1 /x\nRUN --mount=from=x,target=/m cat /m/1\nRUN cat /x\n",
    );
    bed.build(&[]).ok();
    for _ in 0..2 {
        let told = bed.build(&["--explain", "--no-cache-filter", "x"]).ok();
        let told = told.stderr;
        for step in ["COPY --from", "RUN --mount"] {
            assert_eq!(reason(&told, step), "content of /1 changed", "{step}");
        }
        let run = reason(&told, "RUN cat /x");
        assert!(run.starts_with("its input was made anew: "), "{run}");
    }
}

/// An image that has the same layers and another digest, as one has that is built every night.
#[test]
fn a_base_that_moved_to_the_same_layers_is_told() {
    let bed = Bed::new();
    let layout = bed.path("layout");
    let layout = layout.to_str().unwrap();
    bed.tool(
        "cp",
        &["-r", support::base_layout().to_str().unwrap(), layout],
    );
    let image = format!("{layout}:latest");
    let label = |label: &str| {
        let label = format!("l={label}");
        bed.tool(
            "umoci",
            &["config", "--image", &image, "--config.label", &label],
        );
    };
    bed.dockerfile("FROM moving\nCOPY src /s\nRUN cat /s/a\n");
    let moving = format!("moving=oci-layout://{image}");
    let build = |content: &str| {
        bed.file("src/a", content);
        let told = bed.build(&["--explain", "--build-context", &moving]).ok();
        told.stderr
    };
    build("1");
    build("2");
    label("1");
    let told = build("2");
    let copy = reason(&told, "COPY src");
    assert!(
        copy.starts_with("its input has another digest than before"),
        "{told}"
    );
    let run = reason(&told, "RUN cat");
    assert!(run.starts_with("its input was made anew: "), "{run}");
    // One that moved while all was cached is no reason of what changes afterwards.
    label("2");
    let cached = build("2");
    assert!(!cached.contains("not cached: "), "{cached}");
    let told = build("3");
    assert_eq!(reason(&told, "COPY src"), "content of /src/a changed");
}

/// Names have values of arguments in them, so that one step may be called as another one was.
#[test]
fn steps_that_are_called_like_others_were_are_not_mixed_up() {
    let bed = Bed::new();
    bed.dockerfile("FROM base\nARG A=1\nRUN echo $A\nARG B=2\nRUN echo $B\n");
    let build = |arguments: &[&str]| {
        let given = arguments.iter().flat_map(|value| ["--build-arg", *value]);
        let all: Vec<_> = ["--explain"].into_iter().chain(given).collect();
        bed.build(&all).ok().stderr
    };
    build(&[]);
    build(&["A=2"]);
    let told = build(&["A=2", "B=3"]);
    assert_eq!(reason(&told, "2/3] RUN"), "build argument B was 2, now 3");
    let told = build(&["A=3"]);
    assert_eq!(reason(&told, "1/3] RUN"), "build argument A was 2, now 3");
}

/// Documents within a Dockerfile are all called the same.
#[test]
fn documents_of_a_dockerfile_are_not_mixed_up() {
    for dockerfile in [
        "FROM base\nARG FOO=1\nCOPY <<EOF <<EOG /d/\nhello $FOO\nEOF\nworld\nEOG\n",
        "FROM base\nARG FOO=1\nCOPY <<EOF /d/a\nhello $FOO\nEOF\nCOPY <<EOF /d/b\nworld\nEOF\n",
        "FROM base\nARG FOO=1\nCOPY <<EOF /d/b\nworld\nEOF\nCOPY <<EOF /d/a\nhello $FOO\nEOF\n",
    ] {
        let bed = Bed::new();
        bed.dockerfile(dockerfile);
        bed.build(&[]).ok();
        for (before, now) in [(1, 2), (2, 3), (3, 4)] {
            bed.dockerfile(&dockerfile.replace("=1", &format!("={now}")));
            let told = bed.build(&["--explain"]).ok().stderr;
            let reasons = told
                .lines()
                .filter_map(|line| line.split_once("not cached: "));
            let reasons: Vec<_> = reasons.map(|(_, reason)| reason).collect();
            let expected = format!("the content of the file was hello {before}, now hello {now}");
            assert!(reasons.contains(&expected.as_str()), "{told}");
            assert!(
                !told.contains("world, now") && !told.contains("now world"),
                "{told}"
            );
        }
    }
}

#[test]
fn another_password_is_told_and_not_shown() {
    let bed = Bed::new();
    let build = |password: &str| {
        bed.dockerfile(&format!("FROM base\nRUN : http://u:{password}@x/\n"));
        bed.build(&["--explain"]).ok().stderr
    };
    build("one");
    assert_eq!(
        reason(&build("two"), "RUN :"),
        "the command changed in a part that is not shown"
    );
}

#[test]
fn a_copy_that_is_linked_no_more_tells_no_numbers_of_inputs() {
    let bed = Bed::new();
    bed.file("f", "1");
    let build = |copy: &str| {
        bed.dockerfile(&format!("FROM base\n{copy} f /f\n"));
        bed.build(&["--explain"]).ok().stderr
    };
    build("COPY --link");
    let copy = reason(&build("COPY"), "COPY f");
    assert!(copy.starts_with("it is made of "), "{copy}");
    assert!(!copy.contains("the definition's"), "{copy}");
}

#[test]
fn a_step_for_one_platform_is_not_compared_with_that_for_another() {
    let bed = Bed::new();
    bed.dockerfile("FROM base\nCOPY f /f\nRUN echo hi\n");
    let platforms = ["linux/amd64", "linux/arm64"];
    let wanted = ["--explain", "--platform", &platforms.join(",")];
    bed.file("f", "0");
    bed.build(&wanted).ok();
    for round in 1..4 {
        bed.file("f", round.to_string());
        let told = bed.build(&wanted).ok().stderr;
        assert!(!told.contains("the platform was"), "round {round}: {told}");
        // They share what they copy, which one of the two makes anew.
        for platform in platforms {
            let reason = reason(&told, &format!("[{platform} 2/3] RUN"));
            let of_its_own = format!(": [{platform} 1/3] COPY f /f");
            assert!(reason.ends_with(&of_its_own), "round {round}: {reason}");
        }
    }
}

/// A step that was not cached differs least from the nearest time it was, which is not always the last.
#[test]
fn builds_that_take_turns_are_compared_each_with_its_own() {
    let bed = Bed::new();
    bed.dockerfile(
        "FROM base\nARG MODE\nRUN echo $MODE > /mode\nCOPY a b /\nRUN cat /a /b /mode > /out\n",
    );
    let build = |mode: &str| {
        let mode = format!("MODE={mode}");
        bed.build(&["--explain", "--build-arg", &mode]).ok().stderr
    };
    bed.file("a", "1").file("b", "1");
    build("debug");
    build("release");
    // Each of both has its file changed in turn.
    for round in 2..4 {
        bed.file("a", round.to_string());
        for mode in ["debug", "release"] {
            let told = build(mode);
            assert_eq!(reason(&told, "COPY a b"), "content of /a changed", "{told}");
            assert_eq!(reason(&told, "RUN echo"), "", "{told}");
        }
    }
    bed.dockerfile("FROM base\nARG MODE\nCOPY a b /\nRUN echo $MODE > /mode\n");
    build("debug");
    build("release");
    bed.file("b", "2");
    build("release");
    // The file alone is new to it: the argument was so before.
    bed.file("b", "3");
    let told = build("debug");
    assert_eq!(reason(&told, "COPY a b"), "content of /b changed", "{told}");
    let told = reason(&told, "RUN echo").to_owned();
    assert!(told.starts_with("its input was made anew"), "{told}");
    assert!(!told.contains("MODE"), "{told}");
}

/// A base that nobody had to fetch, for what is made of it came from elsewhere, was not lost.
#[test]
fn a_base_that_was_not_fetched_yet_is_not_told_to_be_gone() {
    let cache = tempfile::tempdir().unwrap();
    let cache = cache.path().join("cache").display().to_string();
    let make = |bed: &Bed, line: &str| {
        bed.dockerfile(&format!("FROM base\n{line}RUN echo 1 > /1\n"));
    };
    let first = Bed::new();
    make(&first, "");
    first
        .build(&["--cache-to", &format!("type=local,dest={cache},mode=max")])
        .ok();
    let second = Bed::new();
    make(&second, "");
    let from = format!("type=local,src={cache}");
    let found = second.build(&["--cache-from", &from, "--explain"]).ok();
    assert!(!found.stderr.contains("not cached"), "{}", found.stderr);
    make(&second, "RUN echo 0 > /0\n");
    let told = second.build(&["--explain"]).ok().stderr;
    assert_eq!(
        reason(&told, "[context base] OCI load"),
        "it was not fetched before: what was made of it came from a cache elsewhere",
        "{told}"
    );
}
