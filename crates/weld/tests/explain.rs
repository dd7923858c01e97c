//! `weld build --explain`: why a step was not cached, told by the next build of the same state directory.
#![allow(clippy::unwrap_used, reason = "helpers may fail their test")]

mod support;

use support::Bed;

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

/// The reason beside the step whose name has this in it.
fn reason(output: &str, step: &str) -> String {
    let number = output
        .lines()
        .find(|line| line.starts_with('#') && line.contains(step))
        .and_then(|line| line.split(' ').next())
        .unwrap_or_else(|| panic!("no step {step:?} in:\n{output}"));
    output
        .lines()
        .filter(|line| line.starts_with(&format!("{number} ")))
        .find_map(|line| Some(line.split_once("not cached: ")?.1.to_owned()))
        .unwrap_or_default()
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
